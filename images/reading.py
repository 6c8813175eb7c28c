"""The one reader of images: files that may come from anywhere and hold anything, arrays, and images of Pillow.

A file is refused before it is decoded when its header promises too many pixels, and refused as a whole when any of its
pixels cannot be read; damage elsewhere is noted. Colours become sRGB. Large files are read by window: tiles of TIFF
where they lie, which shows damage when a window is asked for, all others from a scratch file into which they are
decoded once. Arrays are [H, W, 3], RGB.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterable
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from images.colours import ALMOST
from images.decoding import decode
from images.headers import (
    HEIF_PLUGIN,
    READ,
    Encoded,
    ImageError,
    errors_named,
    open_encoded,
    pillow,
    readable,
    recognise,
)
from images.mending import is_filled
from images.metadata import Metadata
from images.windows import NotByWindow, open_windows
from models.geometry import reflect
from utils import log

GREY_STRIP = 2**20  # pixels that are asked for their colours at a time
RESERVED = 112 * 2**20  # bytes of `memory_mib` that decoded pixels leave to others, or half of it
WINDOWED = 2**24  # pixels; files of more are read by window

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


class Image:
    """An image, read by window. `height` and `width` are those after the EXIF orientation is applied."""

    def __init__(
        self,
        pixels: Any,               # array-like [H, W, 3] uint8 or uint16, as stored: `shape`, pixels[y0:y1, x0:x1]
        name: str = "image",       # stands in messages
        orientation: int = 1,      # EXIF, 1 to 8; anything else means 1
        transparent: bool = False, # whether the file has an alpha channel or a transparent colour
        held: int | None = None,   # bytes of decoded pixels in memory, at most; None: those of the array `pixels`
        by_window: bool = False,   # whether windows come from a file when they are asked for: ImageError then, where
                                   # it is damaged
        notes: Iterable[str] = (), # what is odd about the file, a line each
        metadata: Metadata | None = None,  # that results keep
    ):
        self.name, self.transparent, self.by_window = name, transparent, by_window
        self.notes, self.metadata = list(dict.fromkeys(notes)), metadata or Metadata()
        self.held = pixels.nbytes if held is None else held
        self._pixels = pixels
        self._transposed, self._flip_rows, self._flip_columns = ORIENTATIONS.get(orientation, ORIENTATIONS[1])
        self.height, self.width = pixels.shape[1::-1] if self._transposed else pixels.shape[:2]

    @cached_property
    def grey(self) -> bool:
        """Whether no pixel has a colour, but what rounding to 8 bits made. Reads the image as far as there is none."""
        rows = max(1, GREY_STRIP // self.width)
        for top in range(0, self.height, rows):
            values = self._window(top, 0, min(rows, self.height - top), self.width)
            if np.ptp(values, axis=2).max() > ALMOST * (np.iinfo(values.dtype).max // 255):
                return False
        return True

    def tell(self) -> None:
        """Print the notes, on stderr."""
        for note in self.notes:
            log.error(f"note: {self.name}: {note}")

    def window(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """8-bit pixels [height, width, 3] uint8, a copy; what lies outside of the image is reflected at its border."""
        values = self._window(top, left, height, width)
        # 257 = 65535 / 255
        return values.copy() if values.dtype == np.uint8 else ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)

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
            top, left, height, width = left, top, width, height
        # Errors of an array are ours, and a lack of memory concerns the window.
        with errors_named(self.name) if self.by_window else nullcontext():
            block = self._pixels[top : top + height, left : left + width]
        block = block.swapaxes(0, 1) if self._transposed else block
        return block[:: -1 if self._flip_rows else 1, :: -1 if self._flip_columns else 1]


def open_image(
    source: str | Path | bytes | np.ndarray | PIL.Image.Image | Image,
    max_pixels: int,
    *,
    name: str | None = None,
    by_window: bool = False,
    memory_mib: int | None = None,
) -> Image:
    """Open a file, the bytes of one, an array [H, W, 3] or [H, W] of uint8 or uint16, or an image of Pillow.

    A file has at most `max_pixels` pixels. With `by_window`, one of more than WINDOWED pixels is read by window: then
    `max_pixels` and `memory_mib` only limit what has to be decoded at once (strips, tiles, all of an interlaced image),
    and damage of a tiled TIFF file shows when a window is asked for. Of several pictures the first is read. `name`
    stands in messages. ImageError for whatever is not an image of a format that `images.headers.readable` knows, with
    all rows.
    """
    if isinstance(source, Image):
        return source
    is_path = isinstance(source, (str, os.PathLike))
    name = name or (str(source) if is_path else "image")
    if not is_path and not isinstance(source, (bytes, PIL.Image.Image)):
        return Image(_check_array(source, name), name)
    with pillow(), errors_named(name):
        if isinstance(source, PIL.Image.Image):
            encoded = Encoded("", None, source)
            return _image(decode(encoded), encoded, name)
        _check_file(source, name)
        kind = recognise(source)
        if not readable(kind):
            raise ImageError(name, _why_not(kind))
        # A file handle, not a path: Pillow maps files that it is given by path, and a file that shrinks would kill us.
        with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
            encoded, reason = open_encoded(file, kind), ""
            height, width = encoded.shape
            filled = kind == "JPEG" and is_filled(file)
            if by_window and is_path and height * width > WINDOWED and not filled:
                memory = None if memory_mib is None else max(memory_mib * 2**19, memory_mib * 2**20 - RESERVED)
                try:
                    windows = open_windows(source, encoded, max_pixels, memory)
                    return _image(windows, encoded, name, held=windows.held, by_window=True)
                except NotByWindow as error:
                    reason = f", and it cannot be read by window: {error}"
            if height * width > max_pixels:
                raise ImageError(name, f"{width} x {height} is more than max_pixels ({max_pixels}) allows{reason}")
            return _image(decode(encoded), encoded, name)


def open_photograph(path: Path, max_pixels: int, memory_mib: int | None = None) -> Image:
    """A photograph that a command was given, opened by window; notes say what is odd about it."""
    image = open_image(path, max_pixels, by_window=True, memory_mib=memory_mib)
    image.tell()
    if image.transparent:
        log.info(f"note: {path}: what is transparent counts as mid-grey")
    return image


def _image(pixels: Any, encoded: Encoded, name: str, **options: Any) -> Image:
    """An image whose pixels were decoded, or are read by window."""
    orientation, metadata = encoded.orientation, encoded.metadata
    return Image(pixels, name, orientation, encoded.alpha, notes=encoded.notes, metadata=metadata, **options)


def _why_not(kind: str | None) -> str:
    """Why files of a format that `recognise` named are not read."""
    if kind == "HEIF":
        return f"is an HEIC image, which needs the package {HEIF_PLUGIN.replace('_', '-')}: pip install it"
    return "is no image" if kind is None else f"its format is {kind}, which is not read; allowed: {', '.join(READ)}"


def _check_array(source: object, name: str) -> np.ndarray:
    """An array as [H, W, 3], grey repeated."""
    if not isinstance(source, np.ndarray):
        raise ImageError(name, f"is a {type(source).__name__}; allowed: a path, bytes, an array, an image of Pillow")
    grey = source.ndim == 2
    if source.dtype not in (np.uint8, np.uint16) or not (grey or source.shape[2:] == (3,)) or not source.size:
        allowed = "[H, W, 3] or [H, W] of uint8 or uint16"
        raise ImageError(name, f"an array {list(source.shape)} of {source.dtype}; allowed: {allowed}")
    return np.broadcast_to(source[..., None], (*source.shape, 3)) if grey else source


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
