"""Padding-free layers with equalised learning rate.

Letters: B batch, I input channels, O output channels, D style, K kernel, H rows, W columns. A layer that changes the
spatial size states its geometry as `rule`. Equalised learning rate (Karras et al., ICLR 2018): weights are stored with
unit variance and scaled by `1 / sqrt(fan in)` at run time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.geometry import UPSAMPLING, Window, convolution

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
        weight, bias = self.weight * self.gain, self.bias * self.lr_multiplier
        return activate(F.linear(x, weight), bias) if self.activation else F.linear(x, weight, bias)


class EqualizedConv2d(nn.Module):
    """Convolution [B, I, H, W] -> [B, O, H', W'], with bias, optionally with leaky ReLU; nothing pads by default."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        dilation: int = 1,
        padding: int = 0,  # zeros; only where blocks need not equal the whole
        activation: bool = True,
        bias: bool = True,
        gain: float = 1.0,  # of the result
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.gain = 1.0 / math.sqrt(inputs * kernel**2)
        self.output_gain = gain
        self.stride, self.dilation, self.padding, self.activation = stride, dilation, padding, activation
        self.baked: tuple[Tensor, Tensor | None] | None = None  # weight and bias of a layer that is no longer trained

    def forward(self, x: Tensor) -> Tensor:
        (weight, bias), stride = self.baked or self.plain(), self.stride
        if stride > 1 and weight.shape[-1] == 1:
            # oneDNN's strided 1x1 convolution of few channels writes beyond its gradient's end in channels_last
            x, stride = x[..., ::stride, ::stride], 1
        x = F.conv2d(x, weight, bias, stride, self.padding, self.dilation)
        return F.leaky_relu_(x, SLOPE) if self.activation else x

    def plain(self) -> tuple[Tensor, Tensor | None]:
        """Weight [O, I, K, K] and bias [O] of an ordinary convolution before a leaky ReLU without gain."""
        # gains move through the leaky ReLU into weights and bias: one pass over the feature instead of three
        gain = self.output_gain * (GAIN if self.activation else 1.0)
        return self.weight * (self.gain * gain), None if self.bias is None else self.bias * gain

    def bake(self, dtype: torch.dtype) -> None:
        """From now on, convolve by plain weights in `dtype`."""
        weight, bias = self.plain()
        weight = weight.to(dtype).contiguous(memory_format=torch.channels_last)
        self.baked = weight, None if bias is None else bias.to(dtype)


# Kinds of convolution of the patch encoder: the first and the last tap of an axis, in shifts, and how the border of a
# block is padded: where it is, blocks show seams.
CONVOLUTIONS = {
    "shifted": (0, 1, None),
    "valid": (-1, 1, None),
    "zero_pad": (-1, 1, "constant"),
    "rolled": (0, 1, "circular"),  # a shifted one as published
}


class EncoderConv2d(EqualizedConv2d):
    """A convolution of the patch encoder, of a kind in CONVOLUTIONS, whose taps are `shift` pixels apart.

    A shifted convolution (Patch Inverter, section II) is the feature beside its copies shifted left, up and up-left by
    `shift`, then a 1x1 convolution: a 2x2 convolution of dilation `shift`, which needs no copies.
    """

    def __init__(self, kind: str, inputs: int, outputs: int, stride: int = 1, shift: int = 1) -> None:
        first, last, padding = CONVOLUTIONS[kind]
        super().__init__(inputs, outputs, last - first + 1, stride, shift)
        self.mode, self.around = padding, (-first * shift, last * shift) * 2
        self.rule = Window(first * shift, last * shift, stride, padded=padding is not None)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.pad(x))

    def pad(self, x: Tensor) -> Tensor:
        """The feature with what the kind adds around it, mostly nothing."""
        return x if self.mode is None else F.pad(x, self.around, self.mode)


