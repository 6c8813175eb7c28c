"""Styles that vary over space: networks whose every position draws in a mixture of several styles.

Letters: B batch, I input channels, O output channels, D style, N styles, L layers, h/w features of any level.

The mixture at a position p is sum_n a_n(p) style_n, with weights a_n(p) >= 0 that sum to 1. Modulation is affine, so
each input channel i is scaled by m_i(p) = sum_n a_n(p) m_ni. Two ways to convolve with such a style:

- exact: each output position is what the ordinary layer, with the style of that position, gives there. Modulation and
  demodulation are both exact: y(p) = d(p) sum_n a_n(p) (W m_n * x)(p), with d_o(p) = 1 / sqrt(sum_i |W_oi|^2 m_i(p)^2
  + 1e-8). That costs one convolution for each style that occurs in the block, and three features of memory.
- fast: InfinityGAN's approximation (supplement of Lin et al., ICLR 2022) with one convolution for any number of
  styles: the input is scaled by the style of its own position, the output demodulated by that of its own; up-sampling
  layers interpolate the demodulation.

Both agree with the ordinary layer wherever the weights are constant over what the layer reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from models.geometry import Interval, Region, StageRegions
from models.layers import EPSILON, ModulatedConv2d, blur, convolve, upsample_bilinear
from models.structure import StructureSynthesizer, beside
from models.texture import StyledStage, StyledTexture, TextureStage, TextureSynthesizer

# (region of features, pixels between features) -> weights [N, h, w]; feature i is centred on pixel spacing * i
StyleWeights = Callable[[Region, int], Tensor]


def mix_texture(
    texture: TextureSynthesizer,
    w: Tensor,  # styles [N, D], or [N, L + 1, D] with one for each layer
    weights: StyleWeights,
    dtype: torch.dtype,  # of the convolutions
    exact: bool = True,
) -> StyledTexture:
    """The texture synthesizer with a style that varies over space."""
    mixed, ways = [], (exact, exact, False)  # a 1x1 convolution without demodulation is exact either way
    for stage, *styles in texture.styles(w):
        parts = zip((stage.up, stage.conv, stage.to_rgb), styles, ways, strict=True)
        mixed.append([MixedConv2d(part.conv, own, dtype, way) for part, own, way in parts])

    def stages(regions: Sequence[StageRegions], device: torch.device) -> list[StyledStage]:
        spacing, cells, styled = 2 ** len(regions), regions[0].input_region, []  # pixels between features
        around = Region(*(Interval(spacing * axis.first, spacing * axis.last) for axis in (cells.rows, cells.cols)))
        field = weights(around, 1).to(device)  # once for all levels: each is a sampling of it
        for stage, convolutions, region in zip(texture.synthesis, mixed, regions, strict=True):
            before = _sample(field, around, region.input_region, spacing)
            spacing //= 2
            between = _sample(field, around, region.upsampled, spacing)
            after = _sample(field, around, region.output_region, spacing)
            styled.append(_mixed_stage(stage, convolutions, ((before, between), (between, after), (after, after))))
        return styled

    return StyledTexture(texture, dtype, stages)


def _mixed_stage(
    stage: TextureStage, convolutions: Sequence[MixedConv2d], maps: Sequence[tuple[Tensor, Tensor]]
) -> StyledStage:
    """A stage by mixed convolutions, for each of which the weights before and after it are given."""
    up, conv, to_rgb = (partial(mixed, maps=own) for mixed, own in zip(convolutions, maps, strict=True))
    return StyledStage(
        lambda x, noise: stage.up.finish(up(x), noise),
        lambda x, noise: stage.conv.finish(conv(x), noise),
        lambda x: stage.to_rgb.finish(to_rgb(x)),
    )


def _sample(field: Tensor, pixels: Region, features: Region, spacing: int) -> Tensor:
    """The field [N, H, W] of a region of pixels at the centres of features: [N, h, w]."""
    rows, cols = (
        slice(spacing * axis.first - bounds.first, spacing * axis.last - bounds.first + 1, spacing)
        for axis, bounds in zip((features.rows, features.cols), (pixels.rows, pixels.cols), strict=True)
    )
    return field[:, rows, cols]


def mix_structure(
    structure: StructureSynthesizer,
    z_g: Tensor,  # global latents [N, D]
    weights: StyleWeights,
    spacing: int,  # pixels per latent cell
    exact: bool = True,
) -> Callable[[Tensor, Tensor, tuple[int, int]], Tensor]:
    """The structure synthesizer with a style that varies over space.

    A function (z_l [B, C, h, w], coordinates, absolute row and column of the first local cell) -> z_s, in float32.
    """
    convolutions = [MixedConv2d(layer.conv, z_g, torch.float32, exact) for layer in structure.layers]

    def forward(z_l: Tensor, coordinates: Tensor, origin: tuple[int, int]) -> Tensor:
        x, region = z_l, Region.at(*origin, *z_l.shape[-2:])
        field, inside = weights(region, spacing).to(x.device), region
        for layer, conv in zip(structure.layers, convolutions, strict=True):
            outside = inside.valid_output(layer.conv.rule)
            maps = tuple(field[:, *part.slices_in(region)] for part in (inside, outside))
            x, inside = layer.finish(conv(beside(x, coordinates), maps)), outside
        return x

    return forward


class MixedConv2d:
    """A modulated convolution in a mixture of styles; see the head of this file."""

    def __init__(self, conv: ModulatedConv2d, styles: Tensor, dtype: torch.dtype, exact: bool) -> None:
        """`styles` [N, D]."""
        self.conv, self.dtype, self.exact = conv, dtype, exact
        self.scales = conv.modulation(styles).float()  # [N, I]
        self.energy = conv.energy()  # [O, I]

    def __call__(self, x: Tensor, maps: tuple[Tensor, Tensor]) -> Tensor:
        """x [B, I, h, w] -> [B, O, h', w']; `maps` are the weights [N, h, w] of its positions, and [N, h', w']."""
        before, after = maps
        return self._exact(x, after) if self.exact else self._fast(x, before, after)

    def _exact(self, x: Tensor, after: Tensor) -> Tensor:
        present = [n for n, weights in enumerate(after) if bool((weights > 0).any())]
        maps = after[present].to(x.dtype)
        y = self._convolve(x, self.scales[present[0]]) * maps[0]  # [B, O, h', w']
        for n, share in zip(present[1:], maps[1:], strict=True):
            y = torch.addcmul(y, self._convolve(x, self.scales[n]), share)
        if self.conv.demodulate:
            y = y * self._demodulation_of(present, after[present]).to(x.dtype)
        return y

    def _fast(self, x: Tensor, before: Tensor, after: Tensor) -> Tensor:
        scale = _mix(self.scales, before)  # [I, h, w]
        x = x * scale.to(x.dtype)
        if not self.conv.demodulate:
            return self._convolve(x)
        if not self.conv.upsample:
            return self._convolve(x) * self._demodulation(_mix(self.scales, after)).to(x.dtype)
        x = F.conv_transpose2d(x, self._weight().transpose(0, 1), stride=2, padding=1)  # [B, O, 2h - 1, 2w - 1]
        return blur(x * upsample_bilinear(self._demodulation(scale)[None]).to(x.dtype))  # [B, O, 2h - 3, 2w - 3]

    def _convolve(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        return convolve(x, self._weight(scale), self.conv.upsample, dilation=self.conv.dilation)

    def _weight(self, scale: Tensor | None = None) -> Tensor:
        weight = self.conv.weight * self.conv.gain
        weight = weight if scale is None else weight * scale[:, None, None]
        return weight.to(self.dtype).contiguous(memory_format=torch.channels_last)

    def _demodulation(self, scale: Tensor) -> Tensor:
        """Factors [O, h, w] for the scales [I, h, w] of positions."""
        return torch.rsqrt(_mix(self.energy.T, scale.square()) + EPSILON)

    def _demodulation_of(self, present: list[int], weights: Tensor) -> Tensor:
        """Factors [O, h, w] for mixtures of these styles with weights [N, h, w]."""
        scales = self.scales[present]
        if len(present) ** 2 > scales.shape[1]:
            return self._demodulation(_mix(scales, weights))
        # the same energy from the products of pairs of styles, which are fewer than channels
        products = torch.einsum("oi,ni,ki->nko", self.energy, scales, scales).flatten(0, 1)  # [N * N, O]
        pairs = (weights[:, None] * weights).flatten(0, 1)  # [N * N, h, w]
        return torch.rsqrt(_mix(products, pairs) + EPSILON)


def _mix(values: Tensor, weights: Tensor) -> Tensor:
    """sum_n a_n(p) v_ni: values [N, I], weights [N, h, w] -> [I, h, w], channels last in memory as the features are."""
    return (weights.flatten(1).T @ values).unflatten(0, weights.shape[1:]).permute(2, 0, 1)
