"""Peak memory of infer.py beyond the loaded networks, against the budget that it was given (memory_mib).

    python -m benchmarks.memory [--sizes 1024 4096] [--budgets 256 1024 4096] [--checkpoint FILE] [key=value ...]
    python -m benchmarks.memory --sizes 2048 16384 --budgets 1024      # JPEG files, which are read by window

Each size and budget runs in a process of its own on a synthetic photograph (smooth shapes and noise, JPEG).
Exit code: 0 where all peaks are within their budgets, 1 where one is beyond it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
from collections.abc import Sequence
from importlib import import_module
from itertools import product
from pathlib import Path

import pyvips

from benchmarks.machine import photograph, run_infer
from inversion import PatchInverter
from models.weights import SHIPPED
from utils.config import load_config
from utils.device import peak_memory_mib, reset_peak_memory
from utils.errors import run_command
from utils.schema import InferConfig

TILE = 1024  # pixels along the edge of the picture that is repeated in large ones
COLUMNS = "peak_memory_mib", "megapixels_per_second", "seconds"  # of metrics.csv


def main(argv: Sequence[str] | None = None) -> int:
    """Invert every size with every budget and print the table; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=SHIPPED, help="inverter to measure")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 4096], help="edges in pixels")
    parser.add_argument("--budgets", type=int, nargs="+", default=[256, 1024, 4096], help="MiB")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="options of infer.py")
    arguments = parser.parse_intermixed_args(argv)
    options = load_config(InferConfig, None, arguments.overrides).infer
    loaded = loaded_mib(arguments.checkpoint, options.device, options.dtype)
    print(f"the loaded networks, with all libraries: {loaded:.0f} MiB")
    print(f"{'pixels':>15} {'budget MiB':>11} {'beyond MiB':>11} {'peak MiB':>9} {'seconds':>8} {'Mpx/s':>7}")
    code = 0
    with tempfile.TemporaryDirectory() as folder:
        for size, budget in product(arguments.sizes, arguments.budgets):
            path = Path(folder, f"{size}.jpg")
            tile, count = pyvips.Image.new_from_array(photograph(min(size, TILE))), -(-size // TILE)
            tile.replicate(count, count).crop(0, 0, size, size).jpegsave(str(path), Q=95)
            options = ["--checkpoint", str(arguments.checkpoint), *arguments.overrides, f"memory_mib={budget}"]
            _, (figures,) = run_infer(path, options)
            peak, speed, taken = (float(figures[key]) for key in COLUMNS)
            verdict = "" if peak - loaded <= budget else "  too much"
            code = code or int(bool(verdict))
            line = f"{peak - loaded:11.0f} {peak:9.0f} {taken:8.1f} {speed:7.3f}{verdict}"
            print(f"{f'{size} x {size}':>15} {budget:11} {line}", flush=True)
    return code


def loaded_mib(checkpoint: Path, device: str, dtype: str) -> float:
    """Memory of a process (on CUDA: of its tensors), MiB, when infer.py's networks are loaded."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(held_mib, (checkpoint, device, dtype))


def held_mib(checkpoint: Path, device: str, dtype: str) -> float:
    """The same of this process."""
    import_module("infer")  # with all its libraries
    model = PatchInverter.from_pretrained(checkpoint, device=device, dtype=dtype)
    reset_peak_memory(model.device)
    return peak_memory_mib(model.device)


if __name__ == "__main__":
    sys.exit(run_command(main))
