"""Fidelity of an inverter on folders of photographs, as a markdown table with a row for each folder.

    python -m benchmarks.quality FOLDER [FOLDER ...] [--checkpoint FILE] [key=value ...]

PSNR (dB) and SSIM are means over the images. The last but one column is the PSNR of a picture that fills each cell of
16 x 16 pixels with its mean colour, rounded to 8 bits: what an inverter has to surpass to be of use.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.inference import invert, make_parser
from datasets.image import Image, find_images, open_image
from inversion.metrics import ImageMetrics
from utils.config import load_config
from utils.errors import run_command

CELL = 16  # pixels
COLUMNS = ("folder", "images", "PSNR", "SSIM", f"PSNR of {CELL} x {CELL} means", "seconds per megapixel")


def main(argv: Sequence[str] | None = None) -> None:
    """Invert every folder and print the table."""
    parser = make_parser(__doc__)
    parser.add_argument("words", nargs="+", metavar="FOLDER | key=value", help="folders of images; options of infer.py")
    arguments = parser.parse_intermixed_args(argv)
    folders = [Path(word) for word in arguments.words if "=" not in word]
    overrides = [word for word in arguments.words if "=" in word]
    max_pixels = load_config(None, overrides, sections=("infer",)).infer.max_pixels
    print("| " + " | ".join(COLUMNS) + " |")
    print("| --- |" + " ---: |" * (len(COLUMNS) - 1))
    for folder in folders:
        print(row(folder, invert(folder, arguments.checkpoint, overrides), max_pixels), flush=True)


def row(folder: Path, figures: list[dict[str, str]], max_pixels: int) -> str:
    """The line of the table for a folder, from the rows of its metrics.csv."""
    psnr, ssim = (mean(float(each[key]) for each in figures) for key in ("psnr", "ssim"))
    cells = mean(cell_psnr(open_image(path, max_pixels)) for path in find_images(folder))
    megapixels = sum(int(each["height"]) * int(each["width"]) for each in figures) / 1e6
    speed = sum(float(each["seconds"]) for each in figures) / megapixels
    return f"| {folder.name} | {len(figures)} | {psnr:.2f} | {ssim:.3f} | {cells:.2f} | {speed:.2f} |"


def cell_psnr(image: Image) -> float:
    """PSNR of the mean colour of each cell; cells that the right and lower border cut are smaller."""
    metrics = ImageMetrics(image.height, image.width)
    for top in range(0, image.height, CELL):
        rows = image.window(top, 0, min(CELL, image.height - top), image.width)
        metrics.update(rows, mean_colours(rows))
    return metrics.result()["psnr"]


def mean_colours(rows: np.ndarray) -> np.ndarray:
    """A row of cells [h <= 16, W, 3] uint8, each filled with its mean colour."""
    lefts = np.arange(0, rows.shape[1], CELL)
    widths = np.diff(lefts, append=rows.shape[1])
    sums = np.add.reduceat(rows.sum(axis=0, dtype=np.int64), lefts, axis=0)  # [cells, 3]
    colours = np.rint(sums / (len(rows) * widths[:, None])).astype(np.uint8)
    return np.broadcast_to(np.repeat(colours, widths, axis=0), rows.shape)


def mean(values: Iterable[float]) -> float:
    """The mean of the finite values (an exact result has an infinite PSNR), infinity where there are none."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.inf


if __name__ == "__main__":
    sys.exit(run_command(main))
