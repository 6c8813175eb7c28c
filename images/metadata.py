"""What a photograph says of itself and its results keep: date, camera, place, resolution."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import PIL.Image
from PIL.ExifTags import IFD, Base

KEPT = (  # of EXIF, beside its tables of the camera and of the place
    Base.ImageDescription, Base.Make, Base.Model, Base.Software, Base.DateTime, Base.Artist, Base.Copyright,
    Base.Rating, Base.RatingPercent, Base.XPTitle, Base.XPComment, Base.XPAuthor, Base.XPKeywords, Base.XPSubject,
)  # fmt: skip
# Of the picture as it was stored; and what leads elsewhere.
NOT_KEPT = (Base.ColorSpace, Base.ExifImageWidth, Base.ExifImageHeight, Base.ExifInteroperabilityOffset)
SRGB = 1  # of EXIF's ColorSpace
CENTIMETRE = 3  # of its ResolutionUnit
MOST_DPI = 1e6
LONGEST_XMP = 65_000  # bytes, of a segment of JPEG
OF_THE_FILE = (b"Container:Directory", b"MotionPhoto", b"MicroVideo", b"hdrgm:")  # XMP that says what else is in it
THUMBNAILS = re.compile(rb"<xmp:Thumbnails>.*?</xmp:Thumbnails>", re.DOTALL)
ORIENTATION = re.compile(rb"(tiff:Orientation(?:=[\"']|>))[0-9]+")


@dataclass(frozen=True)
class Metadata:
    """EXIF and XMP of a picture that is sRGB and upright, without thumbnails; and its resolution."""

    exif: bytes = b""  # as in JPEG, "Exif\\0\\0" and a TIFF structure
    xmp: bytes = b""
    dpi: tuple[float, float] | None = None  # horizontal, vertical, pixels for an inch


def read_metadata(exif: PIL.Image.Exif, info: dict) -> Metadata:
    """What results keep of an image's EXIF and `info`, as Pillow gives them. What cannot be written again is left out.
    """
    kept = PIL.Image.Exif()
    _copy({tag: exif[tag] for tag in KEPT if tag in exif}, kept)
    for part in (IFD.Exif, IFD.GPSInfo):
        if found := {tag: value for tag, value in exif.get_ifd(part).items() if tag not in NOT_KEPT}:
            _copy(found, kept.get_ifd(part))
    dpi = _dpi(info.get("dpi")) or _dpi([exif.get(Base.XResolution), exif.get(Base.YResolution)], exif)
    if kept.tobytes() == PIL.Image.Exif().tobytes():
        return Metadata(b"", _xmp(info), dpi)
    kept[Base.Orientation] = 1
    kept.get_ifd(IFD.Exif)[Base.ColorSpace] = SRGB
    return Metadata(kept.tobytes(), _xmp(info), dpi)


def as_bytes(value: Any) -> Any:
    """A value of EXIF as Pillow writes it unchanged: it reads text as Latin-1, and writes only ASCII."""
    return value.encode("latin-1", "replace") if isinstance(value, str) and not value.isascii() else value


def _copy(values: dict, target: PIL.Image.Exif | dict) -> None:
    """Copy those tags that Pillow can write."""
    for tag, value in values.items():
        value = as_bytes(value)
        try:
            trial = PIL.Image.Exif()
            trial[tag] = value
            trial.tobytes()
        except Exception:  # whatever a type that does not fit makes of it
            continue
        target[tag] = value


def _dpi(values: Any, exif: PIL.Image.Exif | None = None) -> tuple[float, float] | None:
    """Horizontal and vertical pixels for an inch; of EXIF, which may count them for a centimetre. None: unknown."""
    try:
        factor = 2.54 if exif is not None and exif.get(Base.ResolutionUnit) == CENTIMETRE else 1
        across, down = (float(value) * factor for value in values)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return (across, down) if all(0 < value < MOST_DPI for value in (across, down)) else None  # not so: NaN


def _xmp(info: dict) -> bytes:
    xmp = info.get("xmp", b"")
    xmp = xmp.encode() if isinstance(xmp, str) else bytes(xmp)
    if len(xmp) > LONGEST_XMP or any(word in xmp for word in OF_THE_FILE):
        return b""
    return ORIENTATION.sub(rb"\g<1>1", THUMBNAILS.sub(b"", xmp)).rstrip(b"\0")
