"""The one decoder of image files, which may come from anywhere and hold anything.

A file is refused before it is decoded when its header promises too many pixels, and refused as a whole when any part
of it cannot be read. Pixels stay as the file holds them (palette, CMYK, alpha, 16 bits, any EXIF orientation) and are
turned into RGB only for the window that is asked for, so an image costs one buffer. A large TIFF file costs a fixed
cache instead: it is decoded where a window is asked for, and damage in it shows there. Arrays are [H, W, 3], RGB.
"""

from __future__ import annotations

import io
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
from PIL.ExifTags import Base

from datasets.tiff import NotByWindow, Pixels, Windows
from models.geometry import reflect
from utils.errors import UserError

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP")
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".png", ".webp", ".tif", ".tiff", ".bmp")
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBX", "RGBA", "RGBa", "CMYK", "YCbCr", "I;16", "I;16B")
WHITE_IS_ZERO = 0
LONGEST_PNG_EDGE = 1_000_000  # pixels that libpng writes and reads
WINDOWED = 2**24  # pixels; TIFF files of more are read by window
CHUNK = 512, 2048  # rows and columns that a thumbnail reads at once
SUMS = 2**22  # of each colour that it keeps, 12 bytes each

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


class Decoded:
    """Pixels of an image that Pillow has decoded: its buffer, or two of 16-bit colours. Turned into RGB when read."""

    by_window = False

    def __init__(self, pixels: PIL.Image.Image, low: PIL.Image.Image | None = None):
        self._pixels, self._low = pixels, low  # `low` are the low bytes where `pixels` are the high ones
        self.size = pixels.size
        self.held = sum(each.width * each.height * _bytes_per_pixel(each.mode) for each in (pixels, low) if each)
        self.transparent = pixels.has_transparency_data

    def read(self, left: int, top: int, right: int, bottom: int) -> np.ndarray:
        """RGB pixels of a box."""
        box = left, top, right, bottom
        crop = self._pixels.crop(box)
        if crop.mode.startswith("I;16"):
            return _grey_16(crop, self._pixels)
        if self._low is not None:
            return _colours_16(crop, self._low.crop(box))
        if crop.has_transparency_data:
            return _over_grey(np.asarray(crop.convert("RGBA")))
        return np.asarray(crop if crop.mode == "RGB" else crop.convert("RGB"))


class Image:
    """An image, read by window. `height` and `width` are those after the EXIF orientation is applied."""

    def __init__(
        self,
        pixels: Pixels | PIL.Image.Image,   # as stored
        orientation: int = 1,               # EXIF, 1 to 8; anything else means 1
        name: str = "image",                # stands in messages
    ):
        self.name = name
        self._pixels = Decoded(pixels) if isinstance(pixels, PIL.Image.Image) else pixels
        self._transposed, self._flip_rows, self._flip_columns = ORIENTATIONS.get(orientation, ORIENTATIONS[1])
        size = self._pixels.size
        self.height, self.width = size if self._transposed else size[::-1]

    @property
    def by_window(self) -> bool:
        """Whether windows are decoded from the file when they are asked for: ImageError then, where it is damaged."""
        return self._pixels.by_window

    @property
    def held(self) -> int:
        """Bytes of decoded pixels that the image keeps: all of them, or at most these if it is read by window."""
        return self._pixels.held

    @property
    def transparent(self) -> bool:
        """Whether the file has an alpha channel or a transparent colour; both are shown over mid-grey."""
        return self._pixels.transparent

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
        box = (top, left, top + height, left + width) if self._transposed else (left, top, left + width, top + height)
        # Errors of a buffer are ours, and a lack of memory concerns the window.
        with _others_errors(self.name) if self.by_window else nullcontext():
            block = self._pixels.read(*box)
        block = block.swapaxes(0, 1) if self._transposed else block
        return block[:: -1 if self._flip_rows else 1, :: -1 if self._flip_columns else 1]


def open_image(
    source: str | Path | bytes, max_pixels: int, name: str | None = None, by_window: bool = False
) -> Image:
    """Decode a file, or the bytes of one, of at most `max_pixels` pixels; `name` stands in messages for the bytes.

    With `by_window`, a TIFF file of more than WINDOWED pixels is read by window where its layout allows it: then
    `max_pixels` only limits its strips or tiles, and damage shows when a window is asked for. Animations give their
    first frame. Raises ImageError for whatever is not a whole JPEG, PNG, WebP, TIFF or BMP image.
    """
    name = name or ("image" if isinstance(source, bytes) else str(source))
    with _strangers(name, max_pixels):
        _check_file(source, name)
        image = _by_window(source, name, max_pixels) if by_window and not isinstance(source, bytes) else None
        if image is None:
            decoded, orientation = _decode(source, name, max_pixels)
            image = Image(decoded, orientation, name)
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
    """Weights [size_out, size_in] float32 of resampling by area: shares of the inputs in an output; rows sum to 1."""
    return _shares(size_in, size_out, np.arange(size_out)[:, None], np.arange(size_in)[None])


