"""What is read: what pixels mean, whole and by window, what is refused, thumbnails and other sizes."""

import io
from functools import partial

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from images import headers
from images.headers import readable, recognise
from images.reading import Image, ImageError, open_image
from images.resizing import check_side, with_shorter_side
from images.thumbnail import area_matrix, thumbnail
from images.writing import encode_png
from tests.images.conftest import ORIENTED, everything, png, saved, tiff
from utils.errors import UserError

LIMIT = 10**6
HEIGHT, WIDTH = 7, 5
RANDOM = np.random.default_rng(0)


def random(channels, kind=np.uint8):
    return RANDOM.integers(0, np.iinfo(kind).max, (HEIGHT, WIDTH, channels), dtype=kind, endpoint=True)


def over_grey(colours, alpha):
    return colours * alpha + 0.5 * (1 - alpha)


def plain(orientation, channels, kind):
    values = random(channels, kind)
    unit = values / np.iinfo(kind).max
    shown = np.repeat(unit[..., :1], 3, axis=2) if channels < 3 else unit[..., :3]
    return png(values, orientation), over_grey(shown, unit[..., -1:]) if channels in (2, 4) else shown


def jpeg(orientation, **options):
    rows, columns = np.mgrid[0:64, 0:48]
    values = np.stack([rows * 3, columns * 4, rows + columns], axis=2).astype(np.uint8)
    return saved(values, "JPEG", orientation, quality=98, subsampling=0, **options), values / 255


# name: (maker of (file, shown array in [0, 1] before the orientation), tolerance in units of 1/255)
KINDS = {
    f"{kind} {np.dtype(depth)}": (partial(plain, channels=channels, kind=depth), 1.0 if "alpha" in kind else 1e-3)
    for channels, kind in ((1, "grey"), (2, "grey alpha"), (3, "rgb"), (4, "alpha"))
    for depth in (np.uint8, np.uint16)
} | {"jpeg": (jpeg, 3.0), "progressive jpeg": (partial(jpeg, progressive=True), 3.0)}


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_mean_what_they_say(kind, by_window):
    make, tolerance = KINDS[kind]
    data, stored = make(6)
    expected = ORIENTED[6](stored)
    image, windows = open_image(data, LIMIT), by_window(data)
    assert (image.height, image.width) == expected.shape[:2] and windows.by_window
    assert windows.transparent == image.transparent == ("alpha" in kind)
    whole = everything(image)
    assert whole.dtype == np.float32 and np.abs((whole + 1) / 2 - expected).max() * 255 <= tolerance
    np.testing.assert_array_equal(everything(windows), whole)
    eight = image.window(0, 0, image.height, image.width)
    assert eight.dtype == np.uint8 and np.abs(eight - expected * 255).max() <= max(tolerance, 0.5) + 0.01
    for each in (image, windows):
        np.testing.assert_array_equal(each.window(1, 2, image.height - 3, image.width - 3), eight[1:-2, 2:-1])


@pytest.mark.parametrize(("kind", "channels"), [(np.uint8, 3), (np.uint16, 1), (np.uint16, 3)])
def test_a_transparent_colour_becomes_grey(kind, channels, by_window):
    values = random(channels, kind) // 2 + 1
    values[1, 2] = 0
    data = png(values, transparent=[0] * channels)
    expected = np.repeat(values / np.iinfo(kind).max * 2 - 1, 3 // channels, axis=2)
    expected[1, 2] = 0
    for image in (open_image(data, LIMIT), by_window(data)):
        assert image.transparent
        np.testing.assert_allclose(everything(image), expected, atol=0.004)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_arrays(kind):
    values = random(3, kind)
    image, unit = open_image(values, 1), values / np.float32(np.iinfo(kind).max / 2) - 1
    grey = everything(open_image(values[..., 0], 1))
    np.testing.assert_allclose(grey, np.repeat(unit[..., :1], 3, axis=2), atol=1e-6)
    image.window(0, 0, 2, 2)[:] = 0  # a copy
    np.testing.assert_allclose(everything(image), unit, atol=1e-6)
    assert image.held == values.nbytes and open_image(image, 1) is image


def test_images_of_pillow():
    assert open_image(PIL.Image.fromarray(random(4)), 1).transparent
    data, stored = jpeg(6)
    image = open_image(PIL.Image.open(io.BytesIO(data)), 1)  # turned
    assert np.abs(image.window(0, 0, 48, 64) - ORIENTED[6](stored) * 255).max() <= 3


@pytest.mark.parametrize(
    "wrong", [np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4), np.uint8), [[1, 2]], 5, None]
)
def test_other_sources_are_refused(wrong):
    with pytest.raises(ImageError, match=r"^photo: .*allowed: "):
        open_image(wrong, LIMIT, name="photo")


