"""Images that libvips reads: by window, so that memory does not grow with them, and what Pillow does not know of TIFF.

Tiles of TIFF files are decoded where they lie. All other files are decoded from top to bottom, and this once: into a
scratch file, any window of which is read at once.
"""

from __future__ import annotations

import io
import os
import tempfile
import threading
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO
from weakref import finalize

import numpy as np
import PIL.Image

from images.colours import Colours, noted_colours
from images.mending import png_pieces
from images.segments import BITS, COMPRESSION, STRIP_HEIGHT, TAGS, TILE_HEIGHT, TILE_WIDTH, Segments
from images.vips import Stream, load_vips
from utils.files import free_space

DTYPES = {"uchar": np.dtype(np.uint8), "ushort": np.dtype(np.uint16)}
SAMPLES = DTYPES | {"uint": np.uint32, "float": np.float32, "double": np.float64}
LAB = ("lab", "labs", "labq")
OVERSHOOT = 0.5  # beyond 0 to 1, that floating-point samples may have and that is clipped
STRIP = 2**20  # pixels of a TIFF file that are decoded at a time
BY_WINDOW = ("JPEG", "MPO", "PNG", "WEBP", "TIFF")
# Tags of TIFF.
ORIENTATION, PLANAR, PROFILE = 274, 284, 34675
REDUCED, MASK = 1, 4  # of NewSubfileType: a smaller copy of another picture, or a mask for one
MOST_PICTURES = 1000  # that are counted
FIRST_OF = "the first of its {} pictures is used"
COMPRESSIONS = (1, 2, 3, 4, 5, 7, 8, 32773, 32946, 50001)  # none, of fax, LZW, JPEG, deflate, PackBits, deflate, WebP


class NotByWindow(Exception):
    """A file that has to be decoded whole, and why."""


def open_windows(
    path: str | Path, header: PIL.Image.Image, colours: Colours, max_pixels: int, memory: int | None, notes: list[str]
) -> Stored:
    """The pixels of a file whose header Pillow has read, not turned. NotByWindow where libvips does not hold them.

    No strip or tile may have more than `max_pixels`, or take more than `memory` bytes, nor an image that is interlaced,
    progressive or WebP: its decoder holds all of it for once. Other errors are damage.
    """
    tags = getattr(header, "tag_v2", {})
    _check_layout(header, tags, max_pixels)
    bands = colours.count + header.has_transparency_data
    segments = Segments.of(tags)
    _check_memory(header, segments, memory)
    if segments:
        segments.check_places()
    if segments is None or not segments.tiled:
        if segments:
            with open(path, "rb") as file:
                segments.check_content(file)
        try:
            return Scratch(path, colours, bands, header, notes)
        except load_vips().Error as error:
            raise NotByWindow(" ".join(str(error).split())) from error  # what is damaged shows when it is whole
    segments.check_inside(os.path.getsize(path))
    return Tiles(path, colours, bands, header.tell(), segments)


