"""Padding-free geometry: which input an output needs, and which output an input gives.

Integers only. All positions live in one absolute frame: an image's first pixel is 0, and at the level of resolution
2^-m the feature i is centred on pixel 2^m i. Positions may be negative. Rules are for one axis; height and width follow
the same. A layer states its `Rule`; a network is a `Chain` of rules; every size is derived from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np


class Interval(NamedTuple):
    """Indices `first` to `last`, both included, along one axis."""

    first: int
    last: int

    @property
    def size(self) -> int:
        """Number of indices; 0 or less when nothing is left."""
        return self.last - self.first + 1

    def slice_in(self, outer: Interval) -> slice:
        """The slice of an array that holds `outer` which this interval is. ValueError if it is not inside."""
        if self.first < outer.first or self.last > outer.last:
            raise ValueError(f"interval {tuple(self)} is not inside {tuple(outer)}")
        return slice(self.first - outer.first, self.last - outer.first + 1)


class Rule(Protocol):
    """How a layer maps intervals of one axis."""

    def receptive_field(self, output: Interval) -> Interval:
        """The interval of input that an interval of output needs."""

    def valid_output(self, input: Interval) -> Interval:
        """The largest interval of output that an interval of input gives."""

    def affected_output(self, input: Interval) -> Interval:
        """The interval of output that depends on any of an interval of input."""


@dataclass(frozen=True)
class Window:
    """A convolution of stride `stride` whose output i reads the inputs `stride * i + first` to `stride * i + last`.

    With `padded`, the layer fills what is missing at the border of its block by itself (zeros, wrap-around): it asks
    for no context, and its blocks do not equal the whole.
    """

    first: int
    last: int
    stride: int = 1
    padded: bool = False

    def receptive_field(self, output: Interval) -> Interval:
        low, high = self._taps
        return Interval(self.stride * output.first + low, self.stride * output.last + high)

    def valid_output(self, input: Interval) -> Interval:
        low, high = self._taps
        return Interval(-((low - input.first) // self.stride), (input.last - high) // self.stride)

    def affected_output(self, input: Interval) -> Interval:
        low, high = self._taps
        return Interval(-((high - input.first) // self.stride), (input.last - low) // self.stride)

    @property
    def _taps(self) -> tuple[int, int]:
        return (0, self.stride - 1) if self.padded else (self.first, self.last)


@dataclass(frozen=True)
class TransposedWindow(Window):
    """A transposed convolution: the input i adds to the outputs `stride * i + first` to `stride * i + last`."""

    def receptive_field(self, output: Interval) -> Interval:
        return super().affected_output(output)

    def valid_output(self, input: Interval) -> Interval:
        before, after = self.stride * (input.first - 1) + self.last, self.stride * (input.last + 1) + self.first
        return Interval(before + 1, after - 1)

    def affected_output(self, input: Interval) -> Interval:
        return super().receptive_field(input)


@dataclass(frozen=True)
class Chain:
    """Rules applied one after the other, from the network's input to its output."""

    rules: tuple[Rule, ...]

    def receptive_field(self, output: Interval) -> Interval:
        for rule in reversed(self.rules):
            output = rule.receptive_field(output)
        return output

    def valid_output(self, input: Interval) -> Interval:
        for rule in self.rules:
            input = rule.valid_output(input)
        return input

    def affected_output(self, input: Interval) -> Interval:
        for rule in self.rules:
            input = rule.affected_output(input)
        return input


@dataclass(frozen=True)
class Sum:
    """Rules whose outputs are added, from the same input."""

    rules: tuple[Rule, ...]

    def receptive_field(self, output: Interval) -> Interval:
        return self._union(rule.receptive_field(output) for rule in self.rules)

    def valid_output(self, input: Interval) -> Interval:
        parts = [rule.valid_output(input) for rule in self.rules]
        return Interval(max(part.first for part in parts), min(part.last for part in parts))

    def affected_output(self, input: Interval) -> Interval:
        return self._union(rule.affected_output(input) for rule in self.rules)

    @staticmethod
    def _union(parts: Iterable[Interval]) -> Interval:
        parts = list(parts)
        return Interval(min(part.first for part in parts), max(part.last for part in parts))


def convolution(radius: int, dilation: int = 1) -> Window:
    """A centred convolution of kernel 2 * radius + 1, without padding."""
    return Window(-radius * dilation, radius * dilation)


UPSAMPLE = TransposedWindow(-1, 1, 2)  # a 3x3 one cropped by one, or bilinear between the input's centres
UPSAMPLING = Chain((UPSAMPLE, convolution(1)))  # transposed convolution, blur: n -> 2n - 3
TEXTURE_STAGE = Chain((UPSAMPLING, convolution(1)))  # n -> 2n - 5


def texture(stages: int) -> Chain:
    """The texture synthesizer: structure latent -> image. With 4 stages n -> 16n - 75."""
    return Chain((TEXTURE_STAGE,) * stages)


