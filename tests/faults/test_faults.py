"""A few of the disturbances of `python -m tests.faults`; its docstring says how to run them all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def said():
    """What the command prints on few of each."""
    few = ["--kills", "1", "--calls", "2", "--signals", "1", "--ranks", "--permissions"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults", *few], cwd=ROOT, capture_output=True, text=True, timeout=900,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.stdout.count(" trials, ") == 3, done.stderr
    return done.stdout


def failed(said, what):
    """The lines on trials of a kind that failed."""
    return [line for line in said.splitlines() if f": {what}" in line and not line.endswith("well")]


def test_a_call_that_fails_is_told_and_nothing_is_lost(said):
    """Of infer, edit and train: writing, syncing, renaming, opening."""
    assert not failed(said, "call ")


def test_a_run_that_is_killed_is_finished_by_the_same_command(said):
    """Training, and inference with refinement, to the bytes of an undisturbed run."""
    assert not failed(said, "killed")


def test_a_training_that_gets_a_signal_is_finished_by_the_same_command(said):
    assert not failed(said, "signal ")


def test_a_rank_that_is_lost_or_hangs_ends_the_run_within_15_seconds(said):
    """It is named, no process stays, and the same command gives the bytes of an undisturbed run."""
    assert not failed(said, "rank 1 got signal ") and said.count("rank 1 got signal") == 2


def test_torchrun_restarts_to_the_same_weights(said):
    assert not failed(said, "rank 1 is killed, and restarted") and "and restarted: well" in said


def test_what_may_not_be_read_or_written_is_one_line(said):
    """For a user who is not root, also where root runs the tests."""
    assert not failed(said, "permissions")
