"""Padding-free layers with equalised learning rate.

Letters: B batch, I input channels, O output channels, D style, K kernel, H rows, W columns. A layer that changes the
spatial size states its geometry as `rule`. Equalised learning rate (Karras et al., ICLR 2018): weights are stored with
unit variance and scaled by `1 / sqrt(fan in)` at run time.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import winograd
from models.geometry import BLUR, Chain, Upsample, Window, convolution

GAIN = math.sqrt(2.0)  # restores the variance that the leaky ReLU takes
SLOPE = 0.2
EPSILON = 1e-8


def activate(x: Tensor, bias: Tensor) -> Tensor:
    """Bias per channel of [B, C, ...] or [B, C], then leaky ReLU 0.2 with gain sqrt 2."""
    bias = bias.to(x.dtype).reshape(-1, *(1,) * (x.dim() - 2))
    return F.leaky_relu(x + bias, SLOPE) * GAIN


def pixel_norm(z: Tensor) -> Tensor:
    """[B, D] scaled to unit mean square."""
    return z * torch.rsqrt(z.square().mean(dim=1, keepdim=True) + EPSILON)


def blur(x: Tensor, bias: Tensor | None = None) -> Tensor:
    """Valid 3x3 blur with the kernel [1 2 1] x [1 2 1] / 4 of a factor-two up-sampling. [B, C, H, W] -> two less.

    `bias` [C] is added to the result.
    """
    taps = torch.tensor([0.5, 1.0, 0.5], dtype=x.dtype, device=x.device)
    channels = x.shape[1]
    # one depth-wise convolution: with channels_last three times as fast as sums of slices on CPUs
    return F.conv2d(x, (taps[:, None] * taps).expand(channels, 1, 3, 3), bias, groups=channels)


def upsample_bilinear(x: Tensor) -> Tensor:
    """Bilinear x2 between the centres, [B, C, H, W] -> [B, C, 2H - 1, 2W - 1]; even outputs are the inputs."""
    height, width = x.shape[-2:]
    return F.interpolate(x, size=(2 * height - 1, 2 * width - 1), mode="bilinear", align_corners=True)


class EqualizedLinear(nn.Module):
    """Fully connected layer [B, I] -> [B, O], optionally with leaky ReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        bias: float = 0.0,  # initial value
        lr_multiplier: float = 1.0,  # scales the effective learning rate of weights and bias
        activation: bool = False,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((outputs,), float(bias)))
        self.gain = lr_multiplier / math.sqrt(inputs)
        self.lr_multiplier = lr_multiplier
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        bias = self.bias * self.lr_multiplier
        if self.activation:
            return activate(F.linear(x, self.weight * self.gain), bias)
        return F.linear(x, self.weight * self.gain, bias)


