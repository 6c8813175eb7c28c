"""Values by tiles of a fixed grid: the same bits for every window, and no tile computed twice in a row."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from inversion.generation import GeneratedStructure, LocalField
from inversion.tiles import TILE, Tiled, grid
from models.geometry import Region

CELLS = Region.at(-3, -3, 90, 120)
starts, edges = st.integers(-70, 70), st.integers(1, 80)


def places(region):
    """The row and column of each cell [2, h, w]."""
    rows = torch.arange(region.rows.first, region.rows.last + 1)
    cols = torch.arange(region.cols.first, region.cols.last + 1)
    return torch.stack(torch.meshgrid(rows, cols, indexing="ij"))


@given(starts, starts, edges, edges)
def test_any_window_is_put_together(top, left, height, width):
    region = Region.at(top, left, height, width)
    asked = []
    tiled = Tiled(lambda tile: asked.append(tile) or places(tile))
    assert torch.equal(tiled.read(region), places(region))
    assert all(tile.shape == (TILE, TILE) and tile.rows.first % TILE == tile.cols.first % TILE == 0 for tile in asked)
    assert asked == list(grid(region))
    tiled.read(region)
    assert len(asked) == len(list(grid(region)))


@given(starts, starts, edges, edges)
def test_generated_structure_has_the_same_bits_in_every_window(inverters, top, left, height, width):
    region = Region.at(top, left, height, width)
    local, style = LocalField(5, 3, torch.device("cpu")), torch.linspace(-1, 1, 6)
    read = GeneratedStructure(inverters().generator, CELLS, local, style).read
    part = Region.at(top + height // 3, left + width // 2, 1 + height // 2, 1 + width // 3)
    part = part.common(region)
    assert torch.equal(read(region)[:, *part.slices_in(region)], read(part))
