"""The layers against their definitions, written out plainly; the others are held by the recorded numbers."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from models.geometry import Interval
from models.layers import CONVOLUTIONS, EncoderConv2d, EqualizedConv2d, ModulatedConv2d
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


@given(channels, channels, st.integers(2, 4), edges, edges)
def test_a_dilated_modulated_convolution_is_that_of_pytorch(inputs, outputs, dilation, height, width):
    layer, style = filled(ModulatedConv2d(inputs, outputs, 3, 7, False, dilation=dilation)), normal(2, 7)
    x = normal(2, inputs, height + 2 * dilation, width + 2 * dilation)
    scaled = x * layer.modulation(style)[..., None, None]
    expected = F.conv2d(scaled, layer.weight * layer.gain, dilation=dilation)
    assert close(layer(x, style), expected) and expected.shape[-2:] == (height, width)


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