class ModulatedConv2d(nn.Module):
    """Convolution whose weights a style scales per input channel (StyleGAN2, Karras et al., CVPR 2020, section 2.2).

    W' = W * s_i / sqrt(fan in), demodulated: W'' = W' / sqrt(sum_{i,K,K} W'^2 + 1e-8). With one style per sample,
    scaling the input by s and the output by the demodulation is the same and needs no weights per sample; `bake` gives
    the plain weights of one fixed style, `models.mixing.MixedConv2d` has a style that varies over space.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        style_dim: int,
        demodulate: bool = True,
        upsample: bool = False,  # transposed convolution of stride 2, cropped by one, then blur
        dilation: int = 1,  # of one that does not up-sample
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.modulation = EqualizedLinear(style_dim, inputs, bias=1.0)
        self.gain = 1.0 / math.sqrt(inputs * kernel**2)
        self.demodulate, self.upsample, self.dilation = demodulate, upsample, dilation
        self.rule = UPSAMPLING if upsample else convolution(kernel // 2, dilation)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """x [B, I, H, W], style [B, D] -> [B, O, H', W']."""
        scale = self.modulation(style).float()  # [B, I]
        x = x * scale[:, :, None, None].to(x.dtype)
        x = convolve(x, self.weight * self.gain, self.upsample, dilation=self.dilation)
        if self.demodulate:
            x = x * self.demodulation(scale)[:, :, None, None].to(x.dtype)
        return x

    def demodulation(self, scale: Tensor) -> Tensor:
        """Factors [B, O] for the scales [B, I]."""
        return torch.rsqrt(scale.square() @ self.energy().T + EPSILON)

    def energy(self) -> Tensor:
        """Sum of the squared weights over the kernel, [O, I]."""
        return (self.weight * self.gain).square().sum(dim=(2, 3))

    def bake(
        self,
        style: Tensor,  # [1, D]
        dtype: torch.dtype,
        bias: Tensor | None = None,  # [O]
        gain: float = 1.0,
    ) -> Callable[[Tensor], Tensor]:
        """gain * (the convolution in one fixed style + bias), with plain weights in `dtype`."""
        scale = self.modulation(style)  # [1, I]
        weight = self.weight * (self.gain * gain) * scale[:, :, None, None]
        if self.demodulate:
            weight = weight * self.demodulation(scale).T[:, :, None, None]
        weight = weight.to(dtype).contiguous(memory_format=torch.channels_last)
        bias = None if bias is None else (bias * gain).to(dtype)
        return partial(convolve, weight=weight, upsample=self.upsample, bias=bias)


def convolve(x: Tensor, weight: Tensor, upsample: bool, bias: Tensor | None = None, dilation: int = 1) -> Tensor:
    """x [B, I, H, W] by a weight [O, I, K, K], and a bias [O] -> [B, O, H', W'], as `ModulatedConv2d` convolves."""
    if dilation > 1:
        return convolve_dilated(x, weight, bias, dilation)
    if not upsample:
        return F.conv2d(x, weight, bias)
    # cropping by one is what padding=1 means for a transposed convolution: [B, O, 2H - 1, 2W - 1]
    return blur(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2, padding=1), bias)  # [B, O, 2H - 3, 2W - 3]


def convolve_dilated(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    """As F.conv2d, by plain convolutions of each dilation-th row and column, which come together as a batch.

    oneDNN's gradients of dilated convolutions in bfloat16 are not finite, or end the process (PyTorch 2.13, CPU).
    """
    batch, channels, height, width = x.shape
    x = F.pixel_unshuffle(F.pad(x, (0, -width % dilation, 0, -height % dilation)), dilation)
    x = x.unflatten(1, (channels, -1)).transpose(1, 2).flatten(0, 1)  # [B d^2, C, H / d, W / d]
    x = F.conv2d(x.contiguous(memory_format=torch.channels_last), weight, bias)
    x = F.pixel_shuffle(x.unflatten(0, (batch, -1)).transpose(1, 2).flatten(1, 2), dilation)
    reach = dilation * (weight.shape[-1] - 1)
    return x[..., : height - reach, : width - reach].contiguous(memory_format=torch.channels_last)
