"""Colours of any profile become sRGB as LittleCMS says, whole, by window, and of 16 bits."""

import io
import struct
import zlib

import numpy as np
import PIL.Image
import pytest
import pyvips
from PIL import ImageCms
from PIL.ExifTags import IFD

from datasets import CropDataset, Window
from datasets.sources import open_source
from images.colours import ADOBE_RGB, CURVES, PRIMARIES, Colours, from_curve
from images.reading import open_image, open_photograph
from images.thumbnail import thumbnail
from images.writing import encode_png
from tests.images.conftest import chunk, everything, pixels, saved, tiff

LIMIT = 10**6
SIDE = 48
D50 = 0.3457, 0.3585
RANDOM = np.random.default_rng(0)


def grey_profile(gamma):
    """A profile of grey, which ImageCms does not make: a curve between a white point and a description."""
    text = b"desc" + bytes(4) + struct.pack(">I", 5) + b"grey\0" + bytes(79)
    tags = {b"desc": text, b"wtpt": b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061),
            b"kTRC": b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)}  # fmt: skip
    table, body, place = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", place + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = bytearray(128)
    struct.pack_into(">I4sI4s4s4s", head, 0, place + len(body), bytes(4), 0x02400000, b"mntr", b"GRAY", b"XYZ ")
    head[36:40], head[68:80] = b"acsp", struct.pack(">3i", 63190, 65536, 54061)
    return bytes(head) + table + body


PROFILES = {  # name: (mode, profile)
    "display p3": ("RGB", from_curve(PRIMARIES[12])),
    "adobe rgb": ("RGB", from_curve(*ADOBE_RGB)),
    "rec. 2020": ("RGB", from_curve(PRIMARIES[9], CURVES[1])),
    "prophoto": ("RGB", from_curve((0.7347, 0.2653, 0.1596, 0.8404, 0.0366, 0.0001), (1.8,), D50)),
    "linear": ("RGB", from_curve(curve=(1.0,))),
    "srgb": ("RGB", ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()),
    "grey": ("L", grey_profile(1.8)),
    "grey with colours' profile": ("L", from_curve(*ADOBE_RGB)),
    "cmyk": ("CMYK", bytes(pyvips.Operation.call("profile_load", "cmyk"))),
}
FORMATS = {
    "JPEG": {"quality": 100}, "PNG": {}, "TIFF": {"compression": "tiff_lzw"}, "WEBP": {"lossless": True},
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
}  # fmt: skip
CASES = [("display p3", kind) for kind in FORMATS]
CASES += [(name, "TIFF" if name == "cmyk" else "PNG") for name in PROFILES if name != "display p3"]
CASES += [("cmyk", "JPEG"), ("grey", "JPEG")]


def smooth(mode):
    small = PIL.Image.fromarray(RANDOM.integers(0, 256, (3, 3, 4), np.uint8), "CMYK")
    image = small.resize((SIDE, SIDE), PIL.Image.Resampling.BICUBIC)
    if mode == "CMYK":
        return image
    return PIL.Image.fromarray(np.ascontiguousarray(np.asarray(image)[..., :3])).convert(mode)


def shown(image, profile):
    """sRGB [H, W, 3] by LittleCMS itself."""
    opened, srgb = ImageCms.getOpenProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    image = image.convert("RGB") if opened.profile.xcolor_space == "RGB " else image
    return np.asarray(ImageCms.profileToProfile(image, opened, srgb, outputMode="RGB")).astype(int)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_embedded_profiles(name, kind, by_window):
    mode, profile = PROFILES[name]
    data = saved(smooth(mode), kind, icc_profile=profile, **FORMATS[kind])
    image, windows = open_image(data, LIMIT), by_window(data)
    expected = shown(PIL.Image.open(io.BytesIO(data)).convert(mode), profile)
    assert not image.notes and abs(pixels(image) - expected).max() <= 2
    assert windows.by_window == (kind != "AVIF")
    np.testing.assert_array_equal(everything(windows), everything(image))
    np.testing.assert_array_equal(windows.window(5, 7, 20, 20), pixels(image)[5:25, 7:27])
    np.testing.assert_array_equal(thumbnail(windows, 8), thumbnail(image, 8))
    assert image.grey == windows.grey == (mode == "L")


@pytest.mark.parametrize("mode", ["P", "LA", "1"])
def test_profiles_of_palettes_grey_with_alpha_and_1_bit(mode, by_window):
    _, profile = PROFILES["grey" if mode != "P" else "adobe rgb"]
    image = smooth("RGB").quantize(16) if mode == "P" else smooth("L").convert(mode)
    data = saved(image, "PNG", icc_profile=profile)
    found = open_image(data, LIMIT)
    assert abs(pixels(found) - shown(image.convert("RGB" if mode == "P" else "L"), profile)).max() <= 2
    np.testing.assert_array_equal(pixels(by_window(data)), pixels(found))
    assert not found.notes and found.grey == (mode != "P")


