"""Files that are read by window: pixels as of those decoded whole, little memory, no black where there is damage."""

import io
import itertools
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import pyvips
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from images import reading, windows
from images.reading import Image, ImageError, open_image
from images.thumbnail import thumbnail
from tests.images.conftest import ORIENTED, everything, saved, tiff

ROOT = Path(__file__).parent.parent.parent
HEIGHT, WIDTH = 101, 83
RANDOM = np.random.default_rng(0)
STORED = {"strips": {"rowsperstrip": 7}, "tiles": {"tile": (32, 16)}, "strip": {"rowsperstrip": HEIGHT}}
RGB = {"photometric": "rgb"}


def picture(channels=3, kind=np.uint8):
    """Random but smooth along a row, so that predictors and codecs have something to do."""
    steps = RANDOM.integers(0, np.iinfo(kind).max // 20, (HEIGHT, WIDTH, channels))
    return np.cumsum(steps, axis=1).astype(kind).squeeze()


# name: (channels, options of tifffile)
KINDS = {
    "white": (1, {"photometric": "miniswhite"}),
    "rgb": (3, RGB | {"byteorder": ">"}),
    "alpha": (4, RGB | {"extrasamples": ["unassalpha"]}),
    "fourth": (4, RGB | {"extrasamples": ["unspecified"]}),
    "differences": (3, RGB | {"compression": "zlib", "predictor": True}),
    "jpeg ycbcr": (3, RGB | {"compression": "jpeg", "subsampling": (2, 2), "rowsperstrip": 16}),
    "jpeg rgb": (3, RGB | {"compression": "jpeg", "compressionargs": {"outcolorspace": "rgb"}}),
    "webp": (3, RGB | {"compression": "webp", "compressionargs": {"lossless": True}}),
    "big": (3, RGB | {"bigtiff": True, "compression": None}),
    "palette": (1, {"photometric": "palette", "colormap": RANDOM.integers(0, 65536, (3, 256), dtype=np.uint16)}),
    "cmyk": (4, {"photometric": "separated"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_tiff_files_are_those_of_pillow(kind, by_window):
    """Stored in all ways; Pillow's own colours are those of 8 bits."""
    channels, options = KINDS[kind]
    for (stored, where), compression in zip(STORED.items(), ("zlib", "lzw", "packbits"), strict=True):
        for bits in (np.uint8, np.uint16) if kind in ("white", "rgb", "big", "alpha", "fourth") else (np.uint8,):
            values, private = picture(channels, bits), [(65000, "H", 1, 7, True)]
            data = tiff(values, extratags=private, **({"compression": compression} | where | options))
            image, whole = by_window(data), open_image(data, 10**6)
            assert image.by_window and image.transparent == whole.transparent == (kind == "alpha"), stored
            np.testing.assert_array_equal(everything(image), everything(whole))
            np.testing.assert_array_equal(thumbnail(image, 16), thumbnail(whole, 16))
            if kind in ("rgb", "big", "webp", "differences"):
                np.testing.assert_array_equal(everything(image), values / np.float32(np.iinfo(bits).max / 2) - 1)
            elif bits == np.uint8 and kind != "alpha":
                expected = np.asarray(PIL.Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
                assert abs(expected - whole.window(0, 0, HEIGHT, WIDTH)).max() <= (kind == "cmyk"), stored


@pytest.mark.parametrize(
    "options", [{"compression": "zstd"}, {"compression": "lzma"}, {"planarconfig": "separate", "tile": (32, 16)}]
)
def test_what_libvips_lacks_is_read_whole_or_named(options, by_window):
    values = picture()
    stored = np.ascontiguousarray(values.transpose(2, 0, 1)) if "planarconfig" in options else values
    data = tiff(stored, **RGB, **options)
    np.testing.assert_array_equal(by_window(data).window(0, 0, HEIGHT, WIDTH), values)
    assert not by_window(data).by_window
    with pytest.raises(ImageError, match=r"83 x 101 is more than max_pixels \(8382\) allows, .*: compression"):
        by_window(data, HEIGHT * WIDTH - 1)


@given(
    kind=st.sampled_from(["array", "strips", "tiles", "PNG", "WEBP"]), orientation=st.sampled_from(list(ORIENTED)),
    top=st.integers(-150, 150), left=st.integers(-150, 150), rows=st.integers(1, 150), columns=st.integers(1, 150),
)  # fmt: skip
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_window_is_cut_from_the_reflected_image(by_window, kind, orientation, top, left, rows, columns):
    values = picture()
    plane = np.pad(ORIENTED[orientation](values), ((150, 250), (150, 250), (0, 0)), mode="reflect")
    expected = plane[150 + top :, 150 + left :][:rows, :columns]
    if kind == "array":
        image = Image(values, orientation=orientation)
    elif kind in STORED:
        image = by_window(tiff(values, **RGB, **STORED[kind], extratags=[(274, "H", 1, orientation, True)]))
    else:
        image = by_window(saved(values, kind, orientation, lossless=True))
    np.testing.assert_array_equal(image.window(top, left, rows, columns), expected)
    floats = image.window_float(top, left, rows, columns)
    np.testing.assert_array_equal(floats, expected.astype(np.float32) / np.float32(127.5) - 1)


def test_the_first_image_of_a_pyramid_counts(by_window):
    values, buffer = picture(), io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        file.write(values, tile=(32, 32), **RGB, subifds=1)
        file.write(values[::2, ::2], tile=(32, 32), **RGB, subfiletype=1)
        file.write(values[:5, :5], **RGB)
    image = by_window(buffer.getvalue(), name="a[page=2].tif")
    np.testing.assert_array_equal(image.window(0, 0, HEIGHT, WIDTH), values)
    assert image.notes == ["the first of its 2 pictures is used"]


def test_only_large_files_are_read_by_window(tmp_path, monkeypatch):
    (tmp_path / "image.png").write_bytes(data := saved(picture(), "PNG"))
    for most, expected in ((HEIGHT * WIDTH - 1, True), (HEIGHT * WIDTH, False)):
        monkeypatch.setattr(reading, "WINDOWED", most)
        assert open_image(tmp_path / "image.png", 10**6, by_window=True).by_window == expected
        assert not open_image(data, 10**6, by_window=True).by_window


def test_limits(by_window, monkeypatch):
    """`max_pixels` is one of what is decoded at once; the disk has one, too."""
    values, limit = picture(), HEIGHT * WIDTH - 1
    for data in (saved(values, "PNG"), saved(values, "JPEG"), tiff(values, **RGB, tile=(32, 32))):
        assert by_window(data, limit).by_window
    strip = tiff(values, **RGB, compression="zlib", rowsperstrip=HEIGHT)
    for data in (saved(values, "JPEG", progressive=True), saved(values, "WEBP"), saved(values, "BMP"), strip):
        with pytest.raises(ImageError, match=r"more than max_pixels \(8382\) allows, and it cannot be read by window"):
            by_window(data, limit)
    monkeypatch.setattr(windows, "free_space", lambda _: 3 * HEIGHT * WIDTH - 1)
    assert not by_window(strip).by_window
    with pytest.raises(ImageError, match="it takes 0 MiB in .*, more than is free"):
        by_window(saved(values, "PNG"), limit)


def corrupted(data, tag, value, index=None):
    """A classic little-endian TIFF file with another value in an entry, or in the table that it points to."""
    data, first = bytearray(data), struct.unpack_from("<I", data, 4)[0]
    for entry in range(first + 2, first + 2 + 12 * data[first], 12):
        found, kind, _, table = struct.unpack_from("<HHII", data, entry)
        if found == tag and index is None:
            struct.pack_into("<HII", data, entry + 2, 4, 1, value)
        elif found == tag:
            struct.pack_into({3: "<H", 4: "<I"}[kind], data, table + index * {3: 2, 4: 4}[kind], value)
    return bytes(data)


def first_place(data):
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        return file.pages[0].dataoffsets[0]


TILED = tiff(picture(), **RGB, compression="zlib", tile=(32, 16))
STRIPPED = tiff(picture(), **RGB, compression="zlib", rowsperstrip=7)
PLAIN = tiff(picture(), **RGB)
DAMAGED = {
    "a missing tile": corrupted(TILED, 325, 0, index=5),
    "a tile beyond the end": corrupted(TILED, 324, 10**8, index=5),
    "a missing strip": corrupted(STRIPPED, 279, 0, index=5),
    "tiles that overlap": corrupted(TILED, 324, first_place(TILED) + 1, index=5),
    "strips that overlap": corrupted(STRIPPED, 273, first_place(STRIPPED), index=5),
    "a strip beyond the end": corrupted(STRIPPED, 273, 10**8, index=5),
    "tiles of an unknown compression": corrupted(TILED, 259, 65535),
    "cut tiles": TILED[:-2000],
    "garbage in a strip": STRIPPED[:-500] + b"\xff" * 500,
    "too tall": corrupted(PLAIN, 257, 200),
    "much too tall": corrupted(PLAIN, 257, 2**31),
    "absurd tiles": corrupted(TILED, 322, 2**32 - 16),
    "no strip": corrupted(STRIPPED, 278, 0),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damage_is_one_line_and_never_black(kind, by_window):
    """libvips gives black for some, unless it is told to fail on warnings."""
    with pytest.raises(ImageError, match=r"^[^\n]*/image: [^\n]*$"):
        by_window(DAMAGED[kind])


@pytest.mark.parametrize("kind", ["tiles", "strips", "strip", "floats"])
def test_a_checksum_of_pixels_that_does_not_match(kind, by_window):
    """libtiff passes over some."""
    values = np.linspace(0, 1, HEIGHT * WIDTH, dtype=np.float32) if kind == "floats" else picture()
    stored = {"strips": STORED["strips"], "tiles": STORED["tiles"]}.get(kind, STORED["strip"])
    options = stored if kind == "floats" else RGB | stored
    data = tiff(values.reshape(HEIGHT, WIDTH, -1).squeeze(), compression="zlib", **options)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        place, size = file.pages[0].dataoffsets[-1], file.pages[0].databytecounts[-1]
    for where, bit in itertools.product((0.1, 0.5, 0.97), (0, 3, 7)):
        damaged = bytearray(data)
        damaged[place + int(where * size)] ^= 1 << bit
        with pytest.raises(ImageError):
            open_image(bytes(damaged), 10**6)
        with pytest.raises(ImageError):
            everything(by_window(bytes(damaged)))


@pytest.mark.parametrize("compression", ["group3", "group4"])
def test_what_libtiff_complains_of(compression, by_window):
    buffer = io.BytesIO()
    PIL.Image.fromarray(picture(1) > 128).save(buffer, "TIFF", compression=compression)
    data = bytearray(buffer.getvalue())
    assert open_image(bytes(data), 10**6).height == by_window(bytes(data)).height == HEIGHT
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        place = file.pages[0].dataoffsets[0]
    data[place + 90 : place + 99] = bytes(9)
    for read in (partial(open_image, max_pixels=10**6), by_window):
        with pytest.raises(ImageError):
            read(bytes(data))


def test_what_is_decoded_at_once_keeps_within_the_memory(tmp_path, monkeypatch):
    """Few kilobytes that decompress to tiles, or to a strip, of 32 MiB; an image that is stored from coarse to fine."""
    monkeypatch.setattr(reading, "WINDOWED", 10**6)
    grey, path = np.zeros((4096, 4096), np.uint16), tmp_path / "image"
    for options in ({"tile": (2048, 2048)}, {"rowsperstrip": 4096}):
        path.write_bytes(tiff(grey, compression="zlib", **options))
        with pytest.raises(ImageError, match=r"image: .*MiB of it are decoded at once; infer.memory_mib leaves 16"):
            open_image(path, 2**28, by_window=True, memory_mib=32)
    path.write_bytes(saved(np.zeros((2048, 2048, 3), np.uint8), "JPEG", progressive=True))
    with pytest.raises(ImageError, match="24 MiB of it are decoded at once"):
        open_image(path, 2**28, by_window=True, memory_mib=47)
    for memory in (48, None):
        assert open_image(path, 2**28, by_window=True, memory_mib=memory).by_window
    path.write_bytes(tiff(grey, compression="zlib", rowsperstrip=16))
    assert open_image(path, 2**28, by_window=True, memory_mib=16).by_window


def test_damage_of_tiles_that_shows_later(by_window, tmp_path):
    with tifffile.TiffFile(io.BytesIO(TILED)) as file:
        place = file.pages[0].dataoffsets[-1]
    for data in (TILED[:place] + b"\xff" * (len(TILED) - place), TILED[:place]):
        image = by_window(TILED)
        (tmp_path / "image").write_bytes(data)
        assert image.window(0, 0, 32, 32).any()
        for _ in range(2):  # libvips gives black at the second time
            with pytest.raises(ImageError, match="image: cannot be read"):
                image.window(HEIGHT - 1, WIDTH - 1, 1, 1)


@pytest.mark.parametrize("data", [TILED, STRIPPED], ids=["tiles", "scratch"])
def test_threads_share_an_image(data, by_window):
    image, values = by_window(data), open_image(data, 10**6).window(0, 0, HEIGHT, WIDTH)
    places = list(itertools.product(range(0, 80, 7), range(0, 60, 9))) * 3
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda place: image.window(*place, 20, 20), places))
    for (top, left), window in zip(places, found, strict=True):
        np.testing.assert_array_equal(window, values[top : top + 20, left : left + 20])


SWEEP = """
import resource, sys
from images.reading import open_image
from images.vips import load_vips
load_vips()
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
for path in sys.argv[1:]:
    image = open_image(path, 2**20, by_window=True)
    for top in range(0, image.height, 512):
        for left in range(0, image.width, 2048):
            image.window(top - 90, left - 90, 692, 692)
    print(image.by_window, image.held / 2**20, peak() - before)
"""


def test_memory_does_not_grow_with_the_image(tmp_path):
    image = pyvips.Image.black(6144, 5632, bands=3).copy(interpretation="srgb")  # 99 MiB
    paths = [tmp_path / f"image.{kind}" for kind in ("jpg", "png", "tif")]
    for path in paths:
        image.write_to_file(str(path), **({"tile": True, "tile_width": 256} if path.suffix == ".tif" else {}))
    command = [sys.executable, "-c", SWEEP, *map(str, paths)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        windowed, held, grown = line.split()
        assert windowed == "True" and float(held) < 30 and float(grown) < 80
