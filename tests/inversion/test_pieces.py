"""Known latents on a canvas: where they lie, and what a window of them holds."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inversion.latents import Description, LatentStore
from inversion.pieces import MaskedLatents, PlacedPhotographs, place
from models.geometry import Region, texture

CELL = 8
RULE = texture(3)
CHANNELS = 2


def cells_of(height, width):
    return Region.at(0, 0, height, width).receptive_field(RULE)


def store_of(path, height, width, seed=0):
    """The latent file of an image, and its values [C, h, w]; none is 0."""
    cells = cells_of(height, width)
    values = torch.rand(CHANNELS, *cells.shape, generator=torch.Generator().manual_seed(seed)) + 1
    description = Description(height, width, (cells.rows.first, cells.cols.first), 0, "none")
    store = LatentStore.create(path, description, tuple(values.shape), torch.zeros(3))
    store.write(cells, values)
    return store, values


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("latents")


def owned(edge, canvas, start):
    """By cell, as a row or column: whether its centre lies on the photograph, or beyond a border that it touches."""

    def test(cell):
        centre = CELL * cell
        low = -10**6 if start == 0 else CELL * start
        high = 10**6 if CELL * start + edge == canvas else CELL * start + edge
        return low <= centre < high

    return test


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_photograph_on_a_canvas(folder, data):
    size, start, canvas = [], [], []
    for axis in ("height", "width"):
        size.append(data.draw(st.integers(1, 60), axis))
        start.append(data.draw(st.integers(0, 6), f"first cell, {axis}"))
        canvas.append(CELL * start[-1] + size[-1] + data.draw(st.just(0) | st.integers(0, 60), f"{axis} beyond"))
    store, values = store_of(folder / "one.safetensors", *size)
    cells = cells_of(*canvas)
    pieces = PlacedPhotographs([place(store, *start, tuple(canvas), cells, CELL)])
    held = pieces.held(cells)
    tests = [owned(*along) for along in zip(size, canvas, start, strict=True)]
    rows = [tests[0](row) for row in range(cells.rows.first, cells.rows.last + 1)]
    cols = [tests[1](col) for col in range(cells.cols.first, cells.cols.last + 1)]
    assert (held == np.outer(rows, cols)).all() and held.any()

    read = pieces.read(cells)
    assert (read != 0).all(0).numpy().tolist() == held.tolist()
    for y, x in np.argwhere(held):  # the cell of the photograph that lies `start` cells up and left
        row, col = y + cells.rows.first - start[0], x + cells.cols.first - start[1]
        assert (read[:, y, x] == values[:, row - store.cells.rows.first, col - store.cells.cols.first]).all()

    top, left = data.draw(st.integers(-9, 20), "top"), data.draw(st.integers(-9, 20), "left")
    window = Region.at(top, left, data.draw(st.integers(1, 20), "rows"), data.draw(st.integers(1, 20), "cols"))
    check_window(pieces, window, cells)


def check_window(pieces, window, cells):
    """A window, which may lie beyond the canvas, holds what the canvas holds there."""
    for k, row in enumerate(range(window.rows.first, window.rows.last + 1)):
        for j, col in enumerate(range(window.cols.first, window.cols.last + 1)):
            inside = cells.rows.first <= row <= cells.rows.last and cells.cols.first <= col <= cells.cols.last
            y, x = row - cells.rows.first, col - cells.cols.first
            if inside:
                assert pieces.held(window)[k, j] == pieces.held(cells)[y, x]
                assert (pieces.read(window)[:, k, j] == pieces.read(cells)[:, y, x]).all()
            else:
                assert not pieces.held(window)[k, j]


def test_two_photographs(folder):
    one, two = store_of(folder / "a.safetensors", 40, 30, 1)[0], store_of(folder / "b.safetensors", 24, 33, 2)[0]
    canvas = 40, 97
    cells = cells_of(*canvas)
    places = [place(one, 0, 0, canvas, cells, CELL), place(two, 1, 8, canvas, cells, CELL)]
    both, alone = PlacedPhotographs(places), [PlacedPhotographs([photograph]) for photograph in places]
    held = [pieces.held(cells) for pieces in alone]
    assert not (held[0] & held[1]).any() and held[0].any() and held[1].any()
    assert (both.held(cells) == held[0] | held[1]).all()
    assert (both.read(cells) == alone[0].read(cells) + alone[1].read(cells)).all()


def test_latents_without_those_inside_a_mask(folder):
    store, values = store_of(folder / "masked.safetensors", 50, 40)

    def mask(region):
        rows, cols = np.indices(region.shape)
        return (rows + region.rows.first + 2 * (cols + region.cols.first)) % 3 == 0

    pieces = MaskedLatents(store, mask)
    around = Region.at(store.cells.rows.first - 2, store.cells.cols.first - 1, 14, 17)
    inner = store.cells.slices_in(around)
    held = np.zeros(around.shape, bool)
    held[inner] = ~mask(store.cells)
    assert (pieces.held(around) == held).all() and 0 < held.sum() < held[inner].size
    expected = torch.zeros(CHANNELS, *around.shape)
    expected[:, *inner] = values * torch.from_numpy(~mask(store.cells))
    assert (pieces.read(around) == expected).all()
    check_window(pieces, Region.at(-1, 2, 5, 4), store.cells)
    beyond = Region.at(100, 100, 2, 3)
    assert not pieces.held(beyond).any() and not pieces.read(beyond).any()
