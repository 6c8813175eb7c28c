"""What is read: what pixels mean, whole and by window, what is refused, thumbnails and other sizes."""

import io
import random
import struct
import warnings

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from images.reading import Image, ImageError, find_images, open_image
from images.resizing import check_side, encode_png, with_shorter_side
from images.thumbnail import area_matrix, thumbnail
from tests.images.conftest import everything, png, saved, tiff
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


def values_of(channels, kind=np.uint8):
    return RANDOM.integers(0, np.iinfo(kind).max, (HEIGHT, WIDTH, channels), dtype=kind, endpoint=True)


def over_grey(colours, alpha):
    return colours * alpha + 0.5 * (1 - alpha)


def plain(orientation, channels, kind):
    values = values_of(channels, kind)
    unit = values / np.iinfo(kind).max
    shown = np.repeat(unit[..., :1], 3, axis=2) if channels < 3 else unit[..., :3]
    return png(values, orientation), over_grey(shown, unit[..., -1:]) if channels in (2, 4) else shown


def palette(orientation, transparent=None):
    table, values = RANDOM.integers(0, 256, (256, 3), dtype=np.uint8), RANDOM.integers(0, 4, (7, 5), dtype=np.uint8)
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
    values = values_of(4)
    if kind == "JPEG":
        values[:] = values[0, 0]  # one colour survives the compression
    unit = values / 255
    shown = (1 - unit[..., :3]) * (1 - unit[..., 3:])
    return saved(PIL.Image.fromarray(values, mode="CMYK"), kind, orientation), shown


def bits(orientation):
    values = RANDOM.integers(0, 2, (HEIGHT, WIDTH)).astype(bool)
    return saved(values, "PNG", orientation), np.repeat(values[..., None], 3, axis=2) * 1.0


def lossless(orientation, kind, **options):
    values = values_of(3)
    return saved(values, kind, orientation, **options), values / 255


def jpeg(orientation, **options):
    rows, columns = np.mgrid[0:64, 0:48]
    values = np.stack([rows * 3, columns * 4, rows + columns], axis=2).astype(np.uint8)
    return saved(values, "JPEG", orientation, quality=98, subsampling=0, **options), values / 255


def tiff_16(orientation, channels, **options):
    values = values_of(channels, np.uint16)
    options["photometric"] = "minisblack" if channels == 1 else "rgb"
    data = tiff(values.squeeze(), extratags=[(274, "H", 1, orientation, True)], **options)
    return data, np.broadcast_to(values / 65535, (HEIGHT, WIDTH, 3))


# name: (maker of (file, shown array in [0, 1] before the orientation), tolerance in units of 1/255)
KINDS = {
    "grey 8": (lambda o: plain(o, 1, np.uint8), 1e-3),
    "grey 16": (lambda o: plain(o, 1, np.uint16), 1e-3),
    "rgb 8": (lambda o: plain(o, 3, np.uint8), 1e-3),
    "rgb 16": (lambda o: plain(o, 3, np.uint16), 1e-3),
    "alpha 8": (lambda o: plain(o, 4, np.uint8), 1.0),
    "alpha 16": (lambda o: plain(o, 4, np.uint16), 0.01),
    "grey alpha 8": (lambda o: plain(o, 2, np.uint8), 1.0),
    "grey alpha 16": (lambda o: plain(o, 2, np.uint16), 0.01),
    "palette": (palette, 1e-3),
    "palette, one colour clear": (lambda o: palette(o, 2), 0.51),
    "palette, alphas": (lambda o: palette(o, bytes([0, 100, 255])), 1.0),
    "cmyk tiff": (lambda o: cmyk(o, "TIFF"), 1.0),
    "cmyk jpeg": (lambda o: cmyk(o, "JPEG"), 3.0),
    "bits": (bits, 1e-3),
    "webp": (lambda o: lossless(o, "WEBP", lossless=True), 1e-3),
    "bmp": (lambda o: lossless(1, "BMP"), 1e-3),
    "tiff lzw": (lambda o: lossless(o, "TIFF", compression="tiff_lzw"), 1e-3),
    "jpeg": (jpeg, 3.0),
    "progressive jpeg": (lambda o: jpeg(o, progressive=True), 3.0),
    "rgb 16 tiff, big endian": (lambda o: tiff_16(o, 3, byteorder=">"), 1e-3),
    "rgb 16 tiff, deflated": (lambda o: tiff_16(o, 3, compression="zlib"), 1e-3),
    "grey 16 tiff, big endian": (lambda o: tiff_16(o, 1, byteorder=">"), 1e-3),
}


