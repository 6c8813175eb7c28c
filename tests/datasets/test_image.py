"""The decoder: what pixels mean, what is refused, windows and thumbnails."""

import io
import random
import struct
import warnings
import zlib

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.image import (
    Decoded,
    Image,
    ImageError,
    area_matrix,
    check_side,
    encode_png,
    find_images,
    open_image,
    thumbnail,
    with_shorter_side,
)
from utils.errors import UserError

LIMIT = 10**6
HEIGHT, WIDTH = 7, 5
RANDOM = np.random.default_rng(0)
ORIENTED = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: np.swapaxes(a, 0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.swapaxes(np.rot90(a, 2), 0, 1),
    8: lambda a: np.rot90(a, 1),
}
COLOUR_TYPE = {1: 0, 2: 4, 3: 2, 4: 6}  # channels -> PNG


def exif(orientation):
    data = PIL.Image.Exif()
    data[0x0112] = orientation
    return data.tobytes()


def png(values, orientation=1, transparent=None, claim=None):
    """A PNG of an [H, W, C] array of 8 or 16 bits, made without a library; `claim` is the size in its header."""
    height, width, channels = values.shape
    rows = np.ascontiguousarray(values.astype(values.dtype.newbyteorder(">"))).view(np.uint8).reshape(height, -1)
    body = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1).tobytes()
    chunks = {
        b"IHDR": struct.pack(
            ">IIBBBBB", *(claim or (width, height)), 8 * values.dtype.itemsize, COLOUR_TYPE[channels], 0, 0, 0
        ),
        b"eXIf": exif(orientation).removeprefix(b"Exif\0\0"),
        b"tRNS": struct.pack(f">{channels}H", *transparent) if transparent is not None else None,
        b"IDAT": zlib.compress(body),
        b"IEND": b"",
    }
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks.items()
        if data is not None
    )


def saved(image, kind, orientation=1, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, exif=exif(orientation), **options)
    return buffer.getvalue()


def over_grey(colours, alpha):
    return colours * alpha + 0.5 * (1 - alpha)


def grey(orientation, kind):
    values = RANDOM.integers(0, np.iinfo(kind).max, (HEIGHT, WIDTH, 1), dtype=kind, endpoint=True)
    return png(values, orientation), np.repeat(values / np.iinfo(kind).max, 3, axis=2)


def colours(orientation, kind, channels):
    values = RANDOM.integers(0, np.iinfo(kind).max, (HEIGHT, WIDTH, channels), dtype=kind, endpoint=True)
    unit = values / np.iinfo(kind).max
    shown = np.repeat(unit[..., :1], 3, axis=2) if channels == 2 else unit[..., :3]
    return png(values, orientation), over_grey(shown, unit[..., -1:]) if channels in (2, 4) else shown


def palette(orientation, transparent=None):
    table = RANDOM.integers(0, 256, (256, 3), dtype=np.uint8)
    values = RANDOM.integers(0, 4, (HEIGHT, WIDTH), dtype=np.uint8)
    image = PIL.Image.fromarray(values)
    image.putpalette(table.tobytes())
    options = {} if transparent is None else {"transparency": transparent}
    alpha = np.ones(256)
    if isinstance(transparent, bytes):
        alpha[: len(transparent)] = np.frombuffer(transparent, np.uint8) / 255
    elif transparent is not None:
        alpha[transparent] = 0
    return saved(image, "PNG", orientation, **options), over_grey(table[values] / 255, alpha[values][..., None])


def cmyk(orientation, kind):
    values = RANDOM.integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)
    if kind == "JPEG":
        values[:] = values[0, 0]  # one colour survives the compression
    unit = values / 255
    data = saved(PIL.Image.fromarray(values, mode="CMYK"), kind, orientation)
    return data, (1 - unit[..., :3]) * (1 - unit[..., 3:])


def bits(orientation):
    values = RANDOM.integers(0, 2, (HEIGHT, WIDTH)).astype(bool)
    return saved(PIL.Image.fromarray(values), "PNG", orientation), np.repeat(values[..., None], 3, axis=2) * 1.0


def lossless(orientation, kind, **options):
    values = RANDOM.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    return saved(PIL.Image.fromarray(values), kind, orientation, **options), values / 255


def jpeg(orientation):
    rows, columns = np.mgrid[0:64, 0:48]
    values = np.stack([rows * 3, columns * 4, rows + columns], axis=2).astype(np.uint8)
    return saved(PIL.Image.fromarray(values), "JPEG", orientation, quality=98, subsampling=0), values / 255