def structure(radius: int, dilations: Sequence[int]) -> Chain:
    """The structure synthesizer, a dilation for each of its layers: local latent -> structure latent."""
    return Chain(tuple(convolution(radius, dilation) for dilation in dilations))


def reflect(index: np.ndarray, size: int) -> np.ndarray:
    """Positions in 0 .. size - 1 of any integer indices, reflected at both ends without repeating the edge.

    Defined for every size from 1 up and every index, however far outside: the reflection has period 2 * (size - 1).
    """
    if size < 1:
        raise ValueError(f"cannot reflect into a size of {size}; at least 1 is needed")
    if size == 1:
        return np.zeros_like(index)
    folded = np.mod(index, 2 * (size - 1))
    return np.minimum(folded, 2 * (size - 1) - folded)


def partition(interval: Interval, size: int) -> list[Interval]:
    """Consecutive intervals of at most `size` indices that cover `interval`; the last one may be shorter."""
    if size < 1:
        raise ValueError(f"a block of {size} indices covers nothing; at least 1 is needed")
    starts = range(interval.first, interval.last + 1, size)
    return [Interval(start, min(start + size - 1, interval.last)) for start in starts]


@dataclass(frozen=True)
class Region:
    """A rectangle of absolute positions: an interval of rows and one of columns."""

    rows: Interval
    cols: Interval

    @staticmethod
    def at(top: int, left: int, height: int, width: int) -> Region:
        """The region of `height` rows from `top` and `width` columns from `left`."""
        return Region(Interval(top, top + height - 1), Interval(left, left + width - 1))

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return self.rows.size, self.cols.size

    def receptive_field(self, rule: Rule) -> Region:
        """The region that `rule` needs to give this one."""
        return Region(rule.receptive_field(self.rows), rule.receptive_field(self.cols))

    def valid_output(self, rule: Rule) -> Region:
        """The largest region that `rule` gives from this one."""
        return Region(rule.valid_output(self.rows), rule.valid_output(self.cols))

    def affected_output(self, rule: Rule) -> Region:
        """The region that depends on any part of this one, by `rule`."""
        return Region(rule.affected_output(self.rows), rule.affected_output(self.cols))

    def common(self, other: Region) -> Region | None:
        """What two regions share; None if that is nothing."""
        axes = (self.rows, other.rows), (self.cols, other.cols)
        rows, cols = (Interval(max(a.first, b.first), min(a.last, b.last)) for a, b in axes)
        return Region(rows, cols) if rows.size > 0 and cols.size > 0 else None

    def grown(self, margin: int) -> Region:
        """The region and `margin` rows and columns around it."""
        return Region(*(Interval(axis.first - margin, axis.last + margin) for axis in (self.rows, self.cols)))

    def moved(self, down: int, right: int) -> Region:
        """The region that many rows further down and columns further right."""
        return Region.at(self.rows.first + down, self.cols.first + right, *self.shape)

    def slices_in(self, outer: Region) -> tuple[slice, slice]:
        """Index of this region in the last two dimensions of an array that holds `outer`."""
        return self.rows.slice_in(outer.rows), self.cols.slice_in(outer.cols)


def blocks(region: Region, shape: tuple[int, int]) -> Iterator[Region]:
    """The blocks of at most (rows, columns) that cover a region, row by row."""
    for rows in partition(region.rows, shape[0]):
        for cols in partition(region.cols, shape[1]):
            yield Region(rows, cols)


@dataclass(frozen=True)
class StageRegions:
    """Where the features of one stage of the texture synthesizer lie."""

    given: Region  # what the stage before gives
    input_region: Region  # what is read of it
    upsampled: Region  # what the up-sampling convolution gives
    output_region: Region  # what the second convolution gives, and the colours

    @staticmethod
    def of(given: Region, input_region: Region) -> StageRegions:
        """Of a stage that reads this part of what it is given."""
        upsampled = input_region.valid_output(UPSAMPLING)
        return StageRegions(given, input_region, upsampled, upsampled.valid_output(convolution(1)))

    @property
    def outputs(self) -> tuple[Region, Region]:
        """What its two layers of noise are added to."""
        return self.upsampled, self.output_region


def regions_from(cells: Region, stages: int) -> list[StageRegions]:
    """The stages' regions where all is drawn that these latent cells can draw."""
    regions = []
    for _ in range(stages):
        regions.append(StageRegions.of(cells, cells))
        cells = regions[-1].output_region
    return regions


def regions_to(pixels: Region, stages: int) -> list[StageRegions]:
    """The stages' regions where no more is computed than these pixels need.

    Up-sampling gives up to one row and column too many at each end. They are cut off before the next up-sampling: a cut
    copies the feature, and there it is four times smaller.
    """
    if stages == 0:
        return []
    needed = pixels.receptive_field(TEXTURE_STAGE)
    before = regions_to(needed, stages - 1)
    given = before[-1].output_region if before else needed
    return [*before, StageRegions.of(given, needed)]