def tiff_pictures(source: str | Path | bytes | BinaryIO) -> list[int]:
    """The pages of a TIFF file, up to a damaged one, that are no smaller copies or masks; the first one without any."""
    import tifffile  # which takes a while, and is hardly ever needed

    found = []
    try:
        with tifffile.TiffFile(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
            for number, page in enumerate(islice(file.pages, MOST_PICTURES)):
                if not page.subfiletype & (REDUCED | MASK):
                    found.append(number)
    except Exception:  # whatever damage raises
        pass
    return found or [0]


def check_by_vips(source: str | Path | bytes, page: int) -> None:
    """ValueError where libtiff complains of the pixels of a page, which Pillow does not pass on."""
    vips, options = load_vips(), {"access": "sequential", "fail_on": "warning", "page": page}
    try:
        if isinstance(source, bytes):
            vips.Image.tiffload_buffer(source, **options).avg()
        else:
            vips.Image.tiffload(str(source), **options).avg()
    except vips.Error as error:
        raise ValueError("its pixels are damaged") from error


def decode_tiff(source: str | Path | bytes, max_pixels: int, notes: list[str]) -> tuple[np.ndarray, int, bool]:
    """A TIFF file of samples that Pillow does not read: sRGB [H, W, 3], its orientation, whether it is transparent.

    Floating-point samples are from 0 to 1. ValueError for what cannot be colours, or for more than `max_pixels`.
    """
    vips, pictures = load_vips(), tiff_pictures(source)
    page = pictures[0]
    if len(pictures) > 1:
        notes.append(FIRST_OF.format(len(pictures)))
    _check_page(source, page)
    options = {"access": "sequential", "fail_on": "warning", "page": page}
    try:
        if isinstance(source, bytes):
            image = vips.Image.tiffload_buffer(source, **options)
        else:
            image = vips.Image.tiffload(str(source), **options)
    except vips.Error as error:
        found = _by_tifffile(source, page, max_pixels, notes)
        if found is None:
            raise ValueError(" ".join(error.detail.split())) from error
        return found
    if image.width * image.height > max_pixels:
        raise ValueError(f"{image.width} x {image.height} is more than max_pixels ({max_pixels}) allows")
    if image.interpretation in LAB:
        shown = image[:3].icc_export(output_profile="srgb", intent="perceptual", depth=16)
        values, colours, wanted = _fetch_all(shown), Colours(3), 3
    else:
        count = 4 if image.interpretation == "cmyk" else 3 if image.bands > 2 else 1
        if image.bands > 2 and image.interpretation in ("b-w", "grey16", "multiband"):
            raise ValueError(f"its {image.bands} channels are no colours")
        values = _fetch_all(image)
        if values.dtype.kind == "f" and count == 1 and _counts_from_white(source, page):
            values[..., :1] = 1 - values[..., :1]
        values = _as_whole_numbers(values, notes)
        profile = image.get("icc-profile-data") if "icc-profile-data" in image.get_fields() else None
        colours = noted_colours(count, lambda: profile, values.dtype == np.uint16, notes)
        wanted = count + image.hasalpha()
    orientation = image.get("orientation") if "orientation" in image.get_fields() else 1
    return colours(values[..., :wanted]), orientation, wanted > colours.count


def _check_page(source: str | Path | bytes, number: int) -> None:
    """ValueError where a page of a TIFF file is known to be damaged."""
    import tifffile

    with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as stream:
        try:
            with tifffile.TiffFile(stream) as file:
                page = file.pages[number]
                segments = Segments.of({tag: page.tags.valueof(tag) for tag in TAGS if tag in page.tags})
        except Exception:  # whatever damage raises; libvips names it
            return
        if segments:
            segments.check_places()
            segments.check_content(stream)


def _counts_from_white(source: str | Path | bytes, page: int) -> bool:
    """Whether a page of grey of a TIFF file has white as 0, which libvips applies to whole numbers only."""
    import tifffile

    with tifffile.TiffFile(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
        return file.pages[page].photometric == tifffile.PHOTOMETRIC.MINISWHITE


def _by_tifffile(
    source: str | Path | bytes, number: int, max_pixels: int, notes: list[str]
) -> tuple[np.ndarray, int, bool] | None:
    """As `decode_tiff`, of floats that libvips does not read, as of 64 bits; None where tifffile does not, either."""
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
            page = file.pages[number]
            kinds = tifffile.PHOTOMETRIC
            count = {kinds.MINISWHITE: 1, kinds.MINISBLACK: 1, kinds.RGB: 3}.get(page.photometric)
            if count is None or page.imagewidth * page.imagelength > max_pixels:
                return None
            values = page.asarray()
            planes = page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and values.ndim == 3
            profile, orientation = page.tags.valueof(PROFILE), page.tags.valueof(ORIENTATION, 1)
            premultiplied = page.extrasamples[:1] == (tifffile.EXTRASAMPLE.ASSOCALPHA,)
    except Exception:  # whatever a damaged file, or a codec that is not there, raises
        return None
    values = np.moveaxis(values, 0, 2) if planes else np.atleast_3d(values)
    if values.dtype.kind != "f" or values.shape[2] < count:
        return None
    values = values[..., : count + 1].astype(np.float64)
    if premultiplied:
        alpha = values[..., count:]
        values[..., :count] /= np.where(alpha > 0, alpha, 1)
    if page.photometric == kinds.MINISWHITE:
        values[..., :1] = 1 - values[..., :1]
    colours = noted_colours(count, lambda: profile, True, notes)
    return colours(_as_whole_numbers(values, notes)), orientation, values.shape[2] > count


def _fetch_all(image: Any) -> np.ndarray:
    """All samples [H, W, bands] of an image of libvips, by strips, in this thread."""
    if image.format not in SAMPLES:
        raise ValueError(f"its samples are of type {image.format}, which cannot be colours")
    region, kind = load_vips().Region.new(image), np.dtype(SAMPLES[image.format])
    values, rows = np.empty((image.height, image.width, image.bands), kind), max(1, STRIP // image.width)
    for top in range(0, image.height, rows):
        part = values[top : top + rows]
        part[:] = np.frombuffer(region.fetch(0, top, image.width, len(part)), kind).reshape(part.shape)
    return values


def _as_whole_numbers(values: np.ndarray, notes: list[str]) -> np.ndarray:
    """Samples as uint8 or uint16. ValueError for those of a range that says nothing of colours."""
    if values.dtype in DTYPES.values():
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


class Stored:
    """An image that libvips decodes, as an array-like [H, W, 3] of sRGB; `fetch` gives all bands of a box."""

    held = 0  # bytes of decoded pixels in memory, at most

    def __init__(self, image: Any, colours: Colours, wanted: int):
        if image.format not in DTYPES:
            raise ValueError(f"samples of type {image.format}")
        self.dtype, self.shape = DTYPES[image.format], (image.height, image.width, 3)
        self._bands, self._wanted = image.bands, wanted  # `wanted`: with alpha; what a file has beyond is no colour
        self._colours = colours

    def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
        rows, columns = window
        values = self.fetch(rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start)
        if self._bands < 3 <= self._colours.count:  # a palette of grey
            values = values[..., [0, 0, 0, -1]]
        return self._colours(values[..., : self._wanted])


class Tiles(Stored):
    """Tiles of a TIFF file, decoded where they lie; libvips keeps two rows of them. Threads may share it."""

    def __init__(self, path: str | Path, colours: Colours, wanted: int, page: int, segments: Segments):
        self._vips, self._path, self._segments, self._checked = load_vips(), path, segments, set()
        # Tiles that it cannot decode are black unless warnings are failures.
        self._image = self._vips.Image.tiffload(str(path), access="random", fail_on="warning", page=page)
        super().__init__(self._image, colours, wanted)
        self._lock, self._of_thread, self._failure = threading.Lock(), threading.local(), None
        self.held = segments.decoded(self._image.width)
        self[0:1, 0:1]  # what cannot be decoded at all shows here and not later

    def fetch(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        with self._lock:
            # A tile that failed is black from then on.
            if self._failure:
                raise self._failure
            # A region belongs to a thread. A new one for each window would scatter memory until gigabytes are lost.
            if not hasattr(self._of_thread, "region"):
                self._of_thread.region = self._vips.Region.new(self._image)
            try:
                self._check(top, left, height, width)
                data = self._of_thread.region.fetch(left, top, width, height)
            except (self._vips.Error, ValueError) as error:
                self._failure = error
                raise
        return np.frombuffer(data, self.dtype).reshape(height, width, self._bands)

    def _check(self, top: int, left: int, height: int, width: int) -> None:
        """ValueError where a tile that a box touches is known to be damaged; each is looked at once."""
        across = -(-self.shape[1] // self._segments.shape[1])
        rows, columns = (
            range(start // edge, -(-(start + length) // edge))
            for start, length, edge in zip((top, left), (height, width), self._segments.shape, strict=True)
        )
        new = {row * across + column for row in rows for column in columns} - self._checked
        with open(self._path, "rb") as file:
            self._segments.check_content(file, new)
        self._checked |= new


class Scratch(Stored):
    """Decoded pixels in a file without a name, which ends with the process. Threads may share it."""

    def __init__(self, path: str | Path, colours: Colours, wanted: int, header: PIL.Image.Image, notes: list[str]):
        vips, kind = load_vips(), header.format
        with open(path, "rb", buffering=0) as file:
            source = vips.SourceCustom()  # by itself, libvips maps files, and their pages count as our memory
            stream = Stream(png_pieces(file, notes, metadata=False)) if kind == "PNG" else None
            source.on_read(stream.read if stream else file.read)
            if not stream:
                source.on_seek(partial(_seek, file))
            # Strips that it cannot decode are black unless warnings are failures. Photographs with harmless warnings
            # of libjpeg are common.
            options = {"fail_on": "warning", "page": header.tell()} if kind == "TIFF" else {"fail_on": "error"}
            image = vips.Image.new_from_source(source, "", access="sequential", **options)
            super().__init__(image, colours, wanted)
            # /tmp is often in memory
            folder = os.environ.get("TMPDIR") or ("/var/tmp" if os.path.isdir("/var/tmp") else tempfile.gettempdir())
            self._pixel = self._bands * self.dtype.itemsize
            size = image.height * image.width * self._pixel
            if size > free_space(folder):
                raise NotByWindow(f"decoded, it takes {size / 2**20:.0f} MiB in {folder} (TMPDIR), more than is free")
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
            finalize(self, self._file.close)
            try:
                image.rawsave_target(vips.Target.new_to_descriptor(self._file.fileno()))
            except vips.Error as error:
                raise (stream and stream.error) or error from error
        self._lock = threading.Lock()

    def fetch(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        values = np.empty((height, width, self._bands), self.dtype)
        rows = values.view(np.uint8).reshape(height, -1)
        with self._lock:
            for number, row in enumerate(rows, top):
                self._file.seek((number * self.shape[1] + left) * self._pixel)
                if self._file.readinto(row) != row.size:
                    raise OSError("its scratch file became shorter")
        return values


def _seek(file: BinaryIO, offset: int, whence: int) -> int:
    """As `file.seek`, but -1 for a place that a damaged file names: it is called from C, which drops exceptions."""
    try:
        return file.seek(offset, whence)
    except (OSError, OverflowError):
        return -1


def _check_memory(header: PIL.Image.Image, segments: Segments | None, memory: int | None) -> None:
    """ValueError where what a decoder holds at a time is more than `memory` bytes."""
    # without segments: samples of 16 bits, or coefficients of JPEG
    needed = header.width * _rows_at_once(header, {}) * len(header.getbands()) * 2
    needed = segments.decoded(header.width) if segments else needed
    if memory is not None and needed > memory:
        raise ValueError(f"{needed >> 20} MiB of it are decoded at once; infer.memory_mib leaves {memory >> 20}")


def _rows_at_once(header: PIL.Image.Image, tags: dict) -> int:
    """The rows of pixels, or of tiles of them, that a decoder holds."""
    if TILE_HEIGHT in tags:
        return tags[TILE_HEIGHT]
    if tags:
        return min(tags.get(STRIP_HEIGHT, header.height), header.height)
    whole = header.format == "WEBP" or any(header.info.get(key) for key in ("progressive", "interlace"))
    return header.height if whole else 1


def _check_layout(header: PIL.Image.Image, tags: dict, max_pixels: int) -> None:
    """NotByWindow for what libvips does not read, or only by decoding more than `max_pixels` pixels in one go."""
    if header.format not in BY_WINDOW or header.mode == "LAB":
        raise NotByWindow(f"{header.format}, {header.mode}")
    width = header.width
    if tags:
        compression, bits, tiled = tags.get(COMPRESSION, 1), max(tags.get(BITS, (1,))), TILE_WIDTH in tags
        if compression not in COMPRESSIONS or bits not in (1, 8, 16) or (tiled and tags.get(PLANAR) == 2):
            raise NotByWindow(f"compression {compression}, {bits} bits{', tiles of single colours' * tiled}")
        width = tags[TILE_WIDTH] if tiled else width
    height = _rows_at_once(header, tags)
    if height * width > max_pixels:
        raise NotByWindow(f"{width} x {height} pixels of it are decoded at once")
