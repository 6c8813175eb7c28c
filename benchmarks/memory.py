"""Peak memory of inverting a large photograph against that of a small one.

    python -m benchmarks.memory [--sizes 1024 8192] [--checkpoint FILE] [key=value ...]

Each size runs in a process of its own on a synthetic photograph (smooth shapes and noise, JPEG). The last line compares
the growth from the first size to the last with the two images' 8-bit buffers (input and output, 3 bytes a pixel).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

INFER = Path(__file__).parents[1] / "infer.py"


def main() -> None:
    """Invert every size and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 8192], help="edges in pixels")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    arguments = parser.parse_intermixed_args()
    checkpoint = ["--checkpoint", str(arguments.checkpoint)] if arguments.checkpoint else []
    peaks = {}
    print(f"{'pixels':>15} {'peak MiB':>10} {'two buffers MiB':>16} {'seconds':>9} {'Mpx/s':>7}")
    for size in arguments.sizes:
        record = invert(size, [*checkpoint, *arguments.overrides])
        peaks[size] = record["peak_memory_mib"]
        speed = f"{record['seconds']:9.1f} {record['megapixels_per_second']:7.3f}"
        print(f"{f'{size} x {size}':>15} {peaks[size]:10.0f} {buffers(size):16.0f} {speed}", flush=True)
    small, large = arguments.sizes[0], arguments.sizes[-1]
    allowed = buffers(large)
    print(f"growth {peaks[large] - peaks[small]:.0f} MiB, two image buffers {allowed:.0f} MiB")


def invert(size: int, options: list[str]) -> dict[str, float]:
    """The row of metrics of a synthetic photograph."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "photograph.jpg")
        cv2.imwrite(str(path), photograph(size))
        command = [sys.executable, str(INFER), "--input", str(path), "--output", folder, *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return json.loads(Path(folder, "summary.json").read_text())["mean"]


def photograph(size: int) -> np.ndarray:
    """Smooth shapes with fine noise [size, size, 3] uint8."""
    random = np.random.default_rng(0)
    shapes = cv2.resize(random.integers(0, 256, (16, 16, 3), np.uint8), (size, size), interpolation=cv2.INTER_CUBIC)
    return cv2.add(shapes, random.integers(0, 16, shapes.shape, np.uint8))


def buffers(size: int) -> float:
    """MiB of two 8-bit RGB images."""
    return 2 * 3 * size**2 / 2**20


if __name__ == "__main__":
    main()
