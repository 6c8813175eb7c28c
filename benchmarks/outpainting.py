"""How visible the border of a photograph is on the larger canvas that outpaint.py draws around it.

    python -m benchmarks.outpainting FOLDER [--count 20] [complete.noise=none ...]

The mean absolute difference of neighbouring pixels across the border, over that everywhere else in the result: 1 is no
more of an edge than elsewhere. Beside it the same for the photograph laid on its canvas shifted by half the width.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image

from datasets.image import find_images, open_image
from models.weights import SHIPPED, load_generator
from utils import log
from utils.config import load_config
from utils.errors import UserError, run_command
from utils.schema import OutpaintConfig

OUTPAINT = Path(__file__).parents[1] / "outpaint.py"


def main(argv: Sequence[str] | None = None) -> int:
    """Outpaint photographs that are spread evenly over a folder, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="photographs")
    parser.add_argument("--count", type=int, default=20, help="of the photographs")
    parser.add_argument("--checkpoint", type=Path, default=SHIPPED, help="inverter to measure")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="`complete` and `infer` options")
    arguments = parser.parse_intermixed_args(argv)
    max_pixels = load_config(OutpaintConfig, None, arguments.overrides).infer.max_pixels
    files = find_images(arguments.folder)
    if not files or arguments.count < 1:
        raise UserError(f"{arguments.folder}: no photographs to measure")
    files = [files[k] for k in np.unique(np.linspace(0, len(files) - 1, arguments.count).astype(int))]
    cell = 2 ** load_generator(arguments.checkpoint)[1]["stages"]
    ratios, laid = [], []
    with tempfile.TemporaryDirectory() as folder:
        for path in files:
            image = open_image(path, max_pixels)
            photograph = image.window(0, 0, image.height, image.width).astype(np.float32)
            box = in_the_middle(photograph, cell)
            canvas = outpaint(path, box, Path(folder), arguments.checkpoint, arguments.overrides)
            ratios.append(border_ratio(canvas, box))
            laid.append(border_ratio(lay(np.roll(canvas, canvas.shape[1] // 2, axis=1), photograph, box), box))
    log.info(f"{len(ratios)} photographs of {arguments.folder}")
    for name, values in (("outpainted", ratios), ("laid on", laid)):
        log.info(f"{name:<11} mean {np.mean(values):.3f}   median {np.median(values):.3f}   largest {np.max(values):.3f}")
    return 0


def outpaint(path: Path, box: tuple[int, int, int, int], folder: Path, checkpoint: Path, overrides: list[str]):
    """The canvas float [H, W, 3] that outpaint.py draws around a photograph at a place on it."""
    places = ["--input", path, "--output", folder, "--checkpoint", checkpoint]
    options = [f"outpaint.top={box[0]}", f"outpaint.left={box[1]}", *overrides]
    command = [sys.executable, OUTPAINT, *places, *options]
    code = subprocess.run(list(map(str, command)), stdout=subprocess.DEVNULL, check=False).returncode
    if code:
        raise UserError(f"{path}: outpaint.py ended with {code}")
    with PIL.Image.open(folder / f"{path.stem}-seed-0.png") as canvas:
        return np.asarray(canvas, np.float32)


def in_the_middle(photograph: np.ndarray, cell: int) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) of a photograph on a canvas of twice its size, at a latent cell of `cell` pixels."""
    height, width = photograph.shape[:2]
    top, left = (edge // 2 // cell * cell for edge in (height, width))
    return top, left, top + height, left + width


def lay(canvas: np.ndarray, photograph: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """The canvas with the photograph laid on it."""
    top, left, bottom, right = box
    result = canvas.copy()
    result[top:bottom, left:right] = photograph
    return result


def border_ratio(canvas: np.ndarray, box: tuple[int, int, int, int]) -> float:
    """Mean gradient across the border of a box over the mean elsewhere."""
    top, left, bottom, right = box
    down, across = (np.abs(np.diff(canvas, axis=axis)).mean(2) for axis in (0, 1))
    at_down, at_across = np.zeros(down.shape, bool), np.zeros(across.shape, bool)
    for row in (top - 1, bottom - 1):
        at_down[row, left:right] = True
    for col in (left - 1, right - 1):
        at_across[top:bottom, col] = True
    border = np.concatenate([down[at_down], across[at_across]])
    return float(border.mean() / np.concatenate([down[~at_down], across[~at_across]]).mean())


if __name__ == "__main__":
    sys.exit(run_command(main))
