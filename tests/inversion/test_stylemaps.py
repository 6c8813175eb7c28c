"""Maps of styles: slow means and formulas, windows against the whole, and what lies beyond the canvas."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inversion.stylemaps import Passage, SoftMap, nearest_centre
from models.geometry import Interval, Region

LABELS = np.random.default_rng(0).integers(0, 3, (12, 12))
starts, sizes, blurs = st.integers(-20, 20), st.integers(1, 12), st.integers(0, 15)
canvases = st.builds(Region.at, starts, starts, sizes, sizes)


def labels_of(canvas):
    """Three styles strewn over a canvas; it has none beyond."""

    def label(rows, cols):
        rows, cols = rows - canvas.rows.first, cols - canvas.cols.first
        assert min(rows.min(), cols.min()) >= 0 and rows.max() < canvas.rows.size and cols.max() < canvas.cols.size
        return LABELS[np.ix_(rows, cols)]

    return label


def strewn(canvas, blur):
    return SoftMap(labels_of(canvas), 3, canvas, blur)


def mean_over_a_square(canvas, blur, row, col):
    """Shares of the styles in the square around a position, pixel by pixel; the canvas's border is replicated."""
    counts = np.zeros(3)
    for r in range(row - blur, row + blur + 1):
        for c in range(col - blur, col + blur + 1):
            r_inside = min(max(r, canvas.rows.first), canvas.rows.last) - canvas.rows.first
            c_inside = min(max(c, canvas.cols.first), canvas.cols.last) - canvas.cols.first
            counts[LABELS[r_inside, c_inside]] += 1
    return counts / counts.sum()


@given(canvases, st.integers(0, 6), st.data())
def test_weights_are_means_of_labels(canvas, blur, data):
    row = data.draw(st.integers(canvas.rows.first, canvas.rows.last))
    col = data.draw(st.integers(canvas.cols.first, canvas.cols.last))
    weights = strewn(canvas, blur)(Region.at(row, col, 1, 1), 1)
    assert weights.shape == (3, 1, 1) and weights.dtype == torch.float32
    assert np.allclose(weights[:, 0, 0], mean_over_a_square(canvas, blur, row, col), atol=1e-6)


@pytest.mark.parametrize(("size", "blur"), [((7, 9), 2), ((3, 4), 11), ((1, 5), 1), ((6, 1), 0)])
def test_a_whole_map_is_means_of_labels(size, blur):
    """Also where the square is larger than the canvas."""
    canvas = Region.at(-4, 3, *size)
    expected = [
        [mean_over_a_square(canvas, blur, row, col) for col in range(3, 3 + size[1])] for row in range(-4, -4 + size[0])
    ]
    assert np.allclose(strewn(canvas, blur)(canvas, 1), np.moveaxis(expected, -1, 0), atol=1e-6)


@given(canvases, blurs, st.integers(1, 9), st.lists(st.integers(0, 9), min_size=4, max_size=4), starts, starts)
def test_a_window_is_a_part_of_any_larger_one(canvas, blur, spacing, margins, top, left):
    """To the last bit, wherever it lies; its size depends on the others."""
    above, below, before, after = margins
    part = Region.at(top, left, 1 + below, 1 + after)
    whole = Region.at(top - above, left - before, above + 2 * (1 + below), before + 2 * (1 + after))
    weights = strewn(canvas, blur)
    assert torch.equal(weights(part, spacing), weights(whole, spacing)[(..., *part.slices_in(whole))])


@given(canvases, blurs, st.integers(1, 9), starts, starts, sizes, sizes)
def test_weights_are_shares(canvas, blur, spacing, top, left, height, width):
    weights = strewn(canvas, blur)(Region.at(top, left, height, width), spacing)
    assert weights.shape == (3, height, width)
    assert (weights >= 0).all() and torch.allclose(weights.sum(dim=0), torch.ones(height, width), atol=1e-6, rtol=0)


@given(canvases, blurs, st.integers(2, 9), st.integers(-3, 3), st.integers(-3, 3))
def test_spacing_samples_the_map_of_pixels(canvas, blur, spacing, top, left):
    weights = strewn(canvas, blur)
    pixels = weights(Region.at(spacing * top, spacing * left, 4 * spacing, 5 * spacing), 1)
    assert torch.equal(weights(Region.at(top, left, 4, 5), spacing), pixels[:, ::spacing, ::spacing])


