"""Pixels that can be decoded are used whatever else a file holds or lacks; where rows are missing it is refused."""

import io
import struct
import zlib
from random import Random

import numpy as np
import PIL.Image
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import PngImagePlugin
from PIL.ExifTags import IFD

from datasets import CropDataset, Window
from datasets.sources import open_source
from images.colours import ADOBE_RGB, from_curve
from images.reading import ImageError, open_image
from tests.images.conftest import chunk, everything, pixels, saved, tiff

LIMIT = 10**6
HEIGHT, WIDTH = 90, 120
PROFILE = from_curve(*ADOBE_RGB)
XMP = b"<x:xmpmeta><rdf tiff:Make='x'/></x:xmpmeta>"
small = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8))
PICTURE = small.resize((WIDTH, HEIGHT), PIL.Image.Resampling.BICUBIC)


def metadata():
    exif = PIL.Image.Exif()
    exif[271], exif[306] = "Camera", "2020:01:02 03:04:05"
    exif.get_ifd(IFD.Exif)[37500] = b"maker's note" * 9
    exif.get_ifd(IFD.GPSInfo)[1] = "N"
    return exif


def stored(kind, image=PICTURE, **options):
    return saved(image, kind, **options)


JPEGS = {
    "4:2:0": stored("JPEG", quality=90),
    "4:4:4": stored("JPEG", quality=90, subsampling=0),
    "grey": stored("JPEG", PICTURE.convert("L")),
    "progressive": stored("JPEG", progressive=True),
    "restarts": stored("JPEG", restart_marker_rows=1),
    "cmyk": stored("JPEG", PICTURE.convert("CMYK")),
    "thumbnail": stored("JPEG", exif=b"Exif\0\0II*\0" + bytes(8) + stored("JPEG", PICTURE.resize((16, 16)))),
}


@given(kind=st.sampled_from(list(JPEGS)), lost=st.integers(2, 60), tail=st.sampled_from([b"", b"\xff", bytes(500)]))
@settings(max_examples=40)
def test_a_jpeg_that_lacks_a_corner_or_rows(kind, lost, tail):
    """The pixels are those of the whole one but in a corner, or it is refused; never are rows filled."""
    whole = pixels(open_image(JPEGS[kind], LIMIT))
    try:
        image = open_image(JPEGS[kind][:-lost] + tail, LIMIT)
    except ImageError as error:
        assert "ends too early" in str(error) and lost > 2
        return
    other = (pixels(image) != whole).any(axis=2)
    assert image.notes[0].startswith("its end is missing") and not other[: HEIGHT - 17].any()
    assert not other[:, : WIDTH // 2].any() and (lost > 2 or not other.any())


@pytest.mark.parametrize("kind", ["4:2:0", "progressive", "restarts"])
def test_a_jpeg_without_rows_is_refused(kind, by_window):
    np.testing.assert_array_equal(pixels(by_window(JPEGS[kind][:-2])), pixels(open_image(JPEGS[kind], LIMIT)))
    data = JPEGS[kind][: int(len(JPEGS[kind]) * 0.8)]
    for each in (data, data + bytes(len(JPEGS[kind]) - len(data))):
        for read in (lambda data: open_image(data, LIMIT), by_window):
            with pytest.raises(ImageError, match=r"image: cannot be read: [^\n]*$"):
                read(each)


PNG = stored("PNG")
PIXELS = PNG.index(b"IDAT") - 4
HEAD, TAIL = PNG[:PIXELS], PNG[PIXELS:]
TEXT = chunk(b"tEXt", b"Comment\0hello")
ODD = {
    "compressed text": HEAD + chunk(b"zTXt", b"parameters\0\0" + zlib.compress(bytes(2_000_000))) + TAIL,
    "twenty megabytes of text": HEAD + chunk(b"tEXt", b"a\0" + bytes(2**20)) * 20 + TAIL,
    "xmp of megabytes": HEAD + chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(2**25))) + TAIL,
    "exif of a wrong checksum": HEAD + chunk(b"eXIf", b"II*\0")[:-1] + b"?" + TAIL,
    "exif that is none": HEAD + chunk(b"eXIf", b"no exif") + TAIL,
    "an exif that points into itself": HEAD + chunk(b"eXIf", b"II*\0\x08\0\0\0\1\0i\x87\4\0\1\0\0\0\x08\0\0\0") + TAIL,
    "a short gamma": HEAD + chunk(b"gAMA", b"1") + TAIL,
    "text after the pixels": PNG[:-12] + TEXT[:-1] + b"?" + PNG[-12:],
    "more after the end": PNG + b"anything",
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_chunks_never_cost_the_pixels(kind, by_window):
    texts = PngImagePlugin.MAX_TEXT_CHUNK
    for image in (open_image(ODD[kind], LIMIT), by_window(ODD[kind])):
        np.testing.assert_array_equal(pixels(image), np.asarray(PICTURE))
        assert not image.notes and texts == PngImagePlugin.MAX_TEXT_CHUNK