@pytest.mark.parametrize("orientation", ORIENTED)
@pytest.mark.parametrize("kind", KINDS)
def test_pixels_mean_what_they_say(kind, orientation, by_window):
    make, tolerance = KINDS[kind]
    data, stored = make(orientation)
    expected = ORIENTED[1 if kind == "bmp" else orientation](stored)
    image, windows = open_image(data, LIMIT), by_window(data)
    assert (image.height, image.width) == expected.shape[:2] and windows.by_window == (kind != "bmp")
    assert windows.transparent == image.transparent == ("alpha" in kind or "clear" in kind)
    whole = everything(image)
    assert whole.dtype == np.float32 and np.abs((whole + 1) / 2 - expected).max() * 255 <= tolerance
    np.testing.assert_array_equal(everything(windows), whole)
    eight = image.window(0, 0, image.height, image.width)
    assert eight.dtype == np.uint8 and np.abs(eight - expected * 255).max() <= max(tolerance, 0.5) + 0.01
    for each in (image, windows):
        np.testing.assert_array_equal(each.window(1, 2, image.height - 3, image.width - 3), eight[1:-2, 2:-1])


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_transparent_colour_becomes_grey(kind, channels, by_window):
    values = RANDOM.integers(1, 200, (4, 6, channels)).astype(kind)
    values[1, 2] = 0
    data = png(values, transparent=[0] * channels)
    expected = np.broadcast_to(values, (4, 6, 3)) / np.iinfo(kind).max * 2 - 1
    expected[1, 2] = 0
    for image in (open_image(data, LIMIT), by_window(data)):
        assert image.transparent
        np.testing.assert_allclose(everything(image), expected, atol=0.004)


def test_tiff_of_12_bits():
    first, second = 0xABC, 0xFFF
    pixels = (first << 12 | second).to_bytes(3, "big")
    tags = [(256, 2), (257, 1), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 3)]
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    data = b"II*\0" + struct.pack("<I", 12) + pixels + b"\0" + struct.pack("<H", len(tags)) + entries + bytes(4)
    shown = everything(open_image(data, LIMIT))
    np.testing.assert_allclose((shown[0, :, 0] + 1) / 2, [first / 4095, 1], atol=1e-4)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_arrays_and_images_of_pillow(kind):
    values = values_of(3, kind)
    unit = values / np.float32(np.iinfo(kind).max / 2) - 1
    np.testing.assert_allclose(everything(open_image(values, 1)), unit, atol=1e-6)
    grey = everything(open_image(values[..., 0], 1))
    np.testing.assert_allclose(grey, np.repeat(unit[..., :1], 3, axis=2), atol=1e-6)
    image = open_image(values, 1)
    assert image.held == values.nbytes and open_image(image, 1) is image
    image.window(0, 0, 2, 2)[:] = 0  # a copy
    np.testing.assert_allclose(everything(image), unit, atol=1e-6)


def test_images_of_pillow_are_turned_by_their_orientation():
    values = values_of(4)
    image = open_image(PIL.Image.fromarray(values), 1)
    assert image.transparent and (image.height, image.width) == (HEIGHT, WIDTH)
    data, stored = jpeg(6)
    turned = open_image(PIL.Image.open(io.BytesIO(data)), 1)
    assert np.abs(turned.window(0, 0, 48, 64) - ORIENTED[6](stored) * 255).max() <= 3


@pytest.mark.parametrize(
    "wrong", [np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4), np.uint8), [[1, 2]], 5, None]
)
def test_other_sources_are_refused(wrong):
    with pytest.raises(ImageError, match=r"^photo: .*allowed: "):
        open_image(wrong, LIMIT, name="photo")


