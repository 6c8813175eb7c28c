"""Files that are wrong in one way or another, made of sound ones by a generator of random numbers."""

import io
import json
import random
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import tifffile
import torch

from tests.inversion.conftest import photograph
from utils.checkpoint import load_weights, save_weights

EXTREMES = (0, 1, 2, 255, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
NUMBERS = (*EXTREMES, -1, -(2**63), 2**63, 10**30, 1.5, float("nan"), float("inf"), 1e308)
VALUES = (*NUMBERS, None, True, "", "x", "../x", "\x1b[2J", "é" * 300, [], {}, [[]], [-1], [2**40, 2**40], ["auto"])


def images() -> dict[str, bytes]:
    """Sound files of all formats that can be written here, by names with their suffixes."""
    pixels = photograph(20, 24)
    picture, found = PIL.Image.fromarray(pixels), {}
    for name, (mode, kind, options) in {
        "rgb.png": ("RGB", "PNG", {}), "palette.png": ("P", "PNG", {}), "grey.png": ("L", "PNG", {}),
        "alpha.png": ("RGBA", "PNG", {}), "baseline.jpg": ("RGB", "JPEG", {}), "cmyk.jpg": ("CMYK", "JPEG", {}),
        "progressive.jpg": ("RGB", "JPEG", {"progressive": True}), "lossy.webp": ("RGB", "WEBP", {}),
        "lossless.webp": ("RGB", "WEBP", {"lossless": True}), "palette.gif": ("P", "GIF", {}),
        "plain.bmp": ("RGB", "BMP", {}), "deflate.tif": ("RGB", "TIFF", {"compression": "tiff_adobe_deflate"}),
        "lzw.tif": ("RGB", "TIFF", {"compression": "tiff_lzw"}), "group4.tif": ("1", "TIFF", {"compression": "group4"}),
        "jpeg2000.jp2": ("RGB", "JPEG2000", {}),
    }.items():  # fmt: skip
        file = io.BytesIO()
        picture.convert(mode).save(file, kind, **options)
        found[name] = file.getvalue()
    return found


def tiffs() -> dict[str, bytes]:
    """Sound TIFF files of several structures."""
    pixels, found = photograph(40, 56), {}
    for name, (values, options) in {
        "strips.tif": (pixels, {"rowsperstrip": 7}),
        "tiles.tif": (pixels, {"tile": (16, 16)}),
        "deflate.tif": (pixels, {"tile": (16, 32), "compression": "adobe_deflate", "predictor": 2}),
        "wide.tif": (pixels.astype(np.uint16) * 257, {"byteorder": ">"}),
        "big.tif": (pixels, {"bigtiff": True, "tile": (32, 32)}),
        "floats.tif": (pixels.astype(np.float32) / 255, {}),
        "planes.tif": (pixels.transpose(2, 0, 1), {"planarconfig": "separate"}),
    }.items():
        file = io.BytesIO()
        tifffile.imwrite(file, values, photometric="rgb", **options)
        found[name] = file.getvalue()
    return found


def bytewise(data: bytes, chance: random.Random) -> bytes:
    """Cut, changed, with bits that flip, numbers that are extreme, or with parts that come twice or are missing."""
    data, place = bytearray(data), chance.randrange(len(data))
    near = chance.randrange(min(len(data), 64)) if chance.random() < 0.5 else place
    kind = chance.randrange(7)
    if kind == 0:
        del data[place:]
    elif kind == 1:
        data[place] ^= 1 << chance.randrange(8)
    elif kind == 2:
        for _ in range(chance.randrange(1, 9)):
            data[chance.randrange(len(data))] = chance.randrange(256)
    elif kind == 3:
        size = chance.choice((2, 4, 8))
        data[near : near + size] = chance.choice(EXTREMES).to_bytes(8, chance.choice(("little", "big")))[-size:]
    elif kind == 4:
        data[near:near] = chance.randbytes(chance.randrange(1, 30))
    elif kind == 5:
        del data[near : near + chance.randrange(1, 30)]
    else:
        data[place:place] = data[near : near + chance.randrange(1, 200)]
    return bytes(data)


def image(data: bytes, chance: random.Random) -> tuple[bytes, bool]:
    """Bytewise; half of the PNG files have checksums that fit. The second one: whether damage can be known."""
    changed, png = bytewise(data, chance), data.startswith(b"\x89PNG")
    signed = png and chance.random() < 0.5
    return (_signed_png(changed) if signed else changed), png and not signed


def _signed_png(data: bytes) -> bytes:
    start, data = 8, bytearray(data)
    while start + 12 <= len(data):
        end = start + 8 + struct.unpack_from(">I", data, start)[0]
        if end + 4 > len(data):
            break
        data[end : end + 4] = struct.pack(">I", zlib.crc32(data[start + 4 : end]))
        start = end + 4
    return bytes(data)


def tiff(data: bytes, chance: random.Random) -> tuple[bytes, bool]:
    """An entry of the first directory says something else: its tag, type, count or value, or those of another one."""
    data, order = bytearray(data), ">" if data[:2] == b"MM" else "<"
    big = struct.unpack_from(f"{order}H", data, 2)[0] == 43
    first = struct.unpack_from(f"{order}{'Q' if big else 'I'}", data, 8 if big else 4)[0]
    count, size = struct.unpack_from(f"{order}{'Q' if big else 'H'}", data, first)[0], 20 if big else 12
    entries = [first + (8 if big else 2) + size * number for number in range(count)]
    for _ in range(chance.choice((1, 1, 2, 4))):
        entry, other, kind = chance.choice(entries), chance.choice(entries), chance.randrange(5)
        number, wide = chance.choice(EXTREMES), "Q" if big else "I"
        if kind == 0:
            struct.pack_into(f"{order}H", data, entry, chance.choice((*range(254, 340), 700, 34675, 34665)))
        elif kind == 1:
            struct.pack_into(f"{order}H", data, entry + 2, chance.randrange(20))
        elif kind == 2:
            struct.pack_into(f"{order}{wide}", data, entry + 4, number)
        elif kind == 3:
            value = chance.choice((number, entry, first, len(data), chance.randrange(len(data))))
            struct.pack_into(f"{order}{wide}", data, entry + size - (8 if big else 4), value)
        else:
            data[entry + 2 : entry + size] = data[other + 2 : other + size]
    return bytes(data), False


def described(data: bytes, chance: random.Random) -> bytes:
    """A safetensors file: bytewise, or with a header that says something else."""
    if chance.random() < 0.5:
        return bytewise(data, chance)
    (length,) = struct.unpack_from("<Q", data)
    header = jsonwise(json.loads(data[8 : 8 + length]), chance)
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def weights(path: Path, target: Path, chance: random.Random) -> bool:
    """A file of weights: as `described`, or signed anew, of another model or other tensors: not known then."""
    if chance.random() < 0.5:
        target.write_bytes(described(path.read_bytes(), chance))
        return True
    tensors, metadata = load_weights(path)
    name, kind = chance.choice(sorted(tensors)), chance.randrange(5)
    if kind == 0:
        del tensors[name]
    elif kind == 1:
        tensors[name] = chance.choice((tensors[name][None], torch.zeros(0), tensors[name].to(torch.float64)))
    elif kind == 2:
        tensors[name] = tensors[name] * chance.choice((float("nan"), float("inf"), 1e30))
    else:
        found = jsonwise(json.loads(metadata["model"]), chance)
        metadata["model"] = found.decode(errors="replace") if isinstance(found, bytes) else json.dumps(found)
    save_weights(target, tensors, metadata)
    return False


def jsonwise(value: object, chance: random.Random) -> object:
    """A JSON value of which one leaf or branch is another; rarely bytes that no reader should follow to their end."""
    if chance.random() < 0.05:
        return chance.choice((b"[" * 100_000, b'{"a":' * 50_000, b"[1" + b",1" * 200_000 + b"]", b"", b"\xff", b"NaN"))
    places = list(_places(value))
    if not places:
        return chance.choice(VALUES)
    holder, key = chance.choice(places)
    kind, old = chance.randrange(4), holder[key]
    if kind == 0 and isinstance(holder, dict):
        del holder[key]
    elif kind == 1 and isinstance(old, str) and old:
        holder[key] = bytewise(old.encode(), chance).decode(errors="replace")
    elif kind == 2 and isinstance(old, (int, float)) and not isinstance(old, bool):
        holder[key] = chance.choice((old + 1, old - 1, -old, old * 2, *NUMBERS))
    else:
        holder[key] = chance.choice(VALUES)
    return value


def _places(value: object) -> Iterator[tuple[dict | list, object]]:
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield value, key
        yield from _places(item)


def zarr_folder(folder: Path, chance: random.Random) -> None:
    """A folder of a zarr group: a description that says something else, or a chunk that is damaged or another one."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    descriptions, chunks = ([path for path in files if (path.name == "zarr.json") == each] for each in (True, False))
    path = chance.choice(descriptions if chance.random() < 0.6 else chunks)
    kind = chance.randrange(4)
    if path in descriptions and kind:
        found = jsonwise(json.loads(path.read_bytes()), chance)
        path.write_bytes(found if isinstance(found, bytes) else json.dumps(found).encode())
    elif kind == 1:
        path.unlink()
    elif kind == 2:
        path.write_bytes(chance.choice(chunks).read_bytes())
    else:
        path.write_bytes(bytewise(path.read_bytes(), chance))


YAML = (
    "- x", "a: &a [*a]", "<<: {a: 1}", "!!python/object/apply:os.system [true]", "? x", "\t", "---", "'", '"',
    "[" * 3000, "{a: " * 3000, "base: config.yaml", "&a [1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]",
    "1: 2", "\x00", "infer: !!binary aGk=", "infer: {<<: *x}", "2001-01-01: 1", "infer:\n  seed: 1\n  seed: 2",
    "é" * 9999,
)  # fmt: skip


def config(text: str, chance: random.Random) -> bytes:
    """A YAML file: bytewise, with values of other kinds and sizes, or with what YAML has besides."""
    lines, kind = text.splitlines(), chance.randrange(4)
    if kind == 0:
        return bytewise(text.encode(), chance)
    if kind == 1:
        lines.insert(chance.randrange(len(lines) + 1), chance.choice(YAML))
    else:
        for _ in range(chance.choice((1, 1, 3))):
            number = chance.randrange(len(lines))
            value = chance.choice((*VALUES, "none", "auto", "field", "png", "1e3", "0x10", ".inf", "8", "16"))
            written = value if isinstance(value, str) and chance.random() < 0.5 else json.dumps(value)
            lines[number] = re.sub(r":.*", lambda _, written=written: f": {written}", lines[number])
    return "\n".join(lines).encode(errors="replace")

