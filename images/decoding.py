"""Images that are held whole: Pillow decodes them, and they become arrays [H, W, 3] of uint8 or uint16, RGB.

H, W pixels. What is transparent is shown over mid-grey. Files may come from anywhere and hold anything.
"""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL.Image
from PIL.ExifTags import Base

from utils.errors import UserError

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "JPEG2000", "HEIF")  # as Pillow names them
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
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBX", "RGBA", "RGBa", "CMYK", "YCbCr", "I;16", "I;16B")
STRIP = 2**20  # pixels that are turned into RGB at a time
WHITE_IS_ZERO = 0
COLOURS_16 = re.compile("(RGB[AX]?|LA);16[LBN]")  # Pillow's names of how they are stored, with the byte order
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
        raise ImageError(name, "not a JPEG, PNG, WebP, TIFF or BMP image") from error
    except MemoryError as error:
        raise ImageError(name, "not enough memory to decode it") from error
    except Exception as error:
        # `detail` is what libvips says, without the name of its operation.
        words = getattr(error, "strerror", None), getattr(error, "detail", None), str(error), type(error).__name__
        raise ImageError(name, f"cannot be read: {next(filter(None, words))}") from error


@contextmanager
def pillow() -> Iterator[None]:
    """Pillow without warnings and without its own limit of pixels, which are as before afterwards."""
    with _PILLOW, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit, PIL.Image.MAX_IMAGE_PIXELS = PIL.Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            PIL.Image.MAX_IMAGE_PIXELS = limit


def decode(pixels: PIL.Image.Image, file: BinaryIO | None = None) -> np.ndarray:
    """All pixels [H, W, 3] of an image that Pillow has opened, from a file or not. Inside of `pillow`.

    16 bits of colours come from a file: Pillow itself keeps 8. The EXIF orientation that Pillow knows afterwards is
    not applied yet (TIFF files have been turned). ValueError for what it would decode wrongly.
    """
    check_kind(pixels)
    stored, tags = [_raw_mode(tile) for tile in getattr(pixels, "tile", ())], getattr(pixels, "tag_v2", {})
    if stored and set(stored) <= set("RGBAXCMYK") and 16 in tags.get(Base.BitsPerSample, ()):
        raise ValueError("16-bit colours that stand plane by plane without compression are not supported")
    pixels.load()
    low = _low_bytes(file) if file and stored and all(COLOURS_16.fullmatch(mode or "") for mode in stored) else None
    rows, result = max(1, STRIP // pixels.width), None
    for top in range(0, pixels.height, rows):
        box = 0, top, pixels.width, min(top + rows, pixels.height)
        strip = _colours(pixels.crop(box), low and low.crop(box), tags)
        result = np.empty((pixels.height, pixels.width, 3), strip.dtype) if result is None else result
        result[top : top + rows] = strip
    return result


def check_kind(pixels: PIL.Image.Image) -> None:
    """ValueError for samples of other types than 8 or 16 bits."""
    if pixels.mode not in MODES:
        raise ValueError(f"pixels of kind {pixels.mode} are not supported; 8 and 16-bit images are")


def from_cmyk(values: np.ndarray) -> np.ndarray:
    """RGB [h, w, 3] of CMYK [h, w, 4], both uint8 or uint16, by the simple formula."""
    most = np.uint32(np.iinfo(values.dtype).max)
    light = most - values.astype(np.uint32)
    return ((light[..., :3] * light[..., 3:] + most // 2) // most).astype(values.dtype)


def over_grey(values: np.ndarray) -> np.ndarray:
    """RGBA [h, w, 4] over mid-grey: RGB [h, w, 3] of the same type, uint8 or uint16."""
    most = np.uint32(np.iinfo(values.dtype).max)
    colours, alpha = values[..., :3].astype(np.uint32), values[..., 3:].astype(np.uint32)
    grey = (most + 1) // 2
    return ((colours * alpha + grey * (most - alpha) + most // 2) // most).astype(values.dtype)


def _colours(pixels: PIL.Image.Image, low: PIL.Image.Image | None, tags: dict) -> np.ndarray:
    """RGB [h, w, 3] of decoded pixels; `low` holds the low bytes of 16 bits where `pixels` are the high ones."""
    clear = pixels.info.get("transparency")
    if low is None and not pixels.mode.startswith("I;16"):
        if pixels.has_transparency_data:
            return over_grey(np.asarray(pixels.convert("RGBA")))
        return np.asarray(pixels if pixels.mode == "RGB" else pixels.convert("RGB"))
    values = np.asarray(pixels).astype(np.uint16)
    if low is not None:
        values = values << 8 | np.asarray(low)
        if values.shape[2] == 4:
            return over_grey(values) if pixels.has_transparency_data else values[..., :3]
    else:  # grey; TIFF may also hold 12 bits, or count from white
        if tags.get(Base.BitsPerSample) == (12,):
            values = (values.astype(np.uint32) * 65535 // 4095).astype(np.uint16)
        values = 65535 - values if tags.get(Base.PhotometricInterpretation) == WHITE_IS_ZERO else values
        values = np.repeat(values[..., None], 3, axis=2)
    return values if clear is None else np.where((values == clear).all(axis=2, keepdims=True), np.uint16(32768), values)


def _low_bytes(file: BinaryIO) -> PIL.Image.Image:
    """The low bytes of the 16-bit colours of a file: Pillow keeps the high ones, so it is told the other byte order."""
    file.seek(0)
    pixels = PIL.Image.open(file, formats=FORMATS)
    modes = [_raw_mode(tile) for tile in pixels.tile]
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
    return tile.args[0] if isinstance(tile.args, tuple) and tile.args else tile.args


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
