"""Strips and tiles of TIFF files: where they lie, and damage in them that libtiff does not tell."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

# Tags.
WIDTH, HEIGHT, BITS, COMPRESSION, SAMPLES_PER_PIXEL, STRIP_HEIGHT = 256, 257, 258, 259, 277, 278
STRIP_PLACES, STRIP_SIZES, TILE_WIDTH, TILE_HEIGHT, TILE_PLACES, TILE_SIZES = 273, 279, 322, 323, 324, 325
TAGS = (WIDTH, HEIGHT, BITS, COMPRESSION, SAMPLES_PER_PIXEL, STRIP_HEIGHT,
        STRIP_PLACES, STRIP_SIZES, TILE_WIDTH, TILE_HEIGHT, TILE_PLACES, TILE_SIZES)  # fmt: skip
DEFLATE, FAX = (8, 32946), (2, 3, 4)  # of COMPRESSION
PIECE = 2**20  # bytes that are decompressed at a time


@dataclass(frozen=True)
class Segments:
    """The strips or tiles of a picture."""

    places: np.ndarray  # [n] int64, bytes from the beginning of the file
    sizes: np.ndarray  # [n] int64, bytes
    shape: tuple[int, int]  # rows, columns of one
    pixel: int  # bytes
    compression: int
    tiled: bool

    @staticmethod
    def of(tags: Mapping) -> Segments | None:
        """Of the tags of a page; None where they name none. Errors of all kinds where they make no sense."""
        tiled = TILE_PLACES in tags
        names = (TILE_PLACES, TILE_SIZES) if tiled else (STRIP_PLACES, STRIP_SIZES)
        if not all(name in tags for name in names):
            return None
        places, sizes = (np.atleast_1d(np.asarray(tags[name], np.int64)) for name in names)
        rows = min(tags.get(STRIP_HEIGHT, tags[HEIGHT]), tags[HEIGHT])
        shape = (tags[TILE_HEIGHT], tags[TILE_WIDTH]) if tiled else (rows, tags[WIDTH])
        pixel = tags.get(SAMPLES_PER_PIXEL, 1) * -(-int(np.max(tags.get(BITS, 1))) // 8)
        return Segments(places, sizes, shape, pixel, tags.get(COMPRESSION, 1), tiled)

    def decoded(self, width: int) -> int:
        """Bytes of what libvips holds of an image of so many columns: two rows of tiles, or a strip."""
        rows, columns = self.shape
        return self.pixel * rows * (2 * (width // columns + 1) * columns if self.tiled else columns)

    def check_inside(self, end: int) -> None:
        """ValueError where a tile lies outside of a file of so many bytes, as after an incomplete copy."""
        bad = (self.sizes < 1) | (self.places < 8) | (self.places + self.sizes > end)
        if bad.any():
            raise ValueError(f"tile {int(bad.argmax())} lies outside of the file")

    def check_places(self) -> None:
        """ValueError where a few bytes count several times: they could claim any number of pixels."""
        if len(self.places) != len(self.sizes):
            raise ValueError(f"{len(self.places)} places of {len(self.sizes)} strips or tiles")
        order = np.argsort(self.places, kind="stable")
        places, sizes = self.places[order], self.sizes[order]
        if (places[:-1] + sizes[:-1] > places[1:]).any():
            raise ValueError(f"its {'tiles' if self.tiled else 'strips'} overlap")

    def check_content(self, file: BinaryIO, numbers: Iterable[int] | None = None) -> None:
        """ValueError where the checksum of a deflated segment does not match; `numbers`: of those to look at."""
        if self.compression not in DEFLATE:
            return
        for number in range(len(self.places)) if numbers is None else numbers:
            file.seek(int(self.places[number]))
            try:
                self._inflate(file, int(self.sizes[number]))
            except zlib.error as error:
                raise ValueError(f"its pixels are damaged: {str(error).partition(': ')[2]}") from error

    def _inflate(self, file: BinaryIO, size: int) -> None:
        """zlib.error where the next bytes of a file are damaged; what follows the pixels is not looked at."""
        stream, needed = zlib.decompressobj(), self.shape[0] * self.shape[1] * self.pixel
        while size > 0 and needed >= 0 and not stream.eof and (data := file.read(min(size, PIECE))):
            size -= len(data)
            while data and needed >= 0 and not stream.eof:
                needed -= len(stream.decompress(data, PIECE))
                data = stream.unconsumed_tail
