"""The machine that measures: its name, its measured peaks, and times taken on it."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F

from utils.device import peak_memory_mib, release_freed_memory, reset_peak_memory

CPU_INFO = Path("/proc/cpuinfo")
MEMORY_INFO = Path("/proc/meminfo")
PRODUCT = {"cpu": 4096, "cuda": 8192}  # rows of the matrices that are multiplied
FEATURE = {"cpu": 128, "cuda": 512}  # edge of the feature that is convolved
CHANNELS = 512
COPIED = 2**28  # bytes of the copy
PEAK_SECONDS = 5.0  # for the best of repeated runs

Result = TypeVar("Result")


@dataclass(frozen=True)
class Memory:
    """Memory held by the process (on CUDA: by its tensors), MiB."""

    peak: float
    before: float

    @property
    def working(self) -> float:
        """What came on top, at most."""
        return self.peak - self.before


def describe(device: torch.device) -> dict:
    """Names and numbers that a measurement belongs to."""
    return {
        "cpu": _field(CPU_INFO, "model name") or "unknown",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "device": device.type,
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
    }


def product_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Floating point operations per second of a large matrix product, the best of several."""
    size = PRODUCT[device.type]
    left, right, out = (torch.randn(size, size).to(device, dtype) for _ in range(3))
    return 2 * size**3 / best(lambda: torch.mm(left, right, out=out), device)


@torch.inference_mode()
def convolution_flops(device: torch.device, dtype: torch.dtype) -> float:
    """The same of a large 3x3 convolution; some processors' libraries are faster at it than at a product."""
    edge, form = FEATURE[device.type], torch.channels_last
    x = torch.randn(1, CHANNELS, edge + 2, edge + 2).to(device, dtype, memory_format=form)
    weight = torch.randn(CHANNELS, CHANNELS, 3, 3).to(device, dtype, memory_format=form)
    return 2 * edge**2 * weight.numel() / best(lambda: F.conv2d(x, weight), device)


def copy_rate(device: torch.device) -> float:
    """Bytes per second that a copy reads and writes, the best of several."""
    source = torch.ones(COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * COPIED / best(lambda: target.copy_(source), device)


def seconds(action: Callable[[], object], device: torch.device) -> float:
    """Seconds that an action takes."""
    _synchronize(device)
    started = time.perf_counter()
    action()
    _synchronize(device)
    return time.perf_counter() - started


def best(action: Callable[[], object], device: torch.device) -> float:
    """Seconds of the quickest of the runs that fit into a few seconds, after a warm-up."""
    seconds(action, device)
    started, taken = time.perf_counter(), [seconds(action, device)]
    while time.perf_counter() - started < PEAK_SECONDS:
        taken.append(seconds(action, device))
    return min(taken)


def watched(action: Callable[[], Result], device: torch.device) -> tuple[Result, Memory | None]:
    """The result of an action, and the memory that was held meanwhile; None where the system does not tell."""
    release_freed_memory()
    known = reset_peak_memory(device)
    held = peak_memory_mib(device)
    result = action()
    return result, Memory(peak_memory_mib(device), held) if known else None


def repeated(action: Callable[[], object], device: torch.device, repeats: int, limit: float) -> list[float]:
    """Seconds: after a warm-up the action is done `repeats` times, or as often as fits into `limit` seconds.

    Where the first time alone is beyond the limit, it is the only one.
    """
    first = seconds(action, device)
    return [seconds(action, device) for _ in range(min(repeats, int(limit / first)))] or [first]


def free_memory(device: torch.device) -> int:
    """Bytes that may still be taken; 0 where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    available = _field(MEMORY_INFO, "MemAvailable")
    return int(available.removesuffix(" kB")) * 2**10 if available else 0


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _field(path: Path, name: str) -> str | None:
    """The first value of this name in a file of /proc; None where the system has none."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    match = re.search(rf"^{name}\s*:\s*(.*)$", text, re.MULTILINE)
    return match[1] if match else None
