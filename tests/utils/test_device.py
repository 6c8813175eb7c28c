"""Devices, number formats and peaks of memory."""

import os
import sys
from types import SimpleNamespace

import psutil
import pytest
import torch

from utils import device as module
from utils.device import (
    limit_threads,
    peak_memory_mib,
    release_freed_memory,
    reset_peak_memory,
    select_device,
    select_dtype,
    tune_allocator,
)
from utils.errors import UserError

CPU = torch.device("cpu")


@pytest.mark.parametrize("count", [0, 2])
def test_a_device_is_there_or_said_not_to_be(monkeypatch, count):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    names = ["cpu", *["cuda", "cuda:0", "cuda:1", "cuda:7"][: count + (count > 0)]]
    assert [str(select_device(name)) for name in names] == names
    assert str(select_device("auto")) == ("cuda" if count else "cpu")
    for name in {"cuda", "cuda:0", "cuda:1", "cuda:7"} - set(names):
        with pytest.raises(UserError, match=f"device {name}: not present; this machine has {count}"):
            select_device(name)


@pytest.mark.parametrize("present", [False, True])
def test_the_gpu_of_a_mac(monkeypatch, present):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: present)
    assert select_device("auto").type != "mps"  # it is asked for by name
    if present:
        assert select_device("mps") == torch.device("mps")
        assert select_dtype("auto", select_device("mps")) == torch.float32
    else:
        with pytest.raises(UserError, match="^device mps: not present; .*macOS"):
            select_device("mps")


@pytest.mark.parametrize(("threads", "cores", "given", "limited"), [
    (8, 2, None, 2), (2, 8, None, 2), (8, 1, "8", 8),
])  # fmt: skip
def test_threads_keep_to_the_quota_unless_they_are_set(monkeypatch, threads, cores, given, limited):
    monkeypatch.setattr(os, "environ", {} if given is None else {"OMP_NUM_THREADS": given})
    monkeypatch.setattr(module, "usable_cores", lambda: cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    counts = [threads]
    monkeypatch.setattr(torch, "set_num_threads", counts.append)
    limit_threads()
    assert counts[-1] == limited


def test_dtypes_that_gain(tmp_path, monkeypatch):
    """Of a CPU by its flags, of a GPU by its capability."""
    monkeypatch.setattr(module, "CPU_INFO", tmp_path / "cpuinfo")
    assert select_dtype("auto", CPU) == torch.float32
    lines = {"flags\t\t: fpu avx512_bf16 sse": True, "flags : not_amx_bf16_at_all": False, "Features : asimd": False}
    for line, gains in lines.items():
        (tmp_path / "cpuinfo").write_text(f"processor : 0\n{line}\nbugs : none\n")
        assert select_dtype("auto", CPU) == (torch.bfloat16 if gains else torch.float32)
    for capability, dtype in {(7, 5): torch.float32, (8, 0): torch.bfloat16}.items():
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, given=capability: given)
        assert select_dtype("auto", torch.device("cuda")) == dtype
    assert select_dtype("float32", CPU) == torch.float32 and select_dtype("bfloat16", CPU) == torch.bfloat16


def test_the_peak_is_read_and_reset(tmp_path, monkeypatch):
    """From files in place of the system's; where there are none, Windows has a peak, macOS what is held now."""
    status, clear = tmp_path / "status", tmp_path / "clear_refs"
    status.write_text("Name:\tpython\nVmPeak:\t  999999 kB\nVmHWM:\t  204800 kB\nVmRSS:\t  102400 kB\n")
    clear.write_text("")
    monkeypatch.setattr(module, "STATUS", status)
    monkeypatch.setattr(module, "CLEAR_REFS", clear)
    assert peak_memory_mib(CPU) == 200
    assert reset_peak_memory(CPU)
    assert clear.read_text() == "5"
    status.unlink()
    monkeypatch.setattr(module, "CLEAR_REFS", tmp_path / "none" / "none")
    for memory, peak in ({"rss": 3 * 2**20, "peak_wset": 5 * 2**20}, 5), ({"rss": 3 * 2**20}, 3):
        monkeypatch.setattr(psutil.Process, "memory_info", lambda process, held=memory: SimpleNamespace(**held))
        assert peak_memory_mib(CPU) == peak and reset_peak_memory(CPU) is False


def test_other_systems_have_no_allocator_to_tune(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(module.ctypes, "CDLL", None)
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    tune_allocator()
    release_freed_memory()
