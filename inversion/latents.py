"""The latents of one image in a safetensors file that is written and read by window.

`structure` [C, h, w] float32 and `global` [D] float32; the metadata say what they belong to. Only the window at hand
is ever in memory: the file is mapped anew for each access, since a lasting map would count as the process's memory.
"""

from __future__ import annotations

import json
import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.geometry import Region
from utils.errors import UserError

LONGEST_HEADER = 2**24  # bytes


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
        """As safetensors metadata."""
        return {
            "format": "patch-inverter-latents-1",
            "image_size": f"{self.height} {self.width}",
            "latent_origin": f"{self.origin[0]} {self.origin[1]}",
            "noise_seed": str(self.seed),
            "noise": json.dumps(self.grain),
            "weights_fingerprint": self.weights,
        }

    @staticmethod
    def parse(metadata: dict[str, str]) -> Description:
        """From safetensors metadata; ValueError or KeyError if they are none."""
        height, width = map(int, metadata["image_size"].split())
        top, left = map(int, metadata["latent_origin"].split())
        if height < 1 or width < 1:
            raise ValueError(f"image size {height} x {width}")
        seed, weights = int(metadata["noise_seed"]), metadata["weights_fingerprint"]
        return Description(height, width, (top, left), seed, weights, json.loads(metadata.get("noise", "null")))


class LatentStore:
    """Latents on disk. Windows are absolute regions of latent cells."""

    def __init__(
        self,
        path: Path,
        description: Description,
        cells: Region,  # that are stored
        channels: int,
        z_g: Tensor,  # global latent [D]
        start: int,  # byte at which `structure` begins
    ) -> None:
        self.path, self.description, self.cells, self.channels, self.z_g = path, description, cells, channels, z_g
        self._start = start

    @staticmethod
    def create(path: Path, description: Description, shape: tuple[int, int, int], z_g: Tensor) -> LatentStore:
        """A new file for `structure` of [C, h, w] = shape, still without content, and for the global latent [D]."""
        count, length = int(np.prod(shape)) * 4, z_g.numel() * 4
        header = {
            "__metadata__": description.metadata(),
            "global": {"dtype": "F32", "shape": list(z_g.shape), "data_offsets": [0, length]},
            "structure": {"dtype": "F32", "shape": list(shape), "data_offsets": [length, length + count]},
        }
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(path, "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text + z_g.cpu().numpy().astype("<f4").tobytes())
            start = file.tell()
            if hasattr(os, "posix_fallocate"):  # a full disk is an error here, and not a crash of the map later
                os.posix_fallocate(file.fileno(), 0, start + count)
            else:
                file.truncate(start + count)
        return LatentStore(path, description, Region.at(*description.origin, *shape[1:]), shape[0], z_g, start)

    @staticmethod
    def open(path: Path) -> LatentStore:
        """The store of a file. UserError if it is no whole latent file."""
        try:
            with open(path, "rb") as file:
                size = path.stat().st_size
                (length,) = struct.unpack("<Q", file.read(8))
                if length > min(size, LONGEST_HEADER):
                    raise ValueError("header too long")
                header = json.loads(file.read(length))
                description = Description.parse(header["__metadata__"])
                (channels, height, width), (first, last) = (
                    header["structure"][key] for key in ("shape", "data_offsets")
                )
                z_first, z_last = header["global"]["data_offsets"]
                if 8 + length + max(last, z_last) != size or last - first != channels * height * width * 4:
                    raise ValueError("sizes do not fit")
                file.seek(8 + length + z_first)
                z_g = torch.from_numpy(np.frombuffer(file.read(z_last - z_first), "<f4").copy())
        except OSError as error:
            raise UserError(f"{path}: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError, struct.error) as error:
            raise UserError(f"{path}: not a whole latent file of infer.py") from error
        cells = Region.at(*description.origin, height, width)
        return LatentStore(path, description, cells, channels, z_g, 8 + length + first)

    def write(self, region: Region, values: Tensor) -> None:
        """Store [C, h, w] of a region of cells."""
        rows, cols = region.slices_in(self.cells)
        self._map("r+")[:, rows, cols] = values.float().cpu().numpy()

    def read(self, region: Region) -> Tensor:
        """[C, h, w] of a region of cells."""
        rows, cols = region.slices_in(self.cells)
        return torch.from_numpy(np.array(self._map("r")[:, rows, cols]))

    def _map(self, mode: str) -> np.memmap:
        return np.memmap(self.path, "<f4", mode, self._start, (self.channels, *self.cells.shape))

