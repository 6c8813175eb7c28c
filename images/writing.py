"""Pictures and arrays of pixels that are written strip by strip, so that no result need be whole in memory.

H, W pixels of the image. `pixels` is anything of `shape` [H, W, 3] and `dtype` that gives arrays by
`pixels[y0:y1, x0:x1]`. Pictures say that they are sRGB.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import torch
from PIL.ExifTags import IFD
from torch import Tensor

from images.colours import from_curve
from images.mending import PNG_SIGNATURE, png_chunk
from images.metadata import Metadata, as_bytes
from images.reading import Image, ImageError
from images.vips import Stream, load_vips
from models.geometry import Region
from utils.errors import UserError
from utils.files import atomic_path, refusals, replace_folder, scratch_folder

SUFFIXES = {"png": ".png", "tiff": ".tif", "jpeg": ".jpg", "webp": ".webp", "pyramid": ".tif", "dzi": ".dzi"}  # by kind
TILES = "_files"  # that the folder of tiles of a `dzi` ends with
LONGEST_PNG_EDGE = 1_000_000  # pixels that libpng writes and reads
LONGEST_EDGES = {"png": LONGEST_PNG_EDGE, "jpeg": 65_500, "webp": 16_383}  # pixels that their libraries write and read
LONGEST_EDGE = 10_000_000  # of libvips, for other kinds
MOST_PNG_PIXELS = 2**28  # beyond, readers that decode an image at once give up
CLASSIC_TIFF = 2**31  # bytes of pixels, beyond which a TIFF gets 64-bit offsets (BigTIFF)
STRIP = 2**20  # bytes of the rows that are at hand at a time
PNG_LEVEL = 1  # of zlib; 3 takes a third longer and saves 2 %
BIG_TIFF = 43
UP = 2  # filter of PNG: the difference from the row above
PERCEPTUAL = 0  # intent that a PNG says it is of
EXIF = b"Exif\0\0"  # that it begins with in JPEG
DEEP = ("png", "tiff", "pyramid")  # kinds of pictures that hold 16 bits

TILED = {"tile": True, "tile_width": 256, "tile_height": 256, "compression": "deflate", "predictor": "horizontal"}
SAVERS = {  # by kind: the operation of libvips, and its options
    "tiff": ("tiffsave", TILED),
    "jpeg": ("jpegsave", {"Q": 95, "subsample_mode": "off"}),
    "webp": ("webpsave", {"lossless": True}),
    "pyramid": ("tiffsave", TILED | {"pyramid": True}),
    "dzi": ("dzsave", {"suffix": ".jpg[Q=95,subsample_mode=off]"}),
}


def picture_kind(option: str, size: tuple[int, int], depth: int = 8) -> str:
    """The key of SUFFIXES for the option `format` and a picture of (height, width), of so many bits for each colour.

    UserError if an edge is longer than the format holds, or for more bits.
    """
    if depth > 8 and option not in ("auto", *DEEP):
        raise UserError(f"infer.depth: {depth}, but {option} holds 8 bits; allowed: infer.format={'|'.join(DEEP)}|auto")
    if option == "auto":
        option = "tiff" if size[0] * size[1] > MOST_PNG_PIXELS or max(size) > LONGEST_PNG_EDGE else "png"
    longest = LONGEST_EDGES.get(option, LONGEST_EDGE)
    if max(size) > longest:
        raise UserError(
            f"infer.format: {option} holds edges of at most {longest} pixels, but the picture has"
            f" {size[0]} x {size[1]}; allowed: tiff, auto"
        )
    return option


def write_picture(path: Path, pixels: Any, kind: str, metadata: Metadata | None = None) -> None:
    """Write uint8 pixels, or uint16 where `picture_kind` allows, as a picture of a kind that SUFFIXES names.

    It appears whole or not at all. PNG, JPEG (quality 95, 4:4:4), lossless WebP, tiled TIFF (Deflate), `pyramid` (the
    same with smaller copies), and `dzi`: Deep Zoom, NAME.dzi with tiles of JPEG in NAME_files, which keeps no metadata.
    Only WebP is in memory as a whole. Equal pixels give equal files. UserError where the system refuses to write.
    """
    metadata = metadata or Metadata()
    if kind == "dzi":
        _write_tree(path, pixels)
        return
    with atomic_path(path) as temporary:
        if kind == "png":
            with open(temporary, "wb") as file:
                file.writelines(_png(pixels, PNG_LEVEL, metadata))
        else:
            _save(temporary, pixels, kind, metadata)
            if temporary.suffix == SUFFIXES["tiff"] and metadata.exif:
                _enter_exif(temporary, metadata.exif)


def encode_png(image: Image) -> bytes:
    """The image as an 8-bit RGB PNG; ImageError where an edge is longer than PNG readers accept.

    By OpenCV, as ever: which images of a prepared data set validate follows from these bytes.
    """
    if max(image.height, image.width) > LONGEST_PNG_EDGE:
        raise ImageError(
            image.name, f"{image.height} x {image.width} as PNG: an edge has at most {LONGEST_PNG_EDGE} pixels"
        )
    pixels = image.window(0, 0, image.height, image.width)
    return cv2.imencode(".png", np.ascontiguousarray(pixels[..., ::-1]))[1].tobytes()


def write_npy(path: Path, pixels: Any) -> None:
    """Write float32 pixels as a .npy file [H, W, 3]; it appears whole or not at all."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (*pixels.shape[:2], 3)}
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for strip in _read_strips(pixels):
            file.write(np.ascontiguousarray(strip, "<f4").data)