@pytest.mark.parametrize("name", ["display p3", "prophoto", "srgb", "cmyk"])
def test_profiles_of_16_bits(name, by_window):
    mode, profile = PROFILES[name]
    values = np.asarray(smooth(mode)).astype(np.uint16) * 257
    photometric = "separated" if mode == "CMYK" else "rgb"
    data = tiff(values, photometric=photometric, iccprofile=profile)
    image = open_image(data, LIMIT)
    found, eight = (everything(image) + 1) * 127.5, PIL.Image.fromarray((values // 257).astype(np.uint8), mode)
    assert abs(found - shown(eight, profile)).max() <= 2
    np.testing.assert_array_equal(everything(by_window(data)), everything(image))


def test_16_bits_keep_their_precision_through_a_profile():
    ramp = np.repeat(np.arange(2000, 65536, 40, dtype=np.uint16)[None, :, None], 3, axis=2)
    data = tiff(ramp, photometric="rgb", iccprofile=from_curve(curve=(1.0,)))
    found = (everything(open_image(data, LIMIT))[0, :, 0] + 1) / 2
    linear = ramp[0, :, 0] / 65535
    exact = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert abs(found - exact).max() * 255 < 0.5 and (np.diff(found) > 0).all()


def chunks(data, *added):
    """A PNG file with further chunks before its pixels."""
    place = data.index(b"IDAT") - 4
    return data[:place] + b"".join(chunk(*each) for each in added) + data[place:]


CHROMATICITIES = (b"cHRM", struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000))
SRGB_CHROMATICITIES = (b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000))
TOLD = {  # chunks of a PNG, and the profile that they mean
    "cICP": ([(b"cICP", bytes([12, 13, 0, 1]))], from_curve(PRIMARIES[12])),
    "cICP before iCCP": (
        [(b"cICP", bytes([9, 8, 0, 1])), (b"iCCP", b"a\0\0" + zlib.compress(from_curve()))],
        from_curve(PRIMARIES[9], (1.0,)),
    ),
    "gAMA, cHRM": ([(b"gAMA", struct.pack(">I", 55556)), CHROMATICITIES], from_curve(PRIMARIES[12], (1.8,))),
    "linear gAMA": ([(b"gAMA", struct.pack(">I", 100000))], from_curve(curve=(1.0,))),
    "no gAMA": ([(b"gAMA", bytes(4))], from_curve()),
    "gAMA of sRGB": ([(b"gAMA", struct.pack(">I", 45455))], from_curve()),
    "gAMA and cHRM of sRGB": ([(b"gAMA", struct.pack(">I", 45454)), SRGB_CHROMATICITIES], from_curve()),
    "gAMA of sRGB, other cHRM": (
        [(b"gAMA", struct.pack(">I", 45455)), CHROMATICITIES],
        from_curve(PRIMARIES[12], (2.2,)),
    ),
    "sRGB before gAMA": ([(b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 100000))], from_curve()),
}


@pytest.mark.parametrize("kind", TOLD)
def test_what_a_png_tells_without_a_profile(kind, by_window):
    added, profile = TOLD[kind]
    data = chunks(saved(smooth("RGB"), "PNG"), *added)
    plain = PIL.Image.fromarray(pixels(open_image(saved(smooth_of(data), "PNG"), LIMIT)))
    image = open_image(data, LIMIT)
    assert not image.notes and abs(pixels(image) - shown(plain, profile)).max() <= 2
    assert profile != from_curve() or (pixels(image) == np.asarray(plain)).all()
    np.testing.assert_array_equal(pixels(by_window(data)), pixels(image))


def smooth_of(data):
    return PIL.Image.open(io.BytesIO(data)).convert("RGB")


def bitmap(values, profile):
    """A BMP file with a header of version 5, at whose end a profile stands."""
    rows = np.ascontiguousarray(values[::-1, :, ::-1]).tobytes()  # SIDE is a multiple of 4, so there is no padding
    head = bytearray(124)
    struct.pack_into("<IiiHHII", head, 0, 124, SIDE, SIDE, 1, 24, 0, len(rows))
    head[56:60] = b"DEBM"
    struct.pack_into("<II", head, 112, 124 + len(rows), len(profile))
    return struct.pack("<2sIII", b"BM", 138 + len(rows) + len(profile), 0, 138) + bytes(head) + rows + profile


def test_colours_that_pillow_does_not_read():
    values, p3 = np.asarray(smooth("RGB")), PROFILES["display p3"][1]
    jp2 = saved(values, "JPEG2000")
    place = jp2.index(b"colr")
    box = struct.pack(">I", len(p3) + 11) + b"colr\2\0\0" + p3
    growth = len(box) - int.from_bytes(jp2[place - 4 : place])
    head = jp2.index(b"jp2h") - 4
    jp2 = jp2[: place - 4] + box + jp2[place - 4 + len(box) - growth :]
    jp2 = jp2[:head] + struct.pack(">I", int.from_bytes(jp2[head : head + 4]) + growth) + jp2[head + 4 :]
    avif = saved(values, "AVIF", quality=100, subsampling="4:4:4")
    place = avif.index(b"colrnclx") + 8
    avif = avif[:place] + struct.pack(">HH", 12, 13) + avif[place + 4 :]
    for data in (bitmap(values, p3), jp2, avif):
        image = open_image(data, LIMIT)
        assert not image.notes and abs(pixels(image) - shown(smooth_of(data), p3)).max() <= 2
    image = open_image(bitmap(values, b"no profile"), LIMIT)
    assert len(image.notes) == 1 and (pixels(image) == values).all()


