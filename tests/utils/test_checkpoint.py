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

from utils.checkpoint import fingerprint, load_latest, load_pretrained, load_weights, save_checkpoint, save_weights
from utils.errors import UserError
from utils.files import remove_stale


def state_of(step: int, size: int = 500) -> dict:
    return {
        "step": step,
        "model": OrderedDict(weight=torch.full((size,), float(step)), bias=torch.zeros(0)),
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"betas": (0.0, 0.99)}]},
        "plain": [None, True, 1, 2.5, "x", b"y", torch.float32, torch.device("cpu"), torch.Size([2]), (1,), {3}],
    }


def same(first, second) -> bool:
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    return torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second


def damaged(content: bytes, draw: random.Random, count: int):
    """`content` with a bit flipped, and its beginnings."""
    for _ in range(count):
        flipped = bytearray(content)
        flipped[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        yield bytes(flipped), content[: draw.randrange(len(content))]


class TestCheckpoints:
    def test_round_trip_and_keep(self, tmp_path):
        for step in range(5):
            save_checkpoint(tmp_path, step, state_of(step), keep=2)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000003.pt", "step-00000004.pt"]
        state, path, skipped = load_latest(tmp_path)
        assert same(state, state_of(4)) and path.name == "step-00000004.pt" and skipped == []

    def test_steps_sort_as_numbers_and_other_files_are_left_alone(self, tmp_path):
        assert load_latest(tmp_path) is None and load_latest(tmp_path / "missing") is None
        (tmp_path / "step-1.pt").write_text("mine")
        for step in (99_999_999, 100_000_000):
            save_checkpoint(tmp_path, step, state_of(step), keep=1)
        assert load_latest(tmp_path)[0]["step"] == 100_000_000
        assert (tmp_path / "step-1.pt").exists() and len(list(tmp_path.iterdir())) == 2

    @pytest.mark.parametrize("value", [np.float64(1), np.zeros(2), namedtuple("Pair", "a")(1), object()])
    def test_what_would_not_load_again_is_not_saved(self, tmp_path, value):
        with pytest.raises(TypeError, match=r"state\['a'\]\[1\] is a"):
            save_checkpoint(tmp_path, 1, {"a": [0, value]}, keep=1)
        assert not list(tmp_path.iterdir())

    def test_a_hundred_kills(self, tmp_path):
        """The newest checkpoint is always whole, at least as new as the last that was reported, and alone."""
        folder, draw, step = tmp_path / "run", random.Random(0), 0
        returned = os.open(tmp_path / "returned", os.O_RDWR | os.O_CREAT)
        os.pwrite(returned, bytes(8), 0)
        for _ in range(100):
            child = os.fork()
            if child == 0:
                for new in range(step + 1, 10**6):
                    save_checkpoint(folder, new, {"step": new, "weight": torch.full((20_000,), float(new))}, keep=3)
                    os.pwrite(returned, new.to_bytes(8, "little"), 0)
            time.sleep(draw.uniform(0.0, 0.06))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            assert len(list(folder.glob(".tmp-*"))) <= 1
            remove_stale(folder)
            if (found := load_latest(folder)) is not None:
                step = found[0]["step"]
                assert found[2] == [] and bool((found[0]["weight"] == step).all())
            assert step >= int.from_bytes(os.pread(returned, 8, 0), "little") and not list(folder.glob(".tmp-*"))
        os.close(returned)
        assert step > 5


class TestDamage:
    @pytest.fixture
    def newest(self, tmp_path):
        save_checkpoint(tmp_path, 1, state_of(1), keep=2)
        return save_checkpoint(tmp_path, 2, state_of(2), keep=2)

    def test_nothing_damaged_is_loaded(self, newest):
        """What is not noticed has changed nothing: the archive has bytes that nobody reads."""
        count = 0
        for flipped, short in damaged(newest.read_bytes(), random.Random(0), 100):
            for content in (flipped, short):
                newest.write_bytes(content)
                state, path, skipped = load_latest(newest.parent)
                assert same(state, state_of(1 if skipped else 2))
                count += len(skipped)
                assert all(newest.name in line and "\n" not in line for line in skipped)
        assert count > 150

    def test_an_entry_marked_as_a_folder(self, newest):
        """torch.load would take whatever the memory holds."""
        content = bytearray(newest.read_bytes())
        content[content.index(b"PK\1\2") + 38] |= 0x10
        newest.write_bytes(content)
        assert "damaged" in load_latest(newest.parent)[2][0]

    def test_saving_after_a_fall_back_keeps_the_new_one(self, newest):
        newest.write_bytes(newest.read_bytes()[:-1])
        save_checkpoint(newest.parent, 1, state_of(1), keep=1)
        assert load_latest(newest.parent)[1].name == "step-00000001.pt" and newest.exists()

    def test_all_damaged_is_an_error(self, tmp_path):
        save_checkpoint(tmp_path, 1, state_of(1), keep=1).write_text("no")
        with pytest.raises(UserError, match="none of 1 checkpoints can be read"):
            load_latest(tmp_path)

    @pytest.mark.parametrize("size", [100, 100_000])
    def test_a_write_that_fails(self, tmp_path, size):
        """The checkpoint before is as it was, and alone."""
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
        assert load_latest(tmp_path)[0]["step"] == 1
        assert [path.name for path in tmp_path.iterdir()] == ["step-00000001.pt"]


class Payload:
    """Unpickles to a command that leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch {self.trace}",)


def bomb(path: Path) -> None:
    """150 MiB of zeros in 0.15."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("archive/data/0", "w") as entry:
        for _ in range(150):
            entry.write(bytes(2**20))


HOSTILE = {
    "zip": lambda path, trace: torch.save({"a": Payload(trace)}, path),
    "legacy": lambda path, trace: torch.save({"a": Payload(trace)}, path, _use_new_zipfile_serialization=False),
    "pickle": lambda path, trace: path.write_bytes(pickle.dumps(Payload(trace))),
    "empty": lambda path, trace: path.write_bytes(b""),
    "numpy": lambda path, trace: torch.save({"a": np.zeros(2)}, path),
    "bomb": lambda path, trace: bomb(path),
}


class TestFilesByOthers:
    @pytest.mark.parametrize("kind", HOSTILE)
    def test_nothing_runs_and_one_line_says_why(self, tmp_path, kind):
        path, trace = tmp_path / "step-00000001.pt", tmp_path / "trace"
        HOSTILE[kind](path, trace)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for load in (load_pretrained, load_weights, lambda path: load_latest(path.parent)):
            with pytest.raises(UserError) as error:
                load(path)
            said = str(error.value)
            assert not trace.exists() and str(path) in said and "\n" not in said and "weights_only" not in said
            assert kind != "zip" or load is not load_pretrained or "asks for posix.system" in said
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024

    @pytest.mark.parametrize("legacy", [False, True])
    def test_honest_files_load(self, tmp_path, legacy):
        content = OrderedDict(a=torch.arange(3.0), b=torch.nn.Parameter(torch.ones(2, 2)), score=np.float64(1.5))
        torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
        assert same(load_pretrained(tmp_path / "a.pth"), content)
        save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors")
        assert same(load_pretrained(tmp_path / "a.safetensors"), {"a": torch.ones(2)})
        with pytest.raises(UserError, match="not written by this program"):
            load_weights(tmp_path / "a.safetensors")


class TestWeights:
    shared = torch.arange(12.0).reshape(3, 4)
    tensors = {
        "a": shared.t(), "b": shared, "half": torch.ones(3, dtype=torch.bfloat16), "zero": torch.tensor(1),
        "none": torch.empty(0),
    }  # fmt: skip

    def test_round_trip(self, tmp_path):
        path = tmp_path / "new" / "w.safetensors"
        save_weights(path, self.tensors, {"model": "{}"})
        tensors, metadata = load_weights(path)
        assert same(tensors, self.tensors) and metadata == {"model": "{}", "fingerprint": fingerprint(self.tensors)}
        save_weights(path, tensors, metadata | {"fingerprint": "of other tensors"})
        assert load_weights(path)[1] == metadata

    def test_the_fingerprint_sees_names_types_shapes_and_values(self):
        base = {"a": torch.zeros(4), "b": torch.ones(1)}
        changed = torch.zeros(4, dtype=torch.int32), torch.zeros(2, 2), -torch.zeros(4)
        others = [base | {"a": tensor} for tensor in changed] + [{"a": base["a"]}, {"a": base["a"], "c": base["b"]}]
        marks = {fingerprint(tensors) for tensors in [base, *others]}
        assert len(marks) == 6 and all(len(mark) == 16 for mark in marks)
        assert fingerprint(dict(reversed(base.items()))) == fingerprint(base)

    def test_all_damage_is_noticed(self, tmp_path):
        path = tmp_path / "w.safetensors"
        save_weights(path, self.tensors, {"model": "stages: 4"})
        for contents in damaged(path.read_bytes(), random.Random(0), 60):
            for content in contents:
                path.write_bytes(content)
                with pytest.raises(UserError, match="w.safetensors: (damaged|no fingerprint)"):
                    load_weights(path)

    def test_values_that_are_not_finite(self, tmp_path):
        save_weights(tmp_path / "w.safetensors", {"a": torch.tensor([1, torch.inf]), "b": torch.arange(3)}, {})
        with pytest.raises(UserError, match=r"w\.safetensors: a holds values that are not finite"):
            load_weights(tmp_path / "w.safetensors")

    @pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
    def test_a_pipe_is_no_file_of_weights(self, tmp_path, suffix):
        os.mkfifo(tmp_path / f"w{suffix}")
        for load in (load_weights, load_pretrained):
            with pytest.raises(UserError, match="is not a file"):
                load(tmp_path / f"w{suffix}")
            with pytest.raises(UserError, match="weights .*: No such file or directory"):
                load(tmp_path / f"none{suffix}")
