"""What the benchmarks share: times and memory, a synthetic photograph, and infer.py run as a user does."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
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


def run_infer(
    given: Path,  # an image, or a folder of images
    arguments: Sequence[str],  # further ones of infer.py
    prefix: Sequence[str] = (),  # what stands before the command
) -> tuple[float, list[dict[str, str]]]:
    """The seconds of infer.py in a process of its own, and the rows of its metrics.csv. UserError where it failed."""
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, str(ROOT / "infer.py"), "--input", str(given), "--output", output]
        started = time.perf_counter()
        done = subprocess.run([*prefix, *command, *arguments], capture_output=True, text=True, check=False)
        taken = time.perf_counter() - started
        if done.returncode:
            said = done.stderr.strip().rpartition("\n")[2]
            raise UserError(f"{given}: infer.py ended with {done.returncode}: {said}")
        return taken, read_table(Path(output, "metrics.csv"))


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
