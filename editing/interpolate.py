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
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from torch import Tensor

from editing.film import Film
from editing.fuse import in_style
from inversion.inverter import PatchInverter
from inversion.latents import Latents
from inversion.noise import NoiseSpec, ShiftedNoise, blend_noise
from inversion.styles import ArrayLike, Style, StyleMap, locate, mix_styles
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
    pair = lru_cache(len(images))(lambda n: Pair(model, images[n], images[(n + 1) % len(images)]))
    first, grey = images[0], all(image.grey for image in images)

    def between(position: float) -> Latents:
        n, share = int(position // 1) % len(images), position % 1
        if share == 0 and (n == 0 or what == "both"):
            return images[n]
        style = first.style if what == "structure" else pair(n).style(share)
        if generated:
            return in_style(first, style) if what == "style" else pair(n).generated(share, style)
        latents = first if what == "style" else pair(n).mixed(share)
        return replace(latents if what == "both" else in_style(latents, style), grey=grey)

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
    structure = Window(latents.structure, model.cells(latents.size), model.cells(size).moved(top, left))
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


class Pair:
    """Two images of one size, of one style each, and what lies between them."""

    def __init__(self, model: PatchInverter, first: Latents, second: Latents) -> None:
        self._model, self.first, self.second = model, first, second
        self._moments: Moments | None = None

    def style(self, share: float) -> Style:
        """The style between."""
        return mix_styles(self.first.style, self.second.style, share)

    def noise(self, share: float) -> NoiseSpec | None:
        """The texture noise between."""
        return blend_noise(self.first.noise, self.second.noise, share)

    def mixed(self, share: float) -> Latents:
        """The image between, of both structures."""
        if self._moments is None:
            self._moments = moments(self._model, self.first, self.second)
        structure = MixedStructure(self.first.structure, self.second.structure, *self._moments.weights(share))
        return replace(self.first, structure=structure, style=self.style(share), noise=self.noise(share))

    def generated(self, share: float, style: Style) -> Latents:
        """The generated image between, in a style."""
        generator, cells = self._model.generator, self.first.structure.cells
        first, second = self.first.structure.local, self.second.structure.local
        near, far = math.cos(share * math.pi / 2), math.sin(share * math.pi / 2)
        period = first.period if first.period == second.period else None

        def local(region: Region) -> Tensor:
            return near * first.read(region) + far * second.read(region)

        def compute(region: Region) -> Tensor:
            return synthesize(generator, style, local, region, cells, period)

        structure = TiledStructure(compute, first.channels, cells)
        return replace(self.first, structure=structure, style=style, noise=self.noise(share))


@dataclass(frozen=True)
class Moments:
    """Means, deviations and correlation of the channels of two structures: arrays [C]."""

    means: tuple[np.ndarray, np.ndarray]
    deviations: tuple[np.ndarray, np.ndarray]
    correlation: np.ndarray

    def weights(self, share: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What both structures are multiplied by, and what is added: float32 [C, 1, 1] each."""
        angle = np.arccos(np.clip(self.correlation, OPPOSITE, 1))
        near, far = (
            np.where(angle > FLOOR, np.sin(part * angle) / np.maximum(np.sin(angle), FLOOR), part)
            for part in (1 - share, share)
        )
        mean, deviation = ((1 - share) * a + share * b for a, b in (self.means, self.deviations))
        near, far = (deviation * part / own for part, own in zip((near, far), self.deviations, strict=True))
        added = mean - near * self.means[0] - far * self.means[1]
        return tuple(values[:, None, None].astype(np.float32) for values in (near, far, added))


def moments(model: PatchInverter, first: Latents, second: Latents) -> Moments:
    """Of two images of one size, over the cells that are centred on pixels; added up by strips, in float64."""
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
    return Moments(tuple(means), tuple(deviations), (square[2] - means.prod(0)) / deviations.prod(0))


@dataclass(frozen=True)
class Window:
    """A part of a structure, as an array-like [C, h, w]."""

    structure: ArrayLike
    held: Region  # its cells
    cells: Region  # those of the part

    @property
    def shape(self) -> tuple[int, ...]:
        return self.structure.shape[0], *self.cells.shape

    @property
    def dtype(self) -> np.dtype:
        return self.structure.dtype

    def __getitem__(self, index: tuple[slice, ...] | slice) -> np.ndarray:
        """As `inversion.styles.ArrayLike`."""
        channels, region = locate(index, self.cells)
        return self.structure[channels, *region.slices_in(self.held)]


@dataclass(frozen=True)
class MixedStructure:
    """A sum of two structures, by channels: an array-like [C, h, w] that is made where it is read."""

    first: ArrayLike
    second: ArrayLike
    near: np.ndarray  # what they are multiplied by, and what is added: float32 [C, 1, 1]
    far: np.ndarray
    added: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.first.shape

    @property
    def dtype(self) -> np.dtype:
        return self.added.dtype

    def __getitem__(self, index: tuple[slice, ...] | slice) -> np.ndarray:
        """As `inversion.styles.ArrayLike`."""
        channels = index[0] if isinstance(index, tuple) else index
        values = self.near[channels] * self.first[index] + self.far[channels] * self.second[index]
        return values + self.added[channels]