class EqualizedConv2d(nn.Module):
    """Convolution [B, I, H, W] -> [B, O, H', W'], with bias, optionally with leaky ReLU; `padding` is 0 by default."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        dilation: int = 1,
        padding: int = 0,  # zeros; only for the discriminator and the ablation
        activation: bool = True,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.gain = 1.0 / math.sqrt(inputs * kernel**2)
        self.stride, self.dilation, self.padding = stride, dilation, padding
        self.activation = activation

    def bake(self, dtype: torch.dtype | None = None, gain: float = 1.0) -> Callable[[Tensor], Tensor]:
        """A function x -> gain * forward(x) whose weights are made once, in `dtype` (None: as they are stored)."""
        # gains move through the leaky ReLU into weights and bias: one pass over the feature instead of three
        gain = gain * (GAIN if self.activation else 1.0)
        weight, bias = self.weight * (self.gain * gain), None if self.bias is None else self.bias * gain
        if dtype is not None:
            weight = weight.to(dtype).contiguous(memory_format=torch.channels_last)
            bias = None if bias is None else bias.to(dtype)
        # oneDNN's strided 1x1 convolution of few channels writes beyond its gradient's end in channels_last
        skip, stride = (self.stride, 1) if self.weight.shape[-1] == 1 else (1, self.stride)

        def convolve(x: Tensor) -> Tensor:
            x = x if skip == 1 else x[..., ::skip, ::skip]
            x = F.conv2d(x, weight, bias, stride, self.padding, self.dilation)
            return F.leaky_relu_(x, SLOPE) if self.activation else x

        return convolve

    def forward(self, x: Tensor) -> Tensor:
        return self.bake()(x)


class ModulatedConv2d(nn.Module):
    """Convolution whose weights a style scales per input channel (StyleGAN2, Karras et al., CVPR 2020, section 2.2).

    W' = W * s_i / sqrt(fan in), demodulated: W'' = W' / sqrt(sum_{i,K,K} W'^2 + 1e-8). With one style per sample,
    scaling the input by s and the output by the demodulation is the same and needs no weights per sample; `bake` gives
    the plain weights of one fixed style.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        style_dim: int,
        demodulate: bool = True,
        upsample: bool = False,  # transposed convolution of stride 2, cropped by one, then blur
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.modulation = EqualizedLinear(style_dim, inputs, bias=1.0)
        self.gain = 1.0 / math.sqrt(inputs * kernel**2)
        self.demodulate, self.upsample = demodulate, upsample
        self.rule = Chain((Upsample(), BLUR)) if upsample else convolution(kernel // 2)

    def _demodulation(self, scale: Tensor) -> Tensor:
        """Factors [B, O] for the scales [B, I]."""
        energy = (self.weight * self.gain).square().sum(dim=(2, 3))  # [O, I]
        return torch.rsqrt(scale.square() @ energy.T + EPSILON)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """x [B, I, H, W] -> [B, O, H', W'] by a weight [O, I, K, K] in which the style is already, and a bias [O]."""
        if not self.upsample:
            return F.conv2d(x, weight, bias)
        # cropping by one is what padding=1 means for a transposed convolution
        return blur(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2, padding=1), bias)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """x [B, I, H, W], style [B, D] -> [B, O, H', W']."""
        scale = self.modulation(style).float()
        x = self.convolve(x * scale[:, :, None, None].to(x.dtype), self.weight * self.gain)
        if self.demodulate:
            x = x * self._demodulation(scale)[:, :, None, None].to(x.dtype)
        return x

    def bake(
        self,
        style: Tensor,
        dtype: torch.dtype,
        bias: Tensor | None = None,
        gain: float = 1.0,
        differentiable: bool = False,  # without Winograd's method, whose gradients take more time and memory
    ) -> Callable[[Tensor], Tensor]:
        """A function x -> gain * (forward(x, style) + bias) for one fixed style [D], with plain weights in `dtype`."""
        scale = self.modulation(style[None])
        weight = self.weight * (self.gain * gain) * scale[:, :, None, None]
        if self.demodulate:
            weight = weight * self._demodulation(scale).T[:, :, None, None]
        weight = weight.to(dtype).contiguous(memory_format=torch.channels_last)
        bias = None if bias is None else (bias * gain).to(dtype)
        if not differentiable and self._takes_winograd(dtype):
            convolve = winograd.bake(weight)
            return lambda x: convolve(x, bias)
        return lambda x: self.convolve(x, weight, bias)

    def baked_values(self, dtype: torch.dtype) -> int:
        """How many values `bake` keeps."""
        return self.weight.numel() * winograd.VALUES // 9 if self._takes_winograd(dtype) else self.weight.numel()

    def _takes_winograd(self, dtype: torch.dtype) -> bool:
        return not self.upsample and winograd.pays(self.weight, dtype)


class ShiftedConv2d(EqualizedConv2d):
    """Shifted convolution (Patch Inverter, section II): the feature beside its copies shifted left, up and up-left by
    `shift`, then a 1x1 convolution. That is a 2x2 convolution of dilation `shift`, which needs no copies.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, shift: int = 1) -> None:
        super().__init__(inputs, outputs, kernel=2, stride=stride, dilation=shift)
        self.rule = Window(0, shift, stride)


class RolledConv2d(ShiftedConv2d):
    """Shifted convolution whose shifts wrap around at the border of the block, as published: blocks show seams."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, shift: int = 1) -> None:
        super().__init__(inputs, outputs, stride, shift)
        self.rule = Window(0, shift, stride, padded=True)

    def bake(self, dtype: torch.dtype | None = None, gain: float = 1.0) -> Callable[[Tensor], Tensor]:
        convolve = super().bake(dtype, gain)
        return lambda x: convolve(F.pad(x, (0, self.dilation, 0, self.dilation), mode="circular"))


class ValidConv2d(EqualizedConv2d):
    """3x3 convolution without padding; `shift` is its dilation."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, shift: int = 1) -> None:
        super().__init__(inputs, outputs, kernel=3, stride=stride, dilation=shift)
        self.rule = Window(-shift, shift, stride)


class ZeroPadConv2d(EqualizedConv2d):
    """3x3 convolution that pads the border of its block with zeros: blocks show seams."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, shift: int = 1) -> None:
        super().__init__(inputs, outputs, kernel=3, stride=stride, dilation=shift, padding=shift)
        self.rule = Window(-shift, shift, stride, padded=True)


CONVOLUTIONS = {"shifted": ShiftedConv2d, "valid": ValidConv2d, "zero_pad": ZeroPadConv2d, "rolled": RolledConv2d}
