"""Grain: the texture noise of an image as plain values, so that its latent file can say how it was drawn.

A grain is None, no noise, or a dict of one of these forms, which may hold each other:

    {"field": seed, "period": pixels or None}             the field of a seed; `period`: columns of a panorama
    {"moved": [top, left], "size": [h, w], "grain": ...}  the grain of an image of that size, placed on a canvas
    {"kinds": [...], "boxes": [...], "blur": pixels}      kind k + 1 inside box k, kind 0 elsewhere (masks.rectangles)
    {"kinds": [...], "mask": PNG, "blur": pixels}         kind 1 where a mask is white, kind 0 elsewhere
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

import torch

from inversion.masks import decode_mask, encode_mask, rectangles, stretched
from inversion.scenes import MixedNoise, MovedNoise
from inversion.stylemaps import SoftMap
from models.generator import Noise
from models.geometry import Region
from models.noise import NoiseField
from models.texture import TextureSynthesizer

Grain = dict | None


def field(seed: int, period: int | None = None) -> Grain:
    """The field of a seed; `period`: pixels after which a panorama repeats, a multiple of a latent cell."""
    return {"field": seed, "period": period}


def wanted(noise: str, seed: int, period: int | None = None) -> Grain:
    """What an option `noise: field | none` stands for."""
    return field(seed, period) if noise == "field" else None


def moved(grain: Grain, place: tuple[int, int], size: tuple[int, int]) -> Grain:
    """The grain of an image of (height, width) whose first pixel lies at `place`, multiples of a latent cell."""
    return grain and {"moved": list(place), "size": list(size), "grain": grain}


def mixed(kinds: Sequence[Grain], blur: int, boxes: Sequence[Sequence[int]] = (), mask=None) -> Grain:
    """Kinds of grain by boxes or by a mask (bool [n, m], stretched to the image), over `blur` pixels to each side."""
    if all(kind is None for kind in kinds):
        return None
    if mask is None:
        return {"kinds": list(kinds), "boxes": [list(box) for box in boxes], "blur": blur}
    return {"kinds": list(kinds), "mask": base64.b64encode(encode_mask(mask)).decode(), "blur": blur}


def noise_of(
    grain: Grain, size: tuple[int, int], texture: TextureSynthesizer, device: torch.device
) -> Noise | None:
    """The noise that a grain of an image of (height, width) stands for. ValueError if it is of no known form."""
    if grain is None:
        return None
    try:
        return _noise(grain, size, texture, device)
    except (KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
        raise ValueError(f"no grain: {error!r}") from error


def _noise(grain: dict, size: tuple[int, int], texture: TextureSynthesizer, device: torch.device) -> Noise:
    if "field" in grain:
        if grain["period"] is None:
            return NoiseField(grain["field"], device)
        periods = [grain["period"] // texture.spacing(layer) for layer in range(2 * texture.stages)]
        return NoiseField(grain["field"], device, periods)
    if "moved" in grain:
        inner = _noise(grain["grain"], tuple(grain["size"]), texture, device)
        return MovedNoise(inner, *grain["moved"], texture.spacing)
    if "mask" in grain:
        label = stretched(decode_mask(base64.b64decode(grain["mask"])), size)
    else:
        label = rectangles(grain["boxes"])
    kinds = [kind and _noise(kind, size, texture, device) for kind in grain["kinds"]]
    return MixedNoise(SoftMap(label, len(kinds), Region.at(0, 0, *size), grain["blur"]), kinds, texture.spacing)
