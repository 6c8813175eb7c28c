"""What the benchmarks share: times and memory, a synthetic photograph, and infer.py run as a user does."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch

from utils.device import peak_memory_mib, release_freed_memory, reset_peak_memory
from utils.errors import UserError
from utils.tables import read_table

ROOT = Path(__file__).parents[1]


def seconds(action: Callable[[], object], device: torch.device) -> float:
    """Seconds that an action takes."""
    _synchronize(device)
    started = time.perf_counter()
    action()
    _synchronize(device)
    return time.perf_counter() - started


def repeated(action: Callable[[], object], device: torch.device, repeats: int) -> tuple[list[float], float]:
    """The seconds of an action, several times after a warm-up (0: of that one), and the MiB that it held beyond those
    before: on CUDA those of PyTorch's tensors, NaN where the system does not tell.
    """
    release_freed_memory()
    known = reset_peak_memory(device)
    before = peak_memory_mib(device)
    first = seconds(action, device)
    taken = [seconds(action, device) for _ in range(repeats)] or [first]
    return taken, peak_memory_mib(device) - before if known else float("nan")


def photograph(size: int) -> np.ndarray:
    """Smooth shapes with fine noise [size, size, 3] uint8."""
    random = np.random.default_rng(0)
    shapes = cv2.resize(random.integers(0, 256, (16, 16, 3), np.uint8), (size, size), interpolation=cv2.INTER_CUBIC)
    return cv2.add(shapes, random.integers(0, 16, shapes.shape, np.uint8))


def run_infer(image: Path, checkpoint: Path, overrides: list[str]) -> dict[str, float]:
    """The row of metrics.csv of an image, by infer.py in a process of its own. UserError where that failed."""
    with tempfile.TemporaryDirectory() as folder:
        places = ["--input", str(image), "--output", folder, "--checkpoint", str(checkpoint)]
        command = [sys.executable, str(ROOT / "infer.py"), *places, *overrides]
        code = subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode
        if code:
            raise UserError(f"{image}: infer.py ended with {code}")
        (row,) = read_table(Path(folder, "metrics.csv"))
    return {key: float(value) for key, value in row.items() if key != "name"}


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
