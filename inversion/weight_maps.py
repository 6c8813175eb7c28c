"""Where which of several styles, or kinds of noise, applies: weights over an unbounded plane, read by window.

A map is called with a region of features and the pixels between them (feature i is centred on pixel spacing * i), and
gives the weights [N, h, w] of N kinds, which sum to 1. It has plain values only, so that a latent file can hold it.
Positions beyond the canvas take the weights of its nearest pixel.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np
import PIL.Image
import torch
from torch import Tensor

from models.geometry import Interval, Region

Labels = Callable[[np.ndarray, np.ndarray], np.ndarray]  # pixel rows [h], columns [w] -> index of a kind [h, w]


@dataclass(frozen=True)
class Centres:
    """Labels by the nearest of some positions (row, column), in pixels; the first one of equally near ones."""

    positions: Sequence[Sequence[float]]

    def __call__(self, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
        nearest = np.full((len(rows), len(cols)), np.inf)
        labels = np.zeros(nearest.shape, np.int64)
        for k, (top, left) in enumerate(self.positions):
            distance = self._offset(rows, top)[:, None] ** 2 + self._offset(cols, left)[None] ** 2
            labels[distance < nearest] = k
            np.minimum(nearest, distance, out=nearest)
        return labels

    @staticmethod
    def _offset(positions: np.ndarray, centre: float) -> np.ndarray:
        # whole pixels, cut towards zero as InfinityGAN does; float32 first, so that 0.55 * 100 is the pixel 55
        return np.trunc((positions - centre).astype(np.float32), dtype=np.float64)

    def describe(self) -> dict:
        """As plain values."""
        return {"centres": [list(map(float, position)) for position in self.positions]}


@dataclass(frozen=True)
class Boxes:
    """Label k + 1 inside box k (first row, first column, row after the last, column after the last), 0 elsewhere.

    Where boxes overlap, the first one counts.
    """

    boxes: Sequence[Sequence[int]]

    def __call__(self, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
        labels = np.zeros((len(rows), len(cols)), np.int64)
        for k, (top, left, bottom, right) in reversed(list(enumerate(self.boxes))):
            labels[np.ix_((rows >= top) & (rows < bottom), (cols >= left) & (cols < right))] = k + 1
        return labels

    def describe(self) -> dict:
        """As plain values."""
        return {"boxes": [list(map(int, box)) for box in self.boxes]}


@dataclass(frozen=True, eq=False)
class LabelImage:
    """Labels of an image, stretched to (height, width): each pixel takes the one that its centre lies in."""

    values: np.ndarray  # uint8 or bool [n, m]
    size: tuple[int, int]

    def __call__(self, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
        pairs = zip((rows, cols), self.values.shape, self.size, strict=True)
        found = ((2 * position + 1) * count // (2 * edge) for position, count, edge in pairs)
        return self.values[np.ix_(*found)].astype(np.int64)

    def describe(self) -> dict:
        """As plain values: a PNG in base64."""
        file = io.BytesIO()
        PIL.Image.fromarray(self.values.astype(np.uint8)).save(file, "PNG", optimize=True)
        return {"image": base64.b64encode(file.getvalue()).decode()}


@dataclass(frozen=True, eq=False)
class LabelMap:
    """Weights that are the mean of one-hot labels over a square of 2 * blur + 1 pixels around each pixel."""

    labels: Centres | Boxes | LabelImage
    count: int  # of the kinds; the last one has all labels from count - 1 on
    size: tuple[int, int]  # height and width of the canvas, pixels
    blur: int = 0  # pixels

    def __post_init__(self) -> None:
        if min(self.count, *self.size) < 1 or self.blur < 0:
            raise ValueError(f"{self.count} kinds on a canvas of {self.size} pixels, with a blur of {self.blur}")

    def __call__(self, region: Region, spacing: int) -> Tensor:
        """Weights [N, h, w]; see the head of this file."""
        rows, cols = (
            np.clip(spacing * np.arange(axis.first, axis.last + 1), 0, edge - 1)
            for axis, edge in zip((region.rows, region.cols), self.size, strict=True)
        )
        around = [
            np.clip(np.arange(positions[0] - self.blur, positions[-1] + self.blur + 1), 0, edge - 1)
            for positions, edge in zip((rows, cols), self.size, strict=True)
        ]
        labels = np.minimum(self.labels(*around), self.count - 1)
        at = np.ix_(rows - rows[0], cols - cols[0])
        return torch.from_numpy(np.stack([self._mean(labels == n)[at] for n in range(self.count)]))

    def _mean(self, mask: np.ndarray) -> np.ndarray:
        """Mean of a mask over each whole square, float32: sums of integers, so no window rounds otherwise."""
        edge = 2 * self.blur + 1
        sums = cv2.boxFilter(mask.astype(np.uint8), cv2.CV_32S, (edge, edge), normalize=False)
        height, width = mask.shape
        inner = sums[self.blur : height - self.blur, self.blur : width - self.blur]
        return inner.astype(np.float32) / edge**2

    def describe(self) -> dict:
        """As plain values."""
        return {"labels": self.labels.describe(), "count": self.count, "canvas": list(self.size), "blur": self.blur}


@dataclass(frozen=True)
class HorizontalBlend:
    """Two kinds side by side: the first up to a column, the second from another on, a smooth step between."""

    first: int  # pixels
    last: int
    count: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if self.first >= self.last:
            raise ValueError(f"a blend from {self.first} to {self.last}")

    def __call__(self, region: Region, spacing: int) -> Tensor:
        """Weights [2, h, w]; see the head of this file."""
        cols = spacing * torch.arange(region.cols.first, region.cols.last + 1, dtype=torch.float64)
        share = ((cols - self.first) / (self.last - self.first)).clamp(0, 1)
        step = (share * share * (3 - 2 * share)).float()
        return torch.stack([1 - step, step])[:, None].expand(-1, region.rows.size, -1)

    def describe(self) -> dict:
        """As plain values."""
        return {"blend": [self.first, self.last]}


@dataclass(frozen=True)
class ShiftedMap:
    """The map of an image whose first pixel lies elsewhere on a canvas."""

    weights: WeightMap
    top: int  # pixels, multiples of a latent cell
    left: int

    @property
    def count(self) -> int:
        """Of the kinds."""
        return self.weights.count

    def __call__(self, region: Region, spacing: int) -> Tensor:
        """Weights [N, h, w]; see the head of this file."""
        return self.weights(region.moved(-self.top // spacing, -self.left // spacing), spacing)

    def describe(self) -> dict:
        """As plain values."""
        return {"shift": [self.top, self.left], "map": self.weights.describe()}


WeightMap = LabelMap | HorizontalBlend | ShiftedMap


def parse_map(values: dict) -> WeightMap:
    """The map that `describe` described. ValueError, KeyError, TypeError or OSError for anything else."""
    if "shift" in values:
        return ShiftedMap(parse_map(values["map"]), *map(parse_whole, values["shift"]))
    if "blend" in values:
        first, last = map(parse_whole, values["blend"])
        return HorizontalBlend(first, last)
    height, width = map(parse_whole, values["canvas"])
    labels = _parse_labels(values["labels"], (height, width))
    return LabelMap(labels, parse_whole(values["count"]), (height, width), parse_whole(values["blur"]))


def parse_whole(value: float | str) -> int:
    """A whole number that positions and seeds can be. ValueError or TypeError for anything else."""
    if not -(2**62) <= float(value) <= 2**62:
        raise ValueError(f"{value}: too large")
    return int(value)


def _parse_labels(values: dict, size: tuple[int, int]) -> Centres | Boxes | LabelImage:
    if "centres" in values:
        return Centres([(float(row), float(col)) for row, col in values["centres"]])
    if "boxes" in values:
        return Boxes([tuple(map(parse_whole, box)) for box in values["boxes"]])
    with PIL.Image.open(io.BytesIO(base64.b64decode(values["image"])), formats=["PNG"]) as image:
        return LabelImage(np.asarray(image.convert("L")), size)


def of_cells(labels: Labels, size: tuple[int, int], cell: int) -> Callable[[Region], np.ndarray]:
    """A mask (label above 0) of latent cells of `cell` pixels, by their centres, for a canvas of (height, width).

    A function from a region of cells to bool [h, w]; cells beyond the canvas are as its edge.
    """

    def positions(axis: Interval, edge: int) -> np.ndarray:
        return np.clip(cell * np.arange(axis.first, axis.last + 1), 0, edge - 1)

    return lambda region: labels(positions(region.rows, size[0]), positions(region.cols, size[1])) > 0
