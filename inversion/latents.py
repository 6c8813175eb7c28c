"""The latents of one image on disk, written and read by window.

`structure` [C, h, w] float32 and `global` [D] float32, either in a safetensors file or, where they are large, in a
folder `.zarr`: a group of two zarr arrays, whose chunks are the blocks they were encoded in. The same metadata say what
they belong to. Only the window at hand is ever in memory.
"""

from __future__ import annotations

import json
import os
import struct
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from inversion.chunks import BlockArray, ChunkArray, MappedArray, create_group, read_group
from models.geometry import Region
from utils.errors import UserError
from utils.files import atomic_folder, atomic_path

FORMAT = "patch-inverter-latents-1"
LONGEST_HEADER = 2**24  # bytes
FILE, FOLDER = ".safetensors", ".zarr"
SUFFIXES = (FILE, FOLDER)
LARGEST_FILE = 2**30  # bytes of structure that `auto` stores in one file


def latent_suffix(kind: str, shape: tuple[int, ...]) -> str:
    """The suffix that `infer.latents`, other than `none`, asks for; `shape`: [C, h, w] of the structure."""
    if kind == "auto":
        return FILE if int(np.prod(shape)) * 4 <= LARGEST_FILE else FOLDER
    return FOLDER if kind == "zarr" else FILE


def appearing(path: Path) -> AbstractContextManager[Path]:
    """The temporary path of a latent file or folder, which becomes `path` at the end of a `with` block."""
    return atomic_folder(path) if path.suffix == FOLDER else atomic_path(path)


@dataclass(frozen=True)
class Description:
    """What latents belong to."""

    height: int  # of the image, pixels
    width: int
    origin: tuple[int, int]  # absolute row and column of the first latent cell
    seed: int  # of the noise field, where noise is asked for
    weights: str  # fingerprint of the networks that encoded them
    grain: dict | None = None  # the noise that the image is drawn with, as `inversion.grain` has it

    def metadata(self) -> dict[str, str]:
        """As metadata of a safetensors file, or attributes of a zarr group."""
        return {
            "format": FORMAT,
            "image_size": f"{self.height} {self.width}",
            "latent_origin": f"{self.origin[0]} {self.origin[1]}",
            "noise_seed": str(self.seed),
            "noise": json.dumps(self.grain),
            "weights_fingerprint": self.weights,
        }

    @staticmethod
    def parse(metadata: dict[str, str]) -> Description:
        """From metadata; ValueError or KeyError if they are none."""
        height, width = map(int, metadata["image_size"].split())
        top, left = map(int, metadata["latent_origin"].split())
        if height < 1 or width < 1:
            raise ValueError(f"image size {height} x {width}")
        seed, weights = int(metadata["noise_seed"]), metadata["weights_fingerprint"]
        return Description(height, width, (top, left), seed, weights, json.loads(metadata.get("noise", "null")))


