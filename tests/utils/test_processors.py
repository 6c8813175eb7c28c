"""How many cores may be used: bound to, and by quotas of control groups of both versions; threads that do not spin."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from utils import processors
from utils.processors import share_processor, usable_cores

ROOT = Path(processors.__file__).parents[1]
COMMANDS = ("infer", "generate", "edit", "evaluate", "train", "prepare_data")


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Makes control groups: groups(membership, {file: text}); the process is bound to eight cores."""
    monkeypatch.setattr(processors, "MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(processors, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)

    def groups(membership, files):
        (tmp_path / "membership").write_text(membership)
        for name, text in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return groups


@pytest.mark.parametrize(
    ("membership", "files", "cores"),
    [
        ("0::/\n", {}, 8),
        ("0::/\n", {"cpu.max": "20000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 3),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "200000 100000\n"}, 2),
        ("0::/../other\n", {"cpu.max": "200000 100000\n"}, 2),
        ("3:cpu,cpuacct:/\n", {"cpu,cpuacct/cpu.cfs_quota_us": "-1\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}, 8),
        (
            "9:memory:/x\n3:cpu,cpuacct:/docker/id\n",  # a container sees its own group as the outermost one
            {"cpu,cpuacct/cpu.cfs_quota_us": "150000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"},
            2,
        ),
        ("0::/c\n", {"unified/c/cpu.max": "100000 50000\n"}, 2),
        ("0::/\n", {"cpu.max": "nonsense\n"}, 8),
    ],
)
def test_quotas_of_the_groups_around_a_process(groups, membership, files, cores):
    groups(membership, files)
    assert usable_cores() == cores


def test_without_control_groups_or_binding(groups, monkeypatch):
    """As on macOS and Windows."""
    assert usable_cores() == 8
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert usable_cores() == 5
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == 1


@pytest.mark.parametrize("given", [{}, {"OMP_NUM_THREADS": "7", "OMP_WAIT_POLICY": "ACTIVE"}])
def test_what_the_environment_says_already_stays(groups, monkeypatch, given):
    monkeypatch.setattr(os, "environ", dict(given))
    share_processor()
    assert os.environ["OMP_WAIT_POLICY"] == given.get("OMP_WAIT_POLICY", "PASSIVE")
    assert os.environ.get("OMP_NUM_THREADS") == given.get("OMP_NUM_THREADS")  # without a quota PyTorch knows better
    groups("0::/\n", {"cpu.max": "200000 100000\n"})
    share_processor()
    assert os.environ["OMP_NUM_THREADS"] == given.get("OMP_NUM_THREADS", "2")


def test_commands_set_it_before_pytorch_is_loaded():
    """And hear signals by then; only they: whoever imports one of them keeps his settings."""
    code = """
import runpy, sys
from utils import processors, signals
def share():
    assert "torch" not in sys.modules and heard
    raise KeyboardInterrupt
processors.share_processor = share
signals.exit_at_once = lambda: heard.append(1)
for command in sys.argv[1:]:
    heard = []
    try:
        runpy.run_path(f"{command}.py", run_name="__main__")
    except KeyboardInterrupt:
        print(command)
heard = []
runpy.run_path("train.py", run_name="train")
"""
    done = subprocess.run([sys.executable, "-c", code, *COMMANDS], cwd=ROOT, capture_output=True, text=True, check=True)
    assert tuple(done.stdout.split()) == COMMANDS