REFUSED = {
    "empty": (b"", "is empty"),
    "gif": (b"GIF89a" + bytes(40), "its header is damaged"),
    "text": (b"BMW is no bitmap" * 9, "is no image"),
    "another program's": (b"8BPS" + bytes(99), "its format is Photoshop, which is not read; allowed: JPEG"),
    "canon's": (b"II*\0\x10\0\0\0CR\2" + bytes(99), "its format is raw photograph"),
    "cut png": (png(random(3))[:-30], "cannot be read"),
    "cut jpeg": (jpeg(1)[0][:900], "cannot be read"),
    "bomb": (saved(PIL.Image.new("1", (20000, 20000)), "PNG"), "20000 x 20000 is more than max_pixels"),
    "float": (tiff(np.full((4, 4), 254, np.float32)), "floating-point samples are from 254 to 254; allowed: 0 to 1"),
    "no number": (tiff(np.full((4, 4), np.nan, np.float32)), "floating-point samples are from nan"),
    "signed": (tiff(np.full((4, 4), -1, np.int16)), "samples are of type short, which cannot be colours"),
    "labels": (tiff(np.full((4, 4), 254, np.uint32)), "32-bit samples end at 254 of 4294967295"),
    "spectra": (tiff(np.zeros((4, 4, 7), np.uint8), photometric=1, planarconfig="contig"), "7 channels are no colours"),
    "dng": (tiff(np.zeros((4, 4), np.uint8), extratags=[(50706, "B", 4, b"\1\4\0\0", True)]), "is a raw photograph"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refusals_are_one_line(kind, tmp_path):
    data, reason = REFUSED[kind]
    (tmp_path / "some image.png").write_bytes(data)
    for source in (tmp_path / "some image.png", data):
        with pytest.raises(ImageError, match=rf"^some image\.png: [^\n]*{reason}[^\n]*$"):
            open_image(source, LIMIT, name="some image.png")


def test_heic_names_its_package(monkeypatch):
    data = b"\0\0\0\x18ftypheic" + bytes(99)
    monkeypatch.setattr(headers, "find_spec", lambda name: None)
    with pytest.raises(ImageError, match="needs the package pillow-heif: pip install it"):
        open_image(data, LIMIT)
    assert recognise(data) == "HEIF" and not readable("HEIF") and not readable(None) and readable("AVIF")


def test_paths_that_are_no_files(tmp_path):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    for name in ("folder.png", "missing.png", "dangling.png"):
        with pytest.raises(ImageError, match=name):
            open_image(tmp_path / name, LIMIT)


@pytest.mark.filterwarnings("error")
def test_the_limit_is_exact_and_pillow_keeps_its_own(monkeypatch):
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 50)
    data = png(np.zeros((10, 10, 3), np.uint8))
    assert open_image(data, 100).height == 10
    for limit in (99, 49):
        with pytest.raises(ImageError, match=rf"10 x 10 is more than max_pixels \({limit}\) allows"):
            open_image(data, limit)
        assert PIL.Image.MAX_IMAGE_PIXELS == 50


@given(size_in=st.integers(1, 300), size_out=st.integers(1, 300))
@settings(max_examples=100)
def test_area_weights(size_in, size_out):
    weights = area_matrix(size_in, size_out)
    assert weights.shape == (size_out, size_in) and weights.min() >= 0
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-5)
    # No light is lost: each input counts as much as any other.
    np.testing.assert_allclose(weights.sum(axis=0), size_out / size_in, rtol=1e-4)


@pytest.mark.parametrize("shape", [(37, 200), (1, 1), (513, 129), (20, 2100)])
def test_thumbnail_is_the_area_average(shape):
    values = RANDOM.integers(0, 256, (*shape, 3), dtype=np.uint8)
    vertical, horizontal = (area_matrix(length, 64).astype(np.float64) for length in shape)
    expected = np.einsum("ih,hwc,jw->ijc", vertical, values / 127.5 - 1, horizontal, optimize=True)
    np.testing.assert_allclose(thumbnail(Image(values), 64), expected, atol=1e-6)


@pytest.mark.parametrize(("shape", "expected"), [((40, 100), (20, 50)), ((30, 10), (60, 20)), ((20, 33), (20, 33))])
def test_shorter_side(shape, expected):
    image = with_shorter_side(Image(np.full((*shape, 3), (77, 78, 79), np.uint8)), 20, 4000)
    image = open_image(encode_png(image), 4000)
    assert (image.height, image.width) == expected and (image.window(0, 0, *expected) == (77, 78, 79)).all()


def test_limits_of_sizes():
    with pytest.raises(ImageError, match=r"a\.png: resized to 256 x 12800000 is more than max_pixels"):
        with_shorter_side(Image(np.zeros((1, 50000, 3), np.uint8), "a.png"), 256, 2**28)
    check_side("--size", 5, 25)
    with pytest.raises(UserError, match=r"--size=6: .*max_pixels=25"):
        check_side("--size", 6, 25)
    with pytest.raises(ImageError, match=r"a\.png: 1 x 1000001"):
        encode_png(Image(np.zeros((1, 1000001, 3), np.uint8), "a.png"))
