"""Output images that are written row by row, so that no result is ever whole in memory.

Letters: H, W pixels of the image; n rows of a strip.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np

from models.geometry import Region


class RowWriter(Protocol):
    """What takes an image's rows [n, W, 3] from top to bottom."""

    def write(self, rows: np.ndarray) -> None:
        """Take the next rows."""

    def close(self) -> None:
        """Finish the file."""


class PngWriter:
    """An 8-bit RGB PNG from strips of rows, by the PNG specification: Pillow and OpenCV want it whole."""

    COMPRESSION = 1  # level of zlib; 3 takes a third longer and saves 2 %
    UP = 2  # filter type: the difference from the row above

    def __init__(self, path: Path, height: int, width: int) -> None:
        self._file = open(path, "wb")  # noqa: SIM115 (closed by close)
        self._above = np.zeros((1, width * 3), np.uint8)
        self._deflate = zlib.compressobj(self.COMPRESSION)
        self._file.write(b"\x89PNG\r\n\x1a\n")
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))

    def write(self, rows: np.ndarray) -> None:
        """Take the next rows [n, W, 3], uint8."""
        rows = np.concatenate([self._above, rows.reshape(len(rows), -1)])
        filtered = np.full((len(rows) - 1, rows.shape[1] + 1), self.UP, np.uint8)
        np.subtract(rows[1:], rows[:-1], out=filtered[:, 1:])  # modulo 256, as the filter asks
        self._above = rows[-1:].copy()
        self._chunk(b"IDAT", self._deflate.compress(filtered.data))

    def close(self) -> None:
        """Write what is left and close the file."""
        self._chunk(b"IDAT", self._deflate.flush())
        self._chunk(b"IEND", b"")
        self._file.close()

    def _chunk(self, kind: bytes, data: bytes) -> None:
        if data or kind == b"IEND":
            self._file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))


class NpyWriter:
    """A float32 .npy file [H, W, 3] from strips of rows."""

    def __init__(self, path: Path, height: int, width: int) -> None:
        self._file = open(path, "wb")  # noqa: SIM115 (closed by close)
        header = {"descr": "<f4", "fortran_order": False, "shape": (height, width, 3)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def write(self, rows: np.ndarray) -> None:
        """Take the next rows [n, W, 3], float32."""
        self._file.write(np.ascontiguousarray(rows, "<f4").data)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class StripAssembler:
    """Turns blocks, row of blocks by row of blocks, into whole strips [n, W, 3].

    `add` returns the strip that a block completes, else None. Only one strip is held.
    """

    def __init__(self, width: int, dtype: np.dtype) -> None:
        self.width, self.dtype = width, dtype
        self._strip: np.ndarray | None = None

    def add(self, region: Region, block: np.ndarray) -> np.ndarray | None:
        """Take the pixels [h, w, 3] of a region; blocks of a strip have the same rows and come from left to right."""
        if self._strip is None:
            self._strip = np.empty((region.rows.size, self.width, 3), self.dtype)
        self._strip[:, region.cols.first : region.cols.last + 1] = block
        if region.cols.last + 1 < self.width:
            return None
        strip, self._strip = self._strip, None
        return strip


def to_eight_bit(pixels: np.ndarray) -> np.ndarray:
    """Pixels in [-1, 1] as uint8, rounded to the nearest and clipped."""
    return np.clip(np.rint((pixels + 1) * 127.5), 0, 255).astype(np.uint8)


def compare(reference: np.ndarray, result: np.ndarray) -> np.ndarray:
    """Rows [n, 3 W, 3] uint8: reference, result, and their absolute difference x 4."""
    error = np.minimum(np.abs(reference.astype(np.int16) - result) * 4, 255).astype(np.uint8)
    return np.concatenate([reference, result, error], axis=1)


class Closing:
    """Closes writers at the end of a `with` block, whatever happens in it."""

    def __init__(self, *writers: RowWriter) -> None:
        self.writers = writers

    def __enter__(self) -> tuple[RowWriter, ...]:
        return self.writers

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for writer in self.writers:
            writer.close()
