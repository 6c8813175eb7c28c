"""Pictures and arrays of pixels that are written from windows, so that no result need be whole in memory.

Letters: H, W pixels of the image; n rows of a strip. A `Read` takes a region of the image, whose first pixel is 0, 0.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import PIL.Image
import tifffile
import torch
from torch import Tensor

from datasets.image import LONGEST_PNG_EDGE
from models.geometry import Region
from utils.errors import UserError

Read = Callable[[Region], np.ndarray]  # region of pixels -> [h, w, 3]

SUFFIXES = {"png": ".png", "tiff": ".tif", "jpeg": ".jpg", "webp": ".webp"}  # by kind of picture
LONGEST_EDGES = {"png": LONGEST_PNG_EDGE, "tiff": 2**31 - 1, "jpeg": 65_535, "webp": 16_383}  # pixels
MOST_PNG_PIXELS = 2**28  # beyond, readers that decode an image at once give up
CLASSIC_TIFF = 2**31  # bytes of pixels, beyond which a TIFF gets 64-bit offsets (BigTIFF)
TILE = 512  # pixels along the edge of a TIFF's tile
TILES_AT_ONCE = 2**24  # bytes of tiles that are compressed in one go
STRIP = 2**22  # bytes of the rows that are at hand at a time


def picture_kind(option: str, size: tuple[int, int], by_window: bool = False) -> str:
    """png | tiff | jpeg | webp for `infer.format` and a picture of (height, width), of an image read by window or not.

    UserError if an edge is longer than the format holds.
    """
    if option == "auto":
        large = size[0] * size[1] > MOST_PNG_PIXELS or max(size) > LONGEST_PNG_EDGE
        option = "tiff" if by_window or large else "png"
    if max(size) > LONGEST_EDGES[option]:
        raise UserError(
            f"infer.format: {option} holds edges of at most {LONGEST_EDGES[option]} pixels, but the picture has"
            f" {size[0]} x {size[1]}; allowed: tiff, auto"
        )
    return option


def write_picture(path: Path, size: tuple[int, int], read: Read, kind: str) -> None:
    """Write a picture of (height, width) from its uint8 pixels.

    PNG and TIFF are written by window; for JPEG (quality 95) and WebP (lossless) all pixels are in memory once.
    """
    if kind == "png":
        with closing(PngWriter(path, *size)) as writer:
            for strip in strips(size):
                writer.write(read(strip))
    elif kind == "tiff":
        write_tiff(path, size, read)
    else:
        options = {"quality": 95, "subsampling": 0} if kind == "jpeg" else {"lossless": True}
        PIL.Image.fromarray(read(Region.at(0, 0, *size))).save(path, kind, **options)


def write_npy(path: Path, size: tuple[int, int], read: Read) -> None:
    """Write the float32 pixels of (height, width) as a .npy file [H, W, 3]."""
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (*size, 3)})
        for strip in strips(size):
            file.write(np.ascontiguousarray(read(strip), "<f4").data)


def strips(size: tuple[int, int]) -> Iterator[Region]:
    """The rows of an image of (height, width) from top to bottom, so many at a time as `STRIP` bytes of uint8 hold."""
    rows = max(1, STRIP // (3 * size[1]))
    for top in range(0, size[0], rows):
        yield Region.at(top, 0, min(rows, size[0] - top), size[1])


def write_tiff(path: Path, size: tuple[int, int], read: Read) -> None:
    """Write uint8 pixels of (height, width) as a tiled RGB TIFF (Deflate): equal pixels give equal files."""
    height, width = size

    def tiles() -> Iterator[np.ndarray]:
        for top in range(0, height, TILE):
            for left in range(0, width, TILE):
                tile = np.zeros((TILE, TILE, 3), np.uint8)
                region = Region.at(top, left, min(TILE, height - top), min(TILE, width - left))
                tile[: region.rows.size, : region.cols.size] = read(region)
                yield tile

    options = {"compression": "adobe_deflate", "predictor": True, "buffersize": TILES_AT_ONCE}
    with tifffile.TiffWriter(path, bigtiff=height * width * 3 > CLASSIC_TIFF) as writer:
        writer.write(tiles(), shape=(height, width, 3), dtype="uint8", photometric="rgb", tile=(TILE, TILE),
                     metadata=None, software=False, **options)  # fmt: skip


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
        with self._file:
            self._chunk(b"IDAT", self._deflate.flush())
            self._chunk(b"IEND", b"")

    def _chunk(self, kind: bytes, data: bytes) -> None:
        if data or kind == b"IEND":
            self._file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))


def to_eight_bit(pixels: Tensor) -> Tensor:
    """Pixels in [-1, 1] as uint8, rounded to the nearest and clipped."""
    return ((pixels + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8)


def error_times_four(reference: np.ndarray, result: np.ndarray) -> np.ndarray:
    """The absolute difference of uint8 pixels x 4."""
    return np.minimum(np.abs(reference.astype(np.int16) - result) * 4, 255).astype(np.uint8)


def side_by_side(panels: Sequence[Read], size: tuple[int, int]) -> Read:
    """Pictures of (height, width) beside each other, as one picture."""
    height, width = size

    def read(region: Region) -> np.ndarray:
        places = [region.common(Region.at(0, k * width, height, width)) for k in range(len(panels))]
        parts = ((k, place.moved(0, -k * width)) for k, place in enumerate(places) if place)
        return np.concatenate([panels[k](part) for k, part in parts], axis=1)

    return read
