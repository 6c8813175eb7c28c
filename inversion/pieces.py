"""Structure latents that are known on a part of a canvas: photographs placed on it, or all but what a mask takes out.

Both answer the same two questions, by regions of the canvas's latent cells: which cells are held, and what they hold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from inversion.latents import LatentStore
from models.geometry import Interval, Region


class Pieces(Protocol):
    """Known structure latents."""

    def held(self, region: Region) -> np.ndarray:
        """Bool [h, w]: whether the latents of these cells are known."""

    def read(self, region: Region) -> Tensor:
        """Structure latents [C, h, w] of a region; 0 where they are not known."""


@dataclass(frozen=True)
class Photograph:
    """The latents of a photograph whose first pixel lies at a latent cell of a larger canvas."""

    store: LatentStore
    top: int  # cell of the canvas
    left: int
    held: Region  # cells of the canvas that are the photograph's


def place(store: LatentStore, top: int, left: int, canvas: tuple[int, int], cells: Region, cell: int) -> Photograph:
    """A photograph on a canvas of (height, width) pixels that is drawn from `cells`; `top`, `left` in cells.

    Its own are the cells whose centre it covers, and where it ends at the canvas's border, all beyond.
    """
    sizes = store.description.height, store.description.width
    own = []
    for start, size, edge, around in zip((top, left), sizes, canvas, (cells.rows, cells.cols), strict=True):
        first = around.first if start == 0 else start
        last = around.last if start * cell + size == edge else start + (size - 1) // cell
        own.append(Interval(first, last))
    return Photograph(store, top, left, Region(*own))


@dataclass(frozen=True)
class PlacedPhotographs:
    """Photographs that do not overlap."""

    photographs: list[Photograph]

    def held(self, region: Region) -> np.ndarray:
        """As `Pieces`."""
        mask = np.zeros(region.shape, bool)
        for photograph in self.photographs:
            common = region.common(photograph.held)
            if common:
                mask[common.slices_in(region)] = True
        return mask

    def read(self, region: Region) -> Tensor:
        """As `Pieces`."""
        values = torch.zeros(self.photographs[0].store.channels, *region.shape)
        for photograph in self.photographs:
            common = region.common(photograph.held)
            if common:
                rows, cols = common.slices_in(region)
                inside = common.moved(-photograph.top, -photograph.left)
                values[:, rows, cols] = photograph.store.read(inside)
        return values


@dataclass(frozen=True)
class MaskedLatents:
    """The latents of an image without those inside a mask."""

    store: LatentStore
    mask: Callable[[Region], np.ndarray]  # region of cells -> bool [h, w]: to be made anew

    def held(self, region: Region) -> np.ndarray:
        """As `Pieces`."""
        mask = np.zeros(region.shape, bool)
        common = region.common(self.store.cells)
        if common:
            mask[common.slices_in(region)] = ~self.mask(common)
        return mask

    def read(self, region: Region) -> Tensor:
        """As `Pieces`."""
        values = torch.zeros(self.store.channels, *region.shape)
        common = region.common(self.store.cells)
        if common:
            rows, cols = common.slices_in(region)
            values[:, rows, cols] = self.store.read(common) * torch.from_numpy(~self.mask(common))
        return values
