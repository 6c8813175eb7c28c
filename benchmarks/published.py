"""The published algorithm of Patch Inverter, as a yardstick: overlapping windows, each inverted on its own.

From the published description: windows of 161 px at a step of 48 px, one at a time, in float32; of each the encoder
makes 11 x 11 latent cells, from which 101 px are drawn that replace the last ones of the window; the last write wins.
The image is reflected around its border. A shifted convolution is a concatenation of the feature and three rolled
copies of it, which wrap around at the border of the window, and a 1x1 convolution. The texture synthesizer modulates
and demodulates its weights at every call, upsamples by a transposed convolution, a cut and a blur, and adds noise and
bias in steps of their own before the leaky ReLU and its gain. Features are contiguous, channels first.

Ours: the networks and their weights, so that both draw from the same (the 1x1 convolution of the concatenation has the
weights of our 2x2 one). The encoder's projections are therefore ours too; where a window has too few features for
them, the last one is repeated. Other architectures than four stages keep 11 cells and a step of three.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from images.reading import Image
from models.encoder import HALF
from models.geometry import Interval
from models.layers import EPSILON, EqualizedConv2d, ModulatedConv2d, ShiftedConv2d, activate, blur
from models.weights import Inverter
from utils.errors import UserError

CELLS = 11  # latent cells along the edge of a window
STEP = 3  # cells between windows
SHIFTS = ((0, 0), (1, 1), (1, 0), (0, 1))  # (down, right), in the order of the concatenation


@dataclass(frozen=True)
class Windows:
    """The windows along one axis of an image. All lengths in pixels; positions in the reflected image."""

    length: int  # of the image
    drawn: int  # that a window draws
    size: int  # what the encoder sees of a window
    step: int  # from one window to the next
    count: int

    @staticmethod
    def over(length: int, cell: int, drawn: int) -> Windows:
        """Those of so many pixels; `cell`: pixels of a latent cell."""
        return Windows(length, drawn, cell * (CELLS - 1) + 1, STEP * cell, math.ceil(length / (STEP * cell)))

    @property
    def context(self) -> int:
        """What the encoder sees before that which is drawn."""
        return self.size - self.drawn

    @property
    def padded(self) -> int:
        """The length of the reflected image."""
        return self.context + self.step * (self.count - 1) + self.drawn

    @property
    def before(self) -> int:
        """Reflected pixels before the image."""
        steps = math.ceil((self.length - self.drawn) / self.step)
        return (self.step * steps + self.drawn - self.length) // 2 + self.context


class PlainModulatedConv2d(ModulatedConv2d):
    """A modulated convolution by weights that are made for each sample."""

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """x [B, I, H, W], style [B, D] -> [B, O, H', W']."""
        batch, inputs = x.shape[:2]
        weight = self.weight * self.gain * self.modulation(style)[:, None, :, None, None]  # [B, O, I, K, K]
        if self.demodulate:
            weight = weight * torch.rsqrt(weight.square().sum(dim=(2, 3, 4), keepdim=True) + EPSILON)
        x = x.reshape(1, batch * inputs, *x.shape[2:])
        if self.upsample:
            y = F.conv_transpose2d(x, weight.transpose(1, 2).flatten(0, 1), stride=2, groups=batch)
            return blur(y.reshape(batch, -1, *y.shape[2:])[..., 1:-1, 1:-1])
        y = F.conv2d(x, weight.flatten(0, 1), groups=batch)
        return y.reshape(batch, -1, *y.shape[2:])


class PlainConv2d(EqualizedConv2d):
    """A convolution whose bias, activation and gain come one after the other."""

    def forward(self, x: Tensor) -> Tensor:
        """x [B, I, H, W] -> [B, O, H', W']."""
        stride = self.stride
        if self.weight.shape[-1] == 1:  # oneDNN's gradient of a strided 1x1 convolution may write beyond its end
            x, stride = x[..., ::stride, ::stride], 1
        x = F.conv2d(x, self.weight * self.gain, None, stride, self.padding, self.dilation)
        if self.activation:
            x = activate(x, self.bias)
        elif self.bias is not None:
            x = x + self.bias[:, None, None]
        return x if self.output_gain == 1 else x * self.output_gain


class PlainShiftedConv2d(ShiftedConv2d):
    """A shifted convolution by a 1x1 convolution of the feature beside its copies."""

    def forward(self, x: Tensor) -> Tensor:
        """x [B, I, H, W] -> [B, O, H', W']."""
        height, width = (edge - self.dilation for edge in x.shape[-2:])
        return self.of_copies(shifted_copies(x, self.dilation)[..., :height, :width], self.concatenated())

    def of_copies(self, beside: Tensor, weight: Tensor) -> Tensor:
        """[B, 4 I, H, W], by the concatenated weight -> [B, O, H', W']."""
        return activate(F.conv2d(beside[..., :: self.stride, :: self.stride], weight), self.bias)

    def concatenated(self) -> Tensor:
        """The weight [O, 4 I, 1, 1] that convolves `shifted_copies` as a shifted convolution does its feature."""
        weight = self.weight * self.gain
        return torch.cat([weight[..., down, right] for down, right in SHIFTS], dim=1)[..., None, None].contiguous()


def shifted_copies(x: Tensor, shift: int) -> Tensor:
    """The feature [B, C, H, W] beside its copies rolled by `shift`: [B, 4 C, H, W]."""
    return torch.cat([torch.roll(x, (-shift * down, -shift * right), (2, 3)) for down, right in SHIFTS], dim=1)


PLAIN = {ModulatedConv2d: PlainModulatedConv2d, EqualizedConv2d: PlainConv2d, ShiftedConv2d: PlainShiftedConv2d}


def make_plain(network: nn.Module, device: torch.device) -> nn.Module:
    """The network itself, on a device, with plain convolutions, channels first."""
    for module in network.modules():
        module.__class__ = PLAIN.get(type(module), type(module))
    return network.to(device, memory_format=torch.contiguous_format)


class Published:
    """The published algorithm with the networks of an inverter, of which it keeps a copy.

    UserError for an encoder whose convolutions are not shifted ones.
    """

    @torch.no_grad()
    def __init__(self, networks: Inverter, device: torch.device) -> None:
        if networks.model["encoder"]["convolution"] != "shifted":
            raise UserError("model.encoder.convolution: the published algorithm has shifted convolutions only")
        self.device = device
        self.encoder = make_plain(copy.deepcopy(networks.encoder), device)
        self.texture = make_plain(copy.deepcopy(networks.generator.texture), device)
        self.cell = 2**self.texture.stages
        self.drawn = self.texture.rule.valid_output(Interval(0, CELLS - 1)).size
        convolutions = [layer.conv for scale in self.encoder.scales for layer in scale.layers]
        self.weights = {conv: conv.concatenated() for conv in convolutions}

    def windows(self, length: int) -> Windows:
        """The windows along an axis of so many pixels."""
        return Windows.over(length, self.cell, self.drawn)

    def patches(self, height: int, width: int) -> list[tuple[int, int]]:
        """The numbers (row, column) of the windows of an image."""
        return list(product(range(self.windows(height).count), range(self.windows(width).count)))

    def encode(self, x: Tensor) -> Tensor:
        """A window [1, 3, 161, 161] -> z_s [1, C, 11, 11]."""
        latent = 0.0
        for scale in self.encoder.scales:
            for layer in scale.layers:
                y = layer.mix(layer.conv.of_copies(shifted_copies(x, layer.conv.dilation), self.weights[layer.conv]))
                x = y if layer.skip is None else y + x * HALF
            missing = CELLS * scale.project.stride - x.shape[-1]
            latent = latent + scale.project(F.pad(x, (0, missing, 0, missing), mode="replicate"))
        return latent

    def synthesize(self, z_s: Tensor, z_g: Tensor) -> Tensor:
        """z_s [B, C, 11, 11], global latents [B, D] -> [B, 3, 101, 101]."""

        def noise(layer: int, top: int, left: int, height: int, width: int) -> Tensor:
            return torch.randn(1, 1, height, width, device=z_s.device)

        return self.texture(z_s, self.texture.mapping(z_g), noise)


class Canvas:
    """An image that the published algorithm inverts patch by patch, in the style of a global latent [D]."""

    def __init__(self, published: Published, image: Image, z_g: Tensor) -> None:
        self.published, self.z_g = published, z_g[None].to(published.device)
        self.rows, self.cols = published.windows(image.height), published.windows(image.width)
        window = image.window_float(-self.rows.before, -self.cols.before, self.rows.padded, self.cols.padded)
        self.padded = torch.from_numpy(window.transpose(2, 0, 1)[None].copy()).to(published.device)
        self.pixels = torch.zeros_like(self.padded)

    @torch.inference_mode()
    def draw(self, row: int, col: int) -> None:
        """Draw the patch of a window."""
        top, left = self.rows.step * row, self.cols.step * col
        z_s = self.published.encode(_square(self.padded, top, left, self.rows.size).contiguous())
        place = top + self.rows.context, left + self.cols.context
        _square(self.pixels, *place, self.rows.drawn).copy_(self.published.synthesize(z_s, self.z_g))

    def result(self) -> Tensor:
        """The image [3, H, W]."""
        rows, cols = (slice(axis.before, axis.before + axis.length) for axis in (self.rows, self.cols))
        return self.pixels[0, :, rows, cols]


def _square(x: Tensor, top: int, left: int, edge: int) -> Tensor:
    return x[..., top : top + edge, left : left + edge]
