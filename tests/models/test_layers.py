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
    EncoderConv2d,
    EqualizedConv2d,
    EqualizedLinear,
    ModulatedConv2d,
    activate,
    blur,
    pixel_norm,
    upsample_bilinear,
)
from tests.models.small import close, normal

channels, edges = st.integers(1, 6), st.integers(8, 20)


def lrelu(x):
    return math.sqrt(2) * torch.where(x > 0, x, 0.2 * x)


def filled(layer):
    """The layer with random biases, too."""
    generator = torch.Generator().manual_seed(0)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    return layer.requires_grad_(False)


def definition(kind, layer, x, shift, stride):
    """The paper's words: beside x its copies shifted left, up, and up-left; then a 1x1 convolution with stride."""
    if kind == "zero_pad":
        x = F.pad(x, [shift] * 4)
    if kind == "rolled":  # its first rows and columns once more at the end
        x = torch.cat([x, x[..., :shift, :]], dim=-2)
        x = torch.cat([x, x[..., :shift]], dim=-1)
    taps = [shift * tap for tap in range(layer.weight.shape[-1])]
    height, width = (edge - taps[-1] for edge in x.shape[-2:])
    copies = [x[..., dy : dy + height, dx : dx + width] for dy in taps for dx in taps]
    weight = layer.weight.permute(0, 2, 3, 1).flatten(1)[..., None, None] / math.sqrt(len(copies) * x.shape[1])
    return lrelu(F.conv2d(torch.cat(copies, dim=1), weight, stride=stride) + layer.bias[:, None, None])


@pytest.mark.parametrize("kind", CONVOLUTIONS)
@given(channels, channels, edges, edges, st.integers(1, 3), st.integers(1, 3))
def test_convolutions_of_the_encoder_are_their_definitions(kind, inputs, outputs, height, width, stride, shift):
    layer, x = filled(EncoderConv2d(kind, inputs, outputs, stride, shift)), normal(2, inputs, height, width)
    expected = definition(kind, layer, x, shift, stride)
    assert close(layer(x), expected)
    needed = layer.rule.receptive_field(Interval(0, height - 1)).size
    assert layer(normal(1, inputs, needed, needed + 2 * stride)).shape[-2:] == (height, height + 2)


def modulated_definition(layer, x, style, demodulate, upsample):
    """Weights for each sample, by the formula; the up-sampling one transposed, cropped, blurred."""
    results = []
    for sample, w in zip(x, style, strict=True):
        modulation = layer.modulation.weight @ w / math.sqrt(len(w)) + layer.modulation.bias
        weight = layer.weight * modulation[None, :, None, None] / math.sqrt(layer.weight[0].numel())
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
    layer = filled(ModulatedConv2d(inputs, outputs, 3 if upsample else kernel, 7, demodulate, upsample))
    x, style = normal(3, inputs, height, width), normal(3, 7, seed=1)
    expected = modulated_definition(layer, x, style, demodulate, upsample)
    assert close(layer(x, style), expected)
    assert expected.shape[-2:] == tuple(layer.rule.valid_output(Interval(0, n - 1)).size for n in (height, width))
    assert not upsample or expected.shape[-2:] == (2 * height - 3, 2 * width - 3)
    bias = normal(outputs, seed=2)
    for k, result in enumerate(expected):
        baked = layer.bake(style[k : k + 1], torch.float32, bias, gain=2.0)(x[k : k + 1])
        assert close(baked[0], 2 * (result + bias[:, None, None]))


def test_blur_and_bilinear_up_sampling():
    """Of a grid with every second value zero, a blur restores a constant; up-sampling is a blur between zeros."""
    x, grid, zeros = normal(2, 3, 6, 7), torch.zeros(1, 2, 9, 9), torch.zeros(2, 3, 13, 15)
    grid[..., ::2, ::2], zeros[..., 1:-1:2, 1:-1:2] = 1, x
    assert torch.allclose(blur(grid), torch.ones(1, 2, 7, 7))
    assert torch.allclose(upsample_bilinear(x), blur(zeros), atol=1e-6)
    assert torch.allclose(upsample_bilinear(x)[..., ::2, ::2], x, atol=1e-6)


def test_linear_layer_activation_and_normalisation_are_their_formulas():
    layer, x, bias = filled(EqualizedLinear(5, 3, lr_multiplier=0.01, activation=True)), normal(2, 5), normal(5)
    expected = x @ layer.weight.T * 0.01 / math.sqrt(5) + 0.01 * layer.bias
    assert close(layer(x), lrelu(expected))
    layer.activation = False
    assert close(layer(x), expected)
    assert close(activate(x[..., None, None], bias), lrelu(x + bias)[..., None, None])
    assert close(pixel_norm(x).square().mean(dim=1), torch.ones(2))


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
