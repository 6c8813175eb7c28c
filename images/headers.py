"""Encoded images: their formats, which are recognised by content, and what they say before they are decoded.

Files may come from anywhere and hold anything. Pillow reads their headers, tifffile which page of a TIFF file counts.
"""

from __future__ import annotations

import io
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import PIL.Image
from PIL import PngImagePlugin
from PIL.ExifTags import IFD, Base, Interop

from images import tiff
from images.colours import ADOBE_RGB, CURVES, D65, PRIMARIES, Colours, from_curve, from_lab, noted_colours
from images.mending import is_filled, mend_webp, png_chunk, png_pieces, told_colours, without_exif
from images.metadata import Metadata, read_metadata
from utils.errors import UserError

if TYPE_CHECKING:
    from tifffile import TiffPage

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "JPEG2000", "HEIF")  # as Pillow names them
READ = ("JPEG", "PNG", "WebP", "TIFF", "BMP", "GIF", "AVIF", "JPEG 2000", "HEIC")  # as people do
HEIF_PLUGIN = "pillow_heif"  # package that Pillow reads HEIC with
MAGIC = {  # name of a format: how its files begin
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "WEBP": rb"RIFF....WEBP",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "BMP": rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0",  # the length of its second header
    "GIF": rb"GIF8[79]a",
    "AVIF": rb"....ftyp(avi[fs]|(mif1|msf1|miaf)(.{4})*?avif)",
    "HEIF": rb"....ftyp(hei[cmsx]|hev[cmsx]|mif1|msf1)",
    "JPEG2000": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "Photoshop": rb"8BPS",
    "OpenEXR": rb"\x76\x2f\x31\x01",
    "raw photograph": rb"II[*]\0.{4}CR|....ftypcrx |FUJIFILMCCD-RAW|IIRO|IIU\0",  # Canon, Fuji, Olympus, Panasonic
}
MAGIC_BYTES = 64  # that are looked at
GREY_MODES = ("1", "L", "LA", "I;16", "I;16B")  # of Pillow
MODES = (*GREY_MODES, "P", "PA", "RGB", "RGBX", "RGBA", "RGBa", "CMYK", "YCbCr", "LAB")
LONGEST_TEXT = 2**24  # bytes that a compressed chunk of PNG may become
SRGB_GAMMA, SAME_GAMMA, SAME_PRIMARIES = 0.45455, 0.001, 0.001  # by which many programs mean sRGB

_PILLOW = threading.RLock()  # its limit of pixels and the filters of warnings belong to the whole process


class ImageError(UserError):
    """An image that cannot be used: its path or name, and the reason, in one line."""

    def __init__(self, name: str | Path, reason: object):
        super().__init__(name, reason)
        self.name, self.reason = (" ".join(str(text).split()) for text in (name, reason))

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def recognise(file: str | Path | bytes) -> str | None:
    """The format of a file (its path, or its content) by how it begins: a key of MAGIC, or None for no picture.

    OSError where it cannot be read.
    """
    if isinstance(file, bytes):
        start = file[:MAGIC_BYTES]
    else:
        with open(file, "rb") as stream:
            start = stream.read(MAGIC_BYTES)
    found = [name for name, magic in MAGIC.items() if re.match(magic, start, re.DOTALL)]
    return found[-1] if "raw photograph" in found else next(iter(found), None)  # some of them are TIFF, too


def readable(kind: str | None) -> bool:
    """Whether files of a format that `recognise` named are read here; HEIF where a package is installed."""
    return kind in FORMATS and (kind != "HEIF" or find_spec(HEIF_PLUGIN) is not None)


@contextmanager
def errors_named(name: str) -> Iterator[None]:
    """Decoders raise whatever they like on a hostile file (struct.error, SyntaxError ...): it becomes ImageError."""
    try:
        yield
    except ImageError:
        raise
    except PIL.UnidentifiedImageError as error:
        raise ImageError(name, "cannot be read: its header is damaged") from error
    except MemoryError as error:
        raise ImageError(name, "not enough memory to decode it") from error
    except Exception as error:
        # `detail` is what libvips says, without the name of its operation.
        words = getattr(error, "strerror", None), getattr(error, "detail", None), str(error), type(error).__name__
        raise ImageError(name, f"cannot be read: {next(filter(None, words))}") from error


@contextmanager
def pillow() -> Iterator[None]:
    """Pillow without warnings and without its own limits of pixels and of text, which are as before afterwards."""
    with _PILLOW, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limits = PIL.Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK
        PIL.Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = None, LONGEST_TEXT
        try:
            yield
        finally:
            PIL.Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = limits


