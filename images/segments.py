"""Strips and tiles of TIFF files: where they lie, and damage in them that libtiff does not tell."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

COMPRESSION, STRIP_PLACES, STRIP_SIZES, TILE_PLACES, TILE_SIZES = 259, 273, 279, 324, 325  # tags
TAGS = (COMPRESSION, STRIP_PLACES, STRIP_SIZES, TILE_PLACES, TILE_SIZES)
DEFLATE, FAX = (8, 32946), (2, 3, 4)  # of COMPRESSION
PIECE = 2**20  # bytes that are decompressed at a time


@dataclass(frozen=True)
class Segments:
    """The strips or tiles of a picture."""

    places: np.ndarray  # [n] int64, bytes from the beginning of the file
    sizes: np.ndarray  # [n] int64, bytes
    compression: int
    tiled: bool

    @staticmethod
    def of(tags: Mapping) -> Segments | None:
        """Of the tags of a page; None where they name none."""
        tiled = TILE_PLACES in tags
        names = (TILE_PLACES, TILE_SIZES) if tiled else (STRIP_PLACES, STRIP_SIZES)
        if not all(name in tags for name in names):
            return None
        places, sizes = (np.atleast_1d(np.asarray(tags[name], np.int64)) for name in names)
        return Segments(places, sizes, tags.get(COMPRESSION, 1), tiled)

    def check_places(self, end: int) -> None:
        """ValueError where tiles lie outside of a file of so many bytes, as after an incomplete copy, or where a few
        bytes count several times: they could claim any number of pixels.
        """
        if len(self.places) != len(self.sizes):
            raise ValueError(f"{len(self.places)} places of {len(self.sizes)} strips or tiles")
        bad = (self.sizes < 1) | (self.places < 8) | (self.places + self.sizes > end)
        if self.tiled and bad.any():
            raise ValueError(f"tile {int(bad.argmax())} lies outside of the file")
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
            stream, data = zlib.decompressobj(), file.read(int(self.sizes[number]))
            try:
                while data and not stream.eof:
                    stream.decompress(data, PIECE)
                    data = stream.unconsumed_tail
            except zlib.error as error:
                raise ValueError(f"its pixels are damaged: {str(error).partition(': ')[2]}") from error
