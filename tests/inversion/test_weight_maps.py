"""Maps of weights: slow means and formulas, windows against the whole, and what lies beyond the canvas."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inversion.weight_maps import Boxes, Centres, HorizontalBlend, LabelImage, LabelMap, ShiftedMap, of_cells
from models.geometry import Region

LABELS = np.random.default_rng(0).integers(0, 3, (12, 12), np.uint8)
starts, sizes = st.integers(-20, 20), st.integers(1, 12)


def strewn(canvas, blur):
    """Three labels strewn over a canvas."""
    return LabelMap(LabelImage(LABELS[: canvas[0], : canvas[1]], canvas), 3, canvas, blur)


def mean_over_a_square(canvas, blur, row, col):
    """Shares of the labels in the square around a position, pixel by pixel; the canvas's border is replicated."""
    counts = np.zeros(3)
    for r in range(row - blur, row + blur + 1):
        for c in range(col - blur, col + blur + 1):
            counts[LABELS[min(max(r, 0), canvas[0] - 1), min(max(c, 0), canvas[1] - 1)]] += 1
    return counts / counts.sum()


@given(st.tuples(sizes, sizes), st.integers(0, 9))
def test_weights_are_means_of_labels(size, blur):
    """Also where the square is larger than the canvas."""
    weights = strewn(size, blur)(Region.at(0, 0, *size), 1)
    assert weights.shape == (3, *size) and weights.dtype == torch.float32
    expected = [[mean_over_a_square(size, blur, row, col) for col in range(size[1])] for row in range(size[0])]
    assert np.allclose(weights, np.moveaxis(expected, -1, 0), atol=1e-6)
    assert blur or set(weights.unique().tolist()) <= {0, 1}


@settings(max_examples=40)
@given(st.tuples(sizes, sizes), st.integers(0, 15), st.integers(1, 9), starts, starts, sizes, sizes)
def test_any_window_samples_the_weights_of_pixels(canvas, blur, spacing, top, left, height, width):
    """To the last bit, at any spacing; beyond the canvas are the weights of its nearest pixel."""
    weights = strewn(canvas, blur)
    rows = np.clip(spacing * np.arange(top, top + height), 0, canvas[0] - 1)
    cols = np.clip(spacing * np.arange(left, left + width), 0, canvas[1] - 1)
    pixels = weights(Region.at(0, 0, *canvas), 1)
    expected = pixels[:, rows][:, :, cols]
    assert torch.equal(weights(Region.at(top, left, height, width), spacing), expected)
    shifted = ShiftedMap(weights, 3 * spacing, -spacing)  # the map of an image that lies further down and left
    assert torch.equal(shifted(Region.at(top + 3, left - 1, height, width), spacing), expected)


# Labels

positions = st.integers(-400, 400).map(lambda quarters: quarters / 4)


@given(st.lists(st.tuples(positions, positions), min_size=1, max_size=5), starts, starts)
def test_the_nearest_centre_in_whole_pixels(centres, top, left):
    """Offsets lose what is beyond the point; the first of equally near centres is taken."""
    labels = Centres(centres)(np.arange(top, top + 9), np.arange(left, left + 7))
    assert labels.shape == (9, 7)
    for row, col in np.ndindex(9, 7):
        distances = [int(top + row - down) ** 2 + int(left + col - right) ** 2 for down, right in centres]
        assert labels[row, col] == distances.index(min(distances))


def test_a_centre_that_only_rounding_moved_is_at_its_pixel():
    assert 0.55 * 100 > 55
    moved, expected = (Centres([(row, 0), (58, 0)])(np.arange(50, 60), np.arange(4)) for row in (0.55 * 100, 55))
    assert (moved == expected).all()


def whole(labels, height, width):
    return labels(np.arange(height), np.arange(width))


def test_boxes_end_before_their_last_row_and_column_and_the_first_one_counts():
    expected = [[0] * 7, [0, 0, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 2, 0], [0, 0, 0, 0, 2, 2, 0], [0] * 7]
    assert whole(Boxes([(1, 2, 3, 5), (2, 4, 4, 6)]), 5, 7).tolist() == expected


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 9), st.integers(1, 9))
def test_an_image_of_another_size_is_stretched(rows, cols, down, right):
    """A whole number of times larger, each pixel becomes a rectangle; drawn smaller again, it is as before."""
    values = LABELS[:rows, :cols]
    height, width = rows * down, cols * right
    large = values.repeat(down, 0).repeat(right, 1)
    assert (whole(LabelImage(values, (height, width)), height, width) == large).all()
    assert (whole(LabelImage(large, (rows, cols)), rows, cols) == values).all()


def test_cells_are_asked_by_their_centres():
    mask = of_cells(Boxes([(8, 0, 17, 9)]), (17, 30), cell=8)
    found = mask(Region.at(-1, -1, 5, 4))
    # centres at rows -8, 0, 8, 16, 24 and columns -8 .. 16; what lies beyond the canvas is as its edge
    assert found.dtype == bool and found.tolist() == [[False] * 4] * 2 + [[True, True, True, False]] * 3


# Blends


@settings(max_examples=40)
@given(st.integers(-100, 100), st.integers(1, 80), st.integers(1, 16), st.integers(-40, 40), st.integers(1, 40))
def test_a_blend_is_a_smooth_step(first, size, spacing, left, width):
    weights = HorizontalBlend(first, first + size)(Region.at(-2, left, 3, width), spacing)
    share = ((spacing * np.arange(left, left + width) - first) / size).clip(0, 1)
    expected = share * share * (3 - 2 * share)  # level at its ends
    assert weights.shape == (2, 3, width) and weights.dtype == torch.float32
    assert np.allclose(weights[1], expected, atol=1e-6) and np.allclose(weights[0], 1 - expected, atol=1e-6)
    assert (weights[:, :, share == 0] == torch.tensor([1.0, 0.0])[:, None, None]).all()
    assert (weights[:, :, share == 1] == torch.tensor([0.0, 1.0])[:, None, None]).all()


@pytest.mark.parametrize(
    "made",
    [lambda: HorizontalBlend(3, 3), lambda: LabelMap(Boxes([]), 0, (4, 4)), lambda: LabelMap(Boxes([]), 1, (4, 0)),
     lambda: LabelMap(Boxes([]), 1, (4, 4), blur=-1), lambda: HorizontalBlend(1, 2**70),
     lambda: Centres([(0.5, float("nan"))])],
)  # fmt: skip
def test_what_is_no_map_is_an_error(made):
    with pytest.raises(ValueError):
        made()
