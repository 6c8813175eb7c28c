"""Which device and number format to compute with, and how much memory that took."""

import ctypes
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import torch

from utils.errors import UserError
from utils.processors import text_of, usable_cores

BFLOAT16_FLAGS = {"amx_bf16", "avx512_bf16"}  # x86 instructions without which bfloat16 is slower than float32
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")
CPU_INFO = Path("/proc/cpuinfo")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
LARGEST_KEPT = 2**24  # bytes


def select_device(name: str) -> torch.device:
    """The device for `auto | cpu | cuda | cuda:N | mps`; auto takes CUDA where there is one. UserError for others."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d{1,3})?|mps", name):
        raise UserError(f"device {name}: allowed: auto, cpu, cuda, cuda:N, mps")
    device = torch.device(name)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("device mps: not present; it is the GPU of Apple's processors, under macOS; allowed: auto, cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise UserError(f"device {name}: not present; this machine has {count} CUDA devices; allowed: auto, cpu")
    return device


def select_dtype(name: str, device: torch.device) -> torch.dtype:
    """float32 or bfloat16; `auto` takes bfloat16 where the device has instructions for it. UserError for others."""
    if name in DTYPES:
        return DTYPES[name]
    if name != "auto":
        raise UserError(f"dtype {name}: allowed: auto, {', '.join(DTYPES)}")
    if device.type == "cuda":
        gains = torch.cuda.get_device_capability(device) >= (8, 0)
    else:  # of mps nothing is known
        flags = device.type == "cpu" and re.search(r"^flags\s*:(.*)$", text_of(CPU_INFO), re.MULTILINE)
        gains = bool(flags and BFLOAT16_FLAGS & set(flags[1].split()))
    return torch.bfloat16 if gains else torch.float32


def peak_memory_mib(device: torch.device) -> float:
    """Most memory held since `reset_peak_memory`: the process's on a CPU, the tensors' on a GPU.

    A system that keeps no peak (macOS) gives what the process holds now.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    match = re.search(r"VmHWM:\s+(\d+) kB", text_of(STATUS))
    if match:
        return int(match[1]) / 2**10
    held = psutil.Process().memory_info()
    return getattr(held, "peak_wset", held.rss) / 2**20  # the first on Windows


def reset_peak_memory(device: torch.device) -> bool:
    """Start counting the peak anew; False where the system cannot (the peak is then that of the whole run)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        CLEAR_REFS.write_text("5")
    except OSError:
        return False
    return True


def use_exact_float32() -> None:
    """Compute float32 convolutions and products on CUDA in float32, not in the shorter TF32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def limit_threads() -> None:
    """Have PyTorch compute in no more threads than this process may use cores, unless OMP_NUM_THREADS says how many."""
    if "OMP_NUM_THREADS" not in os.environ and (cores := usable_cores()) < torch.get_num_threads():
        torch.set_num_threads(cores)


def tune_allocator() -> None:
    """Spare the system from clearing pages for each new feature: up to a fifth of the time of an inversion on a CPU.

    The C library (glibc) keeps the memory of freed tensors for the next ones; the largest do go back, or the gaps would
    add up, but PyTorch asks for huge pages for them. A setting of THP_MEM_ALLOC_ENABLE in the environment stays.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    mallopt = libc("mallopt")
    if mallopt:
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)


def release_freed_memory() -> None:
    """Return to the system what `tune_allocator` lets it keep: before work with tensors of other sizes."""
    trim = libc("malloc_trim")
    if trim:
        trim(0)


def libc(name: str) -> Callable[..., int] | None:
    """A function of the C library; None where it has none of this name, or the system is not Linux."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
