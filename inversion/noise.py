"""Which texture noise an image is drawn with: a few plain values, so that a latent file can hold them.

`NoiseSpec.build` gives the noise itself, a function of layer and absolute position (`models.noise.NoiseField`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inversion.weight_maps import WeightMap, parse_map, parse_whole
from models.geometry import Region
from models.noise import Noise, NoiseField
from models.texture import TextureSynthesizer
from utils.errors import UserError

DEEPEST = 64  # levels of specs within specs


@dataclass(frozen=True)
class FieldNoise:
    """The noise field of a seed."""

    seed: int
    period: int | None = None  # pixels after which a panorama repeats, a multiple of a latent cell

    def __post_init__(self) -> None:
        if self.period is not None and self.period < 1:
            raise ValueError(f"noise that repeats after {self.period} pixels")

    def build(self, texture: TextureSynthesizer, device: torch.device) -> Noise:
        """The noise of a texture synthesizer's layers. UserError for a period of another network's cells."""
        if self.period is None:
            return NoiseField(self.seed, device)
        if self.period % 2**texture.stages:
            raise UserError(f"noise that repeats after {self.period} pixels; a latent cell has {2**texture.stages}")
        layers = range(2 * texture.stages)
        return NoiseField(self.seed, device, [self.period // texture.spacing(layer) for layer in layers])

    def describe(self) -> dict:
        """As plain values."""
        return {"field": self.seed, "period": self.period}


@dataclass(frozen=True)
class ShiftedNoise:
    """The noise of an image whose first pixel lies elsewhere on a canvas."""

    noise: NoiseSpec
    top: int  # pixels, multiples of a latent cell
    left: int

    def build(self, texture: TextureSynthesizer, device: torch.device) -> Noise:
        """The noise of a texture synthesizer's layers."""
        noise = self.noise.build(texture, device)

        def shifted(layer: int, top: int, left: int, height: int, width: int) -> Tensor:
            spacing = texture.spacing(layer)
            return noise(layer, top - self.top // spacing, left - self.left // spacing, height, width)

        return shifted

    def describe(self) -> dict:
        """As plain values."""
        return {"shift": [self.top, self.left], "noise": self.noise.describe()}


@dataclass(frozen=True, eq=False)
class MixedNoise:
    """Several kinds of noise, mixed by the weights of a position; None is no noise, and at least one is not None.

    Where a weight is 1 the values are those of that kind to the last bit.
    """

    kinds: Sequence[NoiseSpec | None]
    weights: WeightMap

    def __post_init__(self) -> None:
        if len(self.kinds) != self.weights.count or not any(self.kinds):
            raise ValueError(f"{len(self.kinds)} kinds of noise, and weights of {self.weights.count}")

    def build(self, texture: TextureSynthesizer, device: torch.device) -> Noise:
        """The noise of a texture synthesizer's layers."""
        kinds = [kind and kind.build(texture, device) for kind in self.kinds]

        def mixed(layer: int, top: int, left: int, height: int, width: int) -> Tensor:
            shares = self.weights(Region.at(top, left, height, width), texture.spacing(layer))
            total = 0.0
            for kind, share in zip(kinds, shares, strict=True):
                if kind is not None:
                    values = kind(layer, top, left, height, width)
                    total = total + values * share.to(values.device)
            return total

        return mixed

    def describe(self) -> dict:
        """As plain values."""
        return {"kinds": [kind and kind.describe() for kind in self.kinds], "weights": self.weights.describe()}


NoiseSpec = FieldNoise | ShiftedNoise | MixedNoise


def mix_noise(kinds: Sequence[NoiseSpec | None], weights: WeightMap) -> NoiseSpec | None:
    """Kinds of noise, each where its weight says; None where none of them is noise."""
    return None if all(kind is None for kind in kinds) else MixedNoise(tuple(kinds), weights)


def parse_noise(values: dict | None, depth: int = DEEPEST) -> NoiseSpec | None:
    """The noise that `describe` described. ValueError, KeyError, TypeError or OSError for anything else."""
    if values is None:
        return None
    if depth == 0:
        raise ValueError("noise within noise without end")
    if "field" in values:
        period = values["period"]
        return FieldNoise(parse_whole(values["field"]), None if period is None else parse_whole(period))
    if "shift" in values:
        noise = parse_noise(values["noise"], depth - 1)
        if noise is None:
            raise ValueError("no noise that is shifted")
        return ShiftedNoise(noise, *map(parse_whole, values["shift"]))
    kinds = tuple(parse_noise(kind, depth - 1) for kind in values["kinds"])
    return MixedNoise(kinds, parse_map(values["weights"]))