def tiff_16(orientation, channels, **options):
    tifffile = pytest.importorskip("tifffile")
    values = RANDOM.integers(0, 65536, (HEIGHT, WIDTH, channels), dtype=np.uint16)
    buffer = io.BytesIO()
    photometric = "minisblack" if channels == 1 else "rgb"
    tags = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(buffer, values.squeeze(), photometric=photometric, extratags=tags, **options)
    return buffer.getvalue(), np.repeat(values, 3, axis=2) / 65535 if channels == 1 else values / 65535


# name: (maker of (file, shown array in [0, 1] before the orientation), tolerance in units of 1/255)
KINDS = {
    "grey 8": (lambda o: grey(o, np.uint8), 1e-3),
    "grey 16": (lambda o: grey(o, np.uint16), 1e-3),
    "rgb 8": (lambda o: colours(o, np.uint8, 3), 1e-3),
    "rgb 16": (lambda o: colours(o, np.uint16, 3), 1e-3),
    "alpha 8": (lambda o: colours(o, np.uint8, 4), 1.0),
    "alpha 16": (lambda o: colours(o, np.uint16, 4), 0.01),
    "grey alpha 8": (lambda o: colours(o, np.uint8, 2), 1.0),
    "grey alpha 16": (lambda o: colours(o, np.uint16, 2), 0.01),
    "palette": (palette, 1e-3),
    "palette, one colour clear": (lambda o: palette(o, 2), 0.51),
    "palette, alphas": (lambda o: palette(o, bytes([0, 100, 255])), 1.0),
    "cmyk tiff": (lambda o: cmyk(o, "TIFF"), 1.0),
    "cmyk jpeg": (lambda o: cmyk(o, "JPEG"), 3.0),
    "bits": (bits, 1e-3),
    "webp": (lambda o: lossless(o, "WEBP", lossless=True), 1e-3),
    "tiff": (lambda o: lossless(o, "TIFF"), 1e-3),
    "tiff lzw": (lambda o: lossless(o, "TIFF", compression="tiff_lzw"), 1e-3),
    "jpeg": (jpeg, 3.0),
    "rgb 16 tiff": (lambda o: tiff_16(o, 3), 1e-3),
    "rgb 16 tiff, big endian": (lambda o: tiff_16(o, 3, byteorder=">"), 1e-3),
    "rgb 16 tiff, deflated": (lambda o: tiff_16(o, 3, compression="zlib"), 1e-3),
    "grey 16 tiff, big endian": (lambda o: tiff_16(o, 1, byteorder=">"), 1e-3),
}


@pytest.mark.parametrize("orientation", ORIENTED)
@pytest.mark.parametrize("kind", KINDS)
def test_pixels_mean_what_they_say(kind, orientation):
    make, tolerance = KINDS[kind]
    data, stored = make(orientation)
    expected = ORIENTED[orientation](stored)
    image = open_image(data, LIMIT)
    assert (image.height, image.width) == expected.shape[:2]
    whole = image.window_float(0, 0, image.height, image.width)
    assert whole.dtype == np.float32 and whole.shape == expected.shape
    assert np.abs((whole + 1) / 2 - expected).max() * 255 <= tolerance
    eight = image.window(0, 0, image.height, image.width)
    assert eight.dtype == np.uint8
    assert np.abs(eight - expected * 255).max() <= max(tolerance, 0.5) + 0.01
    part = image.window(1, 2, image.height - 3, image.width - 3)
    np.testing.assert_array_equal(part, eight[1:-2, 2:-1])


def test_grey_tiff_that_counts_from_white():
    tifffile = pytest.importorskip("tifffile")
    values = RANDOM.integers(0, 65536, (4, 6), dtype=np.uint16)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, photometric="miniswhite")
    shown = open_image(buffer.getvalue(), LIMIT).window_float(0, 0, 4, 6)
    np.testing.assert_allclose((shown[..., 0] + 1) / 2, 1 - values / 65535, atol=1e-6)


