"""Files whose pixels are whole though something else is not: metadata that no pixel needs, or the last bytes."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import PIL.Image

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"acTL")  # chunks that must be whole; acTL counts the frames of an animation
COLOURS = (b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM")
METADATA = (b"eXIf", b"pHYs")
TEXT = {b"iTXt": (b"XML:com.adobe.xmp\0",), b"tEXt": (b"Raw profile type ",), b"zTXt": (b"Raw profile type ",)}
DAMAGED_PROFILE = "its colour profile is damaged; the colours count as sRGB"
LONGEST = 2**23  # bytes of a chunk other than of pixels
PIECE = 2**20  # bytes of compressed pixels that are at hand at a time

EOI, SOS, FRAMES = 0xD9, 0xDA, (0xC0, 0xC1, 0xC2)  # markers of JPEG; frames: baseline, extended, progressive
ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a segment
COEFFICIENTS = 64


def png_pieces(file: BinaryIO, notes: list[str], metadata: bool = True) -> Iterator[bytes]:
    """The pieces of a PNG file that its first picture needs, and with `metadata` what is kept of it.

    Nothing else is read, and no damage there counts. A file that ends too early gets an end, and `notes` say so.
    ValueError where pixels are damaged.
    """
    file.seek(0)
    yield file.read(len(PNG_SIGNATURE))
    while len(head := file.read(8)) == 8:
        size, kind = struct.unpack(">I4s", head)
        if kind == b"IEND":
            break
        if kind == b"IDAT":
            yield from _pixel_pieces(file, size)
        elif kind in PIXELS + COLOURS or (metadata and (kind in METADATA or kind in TEXT)):
            data, check = file.read(min(size, LONGEST)), file.read(4)
            sound = check == struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
            if not sound and kind in PIXELS:
                raise ValueError(f"its chunk {kind.decode()} is damaged")
            if not sound and kind == b"iCCP":
                notes.append(DAMAGED_PROFILE)
            if sound and data.startswith(TEXT.get(kind, b"")):
                yield png_chunk(kind, data)
            file.seek(max(0, size - LONGEST), os.SEEK_CUR)
        else:
            file.seek(size + 4, os.SEEK_CUR)
    else:
        notes.append("its end is missing; the pixels are all there")
    yield png_chunk(b"IEND", b"")


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


def _pixel_pieces(file: BinaryIO, size: int) -> Iterator[bytes]:
    """The same compressed pixels in chunks of at most PIECE bytes; the file may end within them."""
    check = zlib.crc32(b"IDAT")
    while size and (data := file.read(min(size, PIECE))):
        yield png_chunk(b"IDAT", data)
        size, check = size - len(data), zlib.crc32(data, check)
    stored = file.read(4)
    if not size and len(stored) == 4 and stored != struct.pack(">I", check):
        raise ValueError("its pixels are damaged: a checksum does not match")


def mend_jpeg(data: bytes) -> tuple[bytes, str]:
    """A JPEG file that ends too early, with an end; and what is missing. ValueError where it is more than a few pixels.

    What is decoded from the file alone does not depend on what follows it. So the pixels are missing that differ when
    other bytes follow: at most half of the last row of blocks may be.
    """
    data = data.rstrip(b"\0")  # of a file that was given its size before its content
    data = data[:-1] if data.endswith(b"\xff") else data
    height, block = _frame(data)
    mended = data + bytes((0xFF, EOI))
    other = np.random.default_rng(0).integers(0, 255, 4096, np.uint8).tobytes()  # no 255, which begins a marker
    shown, differing = (np.asarray(PIL.Image.open(io.BytesIO(each))) for each in (mended, data + other + mended[-2:]))
    missing = (shown != differing).reshape(*shown.shape[:2], -1).any(axis=2)
    rows = np.flatnonzero(missing.any(axis=1))
    if not rows.size:
        return mended, "its end is missing; the pixels are all there"
    last = (height - 1) // block * block
    columns = np.flatnonzero(missing[last:].any(axis=0))
    # Colours are interpolated: a missing block shows one row above itself.
    if rows[0] < last - 1 or columns[0] < shown.shape[1] // 2:
        raise ValueError(f"it ends too early: of {height} rows, those from {rows[0]} on are missing")
    return mended, f"its end is missing: {missing.sum()} pixels at the lower right are filled"


def _frame(data: bytes) -> tuple[int, int]:
    """Height and rows of a row of blocks of a JPEG file whose scans hold all coefficients; ValueError otherwise."""
    place, frame, complete = 2, None, {}
    while (place := data.find(b"\xff", place)) >= 0 and place + 4 <= len(data):
        marker = data[place + 1]
        if marker in ALONE or marker in (0, 0xFF):  # 0: a byte of pixels
            place += 1 if marker == 0xFF else 2
            continue
        segment = data[place + 4 : place + 2 + int.from_bytes(data[place + 2 : place + 4])]
        if marker in FRAMES:
            frame = segment
        elif marker == SOS:
            first, last, low = *segment[-3:-1], segment[-1] & 15
            for component in segment[1:-3:2] if not low else b"":
                complete.setdefault(component, set()).update(range(first, last + 1))
        place += 4 + len(segment)
    if frame is None or {len(complete.get(each, ())) for each in frame[6::3]} != {COEFFICIENTS}:
        raise ValueError("it ends too early: scans of all rows are missing")
    return int.from_bytes(frame[1:3]), 8 * max(each & 15 for each in frame[7::3])
