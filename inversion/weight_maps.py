"""Where which of several styles, or kinds of noise, applies: weights over an unbounded plane, read by window.

A map is called with a region of features and the pixels between them (feature i is centred on pixel spacing * i), and
gives the weights [N, h, w] of N kinds, which sum to 1. It is checked, and written into latent files, by pydantic.
Positions beyond the canvas take the weights of its nearest pixel.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

import cv2
import numpy as np
import PIL.Image
import torch
from pydantic import BeforeValidator, ConfigDict, Field, PlainSerializer
from pydantic.dataclasses import dataclass, rebuild_dataclass
from torch import Tensor

from models.geometry import Interval, Region

Whole = Annotated[int, Field(ge=-(2**62), le=2**62)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Size = tuple[Annotated[int, Field(ge=1, le=2**31)], Annotated[int, Field(ge=1, le=2**31)]]
PNG_HEADER = re.compile("iVBORw0KGgo[A-Za-z0-9+/]{21}")  # its first 24 bytes in base64
Labels = Callable[[np.ndarray, np.ndarray], np.ndarray]  # pixel rows [h], columns [w] -> index of a kind [h, w]


def _encode(values: np.ndarray) -> str:
    """Labels [n, m] as a PNG in base64."""
    file = io.BytesIO()
    PIL.Image.fromarray(values.astype(np.uint8)).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def _decode(values: np.ndarray | str) -> np.ndarray:
    """What `_encode` made, and arrays as they are. ValueError for anything else."""
    if isinstance(values, np.ndarray):
        return values
    try:
        with PIL.Image.open(io.BytesIO(base64.b64decode(values, validate=True)), formats=["PNG"]) as image:
            return np.asarray(image.convert("L"))
    except (OSError, TypeError) as error:
        raise ValueError("no PNG of labels") from error


def encoded_pixels(text: str) -> int:
    """The pixels of all labels in the JSON of maps, by the headers of their PNGs: nothing is decoded."""
    headers = (base64.b64decode(found[0])[16:24] for found in PNG_HEADER.finditer(text))
    return sum(int.from_bytes(each[:4]) * int.from_bytes(each[4:]) for each in headers)


@dataclass(frozen=True)
class Centres:
    """Labels by the nearest of some positions (row, column), in pixels; the first one of equally near ones."""

    positions: list[tuple[Finite, Finite]]
    kind: Literal["centres"] = "centres"

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


@dataclass(frozen=True)
class Boxes:
    """Label k + 1 inside box k (first row, first column, row after the last, column after the last), 0 elsewhere.

    Where boxes overlap, the first one counts.
    """

    boxes: list[tuple[Whole, Whole, Whole, Whole]]
    kind: Literal["boxes"] = "boxes"

    def __call__(self, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
        labels = np.zeros((len(rows), len(cols)), np.int64)
        for k, (top, left, bottom, right) in reversed(list(enumerate(self.boxes))):
            labels[np.ix_((rows >= top) & (rows < bottom), (cols >= left) & (cols < right))] = k + 1
        return labels


@dataclass(frozen=True, eq=False, config=ConfigDict(arbitrary_types_allowed=True))
class LabelImage:
    """Labels of an image, stretched to (height, width): each pixel takes the one that its centre lies in."""

    values: Annotated[np.ndarray, BeforeValidator(_decode), PlainSerializer(_encode)]  # uint8 or bool [n, m]
    size: Size
    kind: Literal["image"] = "image"

    def __call__(self, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
        pairs = zip((rows, cols), self.values.shape, self.size, strict=True)
        found = ((2 * position + 1) * count // (2 * edge) for position, count, edge in pairs)
        return self.values[np.ix_(*found)].astype(np.int64)


@dataclass(frozen=True, eq=False)
class LabelMap:
    """Weights that are the mean of one-hot labels over a square of 2 * blur + 1 pixels around each pixel."""

    labels: Annotated[Centres | Boxes | LabelImage, Field(discriminator="kind")]
    count: Annotated[int, Field(ge=1, le=256)]  # of the kinds; the last one has all labels from count - 1 on
    size: Size  # height and width of the canvas, pixels
    blur: Annotated[int, Field(ge=0, le=2**20)] = 0  # pixels
    kind: Literal["labels"] = "labels"

    def __post_init__(self) -> None:
        if isinstance(self.labels, LabelImage) and self.labels.size != self.size:
            raise ValueError(f"labels of {self.labels.size} pixels on a canvas of {self.size}")

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


@dataclass(frozen=True)
class HorizontalBlend:
    """Two kinds side by side: the first up to a column, the second from another on, a smooth step between."""

    first: Whole  # pixels
    last: Whole
    kind: Literal["blend"] = "blend"
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


@dataclass(frozen=True)
class ShiftedMap:
    """The map of an image whose first pixel lies elsewhere on a canvas."""

    weights: WeightMap
    top: Whole  # pixels, multiples of a latent cell
    left: Whole
    kind: Literal["shifted"] = "shifted"

    @property
    def count(self) -> int:
        """Of the kinds."""
        return self.weights.count

    def __call__(self, region: Region, spacing: int) -> Tensor:
        """Weights [N, h, w]; see the head of this file."""
        return self.weights(region.moved(-self.top // spacing, -self.left // spacing), spacing)


@dataclass(frozen=True)
class LayeredMap:
    """The kinds of one map, and over them, as far as the second kind of a mask says, those of another one."""

    below: WeightMap | None  # None: one kind everywhere
    above: WeightMap | None
    mask: LabelMap  # of two kinds
    kind: Literal["layered"] = "layered"

    def __post_init__(self) -> None:
        if self.mask.count != 2:
            raise ValueError(f"a mask of {self.mask.count} kinds")

    @property
    def count(self) -> int:
        """Of the kinds: those below, then those above."""
        return sum(1 if each is None else each.count for each in (self.below, self.above))

    def __call__(self, region: Region, spacing: int) -> Tensor:
        """Weights [N, h, w]; see the head of this file."""
        pairs = zip((self.below, self.above), self.mask(region, spacing), strict=True)
        parts = (share[None] if weights is None else weights(region, spacing) * share for weights, share in pairs)
        return torch.cat(list(parts))


WeightMap = Annotated[LabelMap | HorizontalBlend | ShiftedMap | LayeredMap, Field(discriminator="kind")]
for _each in (ShiftedMap, LayeredMap):  # they hold each other
    rebuild_dataclass(_each)


def of_cells(labels: Labels, size: tuple[int, int], cell: int) -> Callable[[Region], np.ndarray]:
    """A mask (label above 0) of latent cells of `cell` pixels, by their centres, for a canvas of (height, width).

    A function from a region of cells to bool [h, w]; cells beyond the canvas are as its edge.
    """

    def positions(axis: Interval, edge: int) -> np.ndarray:
        return np.clip(cell * np.arange(axis.first, axis.last + 1), 0, edge - 1)

    return lambda region: labels(positions(region.rows, size[0]), positions(region.cols, size[1])) > 0
