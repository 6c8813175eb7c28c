"""The encoders: image -> structure latent (patch encoder), thumbnail -> global latent (global encoder).

Letters: B batch, C channels of z_s, I input channels, O output channels, D global latent, H/W pixels or features, h/w
latent cells. The patch encoder is built from shifted convolutions (Patch Inverter, IEEE SPL 2025) and never pads, so
that its blocks equal the whole.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.geometry import Chain, Interval, Region, Rule, Sum, Window
from models.layers import EncoderConv2d, EqualizedConv2d, EqualizedLinear
from models.noise import gaussian_field
from models.trunk import Trunk, analysis

HALF = 0.5**0.5  # keeps the variance of the sum of two


class EncoderLayer(nn.Module):
    """A convolution of a kind in CONVOLUTIONS, then a 1x1 convolution; residual where the shapes allow."""

    def __init__(self, kind: str, inputs: int, outputs: int, stride: int, shift: int) -> None:
        super().__init__()
        residual = stride == 1 and inputs == outputs
        self.conv = EncoderConv2d(kind, inputs, outputs, stride, shift)
        self.mix = EqualizedConv2d(outputs, outputs, 1, gain=HALF if residual else 1.0)
        taps = self.conv.rule
        amid = 0 if taps.padded else (taps.last - taps.first) // 2
        self.skip = amid if residual else None  # first row and column of x that is added to the result

    def forward(self, x: Tensor) -> Tensor:
        """x [B, I, H, W] -> [B, O, H', W']."""
        y = self.mix(self.conv(x))
        if self.skip is None:
            return y
        return torch.add(y, _window(x, self.skip, y.shape[-2:]), alpha=HALF)


class EncoderScale(nn.Module):
    """Halves the resolution, and projects the features onto the latent grid."""

    def __init__(
        self,
        layers: nn.ModuleList,  # of EncoderLayer
        project: EqualizedConv2d,  # its stride takes the features to the latent grid
        margin: int,  # features before the first one that is projected
    ) -> None:
        super().__init__()
        self.layers, self.project, self.margin = layers, project, margin

    def forward(self, x: Tensor, cells: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """x [B, I, H, W] -> features [B, O, ~H/2, ~W/2], and what they add to (h, w) cells: [B, C, h, w], float32."""
        for layer in self.layers:
            x = layer(x)
        projected = _window(x, self.margin, [self.project.stride * n for n in cells])
        return x, self.project(projected).float()


def _window(x: Tensor, start: int, size: Sequence[int]) -> Tensor:
    return x[..., start : start + size[0], start : start + size[1]]


class PatchEncoder(nn.Module):
    """Image -> structure latent z_s of one cell per 2^stages pixels.

    Each scale halves the resolution; the features of every scale are projected onto the latent grid and summed.
    `rule` is the geometry from pixels to cells: with 4 shifted scales of depth 1, cell i reads the pixels
    16 i - 22 to 16 i + 23, centred on what the texture synthesizer draws from it.
    """

    def __init__(
        self,
        local_dim: int,  # channels of z_s
        widths: Sequence[int],  # channels of each scale, fine to coarse; none: the trunk alone
        depth: int = 1,  # unit-stride layers of each scale
        convolution: str = "shifted",  # a name in CONVOLUTIONS
        shift: int = 1,  # pixels
        trunk: Trunk | None = None,  # whose channels the scales correct
    ) -> None:
        super().__init__()
        self.trunk, self.scales, self.scales_rule, scales = trunk, nn.ModuleList(), None, []
        self.dtype: torch.dtype | None = None  # of the scales; None: that of the image
        if not widths:
            self.rule: Rule = analysis(trunk.cell)
            return
        for inputs, outputs in zip([3, *widths[:-1]], widths, strict=True):
            layers = [EncoderLayer(convolution, inputs, outputs, 2, shift)]
            layers += [EncoderLayer(convolution, outputs, outputs, 1, shift) for _ in range(depth)]
            scales.append(nn.ModuleList(layers))
        rules = [Chain(tuple(layer.conv.rule for layer in scale)) for scale in scales]
        unpadded = [replace(layer, padded=False) for scale in rules for layer in scale.rules]
        first, last = Chain(tuple(unpadded)).receptive_field(Interval(0, 0))
        middle = (first + last) // 2  # of what cell 0 sees; padding is seen too
        self.frame = Window(-middle, -middle)  # in which it is pixel 0
        self.scales_rule = Chain((self.frame, *rules))
        self.rule = Sum((self.scales_rule, analysis(trunk.cell))) if trunk else self.scales_rule
        seen = self.frame.valid_output(self.scales_rule.receptive_field(Interval(0, 0)))  # what one cell reads
        for number, (scale, rule, width) in enumerate(zip(scales, rules, widths, strict=True)):
            stride, seen = 2 ** (len(widths) - 1 - number), rule.valid_output(seen)  # features that one cell sees
            project = EqualizedConv2d(width, local_dim, stride, stride, activation=False)
            if trunk:
                nn.init.zeros_(project.weight)  # training begins with what is linear
            self.scales.append(EncoderScale(scale, project, (seen.size - stride) // 2))  # those in the middle

    def forward(self, image: Tensor, channels: int | None = None) -> Tensor:
        """Pixels [B, 3, H, W] of an interval `rule.receptive_field(cells)` -> z_s [B, C, h, w] of them, float32.

        `channels`: C, with a trunk more than those of the model, too; None: these.
        """
        first = self.rule.receptive_field(Interval(0, 0)).first  # an image begins where the pixels of a cell do
        whole = Region.at(first, first, *image.shape[-2:])
        cells, latent = whole.valid_output(self.rule), 0.0
        if min(cells.shape) < 1:
            raise ValueError(f"{tuple(image.shape[-2:])} px are too few for one latent cell")
        if self.trunk:
            with torch.autocast(image.device.type, enabled=False):
                part = image[..., *cells.receptive_field(analysis(self.trunk.cell)).slices_in(whole)]
                latent = self.trunk.analyse(part.float(), max(channels or 0, self.trunk.channels))  # [B, C, h, w]
        if self.scales:
            x = image[..., *cells.receptive_field(self.scales_rule).slices_in(whole)].to(self.dtype)
            for scale in self.scales:
                x, part = scale(x, cells.shape)
                further = latent.shape[1] - part.shape[1] if self.trunk else 0
                latent = latent + F.pad(part, (0, 0, 0, 0, 0, further))
        return latent[:, :channels]

    def bake(self, dtype: torch.dtype) -> PatchEncoder:
        """A copy with plain weights in `dtype`; what it does not compute with is shared."""
        shared = {id(value): value for value in (*self.parameters(), *self.buffers())}
        baked = copy.deepcopy(self, shared)
        baked.dtype = dtype
        for module in baked.modules():
            if isinstance(module, EqualizedConv2d):
                module.bake(dtype)
        return baked


class GlobalEncoder(nn.Module):
    """Thumbnail of the whole image [B, 3, T, T] -> global latent z_g [B, D]."""

    def __init__(self, global_dim: int, thumbnail: int, widths: Sequence[int]) -> None:
        super().__init__()
        edge = thumbnail
        for _ in widths:
            edge = (edge - 4) // 2 + 1
        if edge < 1:
            raise ValueError(f"a thumbnail of {thumbnail} px cannot be halved {len(widths)} times without padding")
        channels = zip([3, *widths[:-1]], widths, strict=True)
        self.layers = nn.Sequential(*(EqualizedConv2d(i, o, 4, stride=2) for i, o in channels))
        self.head = nn.Sequential(
            EqualizedLinear(widths[-1] * edge**2, widths[-1], activation=True), EqualizedLinear(widths[-1], global_dim)
        )

    def forward(self, thumbnail: Tensor) -> Tensor:
        return self.head(self.layers(thumbnail).flatten(1)).float()


class RandomGlobal(nn.Module):
    """A global latent that is drawn at random, whatever the image shows, as the published code does (ablation).

    The draw is a function of the thumbnail's values, so that an image always gets the same one.
    """

    def __init__(self, global_dim: int) -> None:
        super().__init__()
        self.global_dim = global_dim

    def forward(self, thumbnail: Tensor) -> Tensor:
        """Thumbnail [B, 3, T, T] -> standard normal z_g [B, D]."""
        values = (thumbnail.flatten(1).double() * 2**20).long()
        seeds = (values * torch.arange(1, values.shape[1] + 1, device=values.device)).sum(1)
        return gaussian_field(seeds, range(-1, 0), 0, 0, 1, self.global_dim)[:, 0, 0]
