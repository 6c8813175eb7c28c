"""Montages: what they are made of, that seams cost least, and that labels of one offset stay together."""

import numpy as np
import pytest

from editing.montage import AROUND, INSIDE, Canvas, Pieces, Sources, _cut, compose, unusual


def scene(height=14, width=18, features=4, seed=0):
    """A canvas with a hole in a smooth picture, and the picture without the hole as its source."""
    random = np.random.default_rng(seed)
    small = random.normal(size=(height // 2, width // 2, features)).astype(np.float32)
    values = small.repeat(2, 0).repeat(2, 1)
    known = np.ones((height, width), bool)
    known[5:9, 6:11] = False
    rows = np.broadcast_to(np.linspace(0, 1, height, dtype=np.float32)[:, None], known.shape)
    at = np.stack(np.indices(known.shape)).astype(np.float32)
    canvas = Canvas(values * known[..., None], known, ~known, rows, np.full_like(rows, 0.05))
    original = np.arange(known.size).reshape(known.shape)
    return canvas, Sources(values, known, rows, np.zeros_like(rows), at, 4.0, original)


@pytest.mark.parametrize("costs", [AROUND, INSIDE])
def test_open_cells_get_usable_sources_and_others_none(costs):
    canvas, sources = scene()
    place = compose(canvas, sources, costs, seed=1).place
    assert (place[:, canvas.known] == -1).all()
    assert sources.usable[*place[:, canvas.open]].all()
    assert (compose(canvas, sources, costs, seed=1).place == place).all()
    assert (compose(canvas, sources, costs, seed=2).place != place).any()


def test_a_picture_that_repeats_is_closed_without_a_seam():
    """Of all offsets the period fits, so the hidden part comes back."""
    canvas, sources = scene(12, 24)
    values = np.tile(sources.values[:, :12], (1, 2, 1))
    known = np.ones((12, 24), bool)
    known[4:8, 14:19] = False
    canvas = Canvas(values * known[..., None], known, ~known, canvas.rows, canvas.slack)
    parts = (getattr(sources, name) for name in ("rows", "unusual", "at", "reach", "original"))
    sources = Sources(values, known, *parts)
    pieces = compose(canvas, sources, INSIDE, seed=3)
    assert (pieces.own[canvas.open] == values[canvas.open]).all()
    assert abs(pieces.tones(3, 1e-2)).max() < 1e-5


def test_expansions_never_raise_the_cost():
    """The sum of what cells and seams cost, counted a second way."""
    canvas, sources = scene(seed=5)
    pieces = Pieces(canvas, sources, INSIDE)

    def total():
        cells = np.array(np.nonzero(canvas.open))
        cost = pieces.unary(cells, pieces.place[:, *cells]).sum()
        whole = tuple(slice(0, edge) for edge in canvas.open.shape)
        nothing = np.zeros(canvas.open.shape, bool)
        return cost + sum(pieces._seam(whole, k, pieces.own, nothing, nothing)[2][0].sum() for k in (0, 2))

    before = total()
    for offset in [(0, 7), (0, -6), (5, 0), (-5, 1), (4, 5)]:
        pieces.expand(offset)
        after = total()
        assert after <= before + 0.05 * canvas.open.sum()  # cuts count in hundredths
        before = after


def test_cuts_are_the_cheapest_of_all():
    random = np.random.default_rng(2)
    for _ in range(20):
        cost, first, second = random.normal(size=6), np.array([0, 1, 2, 3, 4, 0]), np.array([1, 2, 3, 4, 5, 5])
        weight = random.random(6)
        options = (np.array(list(np.binary_repr(n, 6))) == "1" for n in range(64))
        least = min(cost[x].sum() + weight[x[second] & ~x[first]].sum() for x in options)
        found = _cut(cost, first, second, weight)
        assert cost[found].sum() + weight[found[second] & ~found[first]].sum() <= least + 0.1


def test_what_occurs_once_is_unusual():
    values = np.tile(np.random.default_rng(1).normal(size=(4, 4, 3)), (4, 4, 1)).astype(np.float32)
    values[7:9, 7:9] += 9
    found = unusual(values, np.ones((16, 16), bool), 1000)
    assert found[7:9, 7:9].min() == 1 and found[:4].max() < 0.5
    assert unusual(values, np.ones((16, 16), bool), 60).shape == (16, 16)