def test_tiff_of_12_bits():
    first, second = 0xABC, 0xFFF
    pixels = (first << 12 | second).to_bytes(3, "big")
    tags = [(256, 2), (257, 1), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 3)]
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    data = b"II*\0" + struct.pack("<I", 12) + pixels + b"\0" + struct.pack("<H", len(tags)) + entries + bytes(4)
    shown = open_image(data, LIMIT).window_float(0, 0, 1, 2)
    np.testing.assert_allclose((shown[0, :, 0] + 1) / 2, [first / 4095, 1], atol=1e-4)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_transparent_colour_becomes_grey(kind, channels):
    values = RANDOM.integers(1, 200, (4, 6, channels)).astype(kind)
    values[1, 2] = 0
    image = open_image(png(values, transparent=[0] * channels), LIMIT)
    assert image.transparent
    whole = image.window_float(0, 0, 4, 6)
    assert np.abs(whole[1, 2]).max() < 0.01
    most = np.iinfo(kind).max
    rest = np.broadcast_to(values, (4, 6, 3)) / most * 2 - 1
    whole[1, 2] = rest[1, 2]
    np.testing.assert_allclose(whole, rest, atol=1e-6)


def test_only_transparent_images_say_so():
    assert open_image(colours(1, np.uint8, 4)[0], LIMIT).transparent
    assert not open_image(colours(1, np.uint8, 3)[0], LIMIT).transparent


@given(
    height=st.integers(1, 12), width=st.integers(1, 12), top=st.integers(-30, 30), left=st.integers(-30, 30),
    rows=st.integers(1, 40), columns=st.integers(1, 40), orientation=st.sampled_from(sorted(ORIENTED)),
)
@settings(max_examples=200, deadline=None)
def test_windows_are_cut_from_the_reflected_image(height, width, top, left, rows, columns, orientation):
    values = np.random.default_rng(height * 13 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image(PIL.Image.fromarray(values), orientation=orientation)
    shown = ORIENTED[orientation](values)
    margin = 80
    plane = np.pad(shown, ((margin, margin), (margin, margin), (0, 0)), mode="reflect")
    expected = plane[margin + top : margin + top + rows, margin + left : margin + left + columns]
    np.testing.assert_array_equal(image.window(top, left, rows, columns), expected)
    expected = expected.astype(np.float32) / np.float32(127.5) - 1
    np.testing.assert_array_equal(image.window_float(top, left, rows, columns), expected)


@given(size_in=st.integers(1, 300), size_out=st.integers(1, 300))
@settings(max_examples=100, deadline=None)
def test_area_weights(size_in, size_out):
    weights = area_matrix(size_in, size_out)
    assert weights.shape == (size_out, size_in) and weights.min() >= 0
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-5)
    # No light is lost: each input counts as much as any other.
    np.testing.assert_allclose(weights.sum(axis=0), size_out / size_in, rtol=1e-4)


def test_area_weights_of_whole_ratios_are_boxes():
    np.testing.assert_array_equal(area_matrix(6, 2), np.repeat(np.eye(2, dtype=np.float32), 3, axis=1) / np.float32(3))
    np.testing.assert_array_equal(area_matrix(2, 6), np.repeat(np.eye(2, dtype=np.float32), 3, axis=0))


@pytest.mark.parametrize("shape", [(150, 150), (37, 200), (1, 1), (3, 300), (513, 129)])
@pytest.mark.parametrize("strip", [1, 50, 256])
def test_thumbnail_is_the_area_average(shape, strip):
    values = RANDOM.integers(0, 256, (*shape, 3), dtype=np.uint8)
    result = thumbnail(Image(PIL.Image.fromarray(values)), 64, strip)
    vertical, horizontal = (area_matrix(length, 64).astype(np.float64) for length in shape)
    expected = np.einsum("ih,hwc,jw->ijc", vertical, values / 127.5 - 1, horizontal, optimize=True)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=1e-6)


@pytest.mark.parametrize(("shape", "expected"), [((40, 100), (20, 50)), ((30, 10), (60, 20)), ((20, 33), (20, 33))])
def test_shorter_side(shape, expected):
    values = np.full((*shape, 3), 77, np.uint8)
    limit = max(values[..., 0].size, expected[0] * expected[1])
    image = with_shorter_side(Image(PIL.Image.fromarray(values)), 20, limit)
    assert (image.height, image.width) == expected
    assert (image.window(0, 0, *expected) == 77).all()


def test_an_enlarged_image_has_a_limit():
    image = open_image(png(np.zeros((1, 50000, 3), np.uint8)), LIMIT, "strip.png")
    with pytest.raises(ImageError, match=r"strip\.png: resized to 256 x 12800000 is more than max_pixels"):
        with_shorter_side(image, 256, 2**28)
    check_side("--size", 5, 25)
    with pytest.raises(UserError, match=r"--size=6: .*max_pixels=25"):
        check_side("--size", 6, 25)


