"""PNG and TIFF files that no library of the program has written."""

import io
import struct
import zlib

import numpy as np
import PIL.Image
import pytest
import tifffile

from images import reading

COLOUR_TYPE = {1: 0, 2: 4, 3: 2, 4: 6}  # channels -> PNG
ORIENTED = {  # EXIF orientation -> the shown array of the stored one
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: np.swapaxes(a, 0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.swapaxes(np.rot90(a, 2), 0, 1),
    8: lambda a: np.rot90(a, 1),
}


def exif(orientation):
    data = PIL.Image.Exif()
    data[0x0112] = orientation
    return data.tobytes()


def chunk(kind, data):
    """One of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(values, orientation=1, transparent=None):
    """A PNG of an [H, W, C] array of 8 or 16 bits, made without a library."""
    height, width, channels = values.shape
    rows = np.ascontiguousarray(values.astype(values.dtype.newbyteorder(">"))).view(np.uint8).reshape(height, -1)
    body = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1).tobytes()
    head = struct.pack(">IIBBBBB", width, height, 8 * values.dtype.itemsize, COLOUR_TYPE[channels], 0, 0, 0)
    chunks = [(b"IHDR", head), (b"eXIf", exif(orientation).removeprefix(b"Exif\0\0"))]
    chunks += [(b"tRNS", struct.pack(f">{channels}H", *transparent))] if transparent else []
    chunks += [(b"IDAT", zlib.compress(body)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def saved(image, kind, orientation=1, **options):
    """The bytes of a file that Pillow writes."""
    buffer = io.BytesIO()
    image = PIL.Image.fromarray(image) if isinstance(image, np.ndarray) else image
    options = options if orientation == 1 else options | {"exif": exif(orientation)}
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(values, **options):
    """The bytes of a file that tifffile writes."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **options)
    return buffer.getvalue()


def everything(image):
    """All pixels [H, W, 3], float32 in [-1, 1]."""
    return image.window_float(0, 0, image.height, image.width)


def pixels(image):
    """All pixels [H, W, 3] uint8."""
    return image.window(0, 0, image.height, image.width)


@pytest.fixture
def by_window(monkeypatch, tmp_path):
    """Opens the bytes of a small file as a large one is opened: by window."""
    monkeypatch.setattr(reading, "WINDOWED", 0)

    def open_file(data, max_pixels=10**6, name="image"):
        (tmp_path / name).write_bytes(data)
        return reading.open_image(tmp_path / name, max_pixels, by_window=True)

    return open_file
