"""Speed of infer.py on a machine that others use, too: 20 images of 64 x 64, and one of 1200 x 1800.

    python -m benchmarks.shared [--repeats 5] [key=value ...]

Conditions: `idle`; `busy`, beside a process that keeps one core busy; `bound`, to one core. They take turns; the
figures are medians of the seconds that the whole command takes, the start of Python included, and their shares of the
idle time.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import product
from pathlib import Path
from statistics import median

import PIL.Image
import torch

from benchmarks.machine import photograph, run_infer
from evaluation.run import machine
from utils.errors import run_command
from utils.log import info

PREFIXES = {"idle": (), "busy": (), "bound": ("taskset", "-c", "0")}  # of the command, by condition


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each figure")
    parser.add_argument("--images", type=int, default=20, help="small images")
    parser.add_argument("--size", type=int, nargs=2, default=(1200, 1800), help="height and width of the large image")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="options of infer.py")
    options = parser.parse_intermixed_args(argv)
    times = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        inputs = write_inputs(Path(folder), options.images, *options.size)
        for _, name, condition in product(range(options.repeats), inputs, PREFIXES):
            with busy_core() if condition == "busy" else nullcontext():
                taken, _ = run_infer(inputs[name], options.overrides, PREFIXES[condition])
            times[name, condition].append(taken)
    info(f"{'input':<20} {'condition':<10} {'seconds':>8} {'of idle':>8}")
    for (name, condition), taken in times.items():
        share = median(taken) / median(times[name, "idle"])
        info(f"{name:<20} {condition:<10} {median(taken):8.2f} {share:8.2f}")
    info(f"machine: {machine(torch.device('cpu'))}")
    return 0


def write_inputs(folder: Path, count: int, height: int, width: int) -> dict[str, Path]:
    """Small images in a folder, and a large one, by the name of the measurement."""
    (folder / "small").mkdir()
    for number in range(count):
        PIL.Image.fromarray(photograph(64 + number)[:64, -64:]).save(folder / "small" / f"{number}.png")
    large = folder / "large.jpg"
    PIL.Image.fromarray(photograph(max(height, width))[:height, :width]).save(large, quality=95)
    return {f"{count} of 64 x 64": folder / "small", f"{height} x {width}": large}


@contextmanager
def busy_core() -> Iterator[None]:
    """A process beside that never rests."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    sys.exit(run_command(main))