def test_adobe_rgb_that_only_exif_names():
    exif = PIL.Image.Exif()
    exif.get_ifd(IFD.Exif)[IFD.Interop] = {1: "R03"}
    data = saved(smooth("RGB"), "JPEG", exif=exif, quality=100)
    assert abs(pixels(open_image(data, LIMIT)) - shown(smooth_of(data), PROFILES["adobe rgb"][1])).max() <= 2


P3 = PROFILES["display p3"][1]
BROKEN = {
    "cut": P3[:300],
    "garbage": b"no profile" * 30,
    "of other colours": PROFILES["cmyk"][1],
    "without a curve": P3.replace(b"rTRC", b"????"),
}


@pytest.mark.parametrize(("broken", "kind"), [*zip(BROKEN, FORMATS, strict=False), ("cut", "PNG")])
def test_a_broken_profile_costs_a_note(broken, kind, by_window, tmp_path, capsys):
    data = saved(smooth("RGB"), kind, icc_profile=BROKEN[broken], **FORMATS[kind])
    image = open_image(data, LIMIT)
    np.testing.assert_array_equal(pixels(image), np.asarray(smooth_of(data)))
    for each in (image, by_window(data)):
        assert len(each.notes) == 1 and "colour profile" in each.notes[0] and "count as sRGB" in each.notes[0]
    (tmp_path / "photo").write_bytes(data)
    open_photograph(tmp_path / "photo", LIMIT)
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and err.startswith(f"note: {tmp_path}/photo: its colour profile")


def test_what_png_tells_that_cannot_be_used_costs_a_note():
    """A profile that does not decompress, and colours of high dynamic range."""
    for name, data in ((b"iCCP", b"name\0\0no zlib"), (b"iCCP", b"name"), (b"cICP", bytes([9, 16, 0, 1]))):
        image = open_image(chunks(saved(smooth("RGB"), "PNG"), (name, data)), LIMIT)
        assert len(image.notes) == 1 and "colour profile" in image.notes[0]
        assert name == b"iCCP" or "cICP" in image.notes[0]


def test_transparent_colours_are_converted_before_grey_shows_through():
    values = np.dstack([np.asarray(smooth("RGB")), np.full((SIDE, SIDE), 128, np.uint8)])
    data = saved(values, "PNG", icc_profile=P3)
    opaque = shown(PIL.Image.fromarray(np.ascontiguousarray(values[..., :3])), P3)
    assert abs(pixels(open_image(data, LIMIT)) - (opaque * 128 + 128 * 127) / 255).max() <= 2


@pytest.mark.parametrize("bits", [8, 16])
def test_lab(bits, by_window):
    colours = np.array([[[128, 128, 128], [200, 30, 40], [20, 120, 60], [250, 250, 250]]], np.uint8)
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    stored = ImageCms.profileToProfile(PIL.Image.fromarray(colours), srgb, lab, outputMode="LAB")
    values, expected = np.asarray(stored), ImageCms.profileToProfile(stored, lab, srgb, outputMode="RGB")
    if bits == 16:
        light, others = values[..., :1].astype(np.uint16) * 257, values[..., 1:].astype(np.int8).astype(np.int16) * 256
        values = np.concatenate([light, others.view(np.uint16)], axis=2)
    data = tiff(values.astype(f"u{bits // 8}"), photometric="cielab")
    for image in (open_image(data, LIMIT), by_window(data)):
        assert abs(pixels(image).astype(int) - (colours if bits == 16 else np.asarray(expected))).max() <= 2


def test_training_sees_what_inference_sees(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.jpg").write_bytes(saved(smooth("CMYK"), "JPEG", icc_profile=PROFILES["cmyk"][1]))
    data = CropDataset(open_source(tmp_path), [0, 1], Window(SIDE, 0, 0), thumbnail=4, seed=0)
    item = data[0, 0]
    image = open_image(data.source.name(int(item["id"])), LIMIT)
    np.testing.assert_array_equal(item["window"].permute(1, 2, 0), everything(image))
    np.testing.assert_array_equal(item["thumbnail"].permute(1, 2, 0), thumbnail(image, 4))
    np.testing.assert_array_equal(pixels(open_image(encode_png(image), LIMIT)), pixels(image))


@pytest.mark.parametrize("count", [1, 3, 4])
def test_samples_without_a_profile_are_srgb(count):
    values = RANDOM.integers(0, 65536, (5, 4, count), np.uint16)
    light = 1 - values[..., :3] / 65535 if count == 4 else values / 65535
    expected = light * (1 - values[..., 3:] / 65535) if count == 4 else np.broadcast_to(light, (5, 4, 3))
    assert abs(Colours(count)(values) / 65535 - expected).max() < 1e-4