def strips(size: tuple[int, int]) -> Iterator[Region]:
    """The rows of an image of (height, width) from top to bottom, so many at a time as `STRIP` bytes of uint8 hold."""
    rows = max(1, STRIP // (3 * size[1]))
    for top in range(0, size[0], rows):
        yield Region.at(top, 0, min(rows, size[0] - top), size[1])


def to_eight_bit(pixels: Tensor) -> Tensor:
    """Pixels in [-1, 1] as uint8, rounded to the nearest and clipped."""
    return ((pixels + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8)


def error_times_four(reference: np.ndarray, result: np.ndarray) -> np.ndarray:
    """The absolute difference of uint8 pixels x 4."""
    return np.minimum(np.abs(reference.astype(np.int16) - result) * 4, 255).astype(np.uint8)


class Rounded:
    """Pixels [H, W, 3] float32 in [-1, 1], or uint8, as an array-like of 8 bits; of floats also of 16."""

    def __init__(self, pixels: Any, depth: int = 8):
        self.shape, self.dtype, self._pixels = tuple(pixels.shape), np.dtype(f"u{depth // 8}"), pixels

    def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
        values = self._pixels[window]
        if values.dtype == self.dtype:
            return values
        if self.dtype == np.uint8:
            return to_eight_bit(torch.from_numpy(values)).numpy()
        return ((values + 1) * np.float32(32767.5)).round().clip(0, 65535).astype(self.dtype)


class Comparison:
    """Input, result and their difference x 4 beside each other: an array-like [H, 3 W, 3] of uint8."""

    def __init__(self, image: Image, result: Any):
        self.shape, self.dtype = (image.height, 3 * image.width, 3), np.dtype(np.uint8)
        self._image, self._result = image, result

    def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
        rows, columns = window
        reference = self._image.window(rows.start, 0, rows.stop - rows.start, self._image.width)
        result = self._result[rows, 0 : self._image.width]
        return np.concatenate([reference, result, error_times_four(reference, result)], axis=1)[:, columns]


def _write_tree(path: Path, pixels: Any) -> None:
    """Write NAME.dzi and NAME_files."""
    tiles = path.with_name(f"{path.stem}{TILES}")
    with scratch_folder(path) as folder, refusals(path):
        folder.mkdir(parents=True)
        _save(folder / path.stem, pixels, "dzi", Metadata())
        (folder / tiles.name / "vips-properties.xml").unlink(missing_ok=True)  # tells when it was written
        path.unlink(missing_ok=True)  # first: it never stands beside other tiles than its own
        replace_folder(folder / tiles.name, tiles)
        os.replace(folder / path.name, path)


def _read_strips(pixels: Any) -> Iterator[np.ndarray]:
    """The pixels from top to bottom."""
    for strip in strips(pixels.shape[:2]):
        yield pixels[strip.rows.first : strip.rows.last + 1, 0 : pixels.shape[1]]


def _png(pixels: Any, level: int, metadata: Metadata) -> Iterator[bytes]:
    """The pieces of an RGB PNG file, deflated at a level of zlib; no library of ours takes strips."""
    (height, width), size = pixels.shape[:2], pixels.dtype.itemsize
    deflate, above = zlib.compressobj(level), np.zeros((1, 3 * width * size), np.uint8)
    yield PNG_SIGNATURE + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8 * size, 2, 0, 0, 0))
    yield png_chunk(b"sRGB", bytes([PERCEPTUAL]))
    if metadata.dpi:
        per_metre = (min(round(dpi / 0.0254), 2**31 - 1) for dpi in metadata.dpi)
        yield png_chunk(b"pHYs", struct.pack(">IIB", *per_metre, 1))
    if metadata.exif:
        yield png_chunk(b"eXIf", metadata.exif.removeprefix(EXIF))
    if metadata.xmp:
        yield png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + metadata.xmp)
    for strip in _read_strips(pixels):
        strip = np.ascontiguousarray(strip, strip.dtype.newbyteorder(">")).view(np.uint8)
        rows = np.concatenate([above, strip.reshape(len(strip), -1)])
        filtered = np.full((len(strip), 3 * width * size + 1), UP, np.uint8)
        np.subtract(rows[1:], rows[:-1], out=filtered[:, 1:])  # modulo 256, as the filter asks
        above = rows[-1:]
        yield png_chunk(b"IDAT", deflate.compress(filtered.data))
    yield png_chunk(b"IDAT", deflate.flush()) + png_chunk(b"IEND", b"")


