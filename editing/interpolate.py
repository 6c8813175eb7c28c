"""Interpolation: images on the way from one to the next, in their style, their structure, or both.

The mean of two structures that have nothing in common has half their variance: a pale double exposure. So each channel
goes along the arc between both (Shoemake, SIGGRAPH 1985), with r its correlation over all cells, and w = arccos r:

    z = m + s (sin((1 - t) w) / sin(w) (z_a - m_a) / s_a + sin(t w) / sin(w) (z_b - m_b) / s_b),

whose mean m and deviation s are those on the straight line from a to b, as in the style between them. Generated images
go along the arc between their local latents, which are independent, so each one between is a generated image.

Letters: C channels, h/w latent cells.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Literal

import numpy as np
from torch import Tensor

from editing.film import Film
from editing.fuse import in_style
from inversion.inverter import PatchInverter
from inversion.latents import Latents
from inversion.noise import ShiftedNoise, blend_noise
from inversion.styles import Style, StyleMap, Windowed, mix_styles
from inversion.synthesis import GeneratedStructure, TiledStructure, synthesize
from models.geometry import Region
from utils.errors import UserError

What = Literal["style", "structure", "both"]  # that changes; the other stays that of the first image
Path = Callable[[float], Latents]

ROWS = 64  # of cells that are added up at a time
FLOOR = 1e-6  # of deviations
OPPOSITE = -0.95  # correlation, below which the arc between two channels could lie anywhere


def interpolate(model: PatchInverter, images: Sequence[Latents], what: What = "both") -> Path:
    """The way through images: at 0, 1, 2 ... each of them to the last bit, and behind the last one the first again.

    With `what` of style or structure the other one stays that of the first image. Of images of several sizes it is the
    middle, as large as all have it. UserError for fewer than two images, or styles that vary over space.
    """
    for image in images:
        model.check(image)
    size = common_size([image.size for image in images])
    if any(isinstance(image.style, StyleMap) for image in images):
        raise UserError("interpolate: takes images of one style each")
    images = [middle(model, model.as_drawn(image), size) for image in images]
    generated = all(isinstance(image.structure, GeneratedStructure) for image in images)
    pairs = list(zip(images, [*images[1:], images[0]], strict=True))
    arcs_of = cache(lambda n: arcs(model, *pairs[n]))
    first, grey = images[0], all(image.grey for image in images)

    def between(position: float) -> Latents:
        n, share = int(position // 1) % len(images), position % 1
        if share == 0 and (n == 0 or what == "both"):
            return images[n]
        own = mix_styles(*(image.style for image in pairs[n]), share)
        style, latents = first.style if what == "structure" else own, first
        if what != "style":
            noise = blend_noise(*(image.noise for image in pairs[n]), share)
            if generated:  # in the style itself
                structure, own = between_draws(model, *pairs[n], share, style), style
            else:
                structure = between_structures(*pairs[n], *arcs_of(n)(share))
            latents = replace(pairs[n][0], structure=structure, style=own, noise=noise)
        return replace(latents if latents.style is style else in_style(latents, style), grey=grey)

    return between


def common_size(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The largest (height, width) that is in all images of these sizes. UserError for fewer than two images."""
    if len(sizes) < 2:
        raise UserError(f"interpolate: images: {len(sizes)}; needed are two or more (--input, or generate.seeds)")
    height, width = map(min, zip(*sizes, strict=True))
    return height, width


def middle(model: PatchInverter, latents: Latents, size: tuple[int, int]) -> Latents:
    """The middle of an image, of (height, width), up to a latent cell, in the style of the whole."""
    if latents.size == size:
        return latents
    top, left = ((edge - kept) // 2 // model.cell for edge, kept in zip(latents.size, size, strict=True))
    held, cells = model.cells(latents.size), model.cells(size).moved(top, left)
    whole = latents.structure
    structure = Windowed(whole.shape[0], cells, lambda region: whole[:, *region.slices_in(held)])
    noise = latents.noise and ShiftedNoise(latents.noise, -top * model.cell, -left * model.cell)
    return replace(latents, structure=structure, size=size, noise=noise)


def film(model: PatchInverter, path: Path, stops: int, frames: int, fps: int, loop: bool = False) -> Film:
    """The film of a way through so many images: `frames` from each to the next, slow near them.

    It ends with the last image, or with `loop` right before the first one comes again.
    """
    count = frames * stops if loop else frames * (stops - 1) + 1

    def drawn(first: int) -> Iterator[np.ndarray]:
        for k in range(first, count):
            share = k % frames / frames
            yield model.draw(path(k // frames + share * share * (3 - 2 * share)))

    return Film(path(0).size, count, fps, drawn)


def between_draws(model: PatchInverter, first: Latents, second: Latents, share: float, style: Style) -> TiledStructure:
    """The structure of the generated image between two, in a style."""
    cells, fields = first.structure.cells, (first.structure.local, second.structure.local)
    near, far = math.cos(share * math.pi / 2), math.sin(share * math.pi / 2)
    period = fields[0].period if fields[0].period == fields[1].period else None

    def local(region: Region) -> Tensor:
        return near * fields[0].read(region) + far * fields[1].read(region)

    def compute(region: Region) -> Tensor:
        return synthesize(model.generator, style, local, region, cells, period)

    return TiledStructure(compute, fields[0].channels, cells)


def between_structures(
    first: Latents, second: Latents, near: np.ndarray, far: np.ndarray, added: np.ndarray
) -> Windowed:
    """The sum of two structures, by weights of their channels as `arcs` gives them."""
    cells = Region.at(0, 0, *first.structure.shape[1:])

    def make(region: Region) -> np.ndarray:
        window = slice(None), *region.slices_in(cells)
        return near * first.structure[window] + far * second.structure[window] + added

    return Windowed(first.structure.shape[0], cells, make)


def arcs(model: PatchInverter, first: Latents, second: Latents) -> Callable[[float], tuple[np.ndarray, ...]]:
    """The way of each channel from an image to another one of its size, by moments of the cells centred on pixels.

    A function from a share of the way to what both structures are multiplied by, and what is added: float32 [C, 1, 1]
    each. The moments are added up by strips, in float64.
    """
    inside = Region.at(0, 0, *(-(-length // model.cell) for length in first.size))
    rows, cols = inside.slices_in(model.cells(first.size))
    total, square = np.zeros((2, first.structure.shape[0])), np.zeros((3, first.structure.shape[0]))
    for top in range(rows.start, rows.stop, ROWS):
        window = slice(None), slice(top, min(top + ROWS, rows.stop)), cols
        a, b = (np.asarray(latents.structure[window], np.float64) for latents in (first, second))
        total += a.sum((1, 2)), b.sum((1, 2))
        square += [np.einsum("chw,chw->c", *pair) for pair in ((a, a), (b, b), (a, b))]
    count = inside.rows.size * inside.cols.size
    means, square = total / count, square / count
    deviations = np.sqrt(np.maximum(square[:2] - means**2, FLOOR**2))
    correlation = (square[2] - means.prod(0)) / deviations.prod(0)
    angle = np.arccos(np.clip(correlation, OPPOSITE, 1))

    def weights(share: float) -> tuple[np.ndarray, ...]:
        parts = np.array([[1 - share], [share]])  # of both
        mean, deviation = (parts * means).sum(0), (parts * deviations).sum(0)
        arc = np.where(angle > FLOOR, np.sin(parts * angle) / np.maximum(np.sin(angle), FLOOR), parts)
        near, far = arc * deviation / deviations
        added = mean - near * means[0] - far * means[1]
        return tuple(values[:, None, None].astype(np.float32) for values in (near, far, added))

    return weights
