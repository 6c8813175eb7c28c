"""Structure latents by tiles of a fixed grid: whatever windows are asked for, each cell has the same bits.

A convolution rounds otherwise in windows of other shapes, and the texture synthesizer amplifies that.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from inversion.blocks import blocks
from models.geometry import Interval, Region

TILE = 32  # cells along the edge of a tile
KEPT = 64  # tiles: blocks that overlap ask for the same ones again


def grid(region: Region) -> Iterator[Region]:
    """The tiles of the absolute grid that touch a region, whole, row by row."""
    rows, cols = (
        Interval(axis.first // TILE * TILE, axis.last // TILE * TILE + TILE - 1) for axis in (region.rows, region.cols)
    )
    return blocks(Region(rows, cols), (TILE, TILE))


class Tiled:
    """A function from regions of cells to values [C, h, w] that is only ever asked for whole tiles."""

    def __init__(self, read: Callable[[Region], Tensor]) -> None:
        self._read = read
        self._tiles: OrderedDict[Region, Tensor] = OrderedDict()  # those used last come last

    def read(self, region: Region) -> Tensor:
        """The values of any region."""
        result = None
        for tile in grid(region):
            values = self._tile(tile)
            if result is None:
                result = torch.empty(len(values), *region.shape, dtype=values.dtype, device=values.device)
            common = region.common(tile)
            result[:, *common.slices_in(region)] = values[:, *common.slices_in(tile)]
        return result

    def _tile(self, tile: Region) -> Tensor:
        if tile not in self._tiles:
            self._tiles[tile] = self._read(tile)
            if len(self._tiles) > KEPT:
                self._tiles.popitem(last=False)
        self._tiles.move_to_end(tile)
        return self._tiles[tile]