def _save(path: Path, pixels: Any, kind: str, metadata: Metadata) -> None:
    """Write pixels by an operation of libvips, which reads them as a stream. OSError where it fails."""
    vips, stream = load_vips(), Stream(_png(pixels, 0, Metadata()))
    operation, options = SAVERS[kind]
    if operation == "tiffsave":
        size = 3 * pixels.shape[0] * pixels.shape[1] * pixels.dtype.itemsize
        options = options | {"bigtiff": size > CLASSIC_TIFF}
    source = vips.SourceCustom()
    source.on_read(stream.read)
    try:
        image = vips.Image.pngload_source(source, access="sequential", fail_on="error", unlimited=True)
        blobs = {"icc-profile-data": from_curve(), "exif-data": metadata.exif, "xmp-data": metadata.xmp}
        image = image.copy()
        for name, data in blobs.items():
            if data:
                image.set_type(vips.GValue.blob_type, name, data)
        if metadata.dpi:
            image = image.copy(xres=metadata.dpi[0] / 25.4, yres=metadata.dpi[1] / 25.4)
        keep = "icc" if metadata == Metadata() else "icc|exif|xmp"
        getattr(image, operation)(str(path), keep=keep, **options)
    except vips.Error as error:
        raise stream.error or OSError(" ".join(str(error).split())) from error


def _enter_exif(path: Path, exif: bytes) -> None:
    """Add EXIF to the first directory of a tiled TIFF file, which libvips does not; the new one stands at the end."""
    added = PIL.Image.Exif()
    added.load(exif)
    with open(path, "r+b") as file, PIL.Image.open(path) as picture:
        tags, following = picture.tag_v2, picture.tag_v2.next
        list(tags.values())  # only what has been looked at is written
        for tag, value in added.items():
            tags[tag] = added.get_ifd(tag) if tag in (IFD.Exif, IFD.GPSInfo) else as_bytes(value)
        big = struct.unpack("<2xH", file.read(4)) == (BIG_TIFF,)
        number, count, entry, place = ("<Q", 8, 20, 8) if big else ("<I", 2, 12, 4)
        start = file.seek(0, os.SEEK_END)
        start += file.write(bytes(start % 2))
        directory = bytearray(tags.tobytes(start))
        struct.pack_into(number, directory, count + entry * len(tags), following)
        file.write(directory)
        file.seek(place)
        file.write(struct.pack(number, start))
