"""Known latents on a canvas: where they lie, and what a window of them holds."""

import numpy as np
import pytest
import torch

from editing.known import KnownLatents, Placement
from inversion.latents import Latents
from inversion.styles import Style
from models.geometry import Region

CELL = 8


def latents_of(model, size):
    """Latents of an image of (height, width); no value is 0."""
    values = np.random.default_rng(0).random(model.structure_shape(size), np.float32) + 1
    return Latents(values, Style(torch.zeros(6)), size, None, model.fingerprint)


def own_cells(axis, edge, canvas, start):
    """By cell of an axis: whether its centre lies on the photograph, or beyond a border that it touches."""
    centres = CELL * np.arange(axis.first, axis.last + 1)
    first = -np.inf if start == 0 else CELL * start
    last = np.inf if CELL * start + edge == canvas else CELL * start + edge
    return (centres >= first) & (centres < last)


def check_window(known, window, cells):
    """A window, which may lie beyond the canvas, holds what the canvas holds there."""
    where = known.where(window)
    if common := window.common(cells):
        inner, outer = common.slices_in(window), common.slices_in(cells)
        assert (where[inner] == known.where(cells)[outer]).all()
        assert (known.read(window)[:, *inner] == known.read(cells)[:, *outer]).all()
        where[inner] = False
    assert not where.any()


PLACES = [  # of a photograph: its size, the cells at which it begins, and the pixels of the canvas beyond it
    ((50, 33), (0, 0), (0, 0)), ((1, 1), (3, 0), (20, 9)), ((9, 60), (1, 6), (0, 31)), ((17, 8), (0, 2), (60, 0)),
]  # fmt: skip


@pytest.mark.parametrize(("size", "start", "beyond"), PLACES)
def test_a_photograph_on_a_canvas(model, size, start, beyond):
    canvas = tuple(CELL * first + edge + more for first, edge, more in zip(start, size, beyond, strict=True))
    latents, cells, own = latents_of(model, size), model.cells(canvas), model.cells(size)
    known = KnownLatents.placed(model, [Placement(latents, *(CELL * cell for cell in start))], canvas)
    where, values = known.where(cells), known.read(cells).numpy()
    assert (where == np.outer(*map(own_cells, (cells.rows, cells.cols), size, canvas, start))).all()
    assert where.any() and ((values != 0).all(0) == where).all()
    y, x = np.nonzero(where)  # these are the cells of the photograph that lie `start` cells up and left
    row, col = y + cells.rows.first - start[0] - own.rows.first, x + cells.cols.first - start[1] - own.cols.first
    assert (values[:, y, x] == latents.structure[:, row, col]).all()
    for window in (Region.at(-9, 2, 14, 17), Region.at(1, -4, 3, 9), Region.at(15, 15, 1, 1)):
        check_window(known, window, cells)


def test_latents_without_those_inside_a_mask(model):
    latents, cells = latents_of(model, (50, 40)), model.cells((50, 40))

    def mask(region):
        rows, cols = np.indices(region.shape)
        return (rows + region.rows.first + 2 * (cols + region.cols.first)) % 3 == 0

    known = KnownLatents(latents.structure.shape[0], [(latents.structure, cells, cells)], mask)
    assert (known.where(cells) == ~mask(cells)).all()
    assert (known.read(cells).numpy() == latents.structure * ~mask(cells)).all()
    for window in (Region.at(cells.rows.first - 2, -1, 14, 17), Region.at(100, 100, 2, 3)):
        check_window(known, window, cells)