@given(canvases)
def test_without_blur_a_pixel_has_one_style(canvas):
    labels = torch.from_numpy(LABELS[: canvas.rows.size, : canvas.cols.size])
    one_hot = torch.stack([labels == style for style in range(3)]).float()
    assert torch.equal(strewn(canvas, 0)(canvas, 1), one_hot)


@given(canvases, blurs, st.integers(1, 9), starts, starts)
def test_beyond_the_canvas_are_the_weights_of_its_nearest_pixel(canvas, blur, spacing, row, col):
    places = (row, canvas.rows), (col, canvas.cols)
    inside = [min(max(spacing * at, axis.first), axis.last) for at, axis in places]
    weights = strewn(canvas, blur)
    assert torch.equal(weights(Region.at(row, col, 1, 1), spacing), weights(Region.at(*inside, 1, 1), 1))


positions = st.integers(-400, 400).map(lambda quarters: quarters / 4)


@given(st.lists(st.tuples(positions, positions), min_size=1, max_size=5), starts, starts)
def test_the_nearest_centre_in_whole_pixels(centres, top, left):
    """Offsets lose what is beyond the point; the first of equally near centres is taken."""
    labels = nearest_centre(centres)(np.arange(top, top + 9), np.arange(left, left + 7))
    assert labels.shape == (9, 7)
    for row in range(9):
        for col in range(7):
            distances = [int(top + row - down) ** 2 + int(left + col - right) ** 2 for down, right in centres]
            assert labels[row, col] == distances.index(min(distances))


def test_a_centre_that_only_rounding_moved_is_at_its_pixel():
    place = 0.55 * 100
    assert place > 55
    rows, cols = np.arange(50, 60), np.arange(4)
    moved, whole = (nearest_centre([(centre, 0), (58, 0)])(rows, cols) for centre in (place, 55))
    assert (moved == whole).all()


gaps = st.builds(lambda first, size: Interval(first, first + size), st.integers(-100, 100), st.integers(1, 80))


@given(gaps, st.integers(1, 16), st.integers(-40, 40), st.integers(1, 5), st.integers(1, 40))
def test_a_passage_is_a_smooth_step(gap, spacing, left, height, width):
    weights = Passage(gap)(Region.at(-2, left, height, width), spacing)
    assert weights.shape == (2, height, width) and weights.dtype == torch.float32
    assert (weights == weights[:, :1]).all() and (weights >= 0).all()
    assert torch.allclose(weights.sum(dim=0), torch.ones(height, width), atol=1e-6, rtol=0)
    first, second = weights[:, 0]
    cols = spacing * torch.arange(left, left + width)
    assert (first[cols <= gap.first] == 1).all() and (second[cols <= gap.first] == 0).all()
    assert (first[cols >= gap.last] == 0).all() and (second[cols >= gap.last] == 1).all()
    within = (cols > gap.first) & (cols < gap.last)
    assert (second.diff() >= 0).all() and (first.diff() <= 0).all()
    assert ((second[within] > 0) & (second[within] < 1)).all()


@given(gaps)
def test_a_passage_is_symmetric_and_flat_at_its_ends(gap):
    first, second = Passage(gap)(Region(Interval(0, 0), gap), 1)[:, 0]
    assert torch.allclose(first, second.flip(0), atol=1e-6)
    assert (second.diff() <= 1.5 / (gap.size - 1) + 1e-6).all()  # the slope of the step is largest in the middle
    if gap.size > 20:
        assert second[1] < 0.5 / gap.size and first[-2] < 0.5 / gap.size


@given(gaps, st.integers(1, 9), st.integers(-30, 30), st.integers(0, 20), st.integers(0, 20))
def test_a_window_of_a_passage_is_a_part_of_a_larger_one(gap, spacing, left, before, after):
    part, whole = Region.at(3, left, 2, 5), Region.at(0, left - before, 9, before + 5 + after)
    weights = Passage(gap)
    assert torch.equal(weights(part, spacing), weights(whole, spacing)[(..., *part.slices_in(whole))])