@pytest.mark.parametrize(("deep", "orientation"), [(False, 1), (True, 6)])
def test_png_of_an_image(deep, orientation):
    values = RANDOM.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    pixels = PIL.Image.fromarray(values)
    image = Image(Decoded(pixels, pixels if deep else None), orientation)
    again = open_image(encode_png(image), LIMIT)
    size = image.height, image.width
    assert (again.height, again.width) == size
    assert (again.window(0, 0, *size) == image.window(0, 0, *size)).all()


def test_an_edge_that_no_png_has_is_refused():
    with pytest.raises(ImageError, match=r"long\.png: 1 x 1000001"):
        encode_png(Image(PIL.Image.new("RGB", (1000001, 1)), name="long.png"))


REFUSED = {
    "empty": (b"", "is empty"),
    "text": (b"these are not pixels\n" * 10, "not a JPEG"),
    "gif": (b"GIF89a" + bytes(40), "not a JPEG"),
    "cut png": (png(RANDOM.integers(0, 256, (50, 50, 3), dtype=np.uint8))[:4000], "cannot be read"),
    "cut jpeg": (jpeg(1)[0][:900], "cannot be read"),
    "bomb": (png(np.zeros((1, 1, 3), np.uint8), claim=(20000, 20000)), "max_pixels"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refusals_are_one_line(kind, tmp_path):
    data, reason = REFUSED[kind]
    path = tmp_path / "some image.png"
    path.write_bytes(data)
    for source in (path, data):
        with pytest.raises(ImageError, match=reason) as caught:
            open_image(source, LIMIT, None if source is path else "some image.png")
        assert "some image.png" in str(caught.value) and "\n" not in str(caught.value)


def test_paths_that_are_no_files(tmp_path):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    for name in ("folder.png", "missing.png", "dangling.png"):
        with pytest.raises(ImageError, match=name):
            open_image(tmp_path / name, LIMIT)


def test_the_limit_is_exact_and_always_set():
    data = png(np.zeros((10, 10, 3), np.uint8))
    assert open_image(data, 100).height == 10
    for limit in (99, 50, 49, 1):  # around Pillow's own warning (above the limit) and error (above twice the limit)
        with pytest.raises(ImageError, match="max_pixels"):
            open_image(data, limit)
        assert limit == PIL.Image.MAX_IMAGE_PIXELS


def test_unsupported_samples_are_named():
    buffer = io.BytesIO()
    PIL.Image.fromarray(np.zeros((4, 4), np.float32)).save(buffer, "TIFF")
    with pytest.raises(ImageError, match="8 and 16-bit"):
        open_image(buffer.getvalue(), LIMIT)


def mutate(data, random):
    data = bytearray(data)
    kind = random.randrange(4)
    if kind == 0:
        return bytes(data[: random.randrange(len(data))])
    if kind == 1:
        position = random.randrange(len(data))
        return bytes(data[:position] + random.randbytes(random.randrange(1, 40)) + data[position:])
    for _ in range(random.choice((1, 4, 20))):
        data[random.randrange(min(len(data), 64) if kind == 2 else len(data))] = random.randrange(256)
    return bytes(data)


def seeds_of_fuzz():
    return [make(6)[0] for make, _ in KINDS.values()]


def test_mutated_files_give_an_image_or_an_image_error():
    random_source, refused = random.Random(0), 0
    seeds = seeds_of_fuzz()
    for number in range(800):
        data = mutate(seeds[number % len(seeds)], random_source)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # nothing may reach the user from below
            try:
                image = open_image(data, LIMIT)
            except ImageError as error:
                refused += 1
                assert "\n" not in str(error)
                continue
        assert image.window(-1, -1, 5, 5).shape == (5, 5, 3)
        assert np.isfinite(thumbnail(image, 4)).all()
    assert 100 < refused < 800


def test_find_images(tmp_path):
    for name in ("b.JPG", "a/z.png", "a/y.WebP", "c.tif", "d.bmp", "e.txt", ".hidden.png", ".cache/f.png", "a.jpeg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    names = [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)]
    assert names == ["a/y.WebP", "a/z.png", "a.jpeg", "b.JPG", "c.tif", "d.bmp"]
