"""Speed of infer.py on a machine that others use, too: 20 images of 64 x 64, and one of 1200 x 1800.

    python -m benchmarks.shared [--before GIT_REF] [--repeats 5] [key=value ...]

Conditions: `idle`; `busy`, beside a process that keeps one core busy; `quota`, in a control group with the time of one
core or, where none can be made (which takes root), bound to one core. With --before, the commit GIT_REF is measured as
well, in a worktree of its own that is removed afterwards. All take turns; the figures are medians of the seconds that
the whole command takes, the start of Python included, and their shares of the same version's idle time.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import product
from pathlib import Path
from statistics import median

import PIL.Image
import torch

from benchmarks.machine import ROOT, photograph
from evaluation.run import machine
from utils.errors import UserError, run_command
from utils.log import info

CONDITIONS = ("idle", "busy", "quota")
PERIOD = 100_000  # microseconds
GROUPS = {  # a folder where control groups are made: the file of the limit, and what it says for one core
    "/sys/fs/cgroup": {"cpu.max": f"{PERIOD} {PERIOD}"},
    "/sys/fs/cgroup/cpu": {"cpu.cfs_period_us": str(PERIOD), "cpu.cfs_quota_us": str(PERIOD)},
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", help="a commit to compare with")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each figure")
    parser.add_argument("--images", type=int, default=20, help="small images")
    parser.add_argument("--size", type=int, nargs=2, default=(1200, 1800), help="height and width of the large image")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="options of infer.py")
    options = parser.parse_intermixed_args(argv)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        trees = {"now": ROOT}
        if options.before:
            trees = {options.before: stack.enter_context(worktree(folder / "before", options.before))} | trees
        group, how = stack.enter_context(one_core())
        inputs = write_inputs(folder / "inputs", options.images, *options.size)
        times = defaultdict(list)
        for _, case in product(range(options.repeats), product(inputs, CONDITIONS, trees)):
            name, condition, version = case
            prefix = group if condition == "quota" else []
            with busy_core() if condition == "busy" else ExitStack():
                times[case].append(run(prefix, trees[version], inputs[name], folder, options.overrides))
    info(f"{'input':<20} {'condition':<10} {'version':<12} {'seconds':>8} {'of idle':>8}")
    for (name, condition, version), taken in times.items():
        share = median(taken) / median(times[name, "idle", version])
        info(f"{name:<20} {condition:<10} {version:<12} {median(taken):8.2f} {share:8.2f}")
    info(f"quota: {how}; machine: {machine(torch.device('cpu'))}")
    return 0


def write_inputs(folder: Path, count: int, height: int, width: int) -> dict[str, Path]:
    """Small images in a folder, and a large one, by the name of the measurement."""
    (folder / "small").mkdir(parents=True)
    for number in range(count):
        PIL.Image.fromarray(photograph(64 + number)[:64, -64:]).save(folder / "small" / f"{number}.png")
    large = folder / "large.jpg"
    PIL.Image.fromarray(photograph(max(height, width))[:height, :width]).save(large, quality=95)
    return {f"{count} of 64 x 64": folder / "small", f"{height} x {width}": large}


def run(prefix: list[str], tree: Path, given: Path, scratch: Path, overrides: list[str]) -> float:
    """Seconds of infer.py of a tree. UserError where it failed."""
    with tempfile.TemporaryDirectory(dir=scratch) as output:
        command = [*prefix, sys.executable, str(tree / "infer.py"), "--input", str(given), "--output", output]
        started = time.perf_counter()
        done = subprocess.run([*command, *overrides], cwd=tree, capture_output=True, text=True, check=False)
        taken = time.perf_counter() - started
    if done.returncode:
        raise UserError(f"{tree}: infer.py ended with {done.returncode}: {done.stderr.strip().rpartition(chr(10))[2]}")
    return taken


@contextmanager
def worktree(folder: Path, commit: str) -> Iterator[Path]:
    """The files of a commit, in a folder. UserError where there is none of this name."""
    git = ["git", "-C", str(ROOT), "worktree"]
    done = subprocess.run([*git, "add", "--detach", folder, commit], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"--before {commit}: {done.stderr.strip().rpartition(chr(10))[2]}")
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", folder], capture_output=True, check=False)


@contextmanager
def one_core() -> Iterator[tuple[list[str], str]]:
    """What stands before a command that gets the time of one core, and how it does."""
    group = next(filter(None, (make_group(Path(parent), limits) for parent, limits in GROUPS.items())), None)
    if group is None:
        yield ["taskset", "-c", "0"], "bound to core 0"
        return
    try:
        yield ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(group)], "a control group"
    finally:
        group.rmdir()


def make_group(parent: Path, limits: dict[str, str]) -> Path | None:
    """A control group with limits; None where the system makes none."""
    group = parent / f"patch-inverter-{os.getpid()}"
    if not (parent / "cgroup.procs").exists():
        return None
    try:
        group.mkdir()
    except OSError:
        return None
    try:
        for name, text in limits.items():
            (group / name).write_text(text)
    except OSError:
        group.rmdir()
        return None
    return group


@contextmanager
def busy_core() -> Iterator[None]:
    """A process beside that never rests."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    sys.exit(run_command(main))
