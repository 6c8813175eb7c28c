"""Devices, number formats and peaks of memory."""

import numpy as np
import pytest
import torch

from utils import device as module
from utils.device import peak_memory_mib, reset_peak_memory, select_device, select_dtype
from utils.errors import UserError

CPU = torch.device("cpu")


def test_cpu_is_always_there():
    assert select_device("cpu") == CPU
    assert select_device("auto").type in ("cpu", "cuda")


@pytest.mark.parametrize(("name", "count"), [("cuda", 0), ("cuda:0", 0), ("cuda:1", 1), ("cuda:7", 2)])
def test_absent_devices_are_said_to_be(monkeypatch, name, count):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(UserError, match=f"device {name}: not present; this machine has {count}"):
        select_device(name)


def test_present_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [str(select_device(name)) for name in ("auto", "cuda", "cuda:1", "cpu")] == ["cuda", "cuda", "cuda:1", "cpu"]


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [
        ("flags\t\t: fpu avx2 avx512_bf16 sse", torch.bfloat16),
        ("flags : amx_bf16", torch.bfloat16),
        ("flags : fpu avx2 avx512f", torch.float32),
        ("flags : not_amx_bf16_at_all", torch.float32),
        ("Features : fp asimd", torch.float32),
        (None, torch.float32),
    ],
)
def test_auto_dtype_on_a_cpu(tmp_path, monkeypatch, flags, dtype):
    monkeypatch.setattr(module, "CPU_INFO", tmp_path / "cpuinfo")
    if flags is not None:
        (tmp_path / "cpuinfo").write_text(f"processor : 0\n{flags}\nbugs : none\n")
    assert select_dtype("auto", CPU) == dtype


@pytest.mark.parametrize(
    ("capability", "dtype"), [((7, 5), torch.float32), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)]
)
def test_auto_dtype_on_a_gpu(monkeypatch, capability, dtype):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert select_dtype("auto", torch.device("cuda")) == dtype


def test_named_dtypes():
    assert select_dtype("float32", CPU) == torch.float32 and select_dtype("bfloat16", CPU) == torch.bfloat16


def test_the_peak_rises_and_can_be_reset():
    before = peak_memory_mib(CPU)
    block = np.ones(64 * 2**20, dtype=np.uint8)
    risen = peak_memory_mib(CPU)
    assert before > 10 and risen >= before
    del block
    if reset_peak_memory(CPU):
        # no exact figures: a system may take idle pages of the process back at any moment
        assert peak_memory_mib(CPU) < risen - 32


def test_without_proc_the_peak_is_still_known(tmp_path, monkeypatch):
    known = peak_memory_mib(CPU)
    monkeypatch.setattr(module, "STATUS", tmp_path / "none")
    monkeypatch.setattr(module, "CLEAR_REFS", tmp_path / "none" / "none")
    assert peak_memory_mib(CPU) >= known * 0.9 and reset_peak_memory(CPU) is False
