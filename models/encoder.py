"""The encoders: image -> structure latent (patch encoder), thumbnail -> global latent (global encoder).

Letters: B batch, C channels, D global latent, H/W pixels, h/w latent cells. The patch encoder is built from shifted
convolutions (Patch Inverter, IEEE SPL 2025) and never pads, so that its blocks equal the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from models.geometry import Chain, Interval, Region, Rule, Translate, Window
from models.layers import CONVOLUTIONS, EqualizedConv2d, EqualizedLinear
from models.noise import gaussian_field


class EncoderLayer(nn.Module):
    """A convolution of the encoder's kind, then a 1x1 convolution; residual where the shapes allow."""

    def __init__(self, kind: str, inputs: int, outputs: int, stride: int, shift: int) -> None:
        super().__init__()
        self.conv = CONVOLUTIONS[kind](inputs, outputs, stride, shift)
        self.mix = EqualizedConv2d(outputs, outputs, 1)
        self.residual = stride == 1 and inputs == outputs
        self.rule: Window = self.conv.rule

    def bake(self, dtype: torch.dtype | None = None) -> Callable[[Tensor], Tensor]:
        """A function x -> forward(x) whose weights are made once, in `dtype`."""
        gain = 0.5**0.5 if self.residual else 1.0  # keeps the variance of the sum
        conv, mix = self.conv.bake(dtype), self.mix.bake(dtype, gain)
        start = 0 if self.rule.padded else (self.rule.last - self.rule.first) // 2  # the input amid the taps

        def layer(x: Tensor) -> Tensor:
            y = mix(conv(x))
            if not self.residual:
                return y
            return torch.add(y, x[..., start : start + y.shape[-2], start : start + y.shape[-1]], alpha=gain)

        return layer

    def forward(self, x: Tensor) -> Tensor:
        return self.bake()(x)


class PatchEncoder(nn.Module):
    """Image -> structure latent z_s of one cell per 2^stages pixels.

    Each scale halves the resolution; the features of every scale are projected onto the latent grid and summed.
    `rule` is the geometry from pixels to cells: with 4 shifted scales of depth 1, cell i reads the pixels
    16 i - 22 to 16 i + 23, centred on what the texture synthesizer draws from it.
    """

    def __init__(
        self,
        local_dim: int,  # channels of z_s
        widths: Sequence[int],  # channels of each scale, fine to coarse
        depth: int = 1,  # unit-stride layers of each scale
        convolution: str = "shifted",  # a name in CONVOLUTIONS
        shift: int = 1,  # pixels
    ) -> None:
        super().__init__()
        self.scales = nn.ModuleList()
        for inputs, outputs in zip([3, *widths[:-1]], widths, strict=True):
            layers = [EncoderLayer(convolution, inputs, outputs, 2, shift)]
            layers += [EncoderLayer(convolution, outputs, outputs, 1, shift) for _ in range(depth)]
            self.scales.append(nn.Sequential(*layers))
        self.scale_rules = [Chain(tuple(layer.rule for layer in scale)) for scale in self.scales]
        first, last = _reach([layer.rule for scale in self.scales for layer in scale])
        self.frame = Translate(-((first + last) // 2))
        self.rule: Rule = Chain((self.frame, *self.scale_rules))
        self.project_rules = [self._projection(k) for k in range(len(widths))]
        self.project = nn.ModuleList(
            EqualizedConv2d(width, local_dim, rule.stride, rule.stride, activation=False)
            for width, rule in zip(widths, self.project_rules, strict=True)
        )

    def _projection(self, scale: int) -> Window:
        """Stride and taps that take the features of a scale to the latent grid, in the middle of what a cell sees."""
        stride = 2 ** (len(self.scales) - 1 - scale)
        after = [layer.rule for later in list(self.scales)[scale + 1 :] for layer in later]
        first, last = _reach(after)
        start = 0 if after and after[0].padded else (first + last - (stride - 1)) // 2
        return Window(start, start + stride - 1, stride)

    def bake(self, dtype: torch.dtype | None = None) -> Callable[[Tensor], Tensor]:
        """A function image -> forward(image) whose weights are made once, in `dtype`."""
        scales = [[layer.bake(dtype) for layer in scale] for scale in self.scales]
        project = [conv.bake(dtype) for conv in self.project]
        return lambda image: self._encode(image if dtype is None else image.to(dtype), scales, project)

    def forward(self, image: Tensor) -> Tensor:
        """Pixels [B, 3, H, W] of an interval `rule.receptive_field(cells)` -> z_s [B, C, h, w] of these cells, float32."""
        return self.bake()(image)

    def _encode(self, x: Tensor, scales: Sequence[Sequence[Callable]], project: Sequence[Callable]) -> Tensor:
        origin = self.rule.receptive_field(Interval(0, 0)).first
        region = Region.at(origin, origin, *x.shape[-2:])
        cells = region.valid_output(self.rule)
        if min(cells.shape) < 1:
            raise ValueError(f"{tuple(x.shape[-2:])} px are too few for one latent cell")
        region, latent = region.valid_output(self.frame), 0.0
        for layers, rule, convolve, projection in zip(
            scales, self.scale_rules, project, self.project_rules, strict=True
        ):
            for layer in layers:
                x = layer(x)
            region = region.valid_output(rule)
            rows, cols = cells.receptive_field(projection).slices_in(region)
            latent = latent + convolve(x[..., rows, cols]).float()
        return latent


def _reach(rules: Sequence[Window]) -> tuple[int, int]:
    """First and last input that output 0 of these layers sees; padded layers count with the taps that they have."""
    first = last = 0
    for rule in reversed(rules):
        first, last = rule.stride * first + rule.first, rule.stride * last + rule.last
    return first, last


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
