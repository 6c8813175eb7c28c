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

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from models.generator import Noise, StructureLayer, StructureSynthesizer, TextureLayer, TextureSynthesizer, ToRGB
from models.geometry import Interval, Region
from models.layers import EPSILON, ModulatedConv2d, activate, blur, upsample_bilinear

# (region of features, pixels between features) -> weights [N, h, w]; feature i is centred on pixel spacing * i
StyleWeights = Callable[[Region, int], Tensor]


def fuse_texture(
    texture: TextureSynthesizer,
    w: Tensor,  # styles [N, D], or [N, L + 1, D] with one for each layer
    weights: StyleWeights,
    dtype: torch.dtype,  # of the convolutions
    exact: bool = True,
) -> FusedTexture:
    """The texture synthesizer with a style that varies over space."""
    styles = w[:, None].expand(-1, texture.style_count, -1) if w.dim() == 2 else w
    layers = [FusedConv(layer.conv, styles[:, i], dtype, exact) for i, layer in enumerate(texture.layers)]
    to_rgb = [
        FusedConv(rgb.conv, styles[:, texture.rgb_style(k)], dtype, exact=False) for k, rgb in enumerate(texture.to_rgb)
    ]
    return FusedTexture(texture, layers, to_rgb, weights, dtype)


def fuse_structure(
    structure: StructureSynthesizer,
    z_g: Tensor,  # global latents [N, D]
    weights: StyleWeights,
    spacing: int,  # pixels per latent cell
    exact: bool = True,
) -> Callable[[Tensor, Tensor, tuple[int, int]], Tensor]:
    """The structure synthesizer with a style that varies over space.

    A function (z_l [B, C, h, w], coordinates, absolute row and column of the first local cell) -> z_s, in float32.
    """
    convs = [FusedConv(layer.conv, z_g, torch.float32, exact) for layer in structure.layers]

    def forward(z_l: Tensor, coordinates: Tensor, origin: tuple[int, int]) -> Tensor:
        x, region = z_l, Region.at(*origin, *z_l.shape[-2:])
        field = weights(region, spacing).to(x.device)
        inside = region
        for layer, conv in zip(structure.layers, convs, strict=True):
            outside = inside.valid_output(layer.conv.rule)
            maps = [field[:, *part.slices_in(region)] for part in (inside, outside)]
            x = _structure_layer(layer, conv, x, coordinates, *maps)
            inside = outside
        return x

    return forward


def _structure_layer(
    layer: StructureLayer, conv: FusedConv, x: Tensor, coordinates: Tensor, before: Tensor, after: Tensor
) -> Tensor:
    return activate(conv(layer.beside_coordinates(x, coordinates), before, after), layer.bias)


