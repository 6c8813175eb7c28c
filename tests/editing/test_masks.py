"""Masks and maps of labels from image files."""

import numpy as np
import PIL.Image
import pytest

from editing.masks import read_labels, read_mask
from utils.errors import UserError

PIXELS = 10**6


def save(path, pixels, **options):
    PIL.Image.fromarray(np.asarray(pixels, np.uint8)).save(path, **options)
    return path


def test_labels_go_from_dark_to_bright(tmp_path):
    blue, red, white, black = (0, 0, 250), (100, 0, 0), (255, 255, 255), (0, 0, 0)
    path = save(tmp_path / "mask.png", [[white, red], [blue, black]])
    assert read_labels(path, 4, PIXELS).tolist() == [[3, 1], [2, 0]]
    for count in (1, 5):
        with pytest.raises(UserError, match=rf"^fuse.mask {path}: colours: 4, styles \(fuse.styles\): {count};[^\n]*$"):
            read_labels(path, count, PIXELS)
    equally_bright = save(tmp_path / "equal.png", [[(90, 0, 0), (0, 90, 0), (0, 0, 90)]])
    assert sorted(read_labels(equally_bright, 3, PIXELS)[0].tolist()) == [0, 1, 2]


def test_a_mask_is_white_where_the_mean_colour_is(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (300, 17, 3))  # of more rows than are read at a time
    found = read_mask(save(tmp_path / "mask.png", values), PIXELS)
    assert (found == (values.mean(2) >= 128)).all() and 0 < found.mean() < 1
    with pytest.raises(UserError, match=r"black\.png: white nowhere"):
        read_mask(save(tmp_path / "black.png", [[0, 127]]), PIXELS)


def test_a_jpeg_will_do_for_black_and_white_and_has_no_flat_colours(tmp_path):
    pixels = np.zeros((32, 48, 3))
    pixels[:, 16:] = 255
    found = read_mask(save(tmp_path / "mask.jpg", pixels, quality=60), PIXELS)
    assert (found == pixels[:, :, 0] // 255).all()
    pixels[8:20, 11:] = (255, 0, 90)
    with pytest.raises(UserError, match="compression losses"):
        read_labels(save(tmp_path / "mask.jpg", pixels, quality=60), 3, PIXELS)


def test_a_mask_of_too_many_pixels_or_none_is_refused(tmp_path):
    for path in (save(tmp_path / "large.png", np.zeros((3, 3))), tmp_path / "none.png"):
        with pytest.raises(UserError, match=path.name):
            read_mask(path, 5)
        with pytest.raises(UserError, match=path.name):
            read_labels(path, 2, 5)
