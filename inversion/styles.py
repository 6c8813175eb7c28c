"""The style of an image: a global latent, or, in models with a trunk, the statistics of its structure latents.

A measured style is changed by mapping the structure latents (`models.statistics.StyleTransfer`), at each position on
its own, so that blocks equal the whole.

Letters: C channels, D length of a style, N styles, h/w latent cells.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import zip_longest
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from inversion.weight_maps import LabelMap, LayeredMap, ShiftedMap, WeightMap
from models.geometry import Interval, Region
from models.statistics import StyleTransfer, assemble
from models.trunk import COLOURS, Trunk
from utils.errors import UserError

STRIP = 64  # rows of cells that are added up at a time
SAMPLED = 2**16  # cells, at most, whose colours give covariance and quantiles


class ArrayLike(Protocol):
    """An array that is read by window; what holds one is at most the window."""

    shape: tuple[int, ...]
    dtype: np.dtype

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        """The values of a window: slices with bounds, or full ones."""


class Windowed:
    """An array-like [C, h, w] of the cells of a region, which is made where it is read."""

    dtype = np.dtype("float32")

    def __init__(self, channels: int, cells: Region, make: Callable[[Region], np.ndarray] | None = None) -> None:
        """`make`: region of cells -> all channels [C, h, w] of it; None: a method of a derived class."""
        self.shape, self.cells = (channels, *cells.shape), cells
        if make is not None:
            self.make = make

    def __getitem__(self, index: tuple[slice, ...] | slice) -> np.ndarray:
        """As `ArrayLike`."""
        channels, *axes = index if isinstance(index, tuple) else (index,)
        intervals = []
        for bounds, part in zip_longest((self.cells.rows, self.cells.cols), axes, fillvalue=slice(None)):
            start, stop, _ = part.indices(bounds.size)
            intervals.append(Interval(bounds.first + start, bounds.first + stop - 1))
        return self.make(Region(*intervals))[channels]


@dataclass(frozen=True, eq=False)
class Style:
    """One style of a whole image; an array, or other floating-point numbers, become a tensor of float32."""

    global_latent: Tensor  # z_g [D], float32, on the CPU; measured: the vector of `models.statistics`
    measured: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "global_latent", torch.as_tensor(self.global_latent, dtype=torch.float32))


@dataclass(frozen=True, eq=False)
class StyleMap:
    """Styles that vary over space."""

    styles: Sequence[Style]
    weights: WeightMap
    exact: bool = True  # False: InfinityGAN's approximation, one convolution for any number of styles

    def __post_init__(self) -> None:
        if len(self.styles) != self.weights.count:
            raise ValueError(f"{len(self.styles)} styles, and weights of {self.weights.count}")

    @property
    def global_latent(self) -> Tensor:
        """[N, D]: one for each style."""
        return torch.stack([style.global_latent for style in self.styles])

    @property
    def measured(self) -> bool:
        """Whether the styles are measured ones."""
        return self.styles[0].measured

    @property
    def base(self) -> Style | StyleMap:
        """What masks lie over."""
        weights = self.weights
        if isinstance(weights, ShiftedMap):
            base = replace(self, weights=weights.weights).base
            return base if isinstance(base, Style) else replace(base, weights=replace(weights, weights=base.weights))
        if not isinstance(weights, LayeredMap):
            return self
        below = weights.below
        return self.styles[0] if below is None else StyleMap(self.styles[: below.count], below, self.exact).base


def each_style(change: Callable[[Style], Style], style: Style | StyleMap) -> Style | StyleMap:
    """A style, or each of several, changed by a function."""
    return replace(style, styles=list(map(change, style.styles))) if isinstance(style, StyleMap) else change(style)


def mix_styles(own: Style | StyleMap, other: Style | StyleMap, share: float) -> Style | StyleMap:
    """On the way to another style, at each position: 0 is its own, 1 the other one, and beyond 1 further on.

    ValueError on the way between two maps.
    """
    if share in (0, 1):
        return other if share else own
    if isinstance(own, StyleMap) and isinstance(other, StyleMap):
        raise ValueError("two maps of styles can only replace each other (strength 0 or 1)")
    if isinstance(own, StyleMap):
        return each_style(lambda style: mix_styles(style, other, share), own)
    if isinstance(other, StyleMap):
        return each_style(lambda style: mix_styles(own, style, share), other)
    return replace(own, global_latent=torch.lerp(own.global_latent, other.global_latent, float(share)))


def mean_style(styles: Sequence[Style], weights: Sequence[float] | None = None) -> Style:
    """The weighted mean of styles: of their statistics, each by itself (of covariances, not of their roots).

    UserError for one that varies over space.
    """
    if any(isinstance(style, StyleMap) for style in styles):
        raise UserError("styles: one varies over space itself; allowed: styles of whole images")
    values = torch.stack([style.global_latent for style in styles]).double()
    shares = torch.ones(len(styles)) if weights is None else torch.as_tensor(weights)
    shares = shares.double() / shares.double().sum()
    return replace(styles[0], global_latent=(values * shares[:, None]).sum(0).float())


def layer_styles(below: Style | StyleMap, above: Style | StyleMap, mask: LabelMap) -> StyleMap:
    """One style, and as far as the second kind of a mask says, another one over it."""
    styles, maps = [], []
    for each in (below, above):
        varies = isinstance(each, StyleMap)
        styles += each.styles if varies else [each]
        maps.append(each.weights if varies else None)
    return StyleMap(styles, LayeredMap(*maps, mask), getattr(below, "exact", True))


def measure_style(structure: ArrayLike, held: Region, inside: Region, channels: int) -> Style:
    """The style of the first `channels` of structure latents [C, h, w] of a region of cells, over those inside.

    Added up in float64 and in one order, whatever the blocks were. Memory does not grow with the height.
    """
    rows, cols = inside.slices_in(held)
    step = max(1, math.ceil(math.sqrt(inside.rows.size * inside.cols.size / SAMPLED)))
    total, square, colours = 0.0, 0.0, []
    for top in range(rows.start, rows.stop, STRIP):
        strip = np.ascontiguousarray(structure[:channels, top : min(top + STRIP, rows.stop), cols], dtype=np.float64)
        total, square = total + strip.sum((1, 2)), square + np.square(strip).sum((1, 2))
        colours.append(strip[:COLOURS, (rows.start - top) % step :: step, ::step].reshape(COLOURS, -1))
    count = inside.rows.size * inside.cols.size
    mean = total / count
    parts = (torch.from_numpy(each)[None] for each in (mean, square / count - mean**2, np.concatenate(colours, 1)))
    return Style(assemble(*parts)[0].float(), measured=True)


class RestyledStructure(Windowed):
    """Structure latents in another style than their own, mapped where they are read."""

    def __init__(
        self,
        structure: ArrayLike,  # [C, h, w]
        own: Style | StyleMap,
        style: Style | StyleMap,
        cells: Region,  # that it holds
        trunk: Trunk,
    ) -> None:
        super().__init__(structure.shape[0], cells)
        self.structure, self.own, self.style, self.trunk = structure, own, style, trunk
        self.transfers: dict[tuple[int, int], StyleTransfer] = {}

    def make(self, region: Region) -> np.ndarray:
        """The values [C, h, w] of a region."""
        values = torch.from_numpy(np.ascontiguousarray(self.structure[:, *region.slices_in(self.cells)]))
        before, after = (self._shares(style, region) for style in (self.own, self.style))
        kept = [b for b in after if b in self._kept]
        parts = [(values, after[b]) for b in kept]
        for b, share in after.items():
            for a, own in before.items() if b not in kept else ():
                both = own if share is None else share if own is None else own * share
                parts.append((self._transfer(a, b)(values), both))
        result = sum(part if share is None else part * share for part, share in parts)
        if kept and isinstance(self.style, StyleMap):  # sums of shares may differ from 1 by rounding
            others = sum((share for b, share in after.items() if b not in kept), torch.zeros(region.shape))
            result = torch.where(others == 0, values, result)
        return result.numpy()

    @cached_property
    def _kept(self) -> set[int]:
        """The kinds of the style that are the structure's own, which stays as it is there."""
        own, styles = self.own, self.style.styles if isinstance(self.style, StyleMap) else [self.style]
        if isinstance(own, Style):
            return {n for n, each in enumerate(styles) if torch.equal(each.global_latent, own.global_latent)}
        pairs = zip(own.styles, styles, strict=False)
        under = len(styles) > len(own.styles) and isinstance(self.style.weights, LayeredMap)
        same = under and all(torch.equal(a.global_latent, b.global_latent) for a, b in pairs)
        return set(range(len(own.styles))) if same else set()

    def _shares(self, style: Style | StyleMap, region: Region) -> dict[int, Tensor | None]:
        """The weights [h, w] of the styles that occur in a region; None: 1."""
        if isinstance(style, Style):
            return {0: None}
        return {n: each for n, each in enumerate(style.weights(region, self.trunk.cell)) if bool((each > 0).any())}

    def _transfer(self, a: int, b: int) -> StyleTransfer:
        if (a, b) not in self.transfers:
            pair = ((self.own, a), (self.style, b))
            own, style = (each if isinstance(each, Style) else each.styles[n] for each, n in pair)
            self.transfers[a, b] = StyleTransfer(own.global_latent, style.global_latent, self.trunk, self.shape[0])
        return self.transfers[a, b]


def with_channels(structure: ArrayLike, channels: int, cells: Region) -> Windowed:
    """Structure latents of these cells with 0 in further channels: as many of them as asked for."""

    def make(region: Region) -> np.ndarray:
        found = structure[:, *region.slices_in(cells)]
        return np.concatenate([found, np.zeros((channels - len(found), *found.shape[1:]), found.dtype)])

    return Windowed(channels, cells, make)
