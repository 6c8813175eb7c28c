"""Images that are held whole: Pillow decodes them, and they become arrays [H, W, 3] of uint8 or uint16, sRGB.

H, W pixels. What is transparent is shown over mid-grey. Files may come from anywhere and hold anything. Formats are
recognised by content.
"""

from __future__ import annotations

import io
import re
import struct
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL.Image
from PIL import PngImagePlugin
from PIL.ExifTags import IFD, Base, Interop

from images.colours import ADOBE_RGB, CURVES, D65, PRIMARIES, Colours, from_curve, from_lab, noted_colours
from images.mending import is_filled, mend, mend_webp, png_chunk, png_pieces, told_colours, without_exif
from images.windows import FIRST_OF, REDUCED, tiff_pictures
from utils.errors import UserError

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
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBX", "RGBA", "RGBa", "CMYK", "YCbCr", "LAB", "I;16", "I;16B")
GREY_MODES = ("1", "L", "LA", "I;16", "I;16B")
MENDED = ("JPEG", "BMP", "TIFF", "GIF")
STRIP = 2**20  # pixels that are turned into sRGB at a time
LONGEST_TEXT = 2**24  # bytes that a compressed chunk of PNG may become
WHITE_IS_ZERO = 0
SRGB_GAMMA, SAME_GAMMA, SAME_PRIMARIES = 0.45455, 0.001, 0.001  # by which many programs mean sRGB
COLOURS_16 = re.compile("(RGB[AX]?|LA|CMYK);16[LBN]")  # Pillow's names of how they are stored, with the byte order
GREY_ALPHA = "LA;16B"
OTHER_ORDER = {"L": "B", "B": "L", "N": "B" if np.little_endian else "L"}

_PILLOW = threading.RLock()  # its limit of pixels and the filters of warnings belong to the whole process


class ImageError(UserError):
    """An image that cannot be used: its path or name, and the reason, in one line."""

    def __init__(self, name: str | Path, reason: object):
        super().__init__(name, reason)
        self.name = _one_line(name)
        self.reason = _one_line(reason)

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


def open_header(file: BinaryIO, kind: str, notes: list[str]) -> PIL.Image.Image:
    """A file of a format that `recognise` named, opened but not decoded. Inside of `pillow`; `notes` get what is odd.

    Metadata that Pillow fails on are left out. ValueError for what is no picture of its own.
    """
    if kind == "HEIF":
        import_module(HEIF_PLUGIN).register_heif_opener()
    try:
        header = _open(file, kind, notes, metadata=True)
    except Exception:
        notes.clear()
        header = _open(file, kind, notes, metadata=False)
    tags = getattr(header, "tag_v2", {})
    if Base.DNGVersion in tags or (tags.get(Base.NewSubfileType, 0) & REDUCED and Base.SubIFDs in tags):
        raise ValueError("it is a raw photograph; develop it first")
    pictures = _pictures(header, file)
    if len(pictures) > 1:
        notes.append(FIRST_OF.format(len(pictures)))
    return _open_page(file, kind, pictures[0]) if pictures[0] else header


def exif_of(header: PIL.Image.Image) -> PIL.Image.Exif:
    """The EXIF of an image that is not decoded yet; what is damaged is empty."""
    try:
        exif = PIL.Image.Image.getexif(header)  # PNG's own would decode all of it
        for part in (IFD.Exif, IFD.GPSInfo, IFD.Interop):
            exif.get_ifd(part)
        return exif
    except Exception:  # whatever struct, or a table that points into itself, raises
        return PIL.Image.Exif()


def colours_of(header: PIL.Image.Image, deep: bool, notes: list[str]) -> Colours:
    """How the samples of an image that Pillow opened become sRGB; `deep`: whether they have 16 bits.

    A profile that cannot be used costs a note.
    """
    if header.mode == "LAB":
        return from_lab()
    grey = header.mode in GREY_MODES or GREY_ALPHA in stored_modes(header)
    count = 4 if header.mode == "CMYK" else 1 if grey else 3
    return noted_colours(count, lambda: _profile(header), deep, notes)


def stored_modes(pixels: PIL.Image.Image) -> list[str | None]:
    """Pillow's names of how the parts of an image that is not decoded yet are stored."""
    return [_raw_mode(tile) for tile in getattr(pixels, "tile", ())]


def is_jpeg(pixels: PIL.Image.Image) -> bool:
    """Whether an image is JPEG, of a file with one picture or several."""
    return pixels.format in ("JPEG", "MPO")


def is_deep(pixels: PIL.Image.Image) -> bool:
    """Whether an image that is not decoded yet has 16 bits for each colour."""
    stored = stored_modes(pixels)
    return pixels.mode.startswith("I;16") or bool(stored and all(COLOURS_16.fullmatch(mode or "") for mode in stored))


