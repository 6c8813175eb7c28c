"""TIFF and BigTIFF files of any size, read by window.

Nothing is decoded here. Small TIFF files are cut out of the large one along its strips and tiles, byte for byte, and go
to the decoder of all other images: so their pixels mean the same, and what a hostile file promises has no bearing on
the memory that it gets. Only the first image of a file is read, as elsewhere. Positions are those of the stored image,
before its orientation is applied.
"""

from __future__ import annotations

import os
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from io import BufferedIOBase
from math import ceil
from pathlib import Path
from typing import NamedTuple, Protocol
from weakref import finalize

import numpy as np

PIECE = 512               # pixels along the edge of a piece that is cut out, where tiles are not larger
STRIP_PIXELS = 2**19      # of such a piece, where strips are not larger
STRIPS = 1024             # of it at most
LARGEST = 2**28           # bytes that one strip or tile may take when it is decoded
CACHE = 2**26             # bytes of decoded pieces that are kept
STRIP_CACHE = 2**28       # bytes of them at most where ROWS rows of whole strips take more than CACHE
ROWS = 1024
COPIED_BYTES = 2**16      # of a tag that is copied: tables of JPEG, a palette
XMP_BYTES = 2**24
ENTRIES = 4096            # tags of a file
TABLE = 2**16             # places of strips or tiles that are read at once

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, ORIENTATION, SAMPLES = 256, 257, 258, 259, 262, 274, 277
STRIP_PLACES, STRIP_ROWS, STRIP_SIZES, PLANAR = 273, 278, 279, 284
TILE_WIDTH, TILE_HEIGHT, TILE_PLACES, TILE_SIZES, XMP = 322, 323, 324, 325, 700
# And fill order, predictor, palette, kinds of the samples and of extra ones, JPEG tables, subsampling of colours.
COPIED = (BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, PLANAR, 266, 317, 320, 338, 339, 347, 530)
RAW, JPEG = 1, 7
COMPRESSIONS = (RAW, JPEG, 5, 8, 32946, 32773, 34925, 50000)  # LZW, deflate twice, PackBits, LZMA, ZSTD
YCBCR = 6
PHOTOMETRICS = (0, 1, 2, 3, 5, YCBCR)  # grey from white and from black, RGB, palette, CMYK

LONG = 4
KINDS = {  # of values: bytes, and the letter of those that are whole numbers
    1: (1, "B"), 2: (1, ""), 3: (2, "H"), LONG: (4, "I"), 5: (8, ""), 6: (1, ""), 7: (1, ""), 8: (2, ""), 9: (4, ""),
    10: (8, ""), 11: (4, ""), 12: (8, ""), 13: (4, "I"), 16: (8, "Q"), 17: (8, ""), 18: (8, "Q"),
}  # fmt: skip


class NotByWindow(Exception):
    """A file that is no TIFF, or one that has to be decoded whole; `pixels` where its size is known."""

    def __init__(self, reason: str, pixels: int = 0):
        super().__init__(reason)
        self.pixels = pixels


class Pixels(Protocol):
    """Where the pixels of an image come from. Positions are as stored, before the orientation is applied."""

    by_window: bool         # whether they are decoded where they are asked for
    held: int               # bytes of decoded pixels that are kept
    size: tuple[int, int]   # (width, height)
    transparent: bool       # whether there is an alpha channel or a transparent colour

    def read(self, left: int, top: int, right: int, bottom: int) -> np.ndarray:
        """RGB pixels [h, w, 3] uint8 or uint16 of a box inside of the image, what is transparent over mid-grey."""


class Tag(NamedTuple):
    """An entry of a directory: `count` values of a kind, which stand at `place` in the file."""

    kind: int
    count: int
    place: int

    @property
    def size(self) -> int:
        """Bytes of the values."""
        return self.count * KINDS[self.kind][0]


