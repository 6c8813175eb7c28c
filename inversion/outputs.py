"""The files of one result: pictures that grow strip by strip, the latents, and the figures of the run."""

from __future__ import annotations

import csv
import json
import math
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType

import numpy as np

from datasets.image import Image
from inversion.canvas import Closing, NpyWriter, PngWriter, RowWriter, StripAssembler, compare, to_eight_bit
from inversion.metrics import ImageMetrics
from models.geometry import Region
from utils.files import atomic_path

KINDS = ("reconstruction", "comparison", "latents", "float")  # folders of results


@dataclass(frozen=True)
class Record:
    """A row of metrics.csv. psnr (dB) and ssim are those of the 8-bit result; None where there is no input image."""

    name: str
    height: int  # pixels
    width: int
    psnr: float | None
    ssim: float | None
    seconds: float
    megapixels_per_second: float
    peak_memory_mib: float


class PictureWriter:
    """Writes an image's reconstruction, and beside it what is asked for, from blocks that come row by row.

    A `with` block: the files appear under their names when it ends without an error, else not at all.
    """

    def __init__(
        self,
        folder: Path,
        name: str,  # of the image, without suffix
        size: tuple[int, int],  # height, width
        reference: Image | None,  # for comparison and metrics
        save_float: bool,
    ) -> None:
        self.size, self.reference = size, reference
        self._folder, self._name, self._save_float = folder, name, save_float
        self._strips = StripAssembler(size[1], np.float32 if save_float else np.uint8)
        self._metrics = ImageMetrics(*size) if reference else None
        self._top = 0

    def __enter__(self) -> PictureWriter:
        height, width = self.size
        with ExitStack() as stack:
            self._picture = self._open(stack, PngWriter, "reconstruction", ".png", height, width)
            if self.reference:
                self._comparison = self._open(stack, PngWriter, "comparison", ".png", height, 3 * width)
            if self._save_float:
                self._float = self._open(stack, NpyWriter, "float", ".npy", height, width)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def _open(self, stack: ExitStack, writer: type, folder: str, suffix: str, height: int, width: int) -> RowWriter:
        temporary = stack.enter_context(atomic_path(self._folder / folder / f"{self._name}{suffix}"))
        return stack.enter_context(Closing(writer(temporary, height, width)))[0]

    def add(self, region: Region, block: np.ndarray) -> None:
        """Take a block [h, w, 3] float32 in [-1, 1]."""
        strip = self._strips.add(region, block if self._save_float else to_eight_bit(block))
        if strip is None:
            return
        if self._save_float:
            self._float.write(strip)
            strip = to_eight_bit(strip)
        self._picture.write(strip)
        if self.reference:
            original = self.reference.window(self._top, 0, *strip.shape[:2])
            self._comparison.write(compare(original, strip))
            self._metrics.update(original, strip)
        self._top += len(strip)

    def metrics(self) -> dict[str, float | None]:
        """psnr and ssim, when all blocks have come."""
        return self._metrics.result() if self._metrics else {"psnr": None, "ssim": None}


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
