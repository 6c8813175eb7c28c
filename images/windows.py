"""Images that libvips decodes, by window: memory does not grow with them.

Tiles of TIFF files are decoded where they lie. All other files are decoded from top to bottom, and this once: into a
scratch file, any window of which is read at once.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO
from weakref import finalize

import numpy as np

from images.headers import Encoded
from images.mending import png_pieces
from images.tiff import LAB, PLANES, Segments, vips_reads
from images.vips import Stream, load_vips
from utils.files import free_space

DTYPES = {"uchar": np.dtype(np.uint8), "ushort": np.dtype(np.uint16)}
SAMPLES = DTYPES | {"uint": np.dtype(np.uint32), "float": np.dtype(np.float32)}
STRIP = 2**20  # pixels that are decoded at a time
BY_WINDOW = ("JPEG", "PNG", "WEBP", "TIFF")


class NotByWindow(Exception):
    """A file that has to be decoded whole, and why."""


def open_windows(path: str | Path, encoded: Encoded, max_pixels: int, memory: int | None) -> Stored:
    """The pixels of a file, not turned. NotByWindow where libvips does not hold them.

    No strip or tile may have more than `max_pixels`, or take more than `memory` bytes, nor an image that is interlaced,
    progressive or WebP: its decoder holds all of it for once. Other errors are damage.
    """
    page, (height, width) = encoded.page, encoded.shape
    if encoded.kind not in BY_WINDOW:
        raise NotByWindow(encoded.kind)
    if page:
        if not vips_reads(page) or page.bitspersample > 16:
            planes = ", in planes" if page.planarconfig == PLANES else ""
            raise NotByWindow(f"compression {int(page.compression)}, {page.bitspersample} bits{planes}")
        segments = Segments.of(page)
        (rows, columns), needed = segments.shape, segments.decoded(width)
    else:
        rows, columns = height if encoded.progressive else 1, width
        needed = rows * columns * len(encoded.header.getbands()) * 2  # samples of 16 bits, or coefficients of JPEG
    if rows * columns > max_pixels:
        raise NotByWindow(f"{columns} x {rows} pixels of it are decoded at once")
    if memory is not None and needed > memory:
        raise ValueError(f"{needed >> 20} MiB of it are decoded at once; infer.memory_mib leaves {memory >> 20}")
    if page:
        segments.check_places()
        if page.is_tiled:
            segments.check_inside(os.path.getsize(path))
            return Tiles(path, encoded, segments)
        segments.check_content(encoded.file)
    try:
        return Scratch(encoded)
    except load_vips().Error as error:
        raise NotByWindow(" ".join(str(error).split())) from error  # what is damaged shows when it is whole


@contextmanager
def open_by_vips(encoded: Encoded) -> Iterator[Any]:
    """An image of libvips of the colours and alpha of a file, to be read once from top to bottom; errors are damage."""
    vips, page, file = load_vips(), encoded.page, encoded.file
    source = vips.SourceCustom()  # by itself, libvips maps files, and their pages count as our memory
    stream = Stream(png_pieces(file, encoded.notes, metadata=False)) if encoded.kind == "PNG" else None
    source.on_read(stream.read if stream else file.read)
    if not stream:
        file.seek(0)
        source.on_seek(partial(_seek, file))
    # Strips that it cannot decode are black unless warnings are failures. Photographs with harmless warnings of libjpeg
    # are common.
    options = {"fail_on": "warning", "page": page.index} if page else {"fail_on": "error"}
    try:
        yield _of_colours(vips.Image.new_from_source(source, "", access="sequential", **options), encoded)
    except vips.Error as error:
        raise (stream and stream.error) or error from error


def fetch_all(image: Any) -> np.ndarray:
    """All samples [H, W, bands] of an image of libvips, in this thread: those of libvips do not survive a fork."""
    region, kind = load_vips().Region.new(image), SAMPLES[image.format]
    values, rows = np.empty((image.height, image.width, image.bands), kind), max(1, STRIP // image.width)
    for top in range(0, image.height, rows):
        part = values[top : top + rows]
        part[:] = np.frombuffer(region.fetch(0, top, image.width, len(part)), kind).reshape(part.shape)
    return values


def _of_colours(image: Any, encoded: Encoded) -> Any:
    """The colours, of L*a*b* sRGB, and alpha of an image of libvips. ValueError for samples that are no colours."""
    if (image.height, image.width) != encoded.shape:
        raise ValueError("its header is damaged")
    if encoded.page and encoded.page.photometric == LAB:
        image = image[:3].icc_export(output_profile="srgb", intent="perceptual", depth=16)
    if image.format not in SAMPLES:
        raise ValueError(f"its samples are of type {image.format}, which cannot be colours")
    if image.bands < 3 <= encoded.count:  # a palette of grey
        image = image[0].bandjoin([image[0], *(image[band] for band in range(image.bands))])
    wanted = encoded.count + encoded.alpha
    return image[:wanted] if image.bands > wanted else image


class Stored:
    """An image that libvips decodes, as an array-like [H, W, 3] of sRGB; `fetch` gives all samples of a box."""

    held = 0  # bytes of decoded pixels in memory, at most

    def __init__(self, image: Any, encoded: Encoded):
        self.dtype, self.shape, self._bands = DTYPES[image.format], (image.height, image.width, 3), image.bands
        self._colours = encoded.colours(self.dtype == np.uint16)

    def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
        rows, columns = window
        size = rows.stop - rows.start, columns.stop - columns.start
        return self._colours(self.fetch(rows.start, columns.start, *size))


class Tiles(Stored):
    """Tiles of a TIFF file, decoded where they lie; libvips keeps two rows of them. Threads may share it."""

    def __init__(self, path: str | Path, encoded: Encoded, segments: Segments):
        self._vips, self._path, self._segments, self._checked = load_vips(), path, segments, set()
        # Tiles that it cannot decode are black unless warnings are failures.
        image = self._vips.Image.tiffload(str(path), access="random", fail_on="warning", page=encoded.page.index)
        self._image = _of_colours(image, encoded)
        super().__init__(self._image, encoded)
        self._lock, self._of_thread, self._failure = threading.Lock(), threading.local(), None
        self.held = segments.decoded(image.width)
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
                self._check(top, left, height, width)
                data = self._of_thread.region.fetch(left, top, width, height)
            except (self._vips.Error, ValueError) as error:
                self._failure = error
                raise
        return np.frombuffer(data, self.dtype).reshape(height, width, self._bands)

    def _check(self, top: int, left: int, height: int, width: int) -> None:
        """ValueError where a tile that a box touches is known to be damaged; each is looked at once."""
        across = -(-self.shape[1] // self._segments.shape[1])
        rows, columns = (
            range(start // edge, -(-(start + length) // edge))
            for start, length, edge in zip((top, left), (height, width), self._segments.shape, strict=True)
        )
        new = {row * across + column for row in rows for column in columns} - self._checked
        with open(self._path, "rb") as file:
            self._segments.check_content(file, new)
        self._checked |= new


class Scratch(Stored):
    """Decoded pixels in a file without a name, which ends with the process. Threads may share it."""

    def __init__(self, encoded: Encoded):
        # /tmp is often in memory
        folder = os.environ.get("TMPDIR") or ("/var/tmp" if os.path.isdir("/var/tmp") else tempfile.gettempdir())
        with open_by_vips(encoded) as image:
            super().__init__(image, encoded)
            self._pixel = self._bands * self.dtype.itemsize
            size = image.height * image.width * self._pixel
            if size > free_space(folder):
                raise NotByWindow(f"decoded, it takes {size / 2**20:.0f} MiB in {folder} (TMPDIR), more than is free")
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
            finalize(self, self._file.close)
            image.rawsave_target(load_vips().Target.new_to_descriptor(self._file.fileno()))
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
    except (OSError, OverflowError, ValueError):
        return -1
