"""Peak memory of infer.py beyond the loaded networks, against the budget that it was given (infer.memory_mib).

    python -m benchmarks.memory [--sizes 1024 4096] [--budgets 256 1024 4096] [--checkpoint FILE] [key=value ...]

Each size and budget runs in a process of its own on a synthetic photograph (smooth shapes and noise, JPEG).
Exit code: 0 where all peaks are within their budgets, 1 where one is beyond it.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import cv2
import numpy as np

from benchmarks.inference import invert, make_parser, positive
from inversion.tool import Tool
from utils.config import load_config
from utils.device import peak_memory_mib, reset_peak_memory
from utils.errors import run_command
from utils.schema import InferConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Invert every size with every budget and print the table; returns the exit code."""
    parser = make_parser(__doc__)
    parser.add_argument("--sizes", type=positive, nargs="+", default=[1024, 4096], help="edges in pixels")
    parser.add_argument("--budgets", type=positive, nargs="+", default=[256, 1024, 4096], help="MiB")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="options of infer.py")
    arguments = parser.parse_intermixed_args(argv)
    loaded = in_a_process_of_its_own(arguments.checkpoint, arguments.overrides)
    print(f"the loaded networks, with all libraries: {loaded:.0f} MiB")
    print(f"{'pixels':>15} {'budget MiB':>11} {'beyond MiB':>11} {'peak MiB':>9} {'seconds':>8} {'Mpx/s':>7}")
    code = 0
    for size in arguments.sizes:
        for budget in arguments.budgets:
            figures = measure(size, arguments.checkpoint, [*arguments.overrides, f"infer.memory_mib={budget}"])
            peak = figures["peak_memory_mib"]
            speed = f"{figures['seconds']:8.1f} {figures['megapixels_per_second']:7.3f}"
            beyond = peak - loaded
            verdict = "" if beyond <= budget else "  too much"
            code = code or int(bool(verdict))
            print(f"{f'{size} x {size}':>15} {budget:11} {beyond:11.0f} {peak:9.0f} {speed}{verdict}", flush=True)
    return code


def measure(size: int, checkpoint: Path, overrides: list[str]) -> dict[str, float]:
    """The figures of a synthetic photograph, by the names that metrics.csv has for them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "photograph.jpg")
        cv2.imwrite(str(path), photograph(size))
        figures = invert(path, checkpoint, overrides)[0]
    return {key: float(figures[key]) for key in ("peak_memory_mib", "seconds", "megapixels_per_second")}


def photograph(size: int) -> np.ndarray:
    """Smooth shapes with fine noise [size, size, 3] uint8."""
    random = np.random.default_rng(0)
    shapes = cv2.resize(random.integers(0, 256, (16, 16, 3), np.uint8), (size, size), interpolation=cv2.INTER_CUBIC)
    return cv2.add(shapes, random.integers(0, 16, shapes.shape, np.uint8))


def in_a_process_of_its_own(checkpoint: Path, overrides: list[str]) -> float:
    """What `loaded_mib` finds in a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(loaded_mib, (checkpoint, overrides))


def loaded_mib(checkpoint: Path, overrides: list[str]) -> float:
    """Memory of this process (on CUDA: of its tensors), MiB, when infer.py's networks are loaded."""
    import_module("infer")  # with all its libraries
    tool = Tool.load(checkpoint, load_config(InferConfig, None, overrides).infer, encoders=True)
    reset_peak_memory(tool.device)
    return peak_memory_mib(tool.device)


if __name__ == "__main__":
    sys.exit(run_command(main))
