"""Which texture noise an image is drawn with: plain values that pydantic checks, and writes into latent files.

`NoiseSpec.build` gives the noise itself, a function of layer and absolute position (`models.noise.NoiseField`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass, rebuild_dataclass
from torch import Tensor

from inversion.weight_maps import WeightMap, Whole
from models.geometry import Region
from models.noise import Noise, NoiseField
from models.texture import TextureSynthesizer
from utils.errors import UserError


@dataclass(frozen=True)
class FieldNoise:
    """The noise field of a seed."""

    seed: Whole
    # pixels after which a panorama repeats, a multiple of a latent cell
    period: Annotated[int, Field(ge=1, le=2**31)] | None = None
    kind: Literal["field"] = "field"

    def build(self, texture: TextureSynthesizer, device: torch.device) -> Noise:
        """The noise of a texture synthesizer's layers. UserError for a period of another network's cells."""
        if self.period is None:
            return NoiseField(self.seed, device)
        if self.period % 2**texture.stages:
            raise UserError(f"noise that repeats after {self.period} pixels; a latent cell has {2**texture.stages}")
        layers = range(2 * texture.stages)
        return NoiseField(self.seed, device, [self.period // texture.spacing(layer) for layer in layers])


@dataclass(frozen=True)
class ShiftedNoise:
    """The noise of an image whose first pixel lies elsewhere on a canvas."""

    noise: NoiseSpec
    top: Whole  # pixels, multiples of a latent cell
    left: Whole
    kind: Literal["shifted"] = "shifted"

    def build(self, texture: TextureSynthesizer, device: torch.device) -> Noise:
        """The noise of a texture synthesizer's layers."""
        noise = self.noise.build(texture, device)

        def shifted(layer: int, top: int, left: int, height: int, width: int) -> Tensor:
            spacing = texture.spacing(layer)
            return noise(layer, top - self.top // spacing, left - self.left // spacing, height, width)

        return shifted


@dataclass(frozen=True, eq=False)
class MixedNoise:
    """Several kinds of noise, mixed by the weights of a position; None is no noise, and at least one is not None.

    Where a weight is 1 the values are those of that kind to the last bit.
    """

    kinds: list[NoiseSpec | None]
    weights: WeightMap
    kind: Literal["mixed"] = "mixed"

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


@dataclass(frozen=True)
class BlendedNoise:
    """On the way from one kind of noise to another, along an arc: independent ones keep their variance. None: none."""

    first: NoiseSpec | None
    second: NoiseSpec | None
    share: Annotated[float, Field(ge=0, le=1)]  # of the way
    kind: Literal["blended"] = "blended"

    def build(self, texture: TextureSynthesizer, device: torch.device) -> Noise:
        """The noise of a texture synthesizer's layers."""
        angle = self.share * math.pi / 2
        parts = (self.first, math.cos(angle)), (self.second, math.sin(angle))
        kinds = [(spec.build(texture, device), factor) for spec, factor in parts if spec is not None]
        return lambda *place: sum(kind(*place) * factor for kind, factor in kinds)


NoiseSpec = Annotated[FieldNoise | ShiftedNoise | MixedNoise | BlendedNoise, Field(discriminator="kind")]
for _each in (ShiftedNoise, MixedNoise, BlendedNoise):  # they hold each other
    rebuild_dataclass(_each)


def mix_noise(kinds: Sequence[NoiseSpec | None], weights: WeightMap) -> NoiseSpec | None:
    """Kinds of noise, each where its weight says; None where none of them is noise."""
    return None if all(kind is None for kind in kinds) else MixedNoise(list(kinds), weights)


def blend_noise(first: NoiseSpec | None, second: NoiseSpec | None, share: float) -> NoiseSpec | None:
    """On the way from one kind of noise to another; what both have in common stays."""
    return first if first == second else BlendedNoise(first, second, share)
