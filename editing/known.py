"""Structure latents that are known on a part of a canvas: images placed on it, or all but what a mask takes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from inversion.inverter import PatchInverter
from inversion.latents import Latents
from inversion.styles import ArrayLike
from inversion.synthesis import Mask
from models.geometry import Interval, Region


@dataclass(frozen=True)
class Placement:
    """Latents of an image whose first pixel lies at (top, left) of a canvas: pixels, multiples of a latent cell."""

    latents: Latents
    top: int
    left: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """First row and column, row and column after the last, in pixels of the canvas."""
        return self.top, self.left, self.top + self.latents.size[0], self.left + self.latents.size[1]


@dataclass(frozen=True)
class KnownLatents:
    """What images, which do not overlap, hold of a canvas."""

    channels: int
    parts: Sequence[tuple[ArrayLike, Region, Region]]  # structure, the canvas's cells it holds, those that count
    mask: Mask | None = None  # of cells to be made anew

    @staticmethod
    def placed(model: PatchInverter, placements: Sequence[Placement], size: tuple[int, int]) -> KnownLatents:
        """What images hold of the structure of a canvas of (height, width) pixels.

        Their own are the cells whose centre they cover, and where they end at the canvas's border, all beyond.
        """
        canvas, cell, parts = model.cells(size), model.cell, []
        for placement in placements:
            top, left, bottom, right = placement.box
            held = model.cells(placement.latents.size).moved(top // cell, left // cell)
            own = []
            spans = (top, bottom, size[0], canvas.rows), (left, right, size[1], canvas.cols)
            for start, end, edge, axis in spans:
                first = axis.first if start == 0 else start // cell
                own.append(Interval(first, axis.last if end == edge else (end - 1) // cell))
            parts.append((placement.latents.structure, held, Region(*own)))
        return KnownLatents(model.generator.structure.local_dim, parts)

    def where(self, region: Region) -> np.ndarray:
        """Bool [h, w]: whether the latents of these cells are known."""
        known = np.zeros(region.shape, bool)
        for _, _, own in self.parts:
            common = region.common(own)
            if common:
                known[common.slices_in(region)] = True if self.mask is None else ~self.mask(common)
        return known

    def read(self, region: Region) -> Tensor:
        """Structure latents [C, h, w] of a region; 0 where they are not known."""
        values = torch.zeros(self.channels, *region.shape)
        for structure, held, own in self.parts:
            common = region.common(own)
            if common:
                window = structure[(slice(self.channels), *common.slices_in(held))]
                values[(slice(None), *common.slices_in(region))] = torch.from_numpy(window)
        return values * torch.from_numpy(self.where(region))
