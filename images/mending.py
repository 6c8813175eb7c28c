"""Files whose pixels are whole though something else is not: metadata that no pixel needs, or the last bytes."""

from __future__ import annotations

import io
import os
import re
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import PIL.Image

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PIXELS = (b"IHDR", b"PLTE", b"tRNS")  # chunks that must be whole
SIZES = {b"cICP": 4, b"sRGB": 1, b"gAMA": 4, b"cHRM": 32}  # of chunks that tell colours
METADATA = (b"eXIf", b"pHYs", b"acTL", b"fcTL")  # the last two: of the frames of an animation
TEXT = {b"iTXt": (b"XML:com.adobe.xmp\0",), b"tEXt": (b"Raw profile type ",), b"zTXt": (b"Raw profile type ",)}
LONGEST = 2**23  # bytes of a chunk other than of pixels
PIECE = 2**20  # bytes of compressed pixels that are at hand at a time

EOI, SOS, FRAMES = 0xD9, 0xDA, (0xC0, 0xC1, 0xC2)  # markers of JPEG; frames: baseline, extended, progressive
ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a segment
COEFFICIENTS = 64
PADDING = 2**16  # bytes that follow a file that ends too early

WEBP_PIXELS = (b"VP8 ", b"VP8L", b"ALPH", b"ANMF")
WEBP_KEPT = (*WEBP_PIXELS, b"VP8X", b"ANIM", b"ICCP", b"EXIF", b"XMP ")
PROFILE_BOX = re.compile(rb"(.{4})colr\x02..", re.DOTALL)  # of JPEG 2000; its size
CICP_BOX = re.compile(rb"colrnclx(.{4})", re.DOTALL)  # of AVIF; primaries and curve
UNSPECIFIED, SRGB_CURVE, LIKE_SRGB = 2, 13, (1, 2, 6, 13)  # of these; what encoders write for photographs
EXIF_ITEM = re.compile(rb"(infe.{8})Exif", re.DOTALL)  # of AVIF
EMPTY = 64  # bytes, none of which compressed pixels leave 0


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
        elif kind in (*PIXELS, *SIZES, b"iCCP") or (metadata and (kind in METADATA or kind in TEXT)):
            data, check = file.read(min(size, LONGEST)), file.read(4)
            sound = check == struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
            if not sound and kind in PIXELS:
                raise ValueError(f"its chunk {kind.decode()} is damaged")
            if kind == b"iCCP" and not (sound and _is_profile(data)):
                notes.append("its colour profile is damaged; the colours count as sRGB")
            elif sound and data.startswith(TEXT.get(kind, b"")) and len(data) == SIZES.get(kind, len(data)):
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


def _is_profile(data: bytes) -> bool:
    """Whether the content of an iCCP chunk (a name and what is compressed) can be decompressed."""
    name, _, compressed = data.partition(b"\0")
    try:
        return bool(name and zlib.decompressobj().decompress(compressed[1:], LONGEST))
    except zlib.error:
        return False


def _pixel_pieces(file: BinaryIO, size: int) -> Iterator[bytes]:
    """The same compressed pixels in chunks of at most PIECE bytes; the file may end within them."""
    check = zlib.crc32(b"IDAT")
    while size and (data := file.read(min(size, PIECE))):
        yield png_chunk(b"IDAT", data)
        size, check = size - len(data), zlib.crc32(data, check)
    stored = file.read(4)
    if not size and len(stored) == 4 and stored != struct.pack(">I", check):
        raise ValueError("its pixels are damaged: a checksum does not match")


def is_filled(file: BinaryIO) -> bool:
    """Whether a file of compressed pixels got its size before its content, and only a part of that."""
    place, end, data = file.seek(0, os.SEEK_END), bytes(EMPTY), b""
    file.seek(max(0, place - EMPTY))
    if file.read() != end:
        return False
    while place and not data:  # what stands before the zeros
        place, size = max(0, place - PADDING), min(place, PADDING)
        file.seek(place)
        data = file.read(size).rstrip(b"\0")
    return not data.endswith(bytes((0xFF, EOI)))


