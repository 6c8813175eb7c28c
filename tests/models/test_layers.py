"""The layers against their definitions, written out plainly."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from models.geometry import Interval
from models.layers import (
    CONVOLUTIONS,
    EqualizedConv2d,
    EqualizedLinear,
    ModulatedConv2d,
    RolledConv2d,
    ShiftedConv2d,
    ValidConv2d,
    ZeroPadConv2d,
    activate,
    blur,
    pixel_norm,
    upsample_bilinear,
)

channels, edges, strides, shifts = st.integers(1, 6), st.integers(8, 20), st.integers(1, 3), st.integers(1, 3)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def lrelu(x):
    return math.sqrt(2) * torch.where(x > 0, x, 0.2 * x)


def filled(layer, seed=0):
    """The layer with random biases, too."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    return layer


def shifted_definition(layer, x, shift, stride):
    """The paper's words: beside x its copies shifted left, up, and up-left; then a 1x1 convolution with stride."""
    inner_h, inner_w = x.shape[-2] - shift, x.shape[-1] - shift
    copies = [x[..., dy : dy + inner_h, dx : dx + inner_w] for dy in (0, shift) for dx in (0, shift)]
    stacked = torch.cat(copies, dim=1)
    weight = layer.weight.permute(0, 2, 3, 1).flatten(1)[..., None, None] / math.sqrt(4 * x.shape[1])
    return lrelu(F.conv2d(stacked, weight, stride=stride) + layer.bias[:, None, None])


def rolled(x, shift):
    """x with its first rows and columns once more at the end."""
    x = torch.cat([x, x[..., :shift, :]], dim=-2)
    return torch.cat([x, x[..., :shift]], dim=-1)


@given(channels, channels, edges, edges, strides, shifts)
def test_shifted_convolution_is_its_definition(inputs, outputs, height, width, stride, shift):
    layer, x = filled(ShiftedConv2d(inputs, outputs, stride, shift)), normal(2, inputs, height, width)
    expected = shifted_definition(layer, x, shift, stride)
    assert torch.allclose(layer(x), expected, atol=1e-5, rtol=1e-5)
    assert expected.shape[-2:] == tuple(layer.rule.valid_output(Interval(0, n - 1)).size for n in (height, width))


@given(channels, channels, edges, edges, strides, shifts)
def test_rolled_convolution_wraps_around(inputs, outputs, height, width, stride, shift):
    layer, x = filled(RolledConv2d(inputs, outputs, stride, shift)), normal(2, inputs, height, width)
    expected = shifted_definition(layer, rolled(x, shift), shift, stride)
    assert torch.allclose(layer(x), expected, atol=1e-6, rtol=1e-6)
    assert torch.equal(torch.roll(x, -shift, dims=-1), rolled(x, shift)[..., :height, shift:])


