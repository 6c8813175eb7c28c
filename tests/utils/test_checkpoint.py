"""Checkpoints survive kills, damage is noticed, hostile files are refused, weights are what they say they are."""

import os
import pickle
import random
import resource
import signal
import time
import zipfile
from collections import OrderedDict, namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from utils import checkpoint, files
from utils.checkpoint import (
    fingerprint,
    load_latest,
    load_pretrained,
    load_weights,
    save_checkpoint,
    save_weights,
)
from utils.errors import UserError


def state_of(step: int, size: int = 500) -> dict:
    return {
        "step": step,
        "model": OrderedDict(weight=torch.full((size,), float(step)), bias=torch.zeros(0)),
        "optimizer": {
            "state": {0: {"step": torch.tensor(1.0)}},
            "param_groups": [{"betas": (0.0, 0.99), "params": [0]}],
        },
        "rng": torch.get_rng_state(),
        "note": None,
    }


def same(first, second) -> bool:
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    return torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second


def flip(path: Path, position: int, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


class TestCheckpoints:
    def test_round_trip_and_keep(self, tmp_path):
        for step in range(5):
            save_checkpoint(tmp_path, step, state_of(step), keep=2)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000003.pt", "step-00000004.pt"]
        state, path, skipped = load_latest(tmp_path)
        assert same(state, state_of(4)) and path.name == "step-00000004.pt" and skipped == []

    def test_other_readers_still_open_a_sealed_checkpoint(self, tmp_path):
        path = save_checkpoint(tmp_path, 1, state_of(1), keep=1)
        assert torch.load(path, weights_only=True)["step"] == 1
        assert zipfile.ZipFile(path).testzip() is None

    def test_no_checkpoint(self, tmp_path):
        assert load_latest(tmp_path) is None and load_latest(tmp_path / "missing") is None

    def test_steps_sort_as_numbers_and_other_files_are_left_alone(self, tmp_path):
        (tmp_path / "step-1.pt").write_text("mine")
        for step in (99_999_999, 100_000_000):
            save_checkpoint(tmp_path, step, state_of(step), keep=1)
        assert load_latest(tmp_path)[0]["step"] == 100_000_000
        assert (tmp_path / "step-1.pt").exists() and len(list(tmp_path.iterdir())) == 2

    def test_saving_after_a_fall_back_keeps_the_new_one(self, tmp_path):
        for step in (10, 20):
            save_checkpoint(tmp_path, step, state_of(step), keep=1)
        flip(tmp_path / "step-00000020.pt", 900, 0)
        save_checkpoint(tmp_path, 15, state_of(15), keep=1)
        state, path, skipped = load_latest(tmp_path)
        assert state["step"] == 15 and len(skipped) == 1 and "step-00000020.pt: damaged" in skipped[0]

    def test_all_damaged_is_an_error(self, tmp_path):
        save_checkpoint(tmp_path, 1, state_of(1), keep=1).write_text("no")
        with pytest.raises(UserError, match="none of 1 checkpoints can be read"):
            load_latest(tmp_path)

    @pytest.mark.parametrize("value", [np.float64(1), np.zeros(2), namedtuple("Pair", "a")(1), object()])
    def test_what_would_not_load_again_is_not_saved(self, tmp_path, value):
        with pytest.raises(TypeError, match=r"state\['a'\]\[1\] is a"):
            save_checkpoint(tmp_path, 1, {"a": [0, value]}, keep=1)
        assert not list(tmp_path.iterdir())

    def test_every_plain_value_loads_again(self, tmp_path):
        state = {"all": [None, True, 1, 2.5, "x", b"y", torch.float32, torch.device("cpu"), torch.Size([2]), (1,), {3}]}
        save_checkpoint(tmp_path, 1, state, keep=1)
        assert load_latest(tmp_path)[0] == state


class TestDamage:
    @pytest.fixture
    def two(self, tmp_path):
        save_checkpoint(tmp_path, 1, state_of(1), keep=2)
        return save_checkpoint(tmp_path, 2, state_of(2), keep=2)

    def assert_noticed(self, path: Path) -> None:
        state, used, skipped = load_latest(path.parent)
        assert used.name == "step-00000001.pt" and same(state, state_of(1)) and len(skipped) == 1
        assert path.name in skipped[0] and "\n" not in skipped[0]

    def test_every_flipped_bit(self, two):
        whole, draw = two.read_bytes(), random.Random(0)
        for _ in range(200):
            two.write_bytes(whole)
            flip(two, draw.randrange(len(whole)), draw.randrange(8))
            self.assert_noticed(two)

    def test_every_truncation(self, two):
        whole, draw = two.read_bytes(), random.Random(1)
        sealed_only = [len(whole) - length for length in (1, 70, 71, 72, 73, 93)]
        for size in [0, 1, 21, 22, *sealed_only, *(draw.randrange(len(whole)) for _ in range(90))]:
            two.write_bytes(whole[:size])
            self.assert_noticed(two)

    def test_without_a_seal_the_archive_itself_is_checked(self, two):
        torch.save(state_of(2), two)
        assert load_latest(two.parent)[1] == two
        whole = two.read_bytes()
        flip(two, whole.index(np.float32(2).tobytes() * 9) + 5, 3)
        self.assert_noticed(two)

    def test_an_entry_without_a_crc(self, two):
        with zipfile.ZipFile(two) as old:
            entries = [(entry, old.read(entry)) for entry in old.infolist()]
        torch.save(state_of(2), two)
        content = two.read_bytes()
        for entry, data in entries:
            if data:
                content = content.replace(entry.CRC.to_bytes(4, "little"), bytes(4))
        two.write_bytes(content)
        self.assert_noticed(two)

    def test_a_folder_in_place_of_the_file(self, two):
        two.unlink()
        two.mkdir()
        self.assert_noticed(two)


class TestKills:
    def save_for_ever(self, folder: Path, first: int, returned: int) -> None:
        for step in range(first, first + 100_000):
            save_checkpoint(folder, step, {"step": step, "weight": torch.full((20_000,), float(step))}, keep=3)
            os.pwrite(returned, step.to_bytes(8, "little"), 0)

    def test_a_hundred_kills(self, tmp_path):
        folder, draw = tmp_path / "run", random.Random(0)
        returned = os.open(tmp_path / "returned", os.O_RDWR | os.O_CREAT)
        os.pwrite(returned, bytes(8), 0)
        step, most_left = 0, 0
        for _ in range(100):
            child = os.fork()
            if child == 0:
                try:
                    self.save_for_ever(folder, step + 1, returned)
                finally:
                    os._exit(1)
            time.sleep(draw.uniform(0.0, 0.12))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            most_left = max(most_left, len(list(folder.glob(".tmp-*"))))
            last = int.from_bytes(os.pread(returned, 8, 0), "little")
            if (found := load_latest(folder)) is not None:
                step = found[0]["step"]
                assert found[2] == [] and bool((found[0]["weight"] == step).all())
            assert step >= last and not list(folder.glob(".tmp-*"))
        os.close(returned)
        assert step > 20 and most_left <= 1


class TestFullDisk:
    def assert_intact(self, folder: Path) -> None:
        assert load_latest(folder)[0]["step"] == 1
        assert [path.name for path in folder.iterdir()] == ["step-00000001.pt"]

    def test_too_little_space_is_said_before_writing(self, tmp_path, monkeypatch):
        save_checkpoint(tmp_path, 1, state_of(1), keep=1)
        monkeypatch.setattr(checkpoint, "free_space", lambda path: 2**20)
        with pytest.raises(UserError, match=r"step-00000002.pt: 1 MiB free, 2 MiB needed"):
            save_checkpoint(tmp_path, 2, state_of(2, size=500_000), keep=1)
        self.assert_intact(tmp_path)

    @pytest.mark.parametrize("size", [100, 5_000, 100_000])
    def test_a_write_that_fails(self, tmp_path, size):
        save_checkpoint(tmp_path, 1, state_of(1), keep=1)
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            with pytest.raises(UserError, match=r"cannot write .*step-00000002.pt: File too large \(\d+ MiB free\)"):
                save_checkpoint(tmp_path, 2, state_of(2, size=100_000), keep=1)
            with pytest.raises(UserError, match="w.safetensors: File too large"):
                save_weights(tmp_path / "w.safetensors", {"a": torch.zeros(100_000)}, {})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        self.assert_intact(tmp_path)

    def test_a_rename_that_fails(self, tmp_path, monkeypatch):
        save_checkpoint(tmp_path, 1, state_of(1), keep=1)

        def fail(source, target):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(files.os, "replace", fail)
        with pytest.raises(UserError, match="Permission denied"):
            save_checkpoint(tmp_path, 2, state_of(2), keep=1)
        self.assert_intact(tmp_path)

    def test_a_folder_that_cannot_be_listed(self, tmp_path, monkeypatch):
        def fail(folder):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(checkpoint.os, "listdir", fail)
        with pytest.raises(UserError, match=f"checkpoints {tmp_path}: Permission denied"):
            load_latest(tmp_path)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_a_folder_without_permission(self, tmp_path):
        save_checkpoint(tmp_path, 1, state_of(1), keep=1)
        tmp_path.chmod(0o555)
        with pytest.raises(UserError, match="Permission denied"):
            save_checkpoint(tmp_path, 2, state_of(2), keep=1)
        self.assert_intact(tmp_path)
        tmp_path.chmod(0o755)


class Payload:
    """Unpickles to a command that leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch {self.trace}",)


class Nested:
    """Unpickles by way of getattr, as restricted unpicklers are usually fooled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return getattr, (Payload(self.trace), "trace")


def bomb(path: Path) -> None:
    """A gigabyte of zeros in a megabyte."""
    torch.save({"a": torch.zeros(4)}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            with archive.open(name, "w", force_zip64=True) as entry:
                for _ in range(1024 if name.endswith("data/0") else 0):
                    entry.write(bytes(2**20))
                entry.write(content)


HOSTILE = {
    "zip": lambda path, trace: torch.save({"a": Payload(trace)}, path),
    "legacy": lambda path, trace: torch.save({"a": Payload(trace)}, path, _use_new_zipfile_serialization=False),
    "pickle": lambda path, trace: path.write_bytes(pickle.dumps(Payload(trace))),
    "nested": lambda path, trace: torch.save({"a": Nested(trace)}, path),
    "text": lambda path, trace: path.write_text("GLOBAL weights\n" * 10),
    "empty": lambda path, trace: path.write_bytes(b""),
    "list": lambda path, trace: torch.save([1], path),
    "numpy": lambda path, trace: torch.save({"a": np.zeros(2)}, path),
    "bomb": lambda path, trace: bomb(path),
}


class TestHostile:
    @pytest.mark.parametrize("kind", HOSTILE)
    @pytest.mark.parametrize("load", [load_pretrained, load_weights, lambda path: load_latest(path.parent)])
    def test_nothing_runs_and_one_line_says_why(self, tmp_path, kind, load):
        path, trace = tmp_path / "step-00000001.pt", tmp_path / "trace"
        HOSTILE[kind](path, trace)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(UserError) as error:
            load(path)
        assert not trace.exists()
        assert str(path) in str(error.value) and "\n" not in str(error.value) and "weights_only" not in str(error.value)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024

    def test_the_reason_names_what_the_file_asks_for(self, tmp_path):
        HOSTILE["zip"](tmp_path / "a.pt", tmp_path / "trace")
        with pytest.raises(UserError, match="asks for posix.system"):
            load_pretrained(tmp_path / "a.pt")

    @pytest.mark.parametrize("legacy", [False, True])
    def test_honest_files_by_others_load(self, tmp_path, legacy):
        content = OrderedDict(a=torch.arange(3.0), b=torch.nn.Parameter(torch.ones(2, 2)))
        torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
        assert same(load_pretrained(tmp_path / "a.pth"), content)
        save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors")
        assert same(load_pretrained(tmp_path / "a.safetensors"), {"a": torch.ones(2)})

    def test_missing(self, tmp_path):
        for name in ("a.pth", "a.safetensors"):
            with pytest.raises(UserError, match=f"{name}: No such file or directory"):
                load_pretrained(tmp_path / name)


class TestWeights:
    def tensors(self) -> dict:
        shared = torch.arange(12.0).reshape(3, 4)
        return {
            "a": shared.t(),
            "b": shared,
            "half": torch.ones(3, dtype=torch.bfloat16),
            "zero": torch.tensor(1),
            "none": torch.empty(0),
        }

    def test_round_trip(self, tmp_path):
        path = tmp_path / "new" / "w.safetensors"
        save_weights(path, self.tensors(), {"model": "{}"})
        tensors, metadata = load_weights(path)
        assert same(tensors, self.tensors()) and fingerprint(tensors) == fingerprint(self.tensors())
        assert metadata == {"model": "{}", "fingerprint": fingerprint(tensors)}
        save_weights(path, tensors, metadata)
        assert load_weights(path)[1] == metadata

    def test_a_foreign_fingerprint_is_not_overwritten(self, tmp_path):
        with pytest.raises(ValueError, match="fingerprint is other"):
            save_weights(tmp_path / "w.safetensors", self.tensors(), {"fingerprint": "other"})

    def test_the_fingerprint_sees_names_types_shapes_and_values(self):
        base = {"a": torch.zeros(4), "b": torch.ones(1)}
        others = [
            {"a": torch.zeros(4), "c": torch.ones(1)},
            {"a": torch.zeros(4, dtype=torch.int32), "b": torch.ones(1)},
            {"a": torch.zeros(2, 2), "b": torch.ones(1)},
            {"a": -torch.zeros(4), "b": torch.ones(1)},
            {"a": torch.zeros(4)},
        ]
        marks = {fingerprint(tensors) for tensors in [base, *others]}
        assert len(marks) == 6 and all(len(mark) == 16 for mark in marks)
        assert fingerprint(dict(reversed(base.items()))) == fingerprint(base)

    def test_all_damage_is_noticed(self, tmp_path):
        path, draw = tmp_path / "w.safetensors", random.Random(0)
        save_weights(path, self.tensors(), {"model": "stages: 4"})
        whole = path.read_bytes()
        for _ in range(200):
            path.write_bytes(whole)
            flip(path, draw.randrange(len(whole)), draw.randrange(8))
            with pytest.raises(UserError, match="w.safetensors: (damaged|no fingerprint|not a safetensors)"):
                load_weights(path)
        for _ in range(100):
            path.write_bytes(whole[: draw.randrange(len(whole))])
            with pytest.raises(UserError, match="w.safetensors: (damaged|not a safetensors)"):
                load_weights(path)

    def test_what_is_wrong_is_said(self, tmp_path):
        path = tmp_path / "w.safetensors"
        with pytest.raises(UserError, match="weights .*: No such file or directory"):
            load_weights(path)
        path.write_text("some text that is no safetensors file")
        with pytest.raises(UserError, match="not a safetensors file"):
            load_weights(path)
        save_file({"a": torch.ones(2)}, path)
        with pytest.raises(UserError, match="not written by this program"):
            load_weights(path)
        with pytest.raises(UserError, match="Is a directory"):
            load_weights(tmp_path)