@dataclass
class Encoded:
    """An image that is opened, but not decoded. Inside of `pillow`.

    What is said of it is read at once: Pillow changes some of that when it decodes. ValueError for samples of TIFF that
    are no colours.
    """

    kind: str                       # as `recognise` names its format; "" for an image of Pillow
    file: BinaryIO | None           # None for an image of Pillow
    header: PIL.Image.Image | None  # None for a TIFF file that Pillow does not know
    page: TiffPage | None = None    # of a TIFF file
    notes: list[str] = field(default_factory=list)  # what is odd about it, a line each

    def __post_init__(self) -> None:
        header, page = self.header, self.page
        stored = f"{header.mode} {getattr(header, 'tile', '')}" if header else ""
        self.known_to_pillow = header is not None and header.mode in MODES
        self.deep = ";16" in stored  # whether Pillow says that colours have 16 bits
        # height and width, as stored; number of colours (1, 3 or 4), and whether alpha follows them
        if page:
            self.shape = page.imagelength, page.imagewidth
            self.count, self.alpha = tiff.count_colours(page)
        else:
            grey = header.mode in GREY_MODES or "LA;16" in stored
            self.shape = header.size[::-1]
            self.count, self.alpha = 4 if header.mode == "CMYK" else 1 if grey else 3, header.has_transparency_data
        exif = _exif_of(header)
        self.orientation = page.tags.valueof(tiff.ORIENTATION, 1) if page else exif.get(Base.Orientation, 1)  # EXIF's
        self.metadata = read_metadata(exif, header.info) if header else Metadata()  # that results keep

    @property
    def progressive(self) -> bool:
        """Whether a decoder holds all of an image at once, other than TIFF."""
        return self.kind == "WEBP" or any(self.header.info.get(key) for key in ("progressive", "interlace"))

    def colours(self, deep: bool) -> Colours:
        """How samples, of 16 bits or of 8, become sRGB. A profile that cannot be used costs a note."""
        if self.header and self.header.mode == "LAB":
            return from_lab()
        if self.page and self.page.photometric == tiff.LAB:  # of which libvips makes sRGB
            return Colours(3)
        return noted_colours(self.count, self._profile, deep, self.notes)

    def _profile(self) -> bytes | None:
        """The ICC profile, embedded or made of what is said of the colours; None for sRGB.

        ValueError for colours that none describes.
        """
        if not self.header:
            return self.page.tags.valueof(tiff.PROFILE)
        info = self.header.info
        if cicp := info.get("cicp"):
            if cicp[0] not in PRIMARIES or cicp[1] not in CURVES:
                raise ValueError("primaries {}, curve {} of cICP".format(*cicp))
            return from_curve(PRIMARIES[cicp[0]], CURVES[cicp[1]])
        if profile := info.get("icc_profile"):
            return profile
        if info.get("gamma") and "srgb" not in info:  # 0 means nothing
            white, primaries = D65, PRIMARIES[1]
            if "chromaticity" in info:
                white, primaries = info["chromaticity"][:2], info["chromaticity"][2:]
            of_srgb = np.abs(np.subtract([*white, *primaries], [*D65, *PRIMARIES[1]])).max() < SAME_PRIMARIES
            if of_srgb and abs(info["gamma"] - SRGB_GAMMA) < SAME_GAMMA:
                return None
            return from_curve(primaries, (1 / info["gamma"],), white)
        if _exif_of(self.header).get_ifd(IFD.Interop).get(Interop.InteropIndex) == "R03":  # cameras name Adobe RGB so
            return from_curve(*ADOBE_RGB)
        return None


def open_encoded(file: BinaryIO, kind: str) -> Encoded:
    """An open file of a format that `recognise` named.

    Metadata that Pillow fails on are left out. ValueError for what is no picture of its own.
    """
    notes = []
    if kind == "TIFF":
        page = tiff.first_picture(file, notes)
        return Encoded(kind, file, _open_page(file, page.index), page, notes)
    if kind == "HEIF":
        import_module(HEIF_PLUGIN).register_heif_opener()
    try:
        header = _open(file, kind, notes, metadata=True)
    except Exception:
        notes.clear()
        header = _open(file, kind, notes, metadata=False)
    if (count := getattr(header, "n_frames", 1)) > 1:
        notes.append(tiff.FIRST_OF.format(count))
    return Encoded(kind, file, header, None, notes)


def _open(file: BinaryIO, kind: str, notes: list[str], metadata: bool) -> PIL.Image.Image:
    """A file as Pillow opens it, of PNG only what stands before the pixels."""
    if kind != "PNG":
        if kind == "AVIF" and is_filled(file):
            raise ValueError("it ends too early")
        file.seek(0)
        if kind == "WEBP":
            file = io.BytesIO(mend_webp(file.read(), notes))
        elif kind == "AVIF" and not metadata:
            file = io.BytesIO(without_exif(file.read()))
        header = PIL.Image.open(file, formats=[kind])
        header.info |= told_colours(file, kind) if not header.info.get("icc_profile") else {}
        return header
    pieces = list(takewhile(lambda piece: piece[4:8] != b"IDAT", png_pieces(file, notes, metadata)))
    header = PIL.Image.open(io.BytesIO(b"".join(pieces) + png_chunk(b"IDAT", b"")), formats=["PNG"])
    chunks = {piece[4:8]: piece[8:-4] for piece in pieces}
    if b"cICP" in chunks:  # which Pillow does not read
        header.info["cicp"] = tuple(chunks[b"cICP"][:2])
    return header


def _open_page(file: BinaryIO, page: int) -> PIL.Image.Image | None:
    """A page of a TIFF file as Pillow opens it, without what others tell; None where it does not know its samples."""
    file.seek(0)
    try:
        pixels = PIL.Image.open(file, formats=["TIFF"])
        if page:
            pixels.info.clear()
            pixels.seek(page)
    except Exception:  # whatever Pillow makes of it
        return None
    return pixels


def _exif_of(header: PIL.Image.Image | None) -> PIL.Image.Exif:
    """The EXIF of an image that is not decoded yet; what is damaged is empty."""
    try:
        exif = PIL.Image.Image.getexif(header)  # PNG's own would decode all of it
        for part in (IFD.Exif, IFD.GPSInfo, IFD.Interop):
            exif.get_ifd(part)
        return exif
    except Exception:  # whatever struct, or a table that points into itself, raises
        return PIL.Image.Exif()