@dataclass(frozen=True)
class LatentStore:
    """Latents on disk. Windows are absolute regions of latent cells."""

    path: Path
    description: Description
    cells: Region  # that are stored
    channels: int
    z_g: Tensor  # global latent [D]
    array: BlockArray  # structure [C, h, w]

    @staticmethod
    def create(
        path: Path,
        description: Description,
        shape: tuple[int, int, int],  # of the structure, [C, h, w]
        z_g: Tensor,
        block: tuple[int, int] | None = None,  # cells that are written at a time, the chunks of a folder; None: all
    ) -> LatentStore:
        """A new file or folder, by the path's suffix, whose structure is still without content."""
        if path.suffix == FOLDER:
            chunks = shape[0], *map(min, block or shape[1:], shape[1:])
            array = _create_folder(path, description, shape, z_g, chunks)
        else:
            array = _create_file(path, description, shape, z_g)
        return LatentStore(path, description, Region.at(*description.origin, *shape[1:]), shape[0], z_g.cpu(), array)

    @staticmethod
    def open(path: Path, whole: bool = True) -> LatentStore:
        """The store of a file or folder. UserError if it is none, or, unless `whole` is false, lacks a part."""
        try:
            description, array, z_g = (_open_folder if path.suffix == FOLDER else _open_file)(path)
            if whole and isinstance(array, ChunkArray) and not array.whole():
                raise ValueError("chunks are missing")
        except FileNotFoundError as error:
            raise UserError(f"{path}: {'not a whole latent folder' if path.is_dir() else error.strerror}") from error
        except OSError as error:
            raise UserError(f"{path}: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
            kind = "folder" if path.suffix == FOLDER else "file"
            raise UserError(f"{path}: not a whole latent {kind} of infer.py") from error
        channels, *cells = array.shape
        return LatentStore(path, description, Region.at(*description.origin, *cells), channels, z_g, array)

    @staticmethod
    def continued(
        path: Path, description: Description, shape: tuple[int, int, int], block: tuple[int, int]
    ) -> LatentStore | None:
        """The store that `create` made in a folder of these properties, whose blocks may be missing; else None."""
        try:
            store = LatentStore.open(path, whole=False)
        except UserError:
            return None
        chunks = shape[0], *map(min, block, shape[1:])
        same = store.description == description and (store.array.shape, store.array.chunks) == (shape, chunks)
        return store if same else None

    def write(self, region: Region, values: Tensor) -> None:
        """Store [C, h, w] of a region of cells."""
        self.array.write(self._window(region), values.float().cpu().numpy())

    def read(self, region: Region) -> Tensor:
        """[C, h, w] of a region of cells."""
        return torch.from_numpy(self.array.read(self._window(region)))

    def has(self, region: Region) -> bool:
        """Whether a block of cells is known to be written."""
        return self.array.has(self._window(region))

    def _window(self, region: Region) -> tuple[slice, slice, slice]:
        return slice(0, self.channels), *region.slices_in(self.cells)


def _create_file(path: Path, description: Description, shape: tuple[int, int, int], z_g: Tensor) -> MappedArray:
    count, length = int(np.prod(shape)) * 4, z_g.numel() * 4
    header = {
        "__metadata__": description.metadata(),
        "global": {"dtype": "F32", "shape": list(z_g.shape), "data_offsets": [0, length]},
        "structure": {"dtype": "F32", "shape": list(shape), "data_offsets": [length, length + count]},
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + _values(z_g).tobytes())
        start = file.tell()
        if hasattr(os, "posix_fallocate"):  # a full disk is an error here, and not a crash of the map later
            os.posix_fallocate(file.fileno(), 0, start + count)
        else:
            file.truncate(start + count)
    return MappedArray(path, start, shape)


def _open_file(path: Path) -> tuple[Description, MappedArray, Tensor]:
    with open(path, "rb") as file:
        size = path.stat().st_size
        (length,) = struct.unpack("<Q", file.read(8))
        if length > min(size, LONGEST_HEADER):
            raise ValueError("header too long")
        header = json.loads(file.read(length))
        description = Description.parse(header["__metadata__"])
        shape, (first, last) = (header["structure"][key] for key in ("shape", "data_offsets"))
        channels, height, width = shape
        z_first, z_last = header["global"]["data_offsets"]
        if 8 + length + max(last, z_last) != size or last - first != channels * height * width * 4:
            raise ValueError("sizes do not fit")
        file.seek(8 + length + z_first)
        z_g = torch.from_numpy(np.frombuffer(file.read(z_last - z_first), "<f4").copy())
    return description, MappedArray(path, 8 + length + first, tuple(shape)), z_g


def _create_folder(
    path: Path, description: Description, shape: tuple[int, int, int], z_g: Tensor, chunks: tuple[int, int, int]
) -> ChunkArray:
    with atomic_folder(path) as folder:
        create_group(folder, description.metadata())
        ChunkArray(folder / "structure", shape, chunks, "float32").create()
        style = ChunkArray(folder / "global", tuple(z_g.shape), tuple(z_g.shape), "float32").create()
        style.write((slice(0, len(z_g)),), _values(z_g))
    return ChunkArray.open(path / "structure")


def _open_folder(path: Path) -> tuple[Description, ChunkArray, Tensor]:
    description = Description.parse(read_group(path))
    array, style = (ChunkArray.open(path / name) for name in ("structure", "global"))
    if (len(array.shape), len(style.shape), array.dtype, style.dtype) != (3, 1, "float32", "float32"):
        raise ValueError("arrays of other shapes")
    if not style.whole():
        raise ValueError("the global latent is missing")
    return description, array, torch.from_numpy(style.read((slice(0, style.shape[0]),)))


def _values(z_g: Tensor) -> np.ndarray:
    return z_g.cpu().numpy().astype("<f4")