@given(channels, channels, edges, edges, strides, shifts)
def test_zero_pad_convolution_is_valid_within_zeros(inputs, outputs, height, width, stride, shift):
    padded, valid = (filled(kind(inputs, outputs, stride, shift)) for kind in (ZeroPadConv2d, ValidConv2d))
    x = normal(2, inputs, height, width)
    around = torch.zeros(2, inputs, height + 2 * shift, width + 2 * shift)
    around[..., shift:-shift, shift:-shift] = x
    assert torch.allclose(padded(x), valid(around), atol=1e-6)
    assert padded(x).shape[-2:] == (-(-height // stride), -(-width // stride))


@pytest.mark.parametrize("kind", CONVOLUTIONS)
@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions_give_what_their_rule_says(kind, stride):
    layer = CONVOLUTIONS[kind](3, 4, stride, 1)
    for cells in range(1, 9):
        needed = layer.rule.receptive_field(Interval(0, cells - 1)).size
        assert layer(normal(1, 3, needed, needed + 2 * stride)).shape == (1, 4, cells, cells + 2)


def modulated_definition(layer, x, style, demodulate, upsample):
    """Weights for each sample, by the formula; the up-sampling one transposed, cropped, blurred."""
    results = []
    for sample, w in zip(x, style, strict=True):
        modulation = layer.modulation.weight @ w / math.sqrt(len(w)) + layer.modulation.bias
        fan_in = layer.weight[0].numel()
        weight = layer.weight * modulation[None, :, None, None] / math.sqrt(fan_in)
        if demodulate:
            weight = weight / torch.sqrt((weight**2).sum(dim=(1, 2, 3), keepdim=True) + 1e-8)
        if not upsample:
            results.append(F.conv2d(sample[None], weight))
            continue
        large = F.conv_transpose2d(sample[None], weight.transpose(0, 1), stride=2)[..., 1:-1, 1:-1]
        taps = torch.tensor([1.0, 2.0, 1.0])
        kernel = (taps[:, None] * taps / 16 * 4).expand(large.shape[1], 1, 3, 3)
        results.append(F.conv2d(large, kernel, groups=large.shape[1]))
    return torch.cat(results)


@given(channels, channels, st.sampled_from([1, 3, 5]), st.booleans(), st.booleans(), edges, edges)
def test_modulated_convolution_is_its_formula(inputs, outputs, kernel, demodulate, upsample, height, width):
    kernel = 3 if upsample else kernel
    layer = filled(ModulatedConv2d(inputs, outputs, kernel, 7, demodulate, upsample))
    x, style = normal(3, inputs, height, width), normal(3, 7, seed=1)
    expected = modulated_definition(layer, x, style, demodulate, upsample)
    assert torch.allclose(layer(x, style), expected, atol=1e-5, rtol=1e-5)
    assert expected.shape[-2:] == tuple(layer.rule.valid_output(Interval(0, n - 1)).size for n in (height, width))
    if upsample:
        assert expected.shape[-2:] == (2 * height - 3, 2 * width - 3)
    for sample, w, result in zip(x, style, expected, strict=True):
        folded = layer.bake(w[None], torch.float32)(sample[None])
        assert torch.allclose(folded[0], result, atol=1e-5, rtol=1e-5)


def test_demodulation_keeps_the_variance():
    layer = ModulatedConv2d(64, 64, 3, 8)
    y = layer(normal(4, 64, 40, 40), 100 * normal(4, 8, seed=1))
    assert torch.allclose(y.var(dim=(0, 2, 3)).mean(), torch.ones(()), atol=0.1)


def test_blur_is_a_factor_two_filter():
    """Of a grid with every second value zero, it restores a constant."""
    x = torch.zeros(1, 2, 9, 9)
    x[..., ::2, ::2] = 1
    assert torch.allclose(blur(x), torch.ones(1, 2, 7, 7))


def test_bilinear_up_sampling_is_a_blur_between_zeros():
    x = normal(2, 3, 6, 7)
    zeros = torch.zeros(2, 3, 13, 15)
    zeros[..., 1:-1:2, 1:-1:2] = x
    assert torch.allclose(upsample_bilinear(x), blur(zeros), atol=1e-6)
    assert torch.allclose(upsample_bilinear(x)[..., ::2, ::2], x, atol=1e-6)


def test_linear_layer_is_its_formula():
    layer, x = filled(EqualizedLinear(5, 3, lr_multiplier=0.01, activation=True)), normal(2, 5)
    expected = x @ layer.weight.T * 0.01 / math.sqrt(5) + 0.01 * layer.bias
    assert torch.allclose(layer(x), lrelu(expected), atol=1e-6)
    layer.activation = False
    assert torch.allclose(layer(x), expected, atol=1e-6)


@pytest.mark.parametrize(
    "layer",
    [EqualizedLinear(256, 256, lr_multiplier=0.01), EqualizedConv2d(256, 256, 1, activation=False)],
    ids=["linear", "convolution"],
)
def test_equalised_layers_keep_the_variance(layer):
    x = normal(64, 256) if isinstance(layer, EqualizedLinear) else normal(1, 256, 20, 20)
    assert 0.9 < layer(x).var() < 1.1


def test_activation_and_normalisation():
    x, bias = normal(2, 3, 4, 5), normal(3)
    assert torch.allclose(activate(x, bias), lrelu(x + bias[None, :, None, None]))
    assert torch.allclose(pixel_norm(normal(4, 9)).square().mean(dim=1), torch.ones(4))


def test_a_strided_1x1_convolution_of_few_channels_has_a_gradient():
    """A strided 1x1 kernel of oneDNN (torch 2.13) corrupts memory here, which may kill the process."""
    layer = EqualizedConv2d(4, 8, kernel=1, stride=2, activation=False, bias=False)
    x = torch.randn(16, 4, 100, 100).contiguous(memory_format=torch.channels_last).requires_grad_(True)
    for _ in range(5):
        x.grad = None
        layer(x).square().sum().backward()
    weight = (layer.weight * layer.gain).detach()[..., 0, 0]
    expected = torch.zeros(16, 4, 100, 100)
    expected[..., ::2, ::2] = 2 * torch.einsum("oi,oj,bjhw->bihw", weight, weight, x.detach()[..., ::2, ::2])
    torch.testing.assert_close(x.grad, expected)