def test_a_png_without_its_end(by_window):
    for lost in (1, 4, 12, 13, 16):
        np.testing.assert_array_equal(pixels(open_image(PNG[:-lost], LIMIT)), np.asarray(PICTURE))
        np.testing.assert_array_equal(pixels(by_window(PNG[:-lost])), np.asarray(PICTURE))
    assert open_image(PNG[:-12], LIMIT).notes == ["its end is missing; the pixels are all there"]
    damaged = bytearray(PNG)
    damaged[-300] ^= 1
    for data in (PNG[:-100], PNG[: len(PNG) // 2], PNG[:-200] + bytes(200), bytes(damaged)):
        for read in (lambda data: open_image(data, LIMIT), by_window):
            with pytest.raises(ImageError, match="cannot be read"):
                read(data)


@pytest.mark.parametrize("kind", ["BMP", "TIFF"])
def test_rows_that_lack_less_than_a_half(kind, by_window):
    data, whole = stored(kind), np.asarray(PICTURE)
    for lost in (1, 30, 170):
        for image in (open_image(data[:-lost], LIMIT), by_window(data[:-lost])):
            assert (pixels(image) != whole).any(axis=2).sum() <= -(-lost // 3)
            assert image.notes[0].startswith("its end is missing")
    for lost in (200, 400, 10_000):
        with pytest.raises(ImageError, match="cannot be read"):
            open_image(data[:-lost], LIMIT)


def test_a_webp_that_lacks_metadata(by_window):
    data, whole = stored("WEBP", lossless=True, exif=metadata().tobytes() + bytes(3000)), np.asarray(PICTURE)
    for image in (open_image(data[:-1000], LIMIT), by_window(data[:-1000])):
        np.testing.assert_array_equal(pixels(image), whole)
        assert image.notes == ["its end is missing; the pixels are all there"]
    for data in (stored("WEBP")[:-300], stored("WEBP")[:-300] + bytes(300)):
        with pytest.raises(ImageError, match="ends too early: rows are missing"):
            open_image(data, LIMIT)


def test_a_tiff_whose_strips_do_not_cover_it():
    data = bytearray(tiff(np.asarray(PICTURE), photometric="rgb", rowsperstrip=10))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        place = file.pages[0].tags["ImageLength"].valueoffset
    struct.pack_into("<I", data, place, 2 * HEIGHT)
    with pytest.raises(ImageError, match="rows are missing"):
        open_image(bytes(data), LIMIT)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF", "TIFF"])
def test_damaged_metadata_never_cost_the_pixels(kind, by_window):
    """Whatever EXIF, XMP and a profile hold; the picture may be turned, or of other colours, by what they say then."""
    options = {"TIFF": {"compression": "tiff_lzw"}}.get(kind, {"xmp": XMP})
    data, numbers = stored(kind, exif=metadata(), icc_profile=PROFILE, **options), Random(0)
    parts = [PROFILE, *([XMP] if kind != "TIFF" else []), *([metadata().tobytes()[6:]] if kind != "TIFF" else [])]
    for number in range(40):
        damaged, part = bytearray(data), numbers.choice(parts)
        start = data.index(part)
        for _ in range(numbers.choice((1, 5, 40))):
            damaged[numbers.randrange(start, start + len(part))] = numbers.randrange(256)
        image = by_window(bytes(damaged)) if number % 2 else open_image(bytes(damaged), LIMIT)
        assert sorted((image.height, image.width)) == [HEIGHT, WIDTH]


def animated(kind, **options):
    return stored(kind, save_all=True, append_images=[PICTURE.rotate(90), PICTURE.rotate(180)], **options)


SEVERAL = {
    "gif": animated("GIF"), "webp": animated("WEBP", lossless=True), "apng": animated("PNG"), "tiff": animated("TIFF"),
    "mpo": animated("MPO", quality=100), "avif": animated("AVIF", quality=100),
}  # fmt: skip


@pytest.mark.parametrize("kind", SEVERAL)
def test_the_first_of_several_pictures_is_used(kind, by_window):
    expected = np.asarray(PIL.Image.open(io.BytesIO(SEVERAL[kind])).convert("RGB"))
    for image in (open_image(SEVERAL[kind], LIMIT), by_window(SEVERAL[kind])):
        np.testing.assert_array_equal(pixels(image), expected)
        assert image.notes == ["the first of its 3 pictures is used"]


SMALL_FIRST = {  # of TIFF: how the picture is stored that follows a smaller copy
    "strips": (np.uint8, {}), "tiles": (np.uint8, {"tile": (32, 32)}), "16 bits": (np.uint16, {}),
    "16 bits, tiles": (np.uint16, {"tile": (32, 32)}), "floats": (np.float32, {}), "doubles": (np.float64, {}),
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "first"), [*((kind, "copy") for kind in SMALL_FIRST), ("tiles", "mask"), ("floats", "copy of 8 bits")]
)
def test_a_smaller_copy_or_mask_before_the_picture(kind, first, by_window):
    dtype, options = SMALL_FIRST[kind]
    values, buffer = np.asarray(PICTURE).astype(dtype), io.BytesIO()
    values = values * 257 if dtype == np.uint16 else values / dtype(255) if dtype != np.uint8 else values
    with tifffile.TiffWriter(buffer) as file:
        if first == "mask":
            file.write(values[..., 0] > 0, photometric="minisblack", subfiletype=4, iccprofile=PROFILE)
        else:
            copy = values if first == "copy" else np.asarray(PICTURE)
            file.write(copy[::3, ::3], photometric="rgb", subfiletype=1, iccprofile=PROFILE)
        file.write(values, photometric="rgb", **options)
    for image in (open_image(buffer.getvalue(), LIMIT), by_window(buffer.getvalue())):
        np.testing.assert_array_equal(pixels(image), np.asarray(PICTURE))
        assert not image.notes


def test_the_first_of_several_pictures_of_floats_is_named():
    for kind in ("u4", "f2", "f4", "f8"):
        values = np.full((2, 5, 4, 3), 2**31) if kind == "u4" else np.full((2, 5, 4, 3), 0.5)
        image = open_image(tiff(values.astype(kind), photometric="rgb"), LIMIT)
        assert image.notes == ["the first of its 2 pictures is used"]


def test_a_broken_profile_of_floats_costs_a_note():
    for kind in ("f4", "f8"):
        image = open_image(tiff((WIDE / 65535).astype(kind), photometric="rgb", iccprofile=b"no profile" * 30), LIMIT)
        assert len(image.notes) == 1 and "count as sRGB" in image.notes[0]


WIDE = np.random.default_rng(1).integers(0, 2**16, (9, 7, 3)).astype(np.uint16)
SAMPLES = {  # of TIFF: values, options, what they mean in [0, 1]
    "float": ((WIDE / 65535).astype(np.float32), {}, WIDE / 65535),
    "double": (WIDE / 65535, {}, WIDE / 65535),
    "half": (WIDE.astype(np.float16) / np.float16(65504), {}, WIDE.astype(np.float16) / 65504),
    "float grey": ((WIDE[..., 0] / 65535).astype(np.float32), {}, np.repeat(WIDE[..., :1] / 65535, 3, axis=2)),
    "float planes": ((WIDE / 65535).astype(np.float32), {"planarconfig": "separate"}, WIDE / 65535),
    "32 bits": (WIDE.astype(np.uint32) << 16, {}, WIDE / 65535),
    "32 bits, grey": (WIDE[..., 0].astype(np.uint32) << 16, {}, np.repeat(WIDE[..., :1] / 65535, 3, axis=2)),
    "16 bits, planes": (WIDE, {"planarconfig": "separate"}, WIDE / 65535),
    "1 bit": (WIDE[..., 0] > 2**15, {}, np.repeat(WIDE[..., :1] > 2**15, 3, axis=2)),
}


@pytest.mark.parametrize("kind", SAMPLES)
def test_samples_of_tiff(kind, by_window):
    values, options, expected = SAMPLES[kind]
    if "planarconfig" in options:
        values = np.ascontiguousarray(values.transpose(2, 0, 1))
    options = options | ({"photometric": "rgb"} if values.ndim == 3 else {"photometric": "minisblack"})
    data = tiff(values, compression=None if kind in ("1 bit", "half") else "zlib", **options)
    for image in (open_image(data, LIMIT), by_window(data)):
        assert abs((everything(image) + 1) / 2 - expected).max() < (1e-3 if kind == "half" else 1e-4)
        assert image.grey == (values.ndim == 2)
    assert image.by_window == (kind in ("16 bits, planes", "1 bit"))


@pytest.mark.parametrize("alpha", [None, "unassalpha", "assocalpha"])
def test_doubles_mean_what_floats_mean(alpha):
    """The orientation, a profile and alpha count."""
    values = np.dstack([WIDE / 65535, np.linspace(0, 1, 63).reshape(9, 7, 1)])[..., : 4 if alpha else 3]
    if alpha == "assocalpha":
        values[..., :3] *= values[..., 3:]
    told = {"iccprofile": PROFILE, "extratags": [(274, "H", 1, 6, True)]} | ({"extrasamples": [alpha]} if alpha else {})
    floats, doubles = (open_image(tiff(values.astype(kind), photometric="rgb", **told), LIMIT) for kind in ("f4", "f8"))
    assert floats.transparent == doubles.transparent == bool(alpha) and not doubles.notes and doubles.height == 7
    np.testing.assert_allclose(everything(doubles), everything(floats), atol=2e-4)
    plain = everything(open_image(tiff(np.rot90(values[..., :3], -1), photometric="rgb"), LIMIT))
    assert abs(everything(doubles) - plain).max() > 0.01


@pytest.mark.parametrize("kind", ["u1", "u2", "u4", "f4", "f8"])
def test_grey_that_counts_from_white(kind, by_window):
    light = np.linspace(0, 1, 20).reshape(4, 5)
    values = ((1 - light) * (np.iinfo(kind).max if kind[0] == "u" else 1)).astype(kind)
    data = tiff(values, photometric="miniswhite")
    for image in (open_image(data, LIMIT), by_window(data)):
        assert abs((everything(image)[..., 0] + 1) / 2 - light).max() < 4e-3


def test_samples_that_overshoot_are_clipped_with_a_note():
    image = open_image(tiff(np.array([[-0.1, 0.5, 1.2]], np.float32)), LIMIT)
    assert pixels(image)[0, :, 0].tolist() == [0, 128, 255]
    assert image.notes == ["its samples, from -0.1 to 1.2, are clipped to 0 to 1"]


def test_a_palette_with_transparency(by_window):
    image = PICTURE.quantize(8)
    data = stored("PNG", image, transparency=bytes([0, 128, 255, 255, 255, 255, 255, 255]))
    rgba = np.asarray(image.convert("RGB")).astype(float)
    alpha = np.array([0, 128, 255, 255, 255, 255, 255, 255])[np.asarray(image)][..., None] / 255
    for each in (open_image(data, LIMIT), by_window(data)):
        assert each.transparent and abs(pixels(each) - (rgba * alpha + 128 * (1 - alpha))).max() <= 1


def test_training_uses_and_names_what_can_be_decoded(tmp_path, caplog):
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(JPEGS["4:4:4"][:-2] if number == 1 else JPEGS["grey"])
    data = CropDataset(open_source(tmp_path), [0, 1, 2], Window(HEIGHT, 0, 0), thumbnail=4, seed=0)
    for step in range(9):
        data[step, 0]
    assert data.damaged == 0 and len(caplog.records) == 1
    assert caplog.text.count("1.jpg: its end is missing; the pixels are all there") == 1