@given(
    height=st.integers(1, 12), width=st.integers(1, 12), top=st.integers(-30, 30), left=st.integers(-30, 30),
    rows=st.integers(1, 40), columns=st.integers(1, 40), orientation=st.sampled_from(sorted(ORIENTED)),
)
@settings(max_examples=200)
def test_windows_are_cut_from_the_reflected_image(height, width, top, left, rows, columns, orientation):
    values = np.random.default_rng(height * 13 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    plane = np.pad(ORIENTED[orientation](values), ((80, 80), (80, 80), (0, 0)), mode="reflect")
    expected = plane[80 + top : 80 + top + rows, 80 + left : 80 + left + columns]
    image = Image(values, orientation=orientation)
    np.testing.assert_array_equal(image.window(top, left, rows, columns), expected)
    floats = image.window_float(top, left, rows, columns)
    np.testing.assert_array_equal(floats, expected.astype(np.float32) / np.float32(127.5) - 1)


REFUSED = {
    "empty": (b"", "is empty"),
    "text": (b"these are not pixels\n" * 10, "not a JPEG"),
    "gif": (b"GIF89a" + bytes(40), "not a JPEG"),
    "cut png": (png(RANDOM.integers(0, 256, (50, 50, 3), dtype=np.uint8))[:4000], "cannot be read"),
    "cut jpeg": (jpeg(1)[0][:900], "cannot be read"),
    "cut progressive jpeg": (jpeg(1, progressive=True)[0][:-9], "cannot be read"),
    "bomb": (png(np.zeros((1, 1, 3), np.uint8), claim=(20000, 20000)), "max_pixels"),
    "float": (tiff(np.zeros((4, 4), np.float32)), "8 and 16-bit"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refusals_are_one_line(kind, tmp_path, by_window):
    data, reason = REFUSED[kind]
    (tmp_path / "some image.png").write_bytes(data)
    for source in (tmp_path / "some image.png", data):
        with pytest.raises(ImageError, match=reason) as caught:
            open_image(source, LIMIT, name="some image.png")
        assert str(caught.value).startswith("some image.png: ") and "\n" not in str(caught.value)
    with pytest.raises(ImageError, match="image: cannot be read" if kind == "bomb" else reason):
        by_window(data)


def test_paths_that_are_no_files(tmp_path):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    for name in ("folder.png", "missing.png", "dangling.png"):
        with pytest.raises(ImageError, match=name):
            open_image(tmp_path / name, LIMIT)


def test_the_limit_is_exact_and_pillow_keeps_its_own(monkeypatch):
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 50)
    data = png(np.zeros((10, 10, 3), np.uint8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_image(data, 100).height == 10
        for limit in (99, 50, 49, 1):
            with pytest.raises(ImageError, match=rf"10 x 10 is more than max_pixels \({limit}\) allows"):
                open_image(data, limit)
            assert PIL.Image.MAX_IMAGE_PIXELS == 50


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


@pytest.mark.parametrize("windows", [False, True])
def test_mutated_files_give_an_image_or_an_image_error(windows, by_window):
    random_source, refused = random.Random(0), 0
    seeds = [make(6)[0] for make, _ in KINDS.values()]
    for number in range(600):
        data = mutate(seeds[number % len(seeds)], random_source)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # nothing may reach the user from below
            try:
                image = by_window(data, 10**5) if windows else open_image(data, LIMIT)
                if image.height * image.width < LIMIT:
                    assert np.isfinite(thumbnail(image, 4)).all()
                assert image.window(-1, -1, 5, 5).shape == (5, 5, 3)
            except ImageError as error:
                refused += 1
                assert "\n" not in str(error)
    assert 80 < refused < 580


def test_find_images(tmp_path):
    for name in ("b.JPG", "a/z.png", "a/y.WebP", "c.tif", "d.bmp", "e.txt", ".hidden.png", ".cache/f.png", "a.jpeg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    names = [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)]
    assert names == ["a/y.WebP", "a/z.png", "a.jpeg", "b.JPG", "c.tif", "d.bmp"]


@given(size_in=st.integers(1, 300), size_out=st.integers(1, 300))
@settings(max_examples=100)
def test_area_weights(size_in, size_out):
    weights = area_matrix(size_in, size_out)
    assert weights.shape == (size_out, size_in) and weights.min() >= 0
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-5)
    # No light is lost: each input counts as much as any other.
    np.testing.assert_allclose(weights.sum(axis=0), size_out / size_in, rtol=1e-4)


@pytest.mark.parametrize("shape", [(150, 150), (37, 200), (1, 1), (3, 300), (513, 129)])
@pytest.mark.parametrize("strip", [1, 50, 256])
def test_thumbnail_is_the_area_average(shape, strip):
    values = RANDOM.integers(0, 256, (*shape, 3), dtype=np.uint8)
    result = thumbnail(Image(values), 64, strip)
    vertical, horizontal = (area_matrix(length, 64).astype(np.float64) for length in shape)
    expected = np.einsum("ih,hwc,jw->ijc", vertical, values / 127.5 - 1, horizontal, optimize=True)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=1e-6)


@pytest.mark.parametrize(("shape", "expected"), [((40, 100), (20, 50)), ((30, 10), (60, 20)), ((20, 33), (20, 33))])
def test_shorter_side(shape, expected):
    values = np.full((*shape, 3), 77, np.uint8)
    image = with_shorter_side(Image(values), 20, max(values[..., 0].size, expected[0] * expected[1]))
    assert (image.height, image.width) == expected and (image.window(0, 0, *expected) == 77).all()


def test_an_enlarged_image_has_a_limit():
    with pytest.raises(ImageError, match=r"strip\.png: resized to 256 x 12800000 is more than max_pixels"):
        with_shorter_side(Image(np.zeros((1, 50000, 3), np.uint8), "strip.png"), 256, 2**28)
    check_side("--size", 5, 25)
    with pytest.raises(UserError, match=r"--size=6: .*max_pixels=25"):
        check_side("--size", 6, 25)


def test_png_of_an_image():
    image = Image(values_of(3, np.uint16), orientation=6)
    again = open_image(encode_png(image), LIMIT)
    np.testing.assert_array_equal(again.window(0, 0, WIDTH, HEIGHT), image.window(0, 0, WIDTH, HEIGHT))
    with pytest.raises(ImageError, match=r"long\.png: 1 x 1000001"):
        encode_png(Image(np.zeros((1, 1000001, 3), np.uint8), "long.png"))
