"""TIFF files that are read by window: the same pixels as decoded whole, and little memory, whatever the file holds."""

import io
import itertools
import os
import random
import struct
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datasets import tiff
from datasets.image import ImageError, open_image, thumbnail

ROOT = Path(__file__).parent.parent.parent
LIMIT = 10**7
HEIGHT, WIDTH = 101, 83
RANDOM = np.random.default_rng(0)
STORED = {"strips": {"rowsperstrip": 7}, "tiles": {"tile": (32, 16)}, "strip": {"rowsperstrip": HEIGHT}}
COMPRESSED = (None, "zlib", "lzw", "packbits", "zstd", "lzma")
ORIENTATIONS = range(1, 9)


def picture(*channels, kind=np.uint8):
    """Random but smooth along a row, so that predictors and codecs have something to do."""
    steps = RANDOM.integers(0, np.iinfo(kind).max // 20, (HEIGHT, WIDTH, *channels))
    return np.cumsum(steps, axis=1).astype(kind)


def written(values, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **options)
    return buffer.getvalue()


def layouts():
    """name: arguments of `written`, all of which Pillow reads, too."""
    found = {}
    for (where, stored), compression, kind in itertools.product(STORED.items(), COMPRESSED, (np.uint8, np.uint16)):
        options = stored | {"compression": compression}
        name = f"{where} {compression} {np.dtype(kind)}"
        found[f"{name} grey"] = picture(kind=kind), options | {"photometric": "minisblack"}
        found[f"{name} white"] = picture(kind=kind), options | {"photometric": "miniswhite"}
        found[f"{name} rgb"] = picture(3, kind=kind), options | {"photometric": "rgb", "byteorder": ">"}
        alpha = {"photometric": "rgb", "extrasamples": ["unassalpha"]}
        found[f"{name} alpha"] = picture(4, kind=kind), options | alpha
        planes = np.ascontiguousarray(picture(3, kind=kind).transpose(2, 0, 1))
        if compression or kind == np.uint8:
            found[f"{name} planes"] = planes, options | {"photometric": "rgb", "planarconfig": "separate"}
        if compression in ("zlib", "lzw", "zstd"):
            found[f"{name} differences"] = picture(3, kind=kind), options | {"photometric": "rgb", "predictor": True}
    for where, stored in {"strips": {"rowsperstrip": 16}, "tiles": {"tile": (32, 16)}}.items():
        jpeg = stored | {"compression": "jpeg"}
        found[f"{where} jpeg ycbcr"] = picture(3), jpeg | {"photometric": "rgb", "subsampling": (2, 2)}
        as_rgb = {"photometric": "rgb", "compressionargs": {"outcolorspace": "rgb"}}
        found[f"{where} jpeg rgb"] = picture(3), jpeg | as_rgb
        found[f"{where} jpeg grey"] = picture(), jpeg | {"photometric": "minisblack"}
        table = RANDOM.integers(0, 65536, (3, 256), dtype=np.uint16)
        found[f"{where} palette"] = picture(), stored | {"photometric": "palette", "colormap": table}
        found[f"{where} cmyk"] = picture(4), stored | {"photometric": "separated"}
        premultiplied = {"photometric": "rgb", "extrasamples": ["assocalpha"]}
        found[f"{where} premultiplied"] = picture(4), stored | premultiplied
        found[f"{where} grey alpha"] = picture(2), stored | {
            "photometric": "minisblack", "planarconfig": "contig", "extrasamples": ["unassalpha"]
        }  # fmt: skip
    return found


LAYOUTS = layouts()
BITS = RANDOM.integers(0, 2, (HEIGHT, WIDTH)).astype(bool)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Small files are read as large ones are: in pieces of which few are kept."""
    monkeypatch.setattr("datasets.image.WINDOWED", 0)
    monkeypatch.setattr(tiff, "PIECE", 32)
    monkeypatch.setattr(tiff, "STRIP_PIXELS", 2500)
    monkeypatch.setattr(tiff, "CACHE", 20000)
    monkeypatch.setattr(tiff, "STRIP_CACHE", 30000)


def both(folder, data):
    """The image read by window, and the same one decoded whole."""
    path = folder / "image.tif"
    path.write_bytes(data)
    image, whole = open_image(path, LIMIT, by_window=True), open_image(data, LIMIT)
    assert image.by_window and not whole.by_window
    return image, whole


def everything(image):
    return image.window_float(0, 0, image.height, image.width)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pixels_are_those_of_the_image_decoded_whole(layout, tmp_path):
    values, options = LAYOUTS[layout]
    image, whole = both(tmp_path, written(values, **options))
    assert (image.height, image.width, image.transparent) == (HEIGHT, WIDTH, whole.transparent)
    np.testing.assert_array_equal(everything(image), everything(whole))
    window = -40, 30, HEIGHT + 60, WIDTH + 25
    np.testing.assert_array_equal(image.window(*window), whole.window(*window))
    np.testing.assert_array_equal(thumbnail(image, 16), thumbnail(whole, 16))


def turned(orientation, xmp=False):
    """Tags of an orientation, or of one that only the metadata of some editors names."""
    if not xmp:
        return [(274, "H", 1, orientation, True)]
    text = f'<x:xmpmeta><rdf:Description tiff:Orientation="{orientation}"/></x:xmpmeta>'.encode()
    return [(700, "B", len(text), text, True)]


@pytest.mark.parametrize("xmp", [False, True])
@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_orientations(orientation, stored, xmp, tmp_path):
    data = written(picture(3), photometric="rgb", extratags=turned(orientation, xmp), **STORED[stored])
    image, whole = both(tmp_path, data)
    assert (image.height, image.width) == ((WIDTH, HEIGHT) if orientation > 4 else (HEIGHT, WIDTH))
    np.testing.assert_array_equal(everything(image), everything(whole))


@given(
    layout=st.sampled_from(sorted(LAYOUTS)), orientation=st.sampled_from(ORIENTATIONS),
    top=st.integers(-300, 300), left=st.integers(-300, 300), rows=st.integers(1, 250), columns=st.integers(1, 250),
)  # fmt: skip
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_window_is_that_of_the_image_decoded_whole(
    tmp_path, layout, orientation, top, left, rows, columns
):
    values, options = LAYOUTS[layout]
    image, whole = both(tmp_path, written(values, extratags=turned(orientation), **options))
    window = top, left, rows, columns
    np.testing.assert_array_equal(image.window(*window), whole.window(*window))
    np.testing.assert_array_equal(image.window_float(*window), whole.window_float(*window))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("compression", COMPRESSED)
def test_big_tiff(compression, stored, order, tmp_path):
    values = picture(3, kind=np.uint16)
    path = tmp_path / "image.tif"
    options = {"photometric": "rgb", "compression": compression, "bigtiff": True, "byteorder": order}
    tifffile.imwrite(path, values, **options, **STORED[stored])
    image = open_image(path, LIMIT, by_window=True)
    assert image.by_window
    np.testing.assert_array_equal(everything(image), values.astype(np.float32) / np.float32(32767.5) - 1)


@pytest.mark.parametrize("compression", ["raw", "group4", "tiff_lzw"])
def test_black_and_white(compression, tmp_path):
    buffer = io.BytesIO()
    PIL.Image.fromarray(BITS).save(buffer, "TIFF", compression=compression)
    (tmp_path / "bits.tif").write_bytes(buffer.getvalue())
    image = open_image(tmp_path / "bits.tif", LIMIT, by_window=True)
    assert image.by_window == (compression != "group4")  # a code for pages, which are small
    np.testing.assert_array_equal(everything(image), np.repeat(BITS[..., None] * np.float32(2) - 1, 3, axis=2))


def test_the_first_image_of_a_pyramid_counts(tmp_path):
    values, path = picture(3), tmp_path / "pyramid.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(values, tile=(32, 32), photometric="rgb", subifds=1)
        file.write(values[::2, ::2], tile=(32, 32), photometric="rgb", subfiletype=1)
        file.write(values[:5, :5], photometric="rgb")
    image = open_image(path, LIMIT, by_window=True)
    assert image.by_window
    np.testing.assert_array_equal(image.window(0, 0, HEIGHT, WIDTH), values)


def test_only_large_files_are_read_by_window(tmp_path, monkeypatch):
    path = tmp_path / "image.tif"
    data = written(picture(3), photometric="rgb", tile=(32, 32))
    path.write_bytes(data)
    assert not open_image(data, LIMIT).by_window
    monkeypatch.setattr("datasets.image.WINDOWED", HEIGHT * WIDTH - 1)
    assert open_image(path, LIMIT, by_window=True).by_window
    monkeypatch.setattr("datasets.image.WINDOWED", HEIGHT * WIDTH)
    assert not open_image(path, LIMIT, by_window=True).by_window


def test_the_limit_of_pixels_is_one_of_what_is_in_memory(tmp_path):
    limit = HEIGHT * WIDTH - 1
    path = tmp_path / "image.tif"
    path.write_bytes(written(picture(3), photometric="rgb", tile=(32, 32)))
    image = open_image(path, limit, by_window=True)
    assert (image.height, image.width) == (HEIGHT, WIDTH)
    with pytest.raises(ImageError, match=r"image\.tif: larger than the 8382 pixels that max_pixels allows"):
        open_image(path, limit)
    path.write_bytes(written(picture(3), photometric="rgb", compression="zlib", rowsperstrip=HEIGHT))
    with pytest.raises(ImageError, match=r"max_pixels \(8382\).*strips or tiles have 101 x 83 pixels"):
        open_image(path, limit, by_window=True)


def test_a_strip_that_is_too_large_is_decoded_whole(tmp_path, monkeypatch):
    path = tmp_path / "image.tif"
    path.write_bytes(written(picture(3), photometric="rgb", compression="zlib", rowsperstrip=HEIGHT))
    monkeypatch.setattr(tiff, "LARGEST", 4 * HEIGHT * WIDTH)
    assert open_image(path, LIMIT, by_window=True).by_window
    monkeypatch.setattr(tiff, "LARGEST", 4 * HEIGHT * WIDTH - 1)
    assert not open_image(path, LIMIT, by_window=True).by_window


def test_planes_of_16_bits_that_pillow_would_garble_are_refused(tmp_path):
    planes = np.ascontiguousarray(picture(3, kind=np.uint16).transpose(2, 0, 1))
    path = tmp_path / "image.tif"
    path.write_bytes(written(planes, photometric="rgb", planarconfig="separate"))
    for source in (path, path.read_bytes()):
        with pytest.raises(ImageError, match="plane by plane"):
            open_image(source, LIMIT, by_window=True)


def test_what_is_held(tmp_path):
    values = picture(3)
    image, whole = both(tmp_path, written(values, photometric="rgb", compression="zlib", tile=(32, 16)))
    assert whole.held == 4 * HEIGHT * WIDTH and image.held == tiff.CACHE
    everything(image)
    kept = [piece.nbytes for piece in image._pixels._cache.values()]
    assert tiff.CACHE - 32 * 32 * 3 < sum(kept) <= tiff.CACHE
    assert open_image(written(picture(kind=np.uint16)), LIMIT).held == 2 * HEIGHT * WIDTH
    assert open_image(written(picture(3, kind=np.uint16), photometric="rgb"), LIMIT).held == 8 * HEIGHT * WIDTH
    # One piece is kept, however large.
    image, _ = both(tmp_path, written(values, photometric="rgb", compression="zlib", rowsperstrip=HEIGHT))
    assert everything(image).shape == values.shape and image.held == 30000
    assert [piece.shape for piece in image._pixels._cache.values()] == [values.shape]


def test_a_window_is_not_a_view_of_what_is_kept(tmp_path):
    values = picture(3)
    image, _ = both(tmp_path, written(values, photometric="rgb", tile=(32, 32)))
    image.window(0, 0, 32, 32)[:] = 0
    np.testing.assert_array_equal(image.window(0, 0, 32, 32), values[:32, :32])


def test_threads_share_an_image(tmp_path):
    values = picture(3)
    image, _ = both(tmp_path, written(values, photometric="rgb", compression="zlib", tile=(32, 16)))
    places = list(itertools.product(range(0, 80, 7), range(0, 60, 9))) * 3
    with ThreadPoolExecutor(4) as pool:
        windows = list(pool.map(lambda place: image.window(*place, 20, 20), places))
    for (top, left), window in zip(places, windows, strict=True):
        np.testing.assert_array_equal(window, values[top : top + 20, left : left + 20])


@pytest.mark.parametrize("stored", ["tiles", "strips"])
def test_a_thumbnail_decodes_each_piece_once(stored, tmp_path, monkeypatch):
    values = np.repeat(picture(3), 12, axis=1)  # wider than what is read at once
    monkeypatch.setattr("datasets.image.CHUNK", (32, 64))
    monkeypatch.setattr(tiff, "STRIP_CACHE", 200000)
    options = {"tiles": {"tile": (32, 16)}, "strips": {"rowsperstrip": 7}}[stored]
    image, whole = both(tmp_path, written(values, photometric="rgb", compression="zlib", **options))
    decoded = []
    decode = image._pixels._decoded
    monkeypatch.setattr(image._pixels, "_decoded", lambda *place: decoded.append(place) or decode(*place))
    result = thumbnail(image, 8, strip=32)
    assert len(decoded) == len(set(decoded)) > 10
    np.testing.assert_allclose(result, thumbnail(whole, 8, strip=HEIGHT), atol=1e-6)


def test_a_thumbnail_in_groups_of_columns(tmp_path, monkeypatch):
    image, whole = both(tmp_path, written(np.repeat(picture(3), 5, axis=1), photometric="rgb", tile=(32, 32)))
    expected = thumbnail(whole, 8)
    monkeypatch.setattr("datasets.image.CHUNK", (32, 64))
    monkeypatch.setattr("datasets.image.SUMS", 1)
    np.testing.assert_allclose(thumbnail(image, 8), expected, atol=1e-6)


def corrupted(data, tag, value, place=8):
    """A classic little-endian TIFF file with another value in an entry (8 bytes in), or another count (4)."""
    first, = struct.unpack_from("<I", data, 4)
    count, = struct.unpack_from("<H", data, first)
    data = bytearray(data)
    for entry in range(first + 2, first + 2 + 12 * count, 12):
        if struct.unpack_from("<H", data, entry) == (tag,):
            struct.pack_into("<I", data, entry + place, value)
            if place == 8:
                struct.pack_into("<HI", data, entry + 2, 4, 1)
    return bytes(data)


TILED = written(picture(3), photometric="rgb", compression="zlib", tile=(32, 16))
STRIPPED = written(picture(3), photometric="rgb", compression="zlib", rowsperstrip=7)
PLAIN = written(picture(3), photometric="rgb")
ABSURD = {
    "width": corrupted(TILED, 256, 2**32 - 1),
    "height": corrupted(TILED, 257, 2**32 - 1),
    "no width": corrupted(TILED, 256, 0),
    "tile width": corrupted(TILED, 322, 2**32 - 16),
    "tile height": corrupted(TILED, 323, 2**31),
    "no tile": corrupted(TILED, 323, 0),
    "tile places": corrupted(TILED, 324, 2**32 - 1, place=4),
    "tile sizes": corrupted(TILED, 325, 2**30, place=4),
    "strip height": corrupted(STRIPPED, 278, 0),
    "strips": corrupted(corrupted(STRIPPED, 257, 2**31), 278, 2**31),
    "samples": corrupted(TILED, 277, 2**31),
    "bits": corrupted(TILED, 258, 2**20),
    "plain and tall": corrupted(PLAIN, 257, 2**31),
    "plain and wide": corrupted(PLAIN, 256, 2**32 - 1),
    "cut": TILED[: len(TILED) - 2000],
    "cut, plain": PLAIN[:-1],
    "only a header": TILED[:8],
    "directory beyond the end": TILED[:4] + struct.pack("<I", 2**32 - 1),
    "directory at itself": TILED[:4] + struct.pack("<I", 4) + TILED[8:],
}


@pytest.mark.parametrize("kind", ABSURD)
def test_absurd_files_are_one_line(kind, tmp_path, capfd):
    path = tmp_path / "image.tif"
    path.write_bytes(ABSURD[kind])
    with pytest.raises(ImageError) as caught:
        open_image(path, 5000, by_window=True)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_tile_that_promises_more_than_it_is(tmp_path):
    bomb = io.BytesIO()
    PIL.Image.new("RGB", (20000, 3)).save(bomb, "JPEG")
    huge = bytearray(bomb.getvalue())
    place = huge.index(b"\xff\xc0") + 5
    huge[place : place + 4] = struct.pack(">HH", 65000, 65000)
    path = tmp_path / "image.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(
            iter([bytes(huge)] * 24), shape=(HEIGHT, WIDTH, 3), dtype=np.uint8, tile=(32, 16), compression="jpeg",
            photometric="rgb",
        )  # fmt: skip
    with pytest.raises(ImageError, match="cannot be read"):
        open_image(path, LIMIT, by_window=True)


def test_directories_in_a_circle_do_not_matter(tmp_path):
    first, = struct.unpack_from("<I", TILED, 4)
    count, = struct.unpack_from("<H", TILED, first)
    data = bytearray(TILED)
    struct.pack_into("<I", data, first + 2 + 12 * count, first)
    image, whole = both(tmp_path, bytes(data))
    np.testing.assert_array_equal(everything(image), everything(whole))


@pytest.mark.parametrize("damage", ["garbage", "shorter"])
def test_damage_that_shows_later(damage, tmp_path):
    path = tmp_path / "image.tif"
    with tifffile.TiffFile(io.BytesIO(TILED)) as file:
        place = file.pages[0].dataoffsets[-1]
    path.write_bytes(TILED)
    image = open_image(path, LIMIT, by_window=True)
    if damage == "garbage":
        path.write_bytes(TILED[:place] + b"\xff" * (len(TILED) - place))
    else:
        os.truncate(path, place + 1)
    assert image.window(0, 0, 32, 32).shape == (32, 32, 3)
    for _ in range(2):
        with pytest.raises(ImageError, match=r"image\.tif: cannot be read"):
            image.window(HEIGHT - 1, WIDTH - 1, 1, 1)


def mutate(data, random_source):
    """A file with a few other bytes, mostly in its directory, or one that is cut."""
    data = bytearray(data)
    if random_source.randrange(6) == 0:
        return bytes(data[: random_source.randrange(len(data))])
    first, = struct.unpack_from("<I" if data[:1] == b"I" else ">I", data, 4)
    places = range(len(data)) if random_source.randrange(4) == 0 else range(first, min(first + 240, len(data)))
    for _ in range(random_source.choice((1, 2, 8))):
        data[random_source.choice(places)] = random_source.choice((0, 1, 2, 16, 255, random_source.randrange(256)))
    return bytes(data)


def test_mutated_files_give_an_image_or_an_image_error(tmp_path):
    random_source, opened, refused = random.Random(0), 0, 0
    kinds = ("tiles zlib uint8 rgb", "strips lzw uint16 differences", "tiles jpeg ycbcr", "strips palette",
             "strip None uint16 alpha", "tiles packbits uint8 planes", "strips None uint8 grey")  # fmt: skip
    seeds = [written(LAYOUTS[kind][0], **LAYOUTS[kind][1]) for kind in kinds]
    path = tmp_path / "image.tif"
    for number in range(250):
        path.write_bytes(mutate(seeds[number % len(seeds)], random_source))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                image = open_image(path, 10**5, by_window=True)
                opened += image.by_window
                assert image.window(-1, -1, 5, 5).shape == (5, 5, 3)
                if image.height < 3000 and image.width < 3000:
                    assert np.isfinite(thumbnail(image, 4)).all()
            except ImageError as error:
                refused += 1
                assert "\n" not in str(error)
    assert opened > 50 and refused > 50


SWEEP = """
import resource, sys
import numpy as np, tifffile
from datasets.image import open_image
path, edge = sys.argv[1], 8192
image = open_image(path, 2**20, by_window=True)
assert image.by_window
image.window(0, 0, 512, 512)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for top in range(0, edge, 512):
    for left in range(0, edge, 512):
        assert image.window(top, left, 512, 512)[3, 5].tolist() == [left // 512 * 8 + top // 512, 3, 5]
print(image.held, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def test_memory_is_that_of_the_cache(tmp_path):
    def tiles():
        for row, column in itertools.product(range(16), repeat=2):
            tile = np.zeros((512, 512, 3), np.uint8)
            tile[3, 5] = column * 8 + row, 3, 5
            yield tile

    path = tmp_path / "large.tif"
    tifffile.imwrite(
        path, tiles(), shape=(8192, 8192, 3), dtype=np.uint8, tile=(512, 512), compression="zlib", photometric="rgb"
    )
    done = subprocess.run([sys.executable, "-c", SWEEP, str(path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    held, grown = map(int, done.stdout.split())
    assert held == 2**26 and grown < held + 2**24
