"""Pictures that are written from windows are what other programs read."""

from contextlib import closing

import numpy as np
import PIL.Image
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inversion import canvas
from inversion.canvas import (
    SUFFIXES,
    PngWriter,
    error_times_four,
    picture_kind,
    side_by_side,
    strips,
    to_eight_bit,
    write_npy,
    write_picture,
)
from models.geometry import Region
from utils.errors import UserError

sizes = st.tuples(st.integers(1, 50), st.integers(1, 50))


def reader(pixels):
    whole = Region.at(0, 0, *pixels.shape[:2])
    return lambda region: pixels[region.slices_in(whole)]


def parts(pixels, cuts):
    bounds = [0, *sorted(cut % (len(pixels) + 1) for cut in cuts), len(pixels)]
    return [pixels[a:b] for a, b in zip(bounds[:-1], bounds[1:], strict=True) if b > a]


@settings(max_examples=40, deadline=None)
@given(size=sizes, cuts=st.lists(st.integers(0, 99), max_size=5), seed=st.integers(0, 99))
def test_png_from_any_strips(tmp_path_factory, size, cuts, seed):
    path = tmp_path_factory.mktemp("canvas") / "a.png"
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    with closing(PngWriter(path, *size)) as writer:
        for part in parts(pixels, cuts):
            writer.write(part)
    with PIL.Image.open(path) as picture:
        picture.verify()
    assert (np.asarray(PIL.Image.open(path)) == pixels).all()


@pytest.mark.parametrize("kind", SUFFIXES)
@settings(max_examples=15, deadline=None)
@given(size=sizes, tile=st.sampled_from([16, 32]), strip=st.integers(1, 999), seed=st.integers(0, 99))
def test_pictures_hold_the_pixels(tmp_path_factory, kind, size, tile, strip, seed):
    """From windows of any size; JPEG nearly."""
    folder = tmp_path_factory.mktemp("canvas")
    smooth = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), np.uint8)
    pixels = np.asarray(PIL.Image.fromarray(smooth).resize(size[::-1], PIL.Image.Resampling.BICUBIC))
    paths = [folder / f"{k}{SUFFIXES[kind]}" for k in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(canvas, "TILE", tile)
        patch.setattr(canvas, "STRIP", strip)
        for path in paths:
            write_picture(path, size, reader(pixels), kind)
    found = np.asarray(PIL.Image.open(paths[0]))
    assert found.shape == pixels.shape and found.dtype == np.uint8
    assert abs(found.astype(int) - pixels).max() <= (12 if kind == "jpeg" else 0)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert sorted(folder.iterdir()) == paths


@settings(max_examples=20, deadline=None)
@given(size=sizes, seed=st.integers(0, 99))
def test_arrays_hold_the_values(tmp_path_factory, size, seed):
    path = tmp_path_factory.mktemp("canvas") / "a.npy"
    values = np.random.default_rng(seed).normal(size=(*size, 3)).astype(np.float32)
    write_npy(path, size, reader(values))
    assert (np.load(path) == values).all()


@given(size=st.tuples(st.integers(1, 10_000), st.integers(1, 10_000_000)))
def test_strips_cover_an_image_and_stay_small(size):
    found = list(strips(size))
    assert [strip.rows.first for strip in found[1:]] == [strip.rows.last + 1 for strip in found[:-1]]
    assert found[0].rows.first == 0 and found[-1].rows.last == size[0] - 1
    for strip in found:
        assert strip.cols == (0, size[1] - 1)
        assert strip.rows.size == 1 or strip.rows.size * size[1] * 3 <= canvas.STRIP


def test_large_tiffs_have_long_offsets(tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    write_picture(tmp_path / "classic.tif", (30, 40), reader(pixels), "tiff")
    monkeypatch.setattr(canvas, "CLASSIC_TIFF", 30 * 40 * 3 - 1)
    write_picture(tmp_path / "big.tif", (30, 40), reader(pixels), "tiff")
    for name, version in (("classic", 42), ("big", 43)):
        path = tmp_path / f"{name}.tif"
        assert int.from_bytes(path.read_bytes()[2:4], "little") == version
        assert (tifffile.imread(path) == pixels).all()


@pytest.mark.parametrize(
    ("option", "size", "by_window", "kind"),
    [
        ("auto", (2**14, 2**14), False, "png"), ("auto", (2**14, 2**14), True, "tiff"),
        ("auto", (2**14, 2**14 + 1), False, "tiff"), ("auto", (1, 1_000_001), False, "tiff"),
        ("png", (2**15, 2**15), True, "png"), ("jpeg", (65_535, 1), False, "jpeg"), ("webp", (1, 16_383), True, "webp"),
    ],
)  # fmt: skip
def test_the_kind_of_a_picture(option, size, by_window, kind):
    assert picture_kind(option, size, by_window) == kind


@pytest.mark.parametrize(("option", "edge"), [("png", 1_000_001), ("jpeg", 65_536), ("webp", 16_384)])
def test_an_edge_that_a_format_does_not_hold(option, edge):
    for size in ((edge, 1), (1, edge)):
        with pytest.raises(UserError, match=f"infer.format: {option} holds edges of at most {edge - 1} pixels"):
            picture_kind(option, size)


def test_rounding_and_clipping():
    values = np.array([-2, -1, -0.99, 0, 0.999, 1, 7], np.float32)
    assert to_eight_bit(torch.from_numpy(values)).tolist() == [0, 0, 1, 128, 255, 255, 255]


def test_the_error_times_four():
    reference, result = np.full((2, 3, 3), 10, np.uint8), np.full((2, 3, 3), 15, np.uint8)
    assert (error_times_four(reference, result) == 20).all()
    assert (error_times_four(np.full_like(reference, 200), result) == 255).all()


@given(size=sizes, data=st.data())
def test_any_window_of_pictures_side_by_side(size, data):
    panels = np.random.default_rng(0).integers(0, 256, (3, *size, 3), np.uint8)
    whole = np.concatenate(panels, axis=1)
    top, left = data.draw(st.integers(0, size[0] - 1)), data.draw(st.integers(0, 3 * size[1] - 1))
    height, width = data.draw(st.integers(1, size[0] - top)), data.draw(st.integers(1, 3 * size[1] - left))
    window = Region.at(top, left, height, width)
    read = side_by_side([reader(panel) for panel in panels], size)
    assert (read(window) == reader(whole)(window)).all()
