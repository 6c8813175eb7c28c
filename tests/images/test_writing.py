"""Pictures that are written strip by strip are what other programs read."""

import xml.etree.ElementTree as ET

import numpy as np
import PIL.Image
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from images import writing
from images.reading import Image
from images.writing import SUFFIXES, Comparison, Rounded, picture_kind, to_eight_bit, write_npy, write_picture
from utils.errors import UserError


def smooth(height, width, seed=0):
    small = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), np.uint8)
    return np.asarray(PIL.Image.fromarray(small).resize((width, height), PIL.Image.Resampling.BICUBIC))


@pytest.mark.parametrize("kind", ["png", "tiff", "jpeg", "webp", "pyramid"])
@settings(max_examples=4)
@given(size=st.tuples(st.integers(1, 50), st.integers(1, 50)), strip=st.integers(1, 999))
def test_pictures_hold_the_pixels(tmp_path_factory, kind, size, strip):
    """Of strips of any height; JPEG nearly, and a few steep pixels less so."""
    folder, pixels = tmp_path_factory.mktemp("pictures"), smooth(*size)
    paths = [folder / f"{k}{SUFFIXES[kind]}" for k in range(2)]
    for path in paths:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(writing, "STRIP", strip)
            write_picture(path, pixels, kind)
    found = np.asarray(PIL.Image.open(paths[0]))
    assert found.shape == pixels.shape and abs(found.astype(int) - pixels).mean() <= (12 if kind == "jpeg" else 0)
    assert paths[0].read_bytes() == paths[1].read_bytes() and sorted(folder.iterdir()) == paths


def test_pyramids_and_large_tiffs(tmp_path, monkeypatch):
    pixels = smooth(600, 520)
    for name, kind, levels, limit in (
        ("a", "tiff", 1, 10**6), ("b", "pyramid", 3, 10**6), ("c", "tiff", 1, 600 * 520 * 3 - 1),
    ):  # fmt: skip
        monkeypatch.setattr(writing, "CLASSIC_TIFF", limit)
        write_picture(tmp_path / f"{name}.tif", pixels, kind)
        with tifffile.TiffFile(tmp_path / f"{name}.tif") as file:
            assert [page.shape for page in file.pages] == [(600 >> k, 520 >> k, 3) for k in range(levels)]
            assert file.pages[0].is_tiled and file.is_bigtiff == (name == "c")
            assert (file.pages[0].asarray() == pixels).all()


def test_deep_zoom_replaces_another(tmp_path):
    path, tiles, found = tmp_path / "a.b.dzi", tmp_path / "a.b_files", []
    for size in ((300, 200), (900, 700), (300, 200)):
        write_picture(path, smooth(*size), "dzi")
        named = ET.parse(path).getroot().find("{*}Size")
        assert (int(named.get("Height")), int(named.get("Width"))) == size
        assert sorted(tmp_path.iterdir()) == [path, tiles]
        found.append({each.relative_to(tiles): each.read_bytes() for each in tiles.rglob("*.*")})
    assert found[0] == found[2] and len(found[0]) == 11
    assert PIL.Image.open(tiles / "9" / "0_0.jpg").size == (200, 255)


@pytest.mark.parametrize("kind", SUFFIXES)
def test_a_picture_that_fails_does_not_appear(kind, tmp_path):
    class Broken:
        shape, dtype = (3000, 3000, 3), np.dtype(np.uint8)

        def __getitem__(self, window):
            if window[0].start > 1000:
                raise MemoryError("no more")
            return smooth(window[0].stop - window[0].start, 3000)

    with pytest.raises(MemoryError, match="no more"):
        write_picture(tmp_path / f"a{SUFFIXES[kind]}", Broken(), kind)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="cannot write"):
        write_picture(tmp_path, smooth(20, 30), kind)


def test_arrays_hold_the_values(tmp_path):
    values = np.random.default_rng(0).normal(size=(700, 600, 3)).astype(np.float32)
    write_npy(tmp_path / "a.npy", values)
    assert (np.load(tmp_path / "a.npy") == values).all()


@pytest.mark.parametrize(
    ("size", "kind"), [((2**14, 2**14), "png"), ((2**14, 2**14 + 1), "tiff"), ((1, 1_000_001), "tiff")]
)
def test_the_kind_of_a_picture(size, kind):
    assert picture_kind("auto", size) == kind


@pytest.mark.parametrize(("kind", "edge"), [("png", 10**6), ("jpeg", 65_500), ("webp", 16_383), ("dzi", 10**7)])
def test_an_edge_that_a_format_does_not_hold(kind, edge):
    assert picture_kind(kind, (edge, 1)) == picture_kind(kind, (1, edge)) == kind
    for size in ((edge + 1, 1), (1, edge + 1)):
        with pytest.raises(UserError, match=f"infer.format: {kind} holds edges of at most {edge} pixels"):
            picture_kind(kind, size)


def test_rounding_and_clipping():
    values = np.array([-2, -1, -0.99, 0, 0.999, 1, 7], np.float32)
    expected = [0, 0, 1, 128, 255, 255, 255]
    assert to_eight_bit(torch.from_numpy(values)).tolist() == expected
    assert Rounded(values.reshape(1, 7, 1))[0:1, 0:7].ravel().tolist() == expected


def test_comparisons():
    reference, result = smooth(9, 6, 1), smooth(9, 6, 2)
    picture = Comparison(Image(reference), result)
    error = np.minimum(abs(reference.astype(int) - result) * 4, 255)
    whole = np.concatenate([reference, result, error], axis=1)
    assert picture.shape == whole.shape and error.min() < 255 == error.max()
    assert (picture[0:9, 0:18] == whole).all() and (picture[2:5, 4:15] == whole[2:5, 4:15]).all()