def decode(pixels: PIL.Image.Image, colours: Colours, notes: list[str], file: BinaryIO | None = None) -> np.ndarray:
    """All pixels [H, W, 3] of an image that Pillow has opened, from a file or not. Inside of `pillow`.

    16 bits of colours come from a file: Pillow itself keeps 8. An EXIF orientation is not applied yet, but TIFF files
    have been turned. OSError or ValueError where rows are missing, or for what it would decode wrongly.
    """
    _check_parts(pixels)
    tags, low = getattr(pixels, "tag_v2", {}), None
    if file and pixels.format == "PNG":
        file = io.BytesIO(b"".join(png_pieces(file, notes, metadata=False)))
        pixels = PIL.Image.open(file, formats=["PNG"])
    if file and is_deep(pixels) and not pixels.mode.startswith("I;16"):
        low = _low_bytes(file, pixels.format, pixels.tell())
    kind = "JPEG" if is_jpeg(pixels) else pixels.format
    try:
        cut = file and kind == "JPEG" and is_filled(file)
        if not cut:
            pixels.load()
    except OSError:
        if not file or kind not in MENDED or pixels.tell():
            raise
        cut = True
    if cut:
        file.seek(0)
        data, note = mend(file.read(), kind)
        notes.append(note)
        pixels = PIL.Image.open(io.BytesIO(data), formats=[kind])
    rows, result = max(1, STRIP // pixels.width), None
    for top in range(0, pixels.height, rows):
        box = 0, top, pixels.width, min(top + rows, pixels.height)
        strip = _shown(pixels.crop(box), low and low.crop(box), tags, colours)
        result = np.empty((pixels.height, pixels.width, 3), strip.dtype) if result is None else result
        result[top : top + rows] = strip
    return result


def _check_parts(pixels: PIL.Image.Image) -> None:
    """ValueError where the parts of an image do not cover it, or for samples of other types than 8 or 16 bits."""
    if pixels.mode not in MODES:
        raise ValueError(f"pixels of kind {pixels.mode} are not supported; 8 and 16-bit images are")
    boxes = [tile.extents for tile in getattr(pixels, "tile", ()) if tile.extents]
    if boxes and sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes) < pixels.width * pixels.height:
        raise ValueError("it ends too early: rows are missing")


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


def _pictures(header: PIL.Image.Image, file: BinaryIO) -> Sequence[int]:
    """The pages of a file that are pictures, no smaller copies or masks; the first one where there are none."""
    if header.format != "TIFF" or not header.is_animated:
        return range(getattr(header, "n_frames", 1))
    file.seek(0)
    return tiff_pictures(file)


def _open_page(file: BinaryIO, kind: str, page: int) -> PIL.Image.Image:
    """A page of a file, not decoded, without what others tell. UnidentifiedImageError for samples unknown to Pillow."""
    file.seek(0)
    pixels = PIL.Image.open(file, formats=[kind])
    if page:
        pixels.info.clear()
        try:
            pixels.seek(page)
        except (SyntaxError, LookupError, TypeError, struct.error) as error:
            raise PIL.UnidentifiedImageError(str(error)) from error
    return pixels


def _profile(header: PIL.Image.Image) -> bytes | None:
    """The ICC profile of an image, embedded or made of what it says of its colours; None for sRGB.

    ValueError for colours that none describes.
    """
    info = header.info
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
    if exif_of(header).get_ifd(IFD.Interop).get(Interop.InteropIndex) == "R03":  # cameras name Adobe RGB so
        return from_curve(*ADOBE_RGB)
    return None


def _shown(pixels: PIL.Image.Image, low: PIL.Image.Image | None, tags: dict, colours: Colours) -> np.ndarray:
    """sRGB [h, w, 3] of decoded pixels; `low` holds the low bytes of 16 bits where `pixels` are the high ones."""
    clear = pixels.info.get("transparency")
    if low is None and not pixels.mode.startswith("I;16"):
        mode = {1: "L", 3: "RGB", 4: "CMYK"}[colours.count]
        if pixels.has_transparency_data:
            mode = {"L": "LA", "RGB": "RGBA"}[mode]
        values = np.asarray(pixels if pixels.mode in (mode, "LAB") else pixels.convert(mode))
        return colours(values if values.ndim == 3 else values[..., None])
    values = np.asarray(pixels).astype(np.uint16)
    if low is not None:
        values = values << 8 | np.asarray(low)
        if colours.count == 1:
            values = values[..., [0, 3]]
        values = values[..., : colours.count + pixels.has_transparency_data]
    else:  # grey; TIFF may also hold 12 bits, or count from white
        if tags.get(Base.BitsPerSample) == (12,):
            values = (values.astype(np.uint32) * 65535 // 4095).astype(np.uint16)
        values = 65535 - values if tags.get(Base.PhotometricInterpretation) == WHITE_IS_ZERO else values
        values = values[..., None]
    shown = colours(values)
    return shown if clear is None else np.where((values == clear).all(axis=2, keepdims=True), np.uint16(32768), shown)


def _low_bytes(file: BinaryIO, kind: str, page: int) -> PIL.Image.Image:
    """The low bytes of the 16-bit colours of a file: Pillow keeps the high ones, so it is told the other byte order."""
    pixels = _open_page(file, kind, page)
    modes = stored_modes(pixels)
    # Grey with alpha is read as it is: grey high, low, alpha high, low.
    others = ["RGBA" if mode == GREY_ALPHA else mode[:-1] + OTHER_ORDER[mode[-1]] for mode in modes]
    pixels.tile = [
        tile._replace(args=(mode, *tile.args[1:]) if isinstance(tile.args, tuple) else mode)
        for tile, mode in zip(pixels.tile, others, strict=True)
    ]
    pixels.load()
    if GREY_ALPHA not in modes:
        return pixels
    _, grey, _, alpha = pixels.split()
    return PIL.Image.merge("RGBA", (grey, grey, grey, alpha))


def _raw_mode(tile: Any) -> str | None:
    mode = tile.args[0] if isinstance(tile.args, tuple) and tile.args else tile.args
    return mode if isinstance(mode, str) else None


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
