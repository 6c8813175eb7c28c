"""The one decoder of image files, which may come from anywhere and hold anything.

A file is refused before it is decoded when its header promises too many pixels, and refused as a whole when any part
of it cannot be read. Pixels stay as the file holds them (palette, CMYK, alpha, 16 bits, any EXIF orientation) and are
turned into RGB only for the window that is asked for, so an image costs one buffer. Arrays are [H, W, 3], RGB.
"""

from __future__ import annotations

import io
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
from PIL.ExifTags import Base

from models.geometry import reflect
from utils.errors import UserError

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP")
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".png", ".webp", ".tif", ".tiff", ".bmp")
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBX", "RGBA", "RGBa", "CMYK", "YCbCr", "I;16", "I;16B")
WHITE_IS_ZERO = 0
LONGEST_PNG_EDGE = 1_000_000  # pixels that libpng writes and reads

# EXIF orientation -> how the shown image comes from the stored one: (transpose, then flip rows, then flip columns).
ORIENTATIONS = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
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


class ImageError(UserError):
    """An image that cannot be used: its path or name, and the reason, in one line."""

    def __init__(self, name: str | Path, reason: str):
        super().__init__(name, reason)
        self.name = _one_line(name)
        self.reason = _one_line(reason)

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class Image:
    """A decoded image, read by window. `height` and `width` are those after the EXIF orientation is applied."""

    def __init__(
        self,
        pixels: PIL.Image.Image,                # as stored
        low: PIL.Image.Image | None = None,     # low bytes of 16-bit colours, whose high bytes are `pixels`
        orientation: int = 1,                   # EXIF, 1 to 8; anything else means 1
        name: str = "image",                    # stands in messages
    ):
        self.name = name
        self._pixels = pixels
        self._low = low
        self._transposed, self._flip_rows, self._flip_columns = ORIENTATIONS.get(orientation, ORIENTATIONS[1])
        self.height, self.width = pixels.size if self._transposed else pixels.size[::-1]

    @property
    def transparent(self) -> bool:
        """Whether the file has an alpha channel or a transparent colour; both are shown over mid-grey."""
        return self._pixels.has_transparency_data

    def window(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """8-bit pixels [height, width, 3] uint8; what lies outside of the image is reflected at its border."""
        values = self._window(top, left, height, width)
        # 257 = 65535 / 255
        return values if values.dtype == np.uint8 else ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)

    def window_float(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Pixels [height, width, 3] float32 in [-1, 1] at the precision of the file, reflected as in `window`."""
        values = self._window(top, left, height, width)
        half = np.float32(np.iinfo(values.dtype).max / 2)
        values = values.astype(np.float32)
        values /= half
        values -= 1
        return values

    def _window(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Pixels [height, width, 3] uint8 or uint16; reads only the bounding box of what the reflection touches."""
        rows = reflect(np.arange(top, top + height), self.height)
        columns = reflect(np.arange(left, left + width), self.width)
        first_row, first_column = rows.min(), columns.min()
        block = self._read(int(first_row), int(first_column), int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1)
        if top == first_row and left == first_column and block.shape[:2] == (height, width):
            return block
        return block.take(rows - first_row, axis=0).take(columns - first_column, axis=1)

    def _read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """The box of the shown image, which lies inside of it."""
        if self._flip_rows:
            top = self.height - top - height
        if self._flip_columns:
            left = self.width - left - width
        if self._transposed:
            block = self._stored(top, left, top + height, left + width).swapaxes(0, 1)
        else:
            block = self._stored(left, top, left + width, top + height)
        return block[:: -1 if self._flip_rows else 1, :: -1 if self._flip_columns else 1]

    def _stored(self, *box: int) -> np.ndarray:
        """RGB pixels of a box (left, top, right, bottom) of the stored image."""
        crop = self._pixels.crop(box)
        if crop.mode.startswith("I;16"):
            return _grey_16(crop, self._pixels)
        if self._low is not None:
            return _colours_16(crop, self._low.crop(box))
        if crop.has_transparency_data:
            return _over_grey(np.asarray(crop.convert("RGBA")))
        return np.asarray(crop if crop.mode == "RGB" else crop.convert("RGB"))


def open_image(source: str | Path | bytes, max_pixels: int, name: str | None = None) -> Image:
    """Decode a file, or the bytes of one, of at most `max_pixels` pixels; `name` stands in messages for the bytes.

    Animations give their first frame. Raises ImageError for whatever is not a whole JPEG, PNG, WebP, TIFF or BMP image.
    """
    name = name or ("image" if isinstance(source, bytes) else str(source))
    with _strangers(name, max_pixels):
        _check_file(source, name)
        pixels, deep = _load(source, name, max_pixels)
        low = _load(source, name, max_pixels, low=True)[0] if deep else None
        # TIFF has been turned by Pillow, which then forgets the tag.
        image = Image(pixels, low, pixels.getexif().get(Base.Orientation, 1), name)
        image.window(0, 0, 1, 1)  # an impossible conversion shows here and not later
    return image


def find_images(folder: str | Path) -> list[Path]:
    """Files below a folder that are named like images, sorted; hidden files and folders are left out."""
    found = []
    for where, folders, files in os.walk(folder):
        folders[:] = [each for each in folders if not each.startswith(".")]
        found += [Path(where, each) for each in files if _named_like_image(each)]
    # A broken link stays, to be named as damaged; a pipe does not: to read it would block.
    return sorted((path for path in found if path.is_file() or not path.exists()), key=lambda path: path.parts)


def check_side(key: str, side: int, max_pixels: int) -> None:
    """UserError, naming the option `key`, where a shorter side is too long for every image, whatever its shape."""
    if side**2 > max_pixels:
        raise UserError(f"{key}={side}: even a square has more pixels then than max_pixels={max_pixels} allows")


def with_shorter_side(image: Image, side: int, max_pixels: int) -> Image:
    """The image resized so that its shorter side has `side` pixels, at 8 bits; an image of that size as it is.

    ImageError where it would have more than `max_pixels` pixels.
    """
    shorter = min(image.height, image.width)
    if shorter == side:
        return image
    height, width = (max(1, round(length * side / shorter)) for length in (image.height, image.width))
    if height * width > max_pixels:
        raise ImageError(
            image.name, f"resized to {height} x {width} is more than max_pixels ({max_pixels}) allows"
        )
    pixels = image.window(0, 0, image.height, image.width)
    method = cv2.INTER_AREA if side < shorter else cv2.INTER_LANCZOS4
    resized = cv2.resize(np.ascontiguousarray(pixels), (width, height), interpolation=method)
    return Image(PIL.Image.fromarray(resized), name=image.name)


def encode_png(image: Image) -> bytes:
    """The image as an 8-bit RGB PNG; ImageError where an edge is longer than PNG readers accept."""
    if max(image.height, image.width) > LONGEST_PNG_EDGE:
        raise ImageError(
            image.name, f"{image.height} x {image.width} as PNG: an edge has at most {LONGEST_PNG_EDGE} pixels"
        )
    pixels = image.window(0, 0, image.height, image.width)
    return cv2.imencode(".png", np.ascontiguousarray(pixels[..., ::-1]))[1].tobytes()


def area_matrix(size_in: int, size_out: int) -> np.ndarray:
    """Weights [size_out, size_in] float32 of resampling by area: the share of each input in an output; rows sum to 1.

    Lengths are counted in 1 / size_out of an input, so the weights are exact for any ratio, enlarging too.
    """
    outputs = np.arange(size_out)[:, None] * size_in
    inputs = np.arange(size_in)[None] * size_out
    overlap = np.minimum(outputs + size_in, inputs + size_out) - np.maximum(outputs, inputs)
    return (np.maximum(overlap, 0) / size_in).astype(np.float32)


def thumbnail(image: Image, size: int, strip: int = 256) -> np.ndarray:
    """The whole image as [size, size, 3] float32 in [-1, 1], resampled by area from `strip` rows at a time."""
    vertical = area_matrix(image.height, size)  # [size, H]
    total = np.zeros((size, image.width * 3), np.float32)
    for top in range(0, image.height, strip):
        rows = image.window_float(top, 0, min(strip, image.height - top), image.width)
        weights = vertical[:, top : top + len(rows)]
        used = np.flatnonzero(weights.any(axis=1))
        total[used] += _multiply(weights[used], rows.reshape(len(rows), -1))
    columns = total.reshape(size, image.width, 3).swapaxes(0, 1).reshape(image.width, -1)  # [W, size * 3]
    result = _multiply(area_matrix(image.width, size), columns).reshape(size, size, 3)  # columns first
    return np.ascontiguousarray(result.swapaxes(0, 1))


def _multiply(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """weights [M, N] @ values [N, K] for rows of weights whose nonzeros stand together.

    The sum runs in one order and in this thread, so that the bits do not depend on the number of threads as BLAS's do.
    """
    first = (weights > 0).argmax(axis=1)
    taps = int(np.count_nonzero(weights, axis=1).max())
    padded = np.pad(weights, ((0, 0), (0, taps)))  # beyond the end weights are zero
    total = np.zeros((len(weights), values.shape[1]), np.float32)
    for tap in range(taps):
        weight = np.take_along_axis(padded, first[:, None] + tap, axis=1)
        total += weight * values[np.minimum(first + tap, len(values) - 1)]
    return total


@contextmanager
def _strangers(name: str, max_pixels: int) -> Iterator[None]:
    """Decoders raise whatever they like on a hostile file (struct.error, SyntaxError ...): it becomes ImageError."""
    PIL.Image.MAX_IMAGE_PIXELS = max_pixels
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
            yield
    except ImageError:
        raise
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning) as error:
        raise ImageError(name, f"larger than the {max_pixels} pixels that max_pixels allows") from error
    except PIL.UnidentifiedImageError as error:
        raise ImageError(name, "not a JPEG, PNG, WebP, TIFF or BMP image") from error
    except MemoryError as error:
        raise ImageError(name, "not enough memory to decode it") from error
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ImageError(name, f"cannot be read: {reason}") from error


def _named_like_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def _check_file(source: str | Path | bytes, name: str) -> None:
    """Refuse what must not even be opened: a pipe would block for ever."""
    if isinstance(source, bytes):
        size = len(source)
    else:
        status = os.stat(source)
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(name, "is a folder, not an image")
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(name, "is not a regular file")
        size = status.st_size
    if size == 0:
        raise ImageError(name, "is empty")


def _load(
    source: str | Path | bytes, name: str, max_pixels: int, low: bool = False
) -> tuple[PIL.Image.Image, bool]:
    """Decode, and tell whether these are the high bytes of 16-bit colours; with `low`, decode the low bytes."""
    # A file handle, not a path: Pillow maps files that it is given by path, and a file that shrinks would kill us.
    with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
        pixels = PIL.Image.open(file, formats=FORMATS)
        if pixels.width * pixels.height > max_pixels:
            raise ImageError(name, f"{pixels.width} x {pixels.height} is more than max_pixels ({max_pixels}) allows")
        if pixels.mode not in MODES:
            raise ImageError(name, f"pixels of kind {pixels.mode} are not supported; 8 and 16-bit images are")
        deep = all(_raw_mode(tile.args) in OPPOSITE for tile in pixels.tile)
        grey_alpha = [tile.args for tile in pixels.tile] == [GREY_ALPHA]
        if low:
            pixels.tile = [tile._replace(args=_opposite(tile.args)) for tile in pixels.tile]
        pixels.load()
    if low and grey_alpha:
        _, grey, _, alpha = pixels.split()
        pixels = PIL.Image.merge("RGBA", (grey, grey, grey, alpha))
    return pixels, deep


def _raw_mode(args: str | tuple | None) -> str | None:
    return args[0] if isinstance(args, tuple) and args else args


def _opposite(args: str | tuple) -> str | tuple:
    raw_mode = OPPOSITE[_raw_mode(args)]
    return (raw_mode, *args[1:]) if isinstance(args, tuple) else raw_mode


def _grey_16(crop: PIL.Image.Image, whole: PIL.Image.Image) -> np.ndarray:
    """[h, w, 3] uint16 of 16-bit grey; TIFF may also hold 12 bits, or count from white."""
    values = np.asarray(crop).astype(np.uint16)
    tags = getattr(whole, "tag_v2", {})
    if tags.get(Base.BitsPerSample) == (12,):
        values = (values.astype(np.uint32) * 65535 // 4095).astype(np.uint16)
    if tags.get(Base.PhotometricInterpretation) == WHITE_IS_ZERO:
        values = 65535 - values
    colours = np.repeat(values[..., None], 3, axis=2)
    return _without_colour(colours, crop.info.get("transparency"))


def _colours_16(high: PIL.Image.Image, low: PIL.Image.Image) -> np.ndarray:
    """[h, w, 3] uint16 from the two bytes of each colour."""
    values = np.asarray(high).astype(np.uint16) << 8 | np.asarray(low)
    return _over_grey(values) if values.shape[2] == 4 else _without_colour(values, high.info.get("transparency"))


def _without_colour(values: np.ndarray, transparent: int | tuple | None) -> np.ndarray:
    """16-bit colours [h, w, 3] with the one that stands for transparency replaced by mid-grey."""
    if transparent is None:
        return values
    return np.where((values == np.asarray(transparent)).all(axis=2, keepdims=True), np.uint16(32768), values)


def _over_grey(values: np.ndarray) -> np.ndarray:
    """RGBA [h, w, 4] over mid-grey: [h, w, 3] of the same type."""
    most = int(np.iinfo(values.dtype).max)
    colours, alpha = values[..., :3].astype(np.uint64), values[..., 3:].astype(np.uint64)
    grey = (most + 1) // 2
    return ((colours * alpha + grey * (most - alpha) + most // 2) // most).astype(values.dtype)


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
