"""Masks and maps of labels from images and rectangles."""

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st
from inversion.masks import at_cells, read_labels, read_mask, rectangles, stretched

from images.reading import ImageError
from models.geometry import Region
from utils.errors import UserError

PIXELS = 10**6


def save(path, pixels, **options):
    PIL.Image.fromarray(np.asarray(pixels, np.uint8)).save(path, **options)
    return path


def grid(label, height, width):
    return label(np.arange(height), np.arange(width))


def test_labels_go_from_dark_to_bright(tmp_path):
    colours = {"blue": (0, 0, 250), "red": (100, 0, 0), "white": (255, 255, 255), "black": (0, 0, 0)}
    path = save(tmp_path / "mask.png", [[colours["white"], colours["red"]], [colours["blue"], colours["black"]]])
    assert grid(stretched(read_labels(path, 4, PIXELS), (2, 2)), 2, 2).tolist() == [[3, 1], [2, 0]]


def test_equally_bright_colours_have_labels_of_their_own(tmp_path):
    path = save(tmp_path / "mask.png", [[(90, 0, 0), (0, 90, 0), (0, 0, 90)]])
    assert sorted(grid(stretched(read_labels(path, 3, PIXELS), (1, 3)), 1, 3)[0].tolist()) == [0, 1, 2]


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 9), st.integers(1, 9))
def test_an_image_of_another_size_is_stretched(tmp_path_factory, rows, cols, down, right):
    """A whole number of times larger, each pixel becomes a rectangle; drawn smaller again, it is as before."""
    values = np.random.default_rng(rows * cols).integers(0, 2, (rows, cols))
    values[0, 0] = 1  # a mask is not black everywhere
    path = save(tmp_path_factory.getbasetemp() / "stretched.png", 255 * values)
    height, width = rows * down, cols * right
    large = values.repeat(down, 0).repeat(right, 1)
    assert (grid(stretched(read_mask(path, PIXELS), (height, width)), height, width) == large).all()
    assert (grid(stretched(read_mask(save(path, 255 * large), PIXELS), (rows, cols)), rows, cols) == values).all()


def test_stretching_by_a_fraction(tmp_path):
    path = save(tmp_path / "mask.png", [[0, 255, 0], [255, 0, 255]])
    found = grid(stretched(read_mask(path, PIXELS), (5, 4)), 5, 4)
    # the centres lie at columns 0.375, 1.125, 1.875, 2.625 of the mask, and at its rows 0.2, 0.6, 1.0, 1.4, 1.8
    assert found.tolist() == [[0, 1, 1, 0]] * 2 + [[1, 0, 0, 1]] * 3


def test_a_mask_of_the_canvas_size_is_taken_as_it_is(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (13, 17, 3))
    found = grid(stretched(read_mask(save(tmp_path / "mask.png", values), PIXELS), (13, 17)), 13, 17)
    assert (found == (values.mean(2) >= 128)).all() and 0 < found.mean() < 1


@pytest.mark.parametrize("count", [1, 3])
def test_another_number_of_colours_is_one_line(tmp_path, count):
    path = save(tmp_path / "mask.png", [[0, 255]])
    with pytest.raises(UserError) as error:
        read_labels(path, count, PIXELS)
    assert str(error.value).startswith(f"fuse.mask {path}: colours: 2, styles (fuse.styles): {count};")
    assert "\n" not in str(error.value)


def test_a_jpeg_has_no_flat_colours(tmp_path):
    pixels = np.zeros((30, 40, 3))
    pixels[8:20, 11:] = (255, 0, 90)
    with pytest.raises(UserError, match="compression losses"):
        stretched(read_labels(save(tmp_path / "mask.jpg", pixels, quality=60), 2, PIXELS), (30, 40))


def test_a_jpeg_will_do_for_black_and_white(tmp_path):
    pixels = np.zeros((32, 48))
    pixels[:, 16:] = 255
    found = grid(stretched(read_mask(save(tmp_path / "mask.jpg", pixels, quality=60), PIXELS), (32, 48)), 32, 48)
    assert (found == pixels // 255).all()


READERS = lambda path: read_mask(path, 5), lambda path: read_labels(path, 2, 5)


@pytest.mark.parametrize("read", READERS, ids=["mask", "styles"])
def test_a_mask_of_too_many_pixels_or_none_is_refused(tmp_path, read):
    with pytest.raises(ImageError, match=r"large\.png"):
        read(save(tmp_path / "large.png", np.zeros((3, 3))))
    with pytest.raises(ImageError, match=r"none\.png"):
        read(tmp_path / "none.png")


def test_rectangles_end_before_their_last_row_and_column():
    label = rectangles([(1, 2, 3, 5), (2, 4, 4, 6)])
    assert grid(label, 5, 7).tolist() == [
        [0, 0, 0, 0, 0, 0, 0],
        [0, 0, 1, 1, 1, 0, 0],
        [0, 0, 1, 1, 1, 2, 0],
        [0, 0, 0, 0, 2, 2, 0],
        [0, 0, 0, 0, 0, 0, 0],
    ]


def test_cells_are_asked_by_their_centres():
    mask = at_cells(rectangles([(8, 0, 17, 9)]), Region.at(0, 0, 17, 30), cell=8)
    # centres at rows -8, 0, 8, 16, 24 and columns -8 .. 16; what lies beyond the canvas is as its edge
    assert mask(Region.at(-1, -1, 5, 4)).astype(int).tolist() == [
        [0, 0, 0, 0],
        [0, 0, 0, 0],
        [1, 1, 1, 0],
        [1, 1, 1, 0],
        [1, 1, 1, 0],
    ]
    assert mask(Region.at(1, 1, 1, 1)).dtype == bool