class Directory:
    """The first directory of a TIFF file, read strictly; what is unusual is NotByWindow, and damage is ValueError."""

    def __init__(self, file: BufferedIOBase):
        self._file = file
        self.length = file.seek(0, os.SEEK_END)
        start = self._try(0, 16)
        self.order = {b"II": "<", b"MM": ">"}.get(start[:2], "")
        big = {b"\0\x2a": False, b"\0\x2b": True}.get(start[2:4] if self.order == ">" else start[3:1:-1])
        if not self.order or big is None or (big and start[4:8] != struct.pack(self.order + "HH", 8, 0)):
            raise NotByWindow("no TIFF")
        first = self._unpack("Q", start[8:16]) if big else self._unpack("I", start[4:8])
        self._tags = dict(self._entries(first, *("Q", "Q", 20) if big else ("H", "I", 12)))

    def __contains__(self, tag: int) -> bool:
        return tag in self._tags

    def read(self, place: int, size: int) -> bytes:
        """`size` bytes from `place`; ValueError where the file ends before."""
        if not 0 <= place <= self.length - size:
            raise ValueError(f"it is truncated: {size} bytes at {place} are beyond its end")
        self._file.seek(place)
        data = self._file.read(size)
        if len(data) != size:
            raise ValueError("it became shorter while it was read")
        return data

    def raw(self, tag: int, limit: int = COPIED_BYTES) -> tuple[int, int, bytes]:
        """Kind, count and bytes of a tag's values."""
        entry = self._tags[tag]
        if entry.size > limit:
            raise NotByWindow(f"tag {tag} is too long")
        return entry.kind, entry.count, self._try(entry.place, entry.size)

    def numbers(self, tag: int, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        """A tag's few values, which are whole numbers."""
        if tag not in self._tags:
            return default
        kind, count, data = self.raw(tag)
        if not KINDS[kind][1] or count > 64:
            raise NotByWindow(f"tag {tag} is unusual")
        return struct.unpack(f"{self.order}{count}{KINDS[kind][1]}", data)

    def number(self, tag: int, default: int | None = None) -> int:
        """A tag's single value."""
        values = self.numbers(tag, () if default is None else (default,))
        if len(values) != 1:
            raise NotByWindow(f"tag {tag} is missing or unusual")
        return values[0]

    def table(self, tag: int, count: int) -> Tag:
        """A tag of `count` whole numbers, which may be many."""
        entry = self._tags.get(tag)
        if entry is None or entry.count != count or not KINDS[entry.kind][1]:
            raise NotByWindow(f"tag {tag} does not name {count} strips or tiles")
        return entry

    def part(self, table: Tag, first: int, count: int = 1) -> np.ndarray:
        """Values `first` to `first + count - 1` of a table: [count] int64; ValueError beyond its end."""
        size, letter = KINDS[table.kind]
        data = self.read(table.place + first * size, count * size)
        return np.frombuffer(data, np.dtype(letter).newbyteorder(self.order)).astype(np.int64)

    def _entries(self, place: int, count: str, number: str, step: int) -> Iterator[tuple[int, Tag]]:
        head = struct.calcsize(f"={count}")
        found = self._unpack(count, self._try(place, head))
        if found > ENTRIES:
            raise NotByWindow(f"{found} tags")
        data = self._try(place + head, found * step)
        room, codes = struct.calcsize(f"={number}"), set()
        for index in range(found):
            code, kind, many, inside = struct.unpack_from(f"{self.order}HH{number}{number}", data, index * step)
            if kind not in KINDS or code in codes:
                raise NotByWindow(f"tag {code} is unusual")
            codes.add(code)
            here = place + head + (index + 1) * step - room
            yield code, Tag(kind, many, here if many * KINDS[kind][0] <= room else inside)

    def _try(self, place: int, size: int) -> bytes:
        """As `read`, but a file that ends before is not for us."""
        try:
            return self.read(place, size)
        except ValueError as error:
            raise NotByWindow(str(error)) from error

    def _unpack(self, letter: str, data: bytes) -> int:
        return struct.unpack(self.order + letter, data)[0]


class Cutter:
    """Cuts pieces out of a TIFF file, on a grid: `piece` is their (height, width), less at the right and lower border.

    NotByWindow where the layout does not allow it, ValueError where a strip or tile lies outside of the file.
    """

    def __init__(self, directory: Directory, least: int, most: int):
        self._directory = directory
        self.height, self.width = directory.number(HEIGHT), directory.number(WIDTH)
        pixels = self.height * self.width
        if pixels <= least:
            raise NotByWindow("small", pixels)
        try:
            self._read_layout(most)
        except NotByWindow as error:
            raise NotByWindow(str(error), pixels) from error
        self._check_places()

    @property
    def piece_bytes(self) -> int:
        """Bytes of a piece in RGB, 8 or 16 bits."""
        return min(self.piece[0], self.height) * min(self.piece[1], self.width) * self._rgb_bytes

    @property
    def cache_bytes(self) -> int:
        """Bytes of pieces that are worth keeping while windows of similar size sweep over the image."""
        if self._tiled or self._gathered:
            return CACHE
        return min(max(CACHE, ROWS * self.width * self._rgb_bytes), STRIP_CACHE)

    def cut(self, row: int, column: int) -> bytes:
        """A TIFF file of one piece. ValueError or OSError where it cannot be read."""
        top, left = row * self.piece[0], column * self.piece[1]
        height, width = min(self.piece[0], self.height - top), min(self.piece[1], self.width - left)
        tags = self._copied | {WIDTH: self._long(width), HEIGHT: self._long(height)}
        if self._gathered:
            parts = [self._gather(plane, top, left, height, width) for plane in range(self._planes)]
            return self._file(tags | {STRIP_ROWS: self._long(height)}, STRIP_PLACES, STRIP_SIZES, parts)
        parts = [self._segment(index) for index in self._segments(top, left, height, width)]
        if self._tiled:
            tags |= {TILE_HEIGHT: self._long(self._rows), TILE_WIDTH: self._long(self._columns)}
            return self._file(tags, TILE_PLACES, TILE_SIZES, parts)
        return self._file(tags | {STRIP_ROWS: self._long(self._rows)}, STRIP_PLACES, STRIP_SIZES, parts)

    def head(self) -> bytes:
        """A TIFF file without pixels that tells the orientation."""
        directory = self._directory
        turned = {tag: directory.raw(tag, XMP_BYTES) for tag in (ORIENTATION, XMP) if tag in directory}
        tags = self._copied | turned | {WIDTH: self._long(1), HEIGHT: self._long(1)}
        return self._file(tags, STRIP_PLACES, STRIP_SIZES, [b""] * self._planes)

    def _read_layout(self, most: int) -> None:
        directory = self._directory
        compression, photometric = directory.number(COMPRESSION, RAW), directory.number(PHOTOMETRIC, 0)
        planar, samples = directory.number(PLANAR, 1), directory.number(SAMPLES, 1)
        bits = directory.numbers(BITS, (1,))
        if compression not in COMPRESSIONS or photometric not in PHOTOMETRICS:
            raise NotByWindow(f"compression {compression} of colours of kind {photometric}")
        if photometric == YCBCR and (compression != JPEG or planar != 1):
            raise NotByWindow("YCbCr without JPEG")
        if planar not in (1, 2) or not 1 <= samples <= 8 or len(bits) not in (1, samples) or min(bits) < 1:
            raise NotByWindow("its samples are unusual")
        if max(bits) > 16:
            raise NotByWindow(f"{max(bits)} bits a sample")
        bits = bits * samples if len(bits) == 1 else bits
        self._raw, self._planes = compression == RAW, samples if planar == 2 else 1
        self._bits = max(bits) if planar == 2 else sum(bits)  # of a pixel of a plane
        self._rgb_bytes = 3 if max(bits) <= 8 else 6
        self._copied = {tag: directory.raw(tag) for tag in COPIED if tag in directory}
        self._read_segments(most)

    def _read_segments(self, most: int) -> None:
        """Edges and places of the strips or tiles, and the grid of pieces."""
        directory = self._directory
        self._tiled = TILE_PLACES in directory
        if self._tiled:
            self._rows, self._columns = directory.number(TILE_HEIGHT), directory.number(TILE_WIDTH)
        else:
            self._rows, self._columns = min(directory.number(STRIP_ROWS, self.height), self.height), self.width
        if self._rows < 1 or self._columns < 1:
            raise NotByWindow("strips or tiles without pixels")
        self._gathered = self._raw and not self._tiled and self._bits % 8 == 0
        self._across = ceil(self.width / self._columns)
        self._count = ceil(self.height / self._rows) * self._across
        places, sizes = (TILE_PLACES, TILE_SIZES) if self._tiled else (STRIP_PLACES, STRIP_SIZES)
        self._places = directory.table(places, self._count * self._planes)
        self._sizes = None if self._raw else directory.table(sizes, self._count * self._planes)
        pixels = self._rows * self._columns
        if self._gathered:
            self.piece = PIECE, PIECE
        elif self._tiled:
            self.piece = tuple(edge * max(1, PIECE // edge) for edge in (self._rows, self._columns))
        else:
            self.piece = self._rows * min(max(1, STRIP_PIXELS // pixels), STRIPS), self.width
        pixels = self.piece[0] * self.piece[1]
        # The decoder takes 4 bytes for a pixel of 8-bit colours, and 8 for one of 16-bit colours.
        if pixels > most or pixels * (4 if self._rgb_bytes == 3 else 8) > LARGEST:
            raise NotByWindow(f"its strips or tiles have {self._rows} x {self._columns} pixels")

    def _check_places(self) -> None:
        """ValueError where a strip or tile is missing or lies outside of the file, as after an incomplete copy."""
        for first in range(0, self._count * self._planes, TABLE):
            count = min(TABLE, self._count * self._planes - first)
            places = self._directory.part(self._places, first, count)
            if self._sizes is None:
                sizes = np.array([self._raw_size(index) for index in (0, self._count - 1)])
                sizes = np.where((np.arange(first, first + count) + 1) % self._count == 0, sizes[1], sizes[0])
            else:
                sizes = self._directory.part(self._sizes, first, count)
            bad = (places < 8) | (sizes < 1) | (places > self._directory.length - sizes)
            if bad.any():
                raise ValueError(f"strip or tile {first + int(bad.argmax())} lies outside of the file")

    def _raw_size(self, index: int) -> int:
        """Bytes of an uncompressed strip or tile of a plane."""
        top = index % self._count // self._across * self._rows
        rows = self._rows if self._tiled else min(self._rows, self.height - top)
        return rows * ceil(self._columns * self._bits / 8)

    def _segments(self, top: int, left: int, height: int, width: int) -> Iterator[int]:
        """Numbers of the strips or tiles of a piece, in the order of a file."""
        rows = range(top // self._rows, ceil((top + height) / self._rows))
        columns = range(left // self._columns, ceil((left + width) / self._columns))
        return (
            plane * self._count + row * self._across + column
            for plane in range(self._planes)
            for row in rows
            for column in columns
        )

    def _segment(self, index: int) -> bytes:
        """The bytes of a strip or tile."""
        place = int(self._directory.part(self._places, index)[0])
        decoded = self._raw_size(index)
        size = decoded if self._sizes is None else int(self._directory.part(self._sizes, index)[0])
        if size > 2 * decoded + COPIED_BYTES:
            raise ValueError(f"strip or tile {index} takes {size} bytes, too much for {decoded} bytes of pixels")
        return self._directory.read(place, size)

    def _gather(self, plane: int, top: int, left: int, height: int, width: int) -> bytes:
        """The bytes of a box of an uncompressed plane, whatever its strips are."""
        first, last = top // self._rows, (top + height - 1) // self._rows
        places = self._directory.part(self._places, plane * self._count + first, last - first + 1)
        pixel = self._bits // 8
        return b"".join(
            self._directory.read(
                int(places[row // self._rows - first]) + (row % self._rows * self.width + left) * pixel, width * pixel
            )
            for row in range(top, top + height)
        )

    def _long(self, *values: int) -> tuple[int, int, bytes]:
        return LONG, len(values), struct.pack(f"{self._directory.order}{len(values)}I", *values)

    def _file(self, tags: dict[int, tuple[int, int, bytes]], places: int, sizes: int, parts: list[bytes]) -> bytes:
        """A TIFF file of the tags and the strips or tiles, whose places and sizes go into the tags of that name."""
        order = self._directory.order
        tags = tags | {sizes: self._long(*map(len, parts)), places: self._long(*[0] * len(parts))}
        start = 8 + 2 + 12 * len(tags) + 4
        first = start + sum(len(data) for _, _, data in tags.values() if len(data) > 4)
        tags[places] = self._long(*(first + before for before in _running(map(len, parts))))
        entries, values = [], []
        for tag, (kind, count, data) in sorted(tags.items()):
            value = data.ljust(4, b"\0") if len(data) <= 4 else struct.pack(order + "I", start)
            entries.append(struct.pack(order + "HHI", tag, kind, count) + value)
            if len(data) > 4:
                values.append(data)
                start += len(data)
        head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HIH", 42, 8, len(tags))
        return b"".join([head, *entries, bytes(4), *values, *parts])


class Windows:
    """The stored pixels of a large TIFF file, decoded where they are asked for; threads may share it.

    `size` is (width, height). The file is read, not mapped: one that shrinks gives an error. It stays open as long as
    this object lives. NotByWindow as for Cutter, and where it has at most `least` pixels. No strip or tile may have
    more than `most`.
    """

    by_window = True

    def __init__(self, path: str | Path, decode: Callable[[bytes], Pixels], least: int, most: int):
        file = open(path, "rb", buffering=0)  # noqa: SIM115
        finalize(self, file.close)
        self._cutter = Cutter(Directory(file), least, most)
        self._decode = decode
        self._cache: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._lock = threading.Lock()
        self.size = self._cutter.width, self._cutter.height
        self.held = max(self._cutter.cache_bytes, self._cutter.piece_bytes)  # bytes of decoded pixels, at most
        self.transparent = decode(self._cutter.cut(0, 0)).transparent

    def head(self) -> bytes:
        """A TIFF file without pixels that tells the orientation."""
        return self._cutter.head()

    def read(self, left: int, top: int, right: int, bottom: int) -> np.ndarray:
        """RGB pixels [h, w, 3] uint8 or uint16 of a box inside of the image. Errors of the file and of the decoder."""
        height, width = self._cutter.piece
        result = None
        for row in range(top // height, ceil(bottom / height)):
            for column in range(left // width, ceil(right / width)):
                with self._lock:
                    piece = self._piece(row, column)
                if result is None:
                    result = np.empty((bottom - top, right - left, 3), piece.dtype)
                up, before = row * height, column * width
                rows = slice(max(top, up), min(bottom, up + height))
                columns = slice(max(left, before), min(right, before + width))
                result[_moved(rows, top), _moved(columns, left)] = piece[_moved(rows, up), _moved(columns, before)]
        return result

    def _piece(self, row: int, column: int) -> np.ndarray:
        """A decoded piece [h, w, 3], kept until others have been asked for since."""
        if (row, column) in self._cache:
            self._cache.move_to_end((row, column))
            return self._cache[row, column]
        piece = self._decoded(row, column)
        self._cache[row, column] = piece
        kept = sum(each.nbytes for each in self._cache.values())
        while kept > self.held:
            kept -= self._cache.popitem(last=False)[1].nbytes
        return piece

    def _decoded(self, row: int, column: int) -> np.ndarray:
        """A piece [h, w, 3], turned into RGB few rows at a time because that takes room."""
        decoded = self._decode(self._cutter.cut(row, column))
        width, height = decoded.size
        step = max(1, STRIP_PIXELS // width)
        parts = (decoded.read(0, top, width, min(top + step, height)) for top in range(0, height, step))
        first = next(parts)
        piece = np.empty((height, width, 3), first.dtype)
        piece[: len(first)] = first
        for number, part in enumerate(parts, 1):
            piece[number * step : number * step + len(part)] = part
        return piece


def _running(lengths: Iterable[int]) -> Iterator[int]:
    """What comes before each."""
    total = 0
    for length in lengths:
        yield total
        total += length


def _moved(place: slice, origin: int) -> slice:
    return slice(place.start - origin, place.stop - origin)
