"""The files of one result: its pixels while they are drawn, the pictures made of them, and the figures of the run."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from images.metrics import ImageMetrics
from images.reading import Image
from images.writing import SUFFIXES, Comparison, EightBit, longest_edge, picture_kind, strips, write_npy, write_picture
from inversion.chunks import BlockArray, ChunkArray, MemoryArray
from models.geometry import Region
from utils.files import atomic_path

KINDS = ("reconstruction", "comparison", "latents", "float")  # folders of results
RESUMABLE = 2**22  # pixels; larger images are drawn into a folder of chunks, and can be gone on with


def in_memory(size: tuple[int, int]) -> bool:
    """Whether an image of (height, width) is drawn in memory."""
    return size[0] * size[1] <= RESUMABLE


def bytes_in_memory(size: tuple[int, int], save_float: bool) -> int:
    """Bytes that the pixels of an image of (height, width) take while it is drawn."""
    return size[0] * size[1] * 3 * (4 if save_float else 1) if in_memory(size) else 0


@dataclass(frozen=True)
class Pixels:
    """The pixels of a canvas, or of a window of it, that is being drawn: uint8, or float32 in [-1, 1]."""

    region: Region  # of the canvas
    array: BlockArray  # [H, W, 3]

    @staticmethod
    def open(region: Region, folder: Path | None, block: tuple[int, int], save_float: bool) -> Pixels:
        """The pixels in a folder, as an unfinished run left them, or new ones; None: in memory.

        `block`: (rows, columns) of those that will be written. What the folder holds of other shapes is removed.
        """
        dtype = "float32" if save_float else "uint8"
        if folder is None:
            return Pixels(region, MemoryArray(np.empty((*region.shape, 3), dtype)))
        wanted = ChunkArray(folder, (*region.shape, 3), (*map(min, block, region.shape), 3), dtype)
        return Pixels(region, wanted.continued())

    def write(self, region: Region, block: np.ndarray) -> None:
        """Take the pixels [h, w, 3] of a block."""
        self.array.write(self._window(region), block)

    def has(self, region: Region) -> bool:
        """Whether a block is known to be drawn, also by an earlier run."""
        return self.array.has(self._window(region))

    def count_done(self, group: Sequence[Region]) -> int:
        """The number of these blocks, if all of them are known to be drawn, else 0."""
        return len(group) if all(map(self.has, group)) else 0

    @property
    def shape(self) -> tuple[int, int, int]:
        """[H, W, 3] of what is drawn."""
        return *self.region.shape, 3

    def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
        """The pixels [h, w, 3] of a window, counted from the first pixel of what is drawn."""
        return self.array.read((*window, slice(0, 3)))

    def read(self, region: Region) -> np.ndarray:
        """The pixels [h, w, 3] of a region, counted from the first pixel of what is drawn."""
        return self[region.slices_in(Region.at(0, 0, *self.region.shape))]

    def eight_bit(self, region: Region) -> np.ndarray:
        """As `read`, uint8."""
        return EightBit(self)[region.slices_in(Region.at(0, 0, *self.region.shape))]

    def _window(self, region: Region) -> tuple[slice, slice, slice]:
        return *region.slices_in(self.region), slice(0, 3)


@dataclass(frozen=True)
class Record:
    """A row of metrics.csv. psnr (dB) and ssim are those of the 8-bit result; None where there is no input image.

    `seconds`: of the run that finished the image, which may have found blocks of an earlier one.
    """

    name: str
    height: int  # pixels
    width: int
    psnr: float | None
    ssim: float | None
    seconds: float
    megapixels_per_second: float
    peak_memory_mib: float


@dataclass(frozen=True)
class Pictures:
    """Which pictures an image gets, by the `infer` options: paths below the folder of the results, and kinds."""

    size: tuple[int, int]  # height, width
    reconstruction: str  # png | tiff | jpeg | webp
    comparison: str | None
    save_float: bool

    @staticmethod
    def choose(options: dict, size: tuple[int, int], image: Image | None) -> Pictures:
        """The pictures of an image of (height, width). UserError if a format does not hold them."""
        by_window = image is not None and image.by_window
        kind, wide = picture_kind(options["format"], size, by_window), (size[0], 3 * size[1])
        wanted = options["comparison"]
        if wanted == "auto":
            wanted = not by_window and max(wide) <= longest_edge(kind)
        comparison = picture_kind(options["format"], wide, by_window) if wanted and image is not None else None
        return Pictures(size, kind, comparison, options["save_float"])

    def paths(self, name: str) -> list[str]:
        """Where they lie."""
        paths = [f"reconstruction/{name}{SUFFIXES[self.reconstruction]}"]
        paths += [f"comparison/{name}{SUFFIXES[self.comparison]}"] if self.comparison else []
        return paths + ([f"float/{name}.npy"] if self.save_float else [])

    def write(self, folder: Path, name: str, pixels: Pixels, image: Image | None) -> None:
        """Write them; the reconstruction comes last, when all others are complete."""
        paths = [folder / path for path in self.paths(name)]
        if self.comparison:
            write_picture(paths[1], Comparison(image, EightBit(pixels)), self.comparison)
        if self.save_float:
            write_npy(paths[-1], pixels)
        write_picture(paths[0], EightBit(pixels), self.reconstruction)


def measure(pixels: Pixels, image: Image | None) -> dict[str, float | None]:
    """psnr and ssim of the 8-bit pixels against the input image, before JPEG or WebP compress them."""
    if image is None:
        return {"psnr": None, "ssim": None}
    metrics = ImageMetrics(image.height, image.width)
    for strip in strips((image.height, image.width)):
        metrics.update(image.window(strip.rows.first, 0, *strip.shape), pixels.eight_bit(strip))
    return metrics.result()


def write_figures(folder: Path, records: list[Record], failed: dict[str, str], settings: dict) -> None:
    """Write metrics.csv (a row per image) and summary.json (means, settings, and the images that failed)."""
    names = [field.name for field in fields(Record)]
    with atomic_path(folder / "metrics.csv") as path, open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, names)
        table.writeheader()
        table.writerows(asdict(record) for record in records)
    summary = {
        "images": len(records),
        "failed": failed,
        "mean": {name: _mean([getattr(record, name) for record in records]) for name in names[1:]},
        "settings": settings,
    }
    with atomic_path(folder / "summary.json") as path:
        path.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def _mean(values: list[float | None]) -> float | None:
    """The mean of the finite values; None if there are none (an exact result has an infinite PSNR)."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return sum(finite) / len(finite) if finite else None
