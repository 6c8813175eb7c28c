"""Arrays that blocks are written into, block by block: in memory, in a file, or in a folder of chunks.

A folder is an array of the zarr format, version 3, uncompressed, whose chunks are the blocks; any zarr reader opens it.
A chunk's file appears whole or not at all, so a chunk whose file is there is done, and a killed run can go on. Files
are read and written here without the zarr package: a window then costs only the bytes that lie in it, where zarr reads
whole chunks (five times the time for strips of rows).

A `window` is a tuple of slices with bounds, one for each axis.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Protocol

import numpy as np

from utils.errors import UserError
from utils.files import atomic_path, remove_tree

METADATA = "zarr.json"
DTYPES = {"uint8": np.dtype("u1"), "float32": np.dtype("<f4")}

Window = tuple[slice, ...]


class BlockArray(Protocol):
    """What blocks are written into."""

    def read(self, window: Window) -> np.ndarray:
        """The values of any window."""

    def write(self, window: Window, values: np.ndarray) -> None:
        """Store the values of a block."""

    def has(self, window: Window) -> bool:
        """Whether a block is known to be written, also by an earlier run."""


@dataclass(frozen=True)
class MemoryArray:
    """An array in memory."""

    values: np.ndarray

    def read(self, window: Window) -> np.ndarray:
        """As `BlockArray`."""
        return self.values[window]

    def write(self, window: Window, values: np.ndarray) -> None:
        """As `BlockArray`."""
        self.values[window] = values

    def has(self, window: Window) -> bool:
        """As `BlockArray`: what is in memory is of this run."""
        return False


@dataclass(frozen=True)
class MappedArray:
    """A float32 array inside a file; it is mapped for each access, since a lasting map would count as memory."""

    path: Path
    start: int  # byte at which it begins
    shape: tuple[int, ...]

    def read(self, window: Window) -> np.ndarray:
        """As `BlockArray`."""
        return np.array(self._map("r")[window])

    def write(self, window: Window, values: np.ndarray) -> None:
        """As `BlockArray`."""
        self._map("r+")[window] = values

    def has(self, window: Window) -> bool:
        """As `BlockArray`: a file does not tell."""
        return False

    def _map(self, mode: str) -> np.memmap:
        return np.memmap(self.path, "<f4", mode, self.start, self.shape)


@dataclass(frozen=True)
class ChunkArray:
    """An array in a folder; blocks are whole chunks, or what is left of one at the array's end."""

    folder: Path
    shape: tuple[int, ...]
    chunks: tuple[int, ...]  # shape of a chunk
    dtype: str  # uint8 | float32

    @staticmethod
    def open(folder: Path) -> ChunkArray:
        """The array of a folder. OSError, ValueError, KeyError or TypeError if it is none that `create` made."""
        found = json.loads((folder / METADATA).read_text(encoding="utf-8"))
        shape, chunks = found["shape"], found["chunk_grid"]["configuration"]["chunk_shape"]
        array = ChunkArray(folder, tuple(shape), tuple(chunks), found["data_type"])
        if any(type(edge) is not int or edge < 1 for edge in (*shape, *chunks)) or len(shape) != len(chunks):
            raise ValueError(f"shape {shape}, chunks {chunks}")
        if array.dtype not in DTYPES or found != array._metadata():
            raise ValueError("another layout of zarr arrays")
        return array

    def create(self) -> ChunkArray:
        """Make the folder, with no chunk in it yet; the array itself."""
        write_metadata(self.folder, self._metadata())
        return self

    def continued(self) -> ChunkArray:
        """The array as an earlier run left it; where its folder holds anything else, or nothing, made anew."""
        try:
            if ChunkArray.open(self.folder) == self:
                return self
        except (OSError, ValueError, KeyError, TypeError):
            pass
        remove_tree(self.folder)
        return self.create()

    def read(self, window: Window) -> np.ndarray:
        """As `BlockArray`. UserError if a chunk is missing or damaged."""
        result = np.empty([axis.stop - axis.start for axis in window], DTYPES[self.dtype])
        for index in self._touched(window):
            starts = [k * edge for k, edge in zip(index, self.chunks, strict=True)]
            common = [
                slice(max(axis.start, start), min(axis.stop, start + edge))
                for axis, start, edge in zip(window, starts, self.chunks, strict=True)
            ]
            inside = tuple(slice(c.start - start, c.stop - start) for c, start in zip(common, starts, strict=True))
            target = tuple(slice(c.start - w.start, c.stop - w.start) for c, w in zip(common, window, strict=True))
            result[target] = self._chunk(index)[inside]
        return result

    def write(self, window: Window, values: np.ndarray) -> None:
        """As `BlockArray`. ValueError unless it is a chunk."""
        chunk = np.asarray(values, DTYPES[self.dtype])
        if chunk.shape != self.chunks:  # the last one along an axis is filled up
            chunk = np.pad(chunk, [(0, edge - length) for edge, length in zip(self.chunks, chunk.shape, strict=True)])
        with atomic_path(self._path(self._index(window)), sync=False) as path, open(path, "wb") as file:
            file.write(np.ascontiguousarray(chunk).data)

    def has(self, window: Window) -> bool:
        """As `BlockArray`."""
        return self._is_whole(self._index(window))

    def whole(self) -> bool:
        """Whether all chunks are written."""
        counts = [-(-length // edge) for length, edge in zip(self.shape, self.chunks, strict=True)]
        return all(map(self._is_whole, product(*map(range, counts))))

    @property
    def _chunk_bytes(self) -> int:
        return int(np.prod(self.chunks)) * DTYPES[self.dtype].itemsize

    def _is_whole(self, index: tuple[int, ...]) -> bool:
        """A crash of the machine can leave a file that is too short."""
        try:
            return self._path(index).stat().st_size == self._chunk_bytes
        except OSError:
            return False

    def _chunk(self, index: tuple[int, ...]) -> np.ndarray:
        if not self._is_whole(index):
            raise UserError(f"{self._path(index)}: missing or damaged")
        return np.memmap(self._path(index), DTYPES[self.dtype], "r", shape=self.chunks)

    def _touched(self, window: Window) -> Iterator[tuple[int, ...]]:
        """Indices of the chunks that a window lies in."""
        axes = zip(window, self.chunks, strict=True)
        return product(*(range(axis.start // edge, (axis.stop - 1) // edge + 1) for axis, edge in axes))

    def _index(self, window: Window) -> tuple[int, ...]:
        index = tuple(axis.start // edge for axis, edge in zip(window, self.chunks, strict=True))
        for axis, k, edge, length in zip(window, index, self.chunks, self.shape, strict=True):
            if axis != slice(k * edge, min((k + 1) * edge, length)):
                raise ValueError(f"{window} is no chunk of {self.chunks} in {self.shape}")
        return index

    def _path(self, index: tuple[int, ...]) -> Path:
        return self.folder / "c" / "/".join(map(str, index))

    def _metadata(self) -> dict:
        """As the zarr package writes it."""
        endian = {} if self.dtype == "uint8" else {"configuration": {"endian": "little"}}
        return {
            "shape": list(self.shape),
            "data_type": self.dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(self.chunks)}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": 0 if self.dtype == "uint8" else 0.0,
            "codecs": [{"name": "bytes", **endian}],
            "attributes": {},
            "zarr_format": 3,
            "node_type": "array",
            "storage_transformers": [],
        }


def create_group(folder: Path, attributes: dict[str, str]) -> None:
    """A zarr group without arrays."""
    write_metadata(folder, {"attributes": attributes, "zarr_format": 3, "node_type": "group"})


def read_group(folder: Path) -> dict:
    """The attributes of a zarr group. OSError, ValueError or KeyError if it is none."""
    found = json.loads((folder / METADATA).read_text(encoding="utf-8"))
    if found["zarr_format"] != 3 or found["node_type"] != "group":
        raise ValueError("no zarr group")
    return found["attributes"]


def write_metadata(folder: Path, values: dict) -> None:
    """The file that describes an array or a group."""
    with atomic_path(folder / METADATA, sync=False) as path:
        path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
