"""Peak memory of inverting a large photograph against that of a small one.

    python -m benchmarks.memory [--sizes 1024 8192] [--checkpoint FILE] [key=value ...]

Each size runs in a process of its own on a synthetic photograph (smooth shapes and noise, JPEG). The last line compares
the growth from the first size to the last with the last image's two 8-bit buffers (input and output, 3 bytes a pixel).
Exit code: 0 where the growth is within these buffers, 1 where it is beyond them.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from benchmarks.inference import invert, make_parser
from utils.errors import run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Invert every size and print the table; returns the exit code."""
    parser = make_parser(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 8192], help="edges in pixels")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="options of infer.py")
    arguments = parser.parse_intermixed_args(argv)
    peaks = {}
    print(f"{'pixels':>15} {'peak MiB':>10} {'two buffers MiB':>16} {'seconds':>9} {'Mpx/s':>7}")
    for size in arguments.sizes:
        figures = measure(size, arguments.checkpoint, arguments.overrides)
        peaks[size] = figures["peak_memory_mib"]
        speed = f"{figures['seconds']:9.1f} {figures['megapixels_per_second']:7.3f}"
        print(f"{f'{size} x {size}':>15} {peaks[size]:10.0f} {buffers(size):16.0f} {speed}", flush=True)
    small, large = arguments.sizes[0], arguments.sizes[-1]
    growth, allowed = peaks[large] - peaks[small], buffers(large)
    verdict = "beyond" if growth > allowed else "within"
    print(f"growth {growth:.0f} MiB: {verdict} the two image buffers of {allowed:.0f} MiB")
    return int(growth > allowed)


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


def buffers(size: int) -> float:
    """MiB of two 8-bit RGB images."""
    return 2 * 3 * size**2 / 2**20


if __name__ == "__main__":
    sys.exit(run_command(main))
