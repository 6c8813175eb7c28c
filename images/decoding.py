"""Images that are held whole: Pillow decodes them, and they become arrays [H, W, 3] of uint8 or uint16, RGB.

H, W pixels. What is transparent is shown over mid-grey. Files may come from anywhere and hold anything.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL.Image
from PIL.ExifTags import Base

from utils.errors import UserError

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP")
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBX", "RGBA", "RGBa", "CMYK", "YCbCr", "I;16", "I;16B")
STRIP = 2**20  # pixels that are turned into RGB at a time
WHITE_IS_ZERO = 0
# Pillow keeps the high byte of 16-bit colours. Naming the opposite byte order makes it keep the low one.
NATIVE, SWAPPED = ("L", "B") if np.little_endian else ("B", "L")
OPPOSITE = {
    f"{mode};16{order}": f"{mode};16{other}"
    for mode in ("RGB", "RGBA", "RGBX")
    for order, other in (("L", "B"), ("B", "L"), ("N", SWAPPED))
}
# Grey with alpha has no such pair of names, but its bytes can be read as they are: grey high, low, alpha high, low.
GREY_ALPHA = "LA;16B"
OPPOSITE[GREY_ALPHA] = "RGBA"

_PILLOW = threading.RLock()  # its limit of pixels and the filters of warnings belong to the whole process


class ImageError(UserError):
    """An image that cannot be used: its path or name, and the reason, in one line."""

    def __init__(self, name: str | Path, reason: object):
        super().__init__(name, reason)
        self.name = _one_line(name)
        self.reason = _one_line(reason)

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


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
    if _is_split(pixels):
        raise ValueError("16-bit colours that stand plane by plane without compression are not supported")
    stored = [_raw_mode(tile.args) for tile in getattr(pixels, "tile", ())]
    pixels.load()
    low = _low_bytes(file) if file and stored and all(mode in OPPOSITE for mode in stored) else None
    rows = max(1, STRIP // pixels.width)
    boxes = ((0, top, pixels.width, min(top + rows, pixels.height)) for top in range(0, pixels.height, rows))
    strips = (_colours(pixels, low, box) for box in boxes)
    first = next(strips)
    result = np.empty((pixels.height, pixels.width, 3), first.dtype)
    result[: len(first)] = first
    for number, strip in enumerate(strips, 1):
        result[number * rows : number * rows + len(strip)] = strip
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


def _colours(pixels: PIL.Image.Image, low: PIL.Image.Image | None, box: tuple[int, int, int, int]) -> np.ndarray:
    """RGB [h, w, 3] of a box (left, top, right, bottom); `low` holds the low bytes where `pixels` are the high ones."""
    crop = pixels.crop(box)
    if crop.mode.startswith("I;16"):
        return _grey_16(crop, getattr(pixels, "tag_v2", {}))
    if low is not None:
        values = np.asarray(crop).astype(np.uint16) << 8 | np.asarray(low.crop(box))
        return over_grey(values) if values.shape[2] == 4 else _without_colour(values, crop.info.get("transparency"))
    if crop.has_transparency_data:
        return over_grey(np.asarray(crop.convert("RGBA")))
    return np.asarray(crop.convert("RGB"))


def _low_bytes(file: BinaryIO) -> PIL.Image.Image:
    """The low bytes of the 16-bit colours of a file."""
    file.seek(0)
    pixels = PIL.Image.open(file, formats=FORMATS)
    grey_alpha = [tile.args for tile in pixels.tile] == [GREY_ALPHA]
    pixels.tile = [tile._replace(args=_opposite(tile.args)) for tile in pixels.tile]
    pixels.load()
    if not grey_alpha:
        return pixels
    _, grey, _, alpha = pixels.split()
    return PIL.Image.merge("RGBA", (grey, grey, grey, alpha))


def _raw_mode(args: str | tuple | None) -> str | None:
    return args[0] if isinstance(args, tuple) and args else args


def _opposite(args: str | tuple) -> str | tuple:
    raw_mode = OPPOSITE[_raw_mode(args)]
    return (raw_mode, *args[1:]) if isinstance(args, tuple) else raw_mode


def _is_split(pixels: PIL.Image.Image) -> bool:
    """Whether Pillow would take the bytes of planes of 16 bits for pixels of 8."""
    bits = getattr(pixels, "tag_v2", {}).get(Base.BitsPerSample, ())
    raw_modes = {_raw_mode(tile.args) for tile in getattr(pixels, "tile", ())}
    return 16 in bits and raw_modes <= set("RGBAXCMYK")


def _grey_16(crop: PIL.Image.Image, tags: dict) -> np.ndarray:
    """[h, w, 3] uint16 of 16-bit grey; TIFF may also hold 12 bits, or count from white."""
    values = np.asarray(crop).astype(np.uint16)
    if tags.get(Base.BitsPerSample) == (12,):
        values = (values.astype(np.uint32) * 65535 // 4095).astype(np.uint16)
    if tags.get(Base.PhotometricInterpretation) == WHITE_IS_ZERO:
        values = 65535 - values
    return _without_colour(np.repeat(values[..., None], 3, axis=2), crop.info.get("transparency"))


def _without_colour(values: np.ndarray, transparent: int | tuple | None) -> np.ndarray:
    """16-bit colours [h, w, 3] with the one that stands for transparency replaced by mid-grey."""
    if transparent is None:
        return values
    return np.where((values == np.asarray(transparent)).all(axis=2, keepdims=True), np.uint16(32768), values)


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