def mend(data: bytes, kind: str) -> tuple[bytes, str]:
    """A file of a format of Pillow that ends too early, with an end; and what is missing.

    What is decoded from the file alone does not depend on what follows it. So the pixels are missing that differ when
    other bytes follow: at most half of a row, of JPEG a row of blocks, may be. ValueError where it is more.
    """
    block, ends = 1, (bytes(PADDING), b"\xff" * PADDING)
    if kind == "JPEG":
        data = data.rstrip(b"\0")  # of a file that was given its size before its content
        data = data[:-1] if data.endswith(b"\xff") else data
        block, end = _rows_of_a_block(data), bytes((0xFF, EOI))
        noise = np.random.default_rng(0).integers(0, 255, PADDING, np.uint8)  # without 255, which begins a marker
        ends = end, noise.tobytes() + end
    shown, other = (np.asarray(PIL.Image.open(io.BytesIO(data + end), formats=[kind])) for end in ends)
    missing = (shown != other).reshape(*shown.shape[:2], -1).any(axis=2)
    if not missing.any():
        return data + ends[0], "its end is missing; the pixels are all there"
    rows, columns = np.flatnonzero(missing.any(axis=1)), np.flatnonzero(missing.any(axis=0))
    # Colours of JPEG are interpolated: a missing block shows one row above itself.
    if np.ptp(rows) > block or len(columns) > missing.shape[1] // 2:
        raise ValueError(f"it ends too early: {len(rows)} of {len(missing)} rows are missing")
    return data + ends[0], f"its end is missing: {missing.sum()} pixels in a corner are filled"


def told_colours(file: BinaryIO, kind: str) -> dict:
    """What Pillow does not read of the colours of a BMP, JPEG 2000 or AVIF file: its `icc_profile`, or its `cicp`."""
    if kind not in ("BMP", "JPEG2000", "AVIF"):
        return {}
    file.seek(0)
    start = file.read(PADDING)
    if kind == "BMP" and start[70:74] == b"DEBM" and len(start) > 138:  # a profile is embedded
        place, size = struct.unpack_from("<II", start, 126)
        file.seek(14 + place)
        return {"icc_profile": file.read(min(size, LONGEST))}
    if kind == "JPEG2000" and (found := PROFILE_BOX.search(start)):
        size = int.from_bytes(found[1]) - 11
        return {"icc_profile": start[found.end() : found.end() + size]}
    if kind == "AVIF" and (found := CICP_BOX.search(start)):
        primaries, curve = struct.unpack(">HH", found[1])
        if primaries != UNSPECIFIED:
            return {"cicp": (primaries, SRGB_CURVE if curve in LIKE_SRGB else curve)}
    return {}


def without_exif(avif: bytes) -> bytes:
    """An AVIF file whose EXIF its decoder, which reads it before the pixels, takes for something else."""
    return EXIF_ITEM.sub(rb"\1free", avif)


def mend_webp(data: bytes, notes: list[str]) -> bytes:
    """A WebP file of those of its chunks that are whole; `notes` say what is not. ValueError where pixels are not."""
    chunks, place = [], 12
    while place + 8 <= len(data):
        kind, size = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
        body = data[place + 8 : place + 8 + size]
        if len(body) < size or body[-EMPTY:] == bytes(EMPTY):  # the latter where a file got its size before its content
            if kind in WEBP_PIXELS:
                raise ValueError("it ends too early: rows are missing")
            notes.append("its end is missing; the pixels are all there")
        elif kind in WEBP_KEPT:
            chunks.append(data[place : place + 8] + body + bytes(size % 2))
        place += 8 + size + size % 2
    content = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(content)) + content


def _rows_of_a_block(data: bytes) -> int:
    """The rows of pixels of a row of blocks of a JPEG file whose scans hold all coefficients; ValueError otherwise."""
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
    return 8 * max(each & 15 for each in frame[7::3])