@dataclass(frozen=True)
class FusedTexture:
    """A texture synthesizer whose style varies over space; made by `fuse_texture`."""

    synthesizer: TextureSynthesizer
    convs: list[FusedConv]
    rgb_convs: list[FusedConv]
    weights: StyleWeights
    dtype: torch.dtype

    def __call__(self, z_s: Tensor, noise: Noise | None, pixels: Region) -> Tensor:
        """As `BakedTexture`."""
        synthesizer = self.synthesizer
        spans, cell = synthesizer.spans_to(pixels), 2**synthesizer.stages
        cells = spans[0].input_region
        around = Region(*(Interval(cell * axis.first, cell * axis.last) for axis in (cells.rows, cells.cols)))
        field = self.weights(around, 1).to(z_s.device)  # once for all levels: each is a sampling of it

        layers, to_rgb, spacing = [], [], cell
        for index, (layer, conv, span) in enumerate(zip(synthesizer.layers, self.convs, spans, strict=True)):
            before = _sample(field, around, span.input_region, spacing)
            spacing = synthesizer.spacing(index)
            after = _sample(field, around, span.output_region, spacing)
            layers.append(partial(_texture_layer, layer, conv, before, after))
            if index % 2:
                to_rgb.append(partial(_to_rgb, synthesizer.to_rgb[index // 2], self.rgb_convs[index // 2], after))
        x = z_s.to(self.dtype).contiguous(memory_format=torch.channels_last)
        rows, cols = pixels.slices_in(spans[-1].output_region)
        return synthesizer.draw(x, layers, to_rgb, noise, spans)[..., rows, cols]


def _sample(field: Tensor, pixels: Region, features: Region, spacing: int) -> Tensor:
    """The field [N, H, W] of a region of pixels at the centres of features: [N, h, w]."""
    rows, cols = (
        slice(spacing * axis.first - bounds.first, spacing * axis.last - bounds.first + 1, spacing)
        for axis, bounds in zip((features.rows, features.cols), (pixels.rows, pixels.cols), strict=True)
    )
    return field[:, rows, cols]


def _texture_layer(
    layer: TextureLayer, conv: FusedConv, before: Tensor, after: Tensor, x: Tensor, noise: Tensor | None
) -> Tensor:
    return layer.finish(conv(x, before, after), noise)


def _to_rgb(layer: ToRGB, conv: FusedConv, weights: Tensor, x: Tensor) -> Tensor:
    return layer.colours(conv(x, weights, weights))


class FusedConv:
    """A modulated convolution in a mixture of styles; see the head of this file."""

    def __init__(self, conv: ModulatedConv2d, styles: Tensor, dtype: torch.dtype, exact: bool) -> None:
        """`styles` [N, D]. A 1x1 convolution without demodulation is exact either way, and cheaper as `exact=False`."""
        self.conv, self.dtype, self.exact = conv, dtype, exact
        self.scales = conv.modulation(styles).float()  # [N, I]
        self.energy = (conv.weight * conv.gain).square().sum(dim=(2, 3))  # [O, I]

    def __call__(self, x: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """x [B, I, h, w] and the weights [N, h, w] of its positions, [N, h', w'] of the output's -> [B, O, h', w']."""
        return self._exact(x, after) if self.exact else self._fast(x, before, after)

    def _weight(self, scale: Tensor | None = None) -> Tensor:
        weight = self.conv.weight * self.conv.gain
        weight = weight if scale is None else weight * scale[:, None, None]
        return weight.to(self.dtype).contiguous(memory_format=torch.channels_last)

    def _exact(self, x: Tensor, after: Tensor) -> Tensor:
        present = [n for n, weights in enumerate(after) if bool((weights > 0).any())]
        maps = after[present].to(x.dtype)
        y = self.conv.convolve(x, self._weight(self.scales[present[0]])) * maps[0]
        for n, share in zip(present[1:], maps[1:], strict=True):
            y = torch.addcmul(y, self.conv.convolve(x, self._weight(self.scales[n])), share)
        if self.conv.demodulate:
            y = y * self._demodulation_of(present, after[present]).to(x.dtype)
        return y

    def _demodulation_of(self, present: list[int], weights: Tensor) -> Tensor:
        """Factors [O, h, w] for mixtures of these styles with weights [N, h, w]."""
        scales = self.scales[present]
        if len(present) ** 2 > scales.shape[1]:
            return self._demodulation(_mix(scales, weights))
        # the same energy from the products of pairs of styles, which are fewer than channels
        products = torch.einsum("oi,ni,ki->nko", self.energy, scales, scales).flatten(0, 1)  # [N * N, O]
        pairs = (weights[:, None] * weights).flatten(0, 1)  # [N * N, h, w]
        return torch.rsqrt(_mix(products, pairs) + EPSILON)

    def _fast(self, x: Tensor, before: Tensor, after: Tensor) -> Tensor:
        scale = _mix(self.scales, before)
        x = x * scale.to(x.dtype)
        if not self.conv.demodulate:
            return self.conv.convolve(x, self._weight())
        if not self.conv.upsample:
            return self.conv.convolve(x, self._weight()) * self._demodulation(_mix(self.scales, after)).to(x.dtype)
        x = F.conv_transpose2d(x, self._weight().transpose(0, 1), stride=2, padding=1)
        return blur(x * upsample_bilinear(self._demodulation(scale)[None]).to(x.dtype))

    def _demodulation(self, scale: Tensor) -> Tensor:
        """Factors [O, h, w] for the scales [I, h, w] of positions."""
        return torch.rsqrt(_mix(self.energy.T, scale.square()) + EPSILON)


def _mix(values: Tensor, weights: Tensor) -> Tensor:
    """sum_n a_n(p) v_ni: values [N, I], weights [N, h, w] -> [I, h, w], channels last in memory as the features are."""
    return (weights.flatten(1).T @ values).unflatten(0, weights.shape[1:]).permute(2, 0, 1)
