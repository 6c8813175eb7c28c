"""Streamed pictures are what other programs read; strips come whole out of blocks."""

import numpy as np
import PIL.Image
from hypothesis import given, settings
from hypothesis import strategies as st

from inversion.blocks import blocks
from inversion.canvas import Closing, NpyWriter, PngWriter, StripAssembler, compare, to_eight_bit
from models.geometry import Region

sizes = st.tuples(st.integers(1, 50), st.integers(1, 50))


def strips(pixels, cuts):
    bounds = [0, *sorted(cut % (len(pixels) + 1) for cut in cuts), len(pixels)]
    return [pixels[a:b] for a, b in zip(bounds[:-1], bounds[1:], strict=True) if b > a]


@settings(max_examples=40, deadline=None)
@given(size=sizes, cuts=st.lists(st.integers(0, 99), max_size=5), seed=st.integers(0, 99))
def test_streamed_files_hold_the_pixels(tmp_path_factory, size, cuts, seed):
    folder = tmp_path_factory.mktemp("canvas")
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (*size, 3), np.uint8)
    floats = random.normal(size=(*size, 3)).astype(np.float32)
    with Closing(PngWriter(folder / "a.png", *size), NpyWriter(folder / "a.npy", *size)) as (png, npy):
        for part in strips(pixels, cuts):
            png.write(part)
        for part in strips(floats, cuts):
            npy.write(part)
    with PIL.Image.open(folder / "a.png") as picture:
        picture.verify()
    assert (np.asarray(PIL.Image.open(folder / "a.png")) == pixels).all()
    assert (np.load(folder / "a.npy") == floats).all()


@settings(max_examples=40, deadline=None)
@given(size=sizes, edge=st.integers(1, 60))
def test_blocks_become_strips(size, edge):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    assembler = StripAssembler(size[1], np.uint8)
    whole = Region.at(0, 0, *size)
    found = [assembler.add(region, pixels[region.slices_in(whole)]) for region in blocks(whole, edge)]
    assert (np.concatenate([strip for strip in found if strip is not None]) == pixels).all()


def test_rounding_and_clipping():
    values = np.array([-2, -1, -0.99, 0, 0.999, 1, 7], np.float32)
    assert to_eight_bit(values).tolist() == [0, 0, 1, 128, 255, 255, 255]


def test_comparison_shows_the_error_times_four():
    reference, result = np.full((2, 3, 3), 10, np.uint8), np.full((2, 3, 3), 15, np.uint8)
    rows = compare(reference, result)
    assert rows.shape == (2, 9, 3)
    assert [int(rows[0, column, 0]) for column in (0, 3, 6)] == [10, 15, 20]
    assert (compare(np.full_like(reference, 200), result)[:, 6:] == 255).all()
