"""What a photograph says of itself stands in its results: date, camera, place, resolution, XMP."""

import io

import numpy as np
import PIL.Image
import pytest
import tifffile
from PIL import ImageCms, PngImagePlugin
from PIL.ExifTags import IFD, Base

from images.colours import ADOBE_RGB, from_curve
from images.metadata import Metadata, read_metadata
from images.reading import open_image
from images.writing import SUFFIXES, Rounded, write_picture
from tests.images.conftest import saved

LIMIT = 10**6
DATE, PLACE = "2020:01:02 03:04:05", (48.0, 8.0, 12.5)
XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf tiff:Orientation=\"6\" dc:title='t'/></x:xmpmeta>"
PICTURE = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8))
PHOTOGRAPHS = {"JPEG": {"xmp": XMP}, "TIFF": {}, "WEBP": {"xmp": XMP}, "PNG": {}, "AVIF": {"xmp": XMP}}


def photograph(kind, orientation=6, icc_profile=None, **options):
    exif = PIL.Image.Exif()
    exif[Base.Make], exif[Base.Model], exif[Base.DateTime], exif[Base.Orientation] = "Maker", "M1", DATE, orientation
    exif[Base.XResolution] = exif[Base.YResolution] = 300.0
    camera, place = exif.get_ifd(IFD.Exif), exif.get_ifd(IFD.GPSInfo)
    camera[Base.DateTimeOriginal], camera[Base.ExposureTime], camera[Base.MakerNote] = DATE, 0.01, b"note" * 9
    camera[Base.ExifImageWidth], camera[Base.ColorSpace] = 4000, 65535
    place.update({1: "N", 2: PLACE, 3: "E", 4: (11.0, 34.0, 0.0)})
    return saved(PICTURE, kind, exif=exif.tobytes(), icc_profile=icc_profile, dpi=(300, 300), **options)


def told(path):
    """EXIF, its table of the camera, that of the place, and what else Pillow knows of a picture."""
    with PIL.Image.open(path) as picture:
        exif = PIL.Image.Image.getexif(picture)
        return dict(exif), dict(exif.get_ifd(IFD.Exif)), dict(exif.get_ifd(IFD.GPSInfo)), picture.info


@pytest.mark.parametrize(
    ("source", "kind"),
    [("JPEG", kind) for kind in ("png", "tiff", "jpeg", "webp", "pyramid")] + [(kind, "png") for kind in PHOTOGRAPHS],
)
def test_results_keep_it(source, kind, tmp_path):
    image = open_image(photograph(source, **PHOTOGRAPHS[source]), LIMIT)
    path = tmp_path / f"result{SUFFIXES[kind]}"
    write_picture(path, image.window(0, 0, image.height, image.width), kind, image.metadata)
    exif, camera, place, info = told(path)
    assert (exif[Base.Make], exif[Base.Model], exif[Base.DateTime], exif[Base.Orientation]) == ("Maker", "M1", DATE, 1)
    assert camera[Base.DateTimeOriginal] == DATE and camera[Base.MakerNote] == b"note" * 9
    assert float(camera[Base.ExposureTime]) == 0.01 and camera[Base.ColorSpace] == 1
    assert camera.get(Base.ExifImageWidth, image.width) == image.width
    assert place[1] == "N" and tuple(map(float, place[2])) == PLACE
    dpi = info.get("dpi") or (exif[Base.XResolution], exif[Base.YResolution])
    assert [round(float(value)) for value in dpi] == [300, 300]
    if source in ("JPEG", "WEBP", "AVIF"):
        found = info.get("xmp") or exif.get(Base.XMLPacket)
        assert found.rstrip(b"\0") == XMP.replace(b'"6"', b'"1"')
    assert (image.height, image.width) == (30, 20) == PIL.Image.open(path).size[::-1]


def test_text_of_other_languages(tmp_path):
    exif, owner = PIL.Image.Exif(), "© Zoë 日本".encode()
    exif[Base.Copyright] = owner
    metadata = open_image(saved(PICTURE, "JPEG", exif=exif.tobytes()), LIMIT).metadata
    for kind in ("png", "tiff", "jpeg", "webp"):
        path = tmp_path / f"a{SUFFIXES[kind]}"
        write_picture(path, np.asarray(PICTURE), kind, metadata)
        assert told(path)[0][Base.Copyright].encode("latin-1") == owner