def thumbnail(image: Image, size: int, strip: int = 256) -> np.ndarray:
    """The whole image as [size, size, 3] float32 in [-1, 1], resampled by area from `strip` rows at a time.

    Memory does not grow with the image. Its rows are read from above, once for each group of SUMS / size columns.
    """
    result = np.zeros((size, size, 3), np.float32)  # columns first
    group = max(CHUNK[1], SUMS // size)
    for left in range(0, image.width, group):
        rows = _shrunk_columns(image, size, strip, left, min(group, image.width - left))
        _add_shares(result, rows.swapaxes(0, 1), image.width, left)
    return np.ascontiguousarray(result.swapaxes(0, 1))


def _shrunk_columns(image: Image, size: int, strip: int, left: int, width: int) -> np.ndarray:
    """`width` columns of an image from `left` on, resampled to [size, width, 3]."""
    total = np.zeros((size, width, 3), np.float32)
    height = strip * max(1, CHUNK[0] // strip)
    for top in range(0, image.height, height):
        for start in range(0, width, CHUNK[1]):
            part = total[:, start : start + CHUNK[1]]
            rows = image.window_float(top, left + start, min(height, image.height - top), part.shape[1])
            for first in range(0, len(rows), strip):
                _add_shares(part, rows[first : first + strip], image.height, top + first)
    return total


def _add_shares(total: np.ndarray, values: np.ndarray, size_in: int, start: int) -> None:
    """Add to all outputs `total` [size_out, ...] the shares of some inputs, `values` [n, ...] from `start` on.

    The sum runs in one order and in this thread, so that the bits do not depend on the number of threads as BLAS's do.
    """
    size_out, end = len(total), start + len(values)
    outputs = np.arange(start * size_out // size_in, (end * size_out - 1) // size_in + 1)
    first = np.maximum(outputs * size_in // size_out, start)
    inputs = first + np.arange(min(size_in // size_out + 2, len(values)))[:, None]
    shares = np.where(inputs < end, _shares(size_in, size_out, outputs, inputs), np.float32(0))
    part = np.zeros((len(outputs), *values.shape[1:]), np.float32)
    for share, place in zip(shares, np.minimum(inputs, end - 1) - start, strict=True):
        part += share[:, None, None] * values[place]
    total[outputs[0] : outputs[-1] + 1] += part


def _shares(size_in: int, size_out: int, outputs: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """Shares float32 of inputs in outputs, both by their numbers. Arrays of shapes that fit one another.

    Lengths are counted in 1 / size_out of an input, so the weights are exact for any ratio, enlarging too.
    """
    overlap = np.minimum((outputs + 1) * size_in, (inputs + 1) * size_out)
    overlap -= np.maximum(outputs * size_in, inputs * size_out)
    return (np.maximum(overlap, 0) / size_in).astype(np.float32)


@contextmanager
def _strangers(name: str, max_pixels: int) -> Iterator[None]:
    """What decoders raise on a hostile file becomes ImageError, and so do Pillow's warnings of too many pixels."""
    PIL.Image.MAX_IMAGE_PIXELS = max_pixels
    with warnings.catch_warnings(), _others_errors(name):
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
        yield


@contextmanager
def _others_errors(name: str) -> Iterator[None]:
    """Decoders raise whatever they like on a hostile file (struct.error, SyntaxError ...): it becomes ImageError."""
    try:
        yield
    except ImageError:
        raise
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning) as error:
        raise ImageError(name, f"larger than the {PIL.Image.MAX_IMAGE_PIXELS} pixels that max_pixels allows") from error
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


def _by_window(path: str | Path, name: str, max_pixels: int) -> Image | None:
    """A large TIFF file whose layout allows to read it by window; None where all of it has to be decoded at once."""

    def decode(data: bytes) -> Decoded:
        return _decode(data, name, max_pixels)[0]

    try:
        windows = Windows(path, decode, WINDOWED, max_pixels)
        with PIL.Image.open(io.BytesIO(windows.head()), formats=["TIFF"]) as head:
            return Image(windows, head.getexif().get(Base.Orientation, 1), name)
    except NotByWindow as error:
        if error.pixels > max_pixels:
            allowed = f"max_pixels ({max_pixels}) allows, and it cannot be read by window: {error}"
            raise ImageError(name, f"has {error.pixels} pixels, more than {allowed}") from error
        return None


def _decode(source: str | Path | bytes, name: str, max_pixels: int) -> tuple[Decoded, int]:
    """The pixels of a file, and its EXIF orientation."""
    pixels, deep = _load(source, name, max_pixels)
    low = _load(source, name, max_pixels, low=True)[0] if deep else None
    # TIFF has been turned by Pillow, which then forgets the tag.
    return Decoded(pixels, low), pixels.getexif().get(Base.Orientation, 1)


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
        if _is_split(pixels):
            raise ImageError(name, "16-bit colours that stand plane by plane without compression are not supported")
        deep = all(_raw_mode(tile.args) in OPPOSITE for tile in pixels.tile)
        grey_alpha = [tile.args for tile in pixels.tile] == [GREY_ALPHA]
        if low:
            pixels.tile = [tile._replace(args=_opposite(tile.args)) for tile in pixels.tile]
        pixels.load()
    if low and grey_alpha:
        _, grey, _, alpha = pixels.split()
        pixels = PIL.Image.merge("RGBA", (grey, grey, grey, alpha))
    return pixels, deep


def _bytes_per_pixel(mode: str) -> int:
    """Bytes of a pixel in Pillow's memory."""
    return 2 if mode.startswith("I;16") else 1 if mode in ("1", "L", "P") else 4


def _raw_mode(args: str | tuple | None) -> str | None:
    return args[0] if isinstance(args, tuple) and args else args


def _is_split(pixels: PIL.Image.Image) -> bool:
    """Whether Pillow would take the bytes of planes of 16 bits for pixels of 8."""
    bits = getattr(pixels, "tag_v2", {}).get(Base.BitsPerSample, ())
    return 16 in bits and all(_raw_mode(tile.args) in set("RGBAXCMYK") for tile in pixels.tile)


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
