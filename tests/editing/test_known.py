"""Known latents on a canvas: where they lie, and what a window of them holds."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from editing.known import KnownLatents, Placement
from inversion.latents import Latents
from inversion.styles import Style
from models.geometry import Region
from tests.inversion.conftest import tiny_model

CELL = 8


def latents_of(model, size, seed=0):
    """Latents of an image of (height, width); no value is 0."""
    values = np.random.default_rng(seed).random(model.structure_shape(size), np.float32) + 1
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


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_a_photograph_on_a_canvas(inverters, data):
    model, size, start, canvas = tiny_model(inverters()), [], [], []
    for axis in ("height", "width"):
        size.append(data.draw(st.integers(1, 60), axis))
        start.append(data.draw(st.integers(0, 6), f"first cell, {axis}"))
        canvas.append(CELL * start[-1] + size[-1] + data.draw(st.just(0) | st.integers(0, 60), f"{axis} beyond"))
    latents, cells = latents_of(model, tuple(size)), model.cells(tuple(canvas))
    known = KnownLatents.placed(model, [Placement(latents, *(CELL * cell for cell in start))], tuple(canvas))
    where, values = known.where(cells), known.read(cells).numpy()
    axes = cells.rows, cells.cols
    assert (where == np.outer(*map(own_cells, axes, size, canvas, start))).all()
    assert where.any() and ((values != 0).all(0) == where).all()
    y, x = np.nonzero(where)  # these are the cells of the photograph that lie `start` cells up and left
    own = model.cells(latents.size)
    row, col = y + cells.rows.first - start[0] - own.rows.first, x + cells.cols.first - start[1] - own.cols.first
    assert (values[:, y, x] == latents.structure[:, row, col]).all()
    top, left, height, width = (data.draw(st.integers(*bounds)) for bounds in [(-9, 20)] * 2 + [(1, 20)] * 2)
    check_window(known, Region.at(top, left, height, width), cells)


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