@pytest.mark.parametrize("kind", SUFFIXES)
def test_results_say_that_they_are_srgb(kind, tmp_path):
    path = tmp_path / f"result{SUFFIXES[kind]}"
    write_picture(path, np.asarray(PICTURE), kind)
    path = path if kind != "dzi" else next((tmp_path / "result_files").rglob("*.jpg"))
    info = told(path)[3]
    if kind == "png":
        assert info["srgb"] == 0
    else:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(info["icc_profile"])).profile
        assert profile.xcolor_space == "RGB " and profile.profile_description == "sRGB built-in"
    assert not told(path)[2] and Base.Make not in told(path)[0]


def test_thumbnails_and_the_place_of_other_pictures_are_dropped():
    data = photograph("JPEG", xmp=XMP.replace(b"<rdf", b"<xmp:Thumbnails>old</xmp:Thumbnails><rdf"))
    assert b"Thumbnails" not in open_image(data, LIMIT).metadata.xmp
    for word in (b"GCamera:MotionPhoto='1'", b"Container:Directory", b"hdrgm:Version='1'"):
        assert not open_image(photograph("JPEG", xmp=XMP.replace(b"dc:title", word + b" dc:title")), LIMIT).metadata.xmp
    exif = PIL.Image.Exif()
    exif[Base.Make] = "Maker"
    exif.get_ifd(IFD.IFD1)[0x0201] = 99
    kept = read_metadata(exif, {}).exif
    assert b"Maker" in kept and len(kept) < 200


def test_the_profile_of_the_input_is_not_kept(tmp_path):
    image = open_image(photograph("TIFF", icc_profile=from_curve(*ADOBE_RGB)), LIMIT)
    assert b"acsp" not in image.metadata.exif
    write_picture(tmp_path / "a.jpg", image.window(0, 0, 30, 20), "jpeg", image.metadata)
    assert told(tmp_path / "a.jpg")[3]["icc_profile"] == from_curve()


def test_what_pillow_cannot_write_is_left_out():
    exif = PIL.Image.Exif()
    exif[Base.Make], exif[Base.Artist], exif[Base.XResolution] = "Maker", object(), "wide"
    kept = PIL.Image.Exif()
    kept.load(read_metadata(exif, {"dpi": (0, float("nan"))}).exif)
    assert dict(kept) == {Base.Make: "Maker", Base.Orientation: 1, IFD.Exif: kept[IFD.Exif]}
    assert read_metadata(PIL.Image.Exif(), {}) == Metadata()


def test_exif_in_the_text_of_a_png():
    exif = PIL.Image.Exif()
    exif[Base.Orientation], exif[Base.Make] = 6, "Maker"
    info = PngImagePlugin.PngInfo()
    text = exif.tobytes().hex()
    info.add_text("Raw profile type exif", f"\nexif\n{len(text) // 2:8}\n{text}", zip=True)
    image = open_image(saved(PICTURE, "PNG", pnginfo=info), LIMIT)
    assert (image.height, image.width) == (30, 20) and b"Maker" in image.metadata.exif


@pytest.mark.parametrize(("kind", "big"), [("png", False), ("tiff", False), ("tiff", True), ("pyramid", True)])
def test_16_bits_are_those_of_the_floats(kind, big, tmp_path, monkeypatch):
    if big:
        monkeypatch.setattr("images.writing.CLASSIC_TIFF", 0)
    values = np.random.default_rng(0).uniform(-1.1, 1.1, (300, 270, 3)).astype(np.float32)
    path, metadata = tmp_path / f"a{SUFFIXES[kind]}", open_image(photograph("JPEG"), LIMIT).metadata
    write_picture(path, Rounded(values, 16), kind, metadata)
    expected = ((values.astype(np.float64) + 1) * 32767.5).round().clip(0, 65535)
    if kind != "png":
        with tifffile.TiffFile(path) as file:
            assert file.is_bigtiff == big and len(file.pages) == (2 if kind == "pyramid" else 1)
            assert abs(file.pages[0].asarray() - expected).max() <= 1 and file.pages[0].dtype == np.uint16
            assert file.pages[0].tags["ExifTag"].value["DateTimeOriginal"] == DATE
    image = open_image(path, LIMIT)
    assert abs((image.window_float(0, 0, 300, 270) + 1) * 32767.5 - expected).max() < 1.1 and not image.notes
