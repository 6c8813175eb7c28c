"""Images that are read by window with libvips, so that memory does not grow with them.

Tiles of TIFF files are decoded where they lie. All other files are decoded from top to bottom, and this once: into a
scratch file, any window of which is read at once. libvips does not survive a fork; it is imported where it is needed.
"""

from __future__ import annotations

import os
import tempfile
import threading
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO
from weakref import finalize

import numpy as np
import PIL.Image

from images.decoding import from_cmyk, over_grey
from utils.files import free_space

THREADS = 4  # of libvips, each of which takes memory
DTYPES = {"uchar": np.dtype(np.uint8), "ushort": np.dtype(np.uint16)}
# Tags of TIFF.
BITS, COMPRESSION, STRIP_HEIGHT, PLANAR = 258, 259, 278, 284
TILE_WIDTH, TILE_HEIGHT, TILE_PLACES, TILE_SIZES = 322, 323, 324, 325
COMPRESSIONS = (1, 2, 3, 4, 5, 7, 8, 32773, 32946, 50001)  # none, of fax, LZW, JPEG, deflate, PackBits, deflate, WebP


class NotByWindow(Exception):
    """A file that has to be decoded whole, and why."""


def load_vips() -> ModuleType:
    """pyvips, with what it keeps in memory bounded."""
    import pyvips

    pyvips.cache_set_max(0)
    pyvips.concurrency_set(min(THREADS, pyvips.concurrency_get()))
    return pyvips


def open_windows(path: str | Path, header: PIL.Image.Image, max_pixels: int) -> Stored:
    """The pixels of a file, as stored, whose header Pillow has read. NotByWindow where libvips does not hold them.

    No strip or tile may have more than `max_pixels`, nor an image that is interlaced, progressive or WebP: its decoder
    holds all of it for once. Other errors are damage.
    """
    tags = getattr(header, "tag_v2", {})
    _check_layout(header, tags, max_pixels)
    colours = 4 if header.has_transparency_data or header.mode == "CMYK" else 3
    if TILE_PLACES not in tags:
        return Scratch(path, colours, is_tiff=bool(tags))
    places, sizes = (np.asarray(tags[tag], np.int64) for tag in (TILE_PLACES, TILE_SIZES))
    bad = (sizes < 1) | (places < 8) | (places + sizes > os.path.getsize(path))  # as after an incomplete copy
    if bad.any():
        raise ValueError(f"tile {int(bad.argmax())} lies outside of the file")
    return Tiles(path, colours)


class Stored:
    """An image that libvips decodes, as an array-like [H, W, 3]; `fetch` gives all bands of a box."""

    held = 0  # bytes of decoded pixels in memory, at most

    def __init__(self, image: Any, colours: int):
        if image.format not in DTYPES:
            raise ValueError(f"samples of type {image.format}")
        self.dtype, self.shape = DTYPES[image.format], (image.height, image.width, 3)
        self._bands, self._colours = image.bands, colours  # `colours`: with alpha; what a file has beyond is no colour
        self._cmyk = image.interpretation == "cmyk"

    def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
        rows, columns = window
        values = self.fetch(rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start)
        if self._bands < 3:  # grey
            values = values[..., [0, 0, 0, -1][: self._colours]]
        values = values[..., : self._colours]
        return values if self._colours == 3 else from_cmyk(values) if self._cmyk else over_grey(values)


class Tiles(Stored):
    """Tiles of a TIFF file, decoded where they lie; libvips keeps two rows of them. Threads may share it."""

    def __init__(self, path: str | Path, colours: int):
        self._vips = load_vips()
        # Tiles that it cannot decode are black unless warnings are failures.
        self._image = self._vips.Image.tiffload(str(path), access="random", fail_on="warning")
        super().__init__(self._image, colours)
        self._lock, self._of_thread, self._failure = threading.Lock(), threading.local(), None
        width, height = self._image.get("tile-width"), self._image.get("tile-height")
        self.held = 2 * (self._image.width // width + 1) * width * height * self._bands * self.dtype.itemsize
        self[0:1, 0:1]  # what cannot be decoded at all shows here and not later

    def fetch(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        with self._lock:
            # A tile that failed is black from then on.
            if self._failure:
                raise self._failure
            # A region belongs to a thread. A new one for each window would scatter memory until gigabytes are lost.
            if not hasattr(self._of_thread, "region"):
                self._of_thread.region = self._vips.Region.new(self._image)
            try:
                data = self._of_thread.region.fetch(left, top, width, height)
            except self._vips.Error as error:
                self._failure = error
                raise
        return np.frombuffer(data, self.dtype).reshape(height, width, self._bands)


class Scratch(Stored):
    """Decoded pixels in a file without a name, which ends with the process. Threads may share it."""

    def __init__(self, path: str | Path, colours: int, is_tiff: bool):
        vips = load_vips()
        with open(path, "rb", buffering=0) as file:
            source = vips.SourceCustom()  # by itself, libvips maps files, and their pages count as our memory
            source.on_read(file.read)
            source.on_seek(partial(_seek, file))
            # Strips that it cannot decode are black unless warnings are failures. Photographs with harmless warnings
            # of libjpeg are common.
            fail_on = "warning" if is_tiff else "error"
            image = vips.Image.new_from_source(source, "", access="sequential", fail_on=fail_on)
            super().__init__(image, colours)
            # /tmp is often in memory
            folder = os.environ.get("TMPDIR") or ("/var/tmp" if os.path.isdir("/var/tmp") else tempfile.gettempdir())
            self._pixel = self._bands * self.dtype.itemsize
            size = image.height * image.width * self._pixel
            if size > free_space(folder):
                raise NotByWindow(f"decoded, it takes {size / 2**20:.0f} MiB in {folder} (TMPDIR), more than is free")
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
            finalize(self, self._file.close)
            image.rawsave_target(vips.Target.new_to_descriptor(self._file.fileno()))
        self._lock = threading.Lock()

    def fetch(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        values = np.empty((height, width, self._bands), self.dtype)
        rows = values.view(np.uint8).reshape(height, -1)
        with self._lock:
            for number, row in enumerate(rows, top):
                self._file.seek((number * self.shape[1] + left) * self._pixel)
                if self._file.readinto(row) != row.size:
                    raise OSError("its scratch file became shorter")
        return values


def _seek(file: BinaryIO, offset: int, whence: int) -> int:
    """As `file.seek`, but -1 for a place that a damaged file names: it is called from C, which drops exceptions."""
    try:
        return file.seek(offset, whence)
    except (OSError, OverflowError):
        return -1


def _check_layout(header: PIL.Image.Image, tags: dict, max_pixels: int) -> None:
    """NotByWindow for what libvips does not read, or only by decoding more than `max_pixels` pixels in one go."""
    if header.format == "BMP":
        raise NotByWindow("BMP")
    height, width = 1, header.width
    if tags:
        compression, bits, tiled = tags.get(COMPRESSION, 1), max(tags.get(BITS, (1,))), TILE_WIDTH in tags
        if compression not in COMPRESSIONS or bits not in (1, 8, 16) or (tiled and tags.get(PLANAR) == 2):
            raise NotByWindow(f"compression {compression}, {bits} bits{', tiles of single colours' * tiled}")
        height = tags[TILE_HEIGHT] if tiled else min(tags.get(STRIP_HEIGHT, header.height), header.height)
        width = tags[TILE_WIDTH] if tiled else width
    elif header.format == "WEBP" or any(header.info.get(key) for key in ("progressive", "interlace")):
        height = header.height
    if height * width > max_pixels:
        raise NotByWindow(f"{width} x {height} pixels of it are decoded at once")
