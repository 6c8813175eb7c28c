"""Images that are held whole become arrays [H, W, 3] of uint8 or uint16, sRGB.

libvips decodes TIFF, and PNG of 16 bits, tifffile the samples of TIFF that libvips does not read, Pillow all else.
H, W pixels, n samples of each: colours, and alpha. What is transparent is shown over mid-grey.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import PIL.Image

from images.colours import Colours
from images.headers import Encoded
from images.mending import is_filled, mend, png_pieces
from images.tiff import BLACK_IS_ZERO, FAX, PLANES, PREMULTIPLIED, RGB, WHITE_IS_ZERO, Segments, silent, vips_reads
from images.vips import load_vips
from images.windows import fetch_all, open_by_vips

if TYPE_CHECKING:
    from tifffile import TiffPage

MENDED = ("JPEG", "BMP", "TIFF", "GIF")
STRIP = 2**20  # pixels that are turned into sRGB at a time
OVERSHOOT = 0.5  # beyond 0 to 1, that floating-point samples may have and that is clipped


def decode(encoded: Encoded) -> np.ndarray:
    """All pixels [H, W, 3], as stored: an EXIF orientation is not applied. Inside of `headers.pillow`.

    OSError or ValueError where rows are missing, for what would be decoded wrongly, and for samples that are no
    colours; floating-point samples are from 0 to 1.
    """
    samples = None
    if encoded.page:
        samples = _tiff_samples(encoded)
    elif encoded.kind == "PNG" and encoded.deep:
        with open_by_vips(encoded) as image:
            samples = fetch_all(image)
    if samples is None:
        return _by_pillow(encoded)
    colours = encoded.colours(samples.dtype == np.uint16)
    return _shown(lambda top, bottom: samples[top:bottom], encoded.shape, colours)


def _shown(read: Callable[[int, int], np.ndarray], shape: tuple[int, int], colours: Colours) -> np.ndarray:
    """sRGB [H, W, 3] of samples [h, W, n] that `read` gives of the rows from a first one to before a last one."""
    (height, width), result = shape, None
    step = max(1, STRIP // width)
    for top in range(0, height, step):
        strip = colours(read(top, min(top + step, height)))
        result = np.empty((height, width, 3), strip.dtype) if result is None else result
        result[top : top + step] = strip
    return result


def _tiff_samples(encoded: Encoded) -> np.ndarray | None:
    """Samples [H, W, n] of a TIFF file, uint8 or uint16; None where Pillow should try, which mends some."""
    page, segments = encoded.page, Segments.of(encoded.page)
    segments.check_places()
    segments.check_content(encoded.file)
    if vips_reads(page):
        try:
            with open_by_vips(encoded) as image:
                samples = fetch_all(image)
        except load_vips().Error:
            # Pillow keeps 8 bits of 16, and does not pass on what libtiff complains of in fax.
            if not encoded.known_to_pillow or encoded.deep or page.compression in FAX:
                raise
            return None
    else:
        segments.check_inside(encoded.file.seek(0, io.SEEK_END))
        samples = _by_tifffile(encoded)
        if samples is None:
            return None
    # Of whole numbers libvips has made 0 black.
    if page.photometric == WHITE_IS_ZERO and not (vips_reads(page) and samples.dtype.kind == "u"):
        most = 1 if samples.dtype.kind == "f" else np.iinfo(samples.dtype).max
        samples[..., 0] = most - samples[..., 0]
    return _as_whole_numbers(samples, encoded.notes)


def _by_tifffile(encoded: Encoded) -> np.ndarray | None:
    """Samples [H, W, n] of a TIFF file, as of floats of 64 bits; None where tifffile does not read them, either."""
    page, count, alpha = encoded.page, encoded.count, encoded.alpha
    if page.photometric not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB):
        return None
    try:
        with silent():
            samples = page.asarray()
    except Exception:  # whatever a damaged file, or a codec that is not there, raises
        return None
    planes = page.planarconfig == PLANES and samples.ndim == 3
    samples = (np.moveaxis(samples, 0, 2) if planes else np.atleast_3d(samples))[..., : count + alpha]
    if samples.shape[:2] != encoded.shape:
        return None
    premultiplied = alpha and page.extrasamples[:1] == (PREMULTIPLIED,)
    if samples.dtype.kind == "f":
        samples = samples.astype(np.float64)
        if premultiplied:
            samples[..., :count] /= np.where(samples[..., count:] > 0, samples[..., count:], 1)
        return samples
    whole = samples.dtype.kind == "u" and 8 * samples.itemsize == page.bitspersample
    return samples if whole and not premultiplied else None


def _as_whole_numbers(values: np.ndarray, notes: list[str]) -> np.ndarray:
    """Samples as uint8 or uint16. ValueError for those of a range that says nothing of colours."""
    if values.dtype in (np.uint8, np.uint16):
        return values
    least, most = values.min(), values.max()
    if values.dtype == np.uint32:
        if most < 2**16:
            raise ValueError(f"its 32-bit samples end at {most} of {2**32 - 1}, so all is black; allowed: all of it")
        return (values >> 16).astype(np.uint16)
    if not (least >= -OVERSHOOT and most <= 1 + OVERSHOOT):  # also what is not a number
        raise ValueError(f"its floating-point samples are from {least:.4g} to {most:.4g}; allowed: 0 to 1")
    if least < 0 or most > 1:
        notes.append(f"its samples, from {least:.4g} to {most:.4g}, are clipped to 0 to 1")
    return (values.clip(0, 1) * 65535).round().astype(np.uint16)


def _by_pillow(encoded: Encoded) -> np.ndarray:
    """As `decode`; what lacks its end only is mended, with a note."""
    pixels, file, notes, kind = encoded.header, encoded.file, encoded.notes, encoded.kind
    if not encoded.known_to_pillow:
        raise ValueError("samples of its kind are not supported; 8 and 16-bit images are")
    _check_parts(pixels)
    colours = encoded.colours(encoded.deep)
    if kind == "PNG":
        pixels = PIL.Image.open(io.BytesIO(b"".join(png_pieces(file, notes, metadata=False))), formats=["PNG"])
    try:
        cut = kind == "JPEG" and is_filled(file)
        if not cut:
            pixels.load()
    except OSError:
        if kind not in MENDED or pixels.tell():
            raise
        cut = True
    if cut:
        file.seek(0)
        data, note = mend(file.read(), kind)
        notes.append(note)
        pixels = PIL.Image.open(io.BytesIO(data), formats=[kind])
        pixels.load()
    if pixels.format == "TIFF":  # Pillow has turned it
        encoded.orientation = 1

    def read(top: int, bottom: int) -> np.ndarray:
        return _samples_of_pillow(pixels.crop((0, top, pixels.width, bottom)), colours.count, encoded.page)

    return _shown(read, pixels.size[::-1], colours)


def _samples_of_pillow(pixels: PIL.Image.Image, count: int, page: TiffPage | None) -> np.ndarray:
    """Samples [H, W, n] of a decoded image, which has so many colours; uint16 of grey of 16 bits, or of 12 in TIFF."""
    if not pixels.mode.startswith("I;16"):
        mode = {1: "L", 3: "RGB", 4: "CMYK"}[count]
        if pixels.has_transparency_data:
            mode = {"L": "LA", "RGB": "RGBA"}[mode]
        values = np.asarray(pixels if pixels.mode in (mode, "LAB") else pixels.convert(mode))
        return values if values.ndim == 3 else values[..., None]
    values, clear = np.asarray(pixels).astype(np.uint16)[..., None], pixels.info.get("transparency")
    if page and page.bitspersample == 12:
        values = (values.astype(np.uint32) * 65535 // 4095).astype(np.uint16)
        values = 65535 - values if page.photometric == WHITE_IS_ZERO else values
    return values if clear is None else np.dstack([values, np.where(values == clear, 0, 65535).astype(np.uint16)])


def _check_parts(pixels: PIL.Image.Image) -> None:
    """ValueError where the parts of an image do not cover it."""
    boxes = [tile.extents for tile in getattr(pixels, "tile", ()) if tile.extents]
    if boxes and sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes) < pixels.width * pixels.height:
        raise ValueError("it ends too early: rows are missing")
