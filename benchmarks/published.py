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
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from images.reading import Image
from models.encoder import HALF
from models.geometry import Interval
from models.layers import EPSILON, EncoderConv2d, EqualizedConv2d, ModulatedConv2d, activate, blur
from models.weights import Inverter
from utils.errors import UserError

CELLS = 11  # latent cells along the edge of a window
STEP = 3  # cells between windows


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


class PlainEncoderConv2d(EncoderConv2d):
    """A convolution of the encoder by a 1x1 convolution of the feature beside its copies."""

    def forward(self, x: Tensor) -> Tensor:
        """x [B, I, H, W] -> [B, O, H', W']."""
        x = self.pad(x)
        height, width = (edge - self.dilation * (self.weight.shape[-1] - 1) for edge in x.shape[-2:])
        return self.of_copies(self.copies(x)[..., :height, :width], self.concatenated())

    def copies(self, x: Tensor) -> Tensor:
        """The feature [B, I, H, W], rolled to each of the K x K taps: [B, K^2 I, H, W]."""
        return torch.cat([torch.roll(x, [-self.dilation * tap for tap in taps], (2, 3)) for taps in self.taps()], dim=1)

    def of_copies(self, copies: Tensor, weight: Tensor) -> Tensor:
        """Copies [B, K^2 I, H, W], by the concatenated weight -> [B, O, H', W']."""
        return activate(F.conv2d(copies[..., :: self.stride, :: self.stride], weight), self.bias)

    def concatenated(self) -> Tensor:
        """The weight [O, K^2 I, 1, 1] that convolves `copies` as the layer does its feature."""
        weight = self.weight * self.gain
        return torch.cat([weight[..., down, right] for down, right in self.taps()], dim=1)[..., None, None].contiguous()

    def taps(self) -> list[tuple[int, int]]:
        """Row and column of each."""
        return list(product(range(self.weight.shape[-1]), repeat=2))


PLAIN = {ModulatedConv2d: PlainModulatedConv2d, EqualizedConv2d: PlainConv2d, EncoderConv2d: PlainEncoderConv2d}


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
        cell = 2**self.texture.stages
        self.step, self.size = STEP * cell, (CELLS - 1) * cell + 1  # pixels: between windows, of a window
        self.drawn = self.texture.rule.valid_output(Interval(0, CELLS - 1)).size  # the last ones of a window
        convolutions = [layer.conv for scale in self.encoder.scales for layer in scale.layers]
        self.weights = {conv: conv.concatenated() for conv in convolutions}

    def encode(self, x: Tensor) -> Tensor:
        """A window [1, 3, 161, 161] -> z_s [1, C, 11, 11]."""
        latent = 0.0
        for scale in self.encoder.scales:
            for layer in scale.layers:
                y = layer.mix(layer.conv.of_copies(layer.conv.copies(x), self.weights[layer.conv]))
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
    """An image that the published algorithm inverts window by window, in the style of a global latent [D]."""

    def __init__(self, published: Published, image: Image, z_g: Tensor) -> None:
        self.published, self.z_g = published, z_g[None].to(published.device)
        counts = [math.ceil(length / published.step) for length in (image.height, image.width)]
        self.places = list(product(*(range(0, count * published.step, published.step) for count in counts)))
        context = published.size - published.drawn  # what the encoder sees before that which is drawn
        edges = [published.size + published.step * (count - 1) for count in counts]
        window = image.window_float(-context, -context, *edges)
        self.padded = torch.from_numpy(window.transpose(2, 0, 1)[None].copy()).to(published.device)
        self.pixels = torch.zeros_like(self.padded[..., context:, context:])
        self.shape = image.height, image.width

    @torch.inference_mode()
    def draw(self, top: int, left: int) -> None:
        """Draw the pixels from one of `places` on."""
        size, drawn = self.published.size, self.published.drawn
        z_s = self.published.encode(self.padded[..., top : top + size, left : left + size].contiguous())
        pixels = self.published.synthesize(z_s, self.z_g)
        self.pixels[..., top : top + drawn, left : left + drawn].copy_(pixels)

    def result(self) -> Tensor:
        """The image [3, H, W]."""
        return self.pixels[0, :, : self.shape[0], : self.shape[1]]
