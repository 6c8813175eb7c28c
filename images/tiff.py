"""TIFF files: which page is the picture, where its strips or tiles lie, and damage that libtiff does not tell."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

if TYPE_CHECKING:
    from tifffile import TiffPage

DNG_VERSION, SUB_IFDS, ORIENTATION, PROFILE = 50706, 330, 274, 34675  # tags
REDUCED, MASK = 1, 4  # of NewSubfileType: a smaller copy of another picture, or a mask for one
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8  # of PhotometricInterpretation
COLOURS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 3, CMYK: 4, YCBCR: 3, LAB: 3}
PREMULTIPLIED, ALPHA = 1, 2  # of ExtraSamples
PLANES = 2  # of PlanarConfiguration
DEFLATE, FAX = (8, 32946), (2, 3, 4)  # of Compression
COMPRESSIONS = (1, *FAX, 5, 7, *DEFLATE, 32773, 50001)  # that libvips reads; 5 LZW, 7 JPEG, 32773 PackBits, 50001 WebP
MOST_PICTURES = 1000  # that are counted
FIRST_OF = "the first of its {} pictures is used"
PIECE = 2**20  # bytes that are decompressed at a time


def first_picture(file: BinaryIO, notes: list[str]) -> TiffPage:
    """The first page of a TIFF file that is no smaller copy or mask, the first one where all are; for an open file.

    A note counts the pictures. ValueError for a raw photograph; errors of all kinds where the file is damaged.
    """
    import tifffile  # which takes a while

    found = []
    with silent():
        pages = tifffile.TiffFile(file).pages
        first = pages[0]
        with suppress(Exception):  # whatever damage of a later one raises
            found = [page for page in islice(pages, MOST_PICTURES) if not page.subfiletype & (REDUCED | MASK)]
    if DNG_VERSION in first.tags or (first.subfiletype & REDUCED and SUB_IFDS in first.tags):
        raise ValueError("it is a raw photograph; develop it first")
    if len(found) > 1:
        notes.append(FIRST_OF.format(len(found)))
    return found[0] if found else first


@contextmanager
def silent() -> Iterator[None]:
    """Keeps tifffile from logging what it finds odd."""
    logger = logging.getLogger("tifffile")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def count_colours(page: TiffPage) -> tuple[int, bool]:
    """How many colours a page has, and whether it has alpha beside them. ValueError where its samples are no colours.
    """
    count, samples = COLOURS.get(page.photometric), page.samplesperpixel
    if count is None:
        raise ValueError(f"its samples are no colours (PhotometricInterpretation {int(page.photometric)})")
    stored = 1 if page.photometric == PALETTE else count
    if samples < stored or (stored == 1 and samples > 2):
        raise ValueError(f"its {samples} channels are no colours")
    return count, samples > stored and (page.extrasamples or (ALPHA,))[0] in (PREMULTIPLIED, ALPHA)


def vips_reads(page: TiffPage) -> bool:
    """Whether libvips reads samples that are stored so, if they are not damaged."""
    bits = (16,) if page.photometric == LAB else (1, 8, 16, 32)
    kind = page.bitspersample in bits and page.dtype not in (None, np.float16)
    return kind and page.compression in COMPRESSIONS and not (page.is_tiled and page.planarconfig == PLANES)


@dataclass(frozen=True)
class Segments:
    """The strips or tiles of a picture."""

    places: np.ndarray  # [n] int64, bytes from the beginning of the file
    sizes: np.ndarray  # [n] int64, bytes
    shape: tuple[int, int]  # rows, columns of one
    pixel: int  # bytes
    deflated: bool
    tiled: bool

    @staticmethod
    def of(page: TiffPage) -> Segments:
        """Errors of all kinds where what the page says makes no sense."""
        places, sizes = (np.array(each, np.int64) for each in (page.dataoffsets, page.databytecounts))
        shape = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
        pixel = page.samplesperpixel * -(-int(np.max(page.bitspersample)) // 8)
        return Segments(places, sizes, shape, pixel, page.compression in DEFLATE, page.is_tiled)

    def decoded(self, width: int) -> int:
        """Bytes of what libvips holds of an image of so many columns: two rows of tiles, or a strip."""
        rows, columns = self.shape
        return self.pixel * rows * (2 * (width // columns + 1) * columns if self.tiled else columns)

    def check_inside(self, end: int) -> None:
        """ValueError where a segment lies outside of a file of so many bytes, as after an incomplete copy."""
        bad = (self.sizes < 1) | (self.places < 8) | (self.places + self.sizes > end)
        if bad.any():
            raise ValueError(f"{'tile' if self.tiled else 'strip'} {int(bad.argmax())} lies outside of the file")

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
        if not self.deflated:
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
