"""What an image is drawn from: structure latents, style and noise, each a function of absolute position.

Letters: B batch, C channels, D style, N styles, h/w features of any level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inversion.blocks import pixels_per_cell
from models.generator import Generator, Noise
from models.geometry import Region
from models.mixing import StyleWeights, mix_structure, mix_texture

Read = Callable[[Region], Tensor]  # region of latent cells -> z_s [C, h, w]


@dataclass(frozen=True)
class Fusion:
    """A style that varies over space."""

    z_g: Tensor  # global latents [N, D]
    weights: StyleWeights
    exact: bool = True  # False: InfinityGAN's approximation, one convolution for any number of styles


Style = Tensor | Fusion  # a global latent [D], or several


@dataclass(frozen=True)
class Scene:
    """An image that can be drawn by window."""

    size: tuple[int, int]  # height, width, pixels
    read: Read
    style: Style
    noise: Noise | None
    stored: bool = False  # `read` only reads a file, and may do so ahead of the computation


@dataclass(frozen=True)
class MovedNoise:
    """Noise whose origin lies elsewhere on the canvas."""

    noise: Noise
    top: int  # pixels, a multiple of a latent cell
    left: int
    spacing: Callable[[int], int]  # layer -> pixels between its features

    def __call__(self, layer: int, top: int, left: int, height: int, width: int) -> Tensor:
        """[B, 1, height, width], as `models.noise.NoiseField`."""
        spacing = self.spacing(layer)
        return self.noise(layer, top - self.top // spacing, left - self.left // spacing, height, width)


@dataclass(frozen=True)
class MixedNoise:
    """Several kinds of noise, mixed by the weights of a position; None is no noise, and at least one is not None.

    Where a weight is 1 the values are those of that kind to the last bit.
    """

    weights: StyleWeights  # of the kinds
    kinds: Sequence[Noise | None]
    spacing: Callable[[int], int]  # layer -> pixels between its features

    def __call__(self, layer: int, top: int, left: int, height: int, width: int) -> Tensor:
        """[B, 1, height, width], as `models.noise.NoiseField`."""
        weights = self.weights(Region.at(top, left, height, width), self.spacing(layer))
        mixed = 0.0
        for kind, share in zip(self.kinds, weights, strict=True):
            if kind is not None:
                values = kind(layer, top, left, height, width)
                mixed = mixed + values * share.to(values.device)
        return mixed


def structure_of(generator: Generator, style: Style) -> Callable[[Tensor, Tensor, tuple[int, int]], Tensor]:
    """The structure synthesizer in a style: (z_l [B, C, h, w], coordinates, absolute origin of z_l) -> z_s."""
    structure = generator.structure
    if isinstance(style, Fusion):
        return mix_structure(structure, style.z_g, style.weights, pixels_per_cell(generator.texture), style.exact)
    return lambda z_l, coordinates, origin: structure(z_l, style[None], coordinates)


def texture_of(generator: Generator, style: Style, dtype: torch.dtype) -> Callable[..., Tensor]:
    """The texture synthesizer in a style: (z_s [B, C, h, w], noise, region of pixels) -> image [B, 3, H, W]."""
    texture = generator.texture
    if isinstance(style, Fusion):
        return mix_texture(texture, texture.mapping(style.z_g), style.weights, dtype, style.exact)
    return texture.bake(texture.mapping(style[None])[0], dtype)


def global_latents(style: Style) -> Tensor:
    """The global latents of a style, [D] or [N, D]."""
    return style.z_g if isinstance(style, Fusion) else style


def with_latents(style: Style, z_g: Tensor) -> Style:
    """The style with other global latents."""
    return Fusion(z_g, style.weights, style.exact) if isinstance(style, Fusion) else z_g


def to_device(style: Style, device: torch.device) -> Style:
    """The style with its global latents on a device."""
    return with_latents(style, global_latents(style).to(device))
