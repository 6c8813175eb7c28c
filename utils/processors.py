"""The processor cores that this process may use, and threads that leave them to others while they wait.

Imports no PyTorch: the libraries of its threads read the environment once, when they are loaded.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path

MEMBERSHIP = Path("/proc/self/cgroup")
CGROUPS = Path("/sys/fs/cgroup")


def share_processor() -> None:
    """Set the environment for threads on cores that others use, too; for commands, before PyTorch is loaded.

    A thread that waits for the others of its team sleeps: by default it spins, which takes the core from the one that
    it waits for where there are fewer idle cores than threads. There are no more threads than a quota has cores. What
    the environment sets already stays.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")  # what Apple's GPU cannot do, the processor does
    if (cores := usable_cores()) < _allowed():
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))
        os.environ.setdefault("VIPS_CONCURRENCY", str(cores))


def usable_cores() -> int:
    """Cores that this process may use: those that it is bound to, or fewer, as the quotas of its control groups say."""
    return min([_allowed(), *(max(1, math.ceil(quota)) for quota in _quotas())])


def _allowed() -> int:
    """Cores that the process is bound to; where the system binds none, all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quotas() -> Iterator[float]:
    """Cores' worth of time that each of the process's control groups may take, from the innermost out.

    Of both versions of control groups. In a container, the outermost group that is seen is the container's own.
    """
    for line in text_of(MEMBERSHIP).splitlines():
        controllers, path = line.split(":", 2)[1:]
        if controllers and "cpu" not in controllers.split(","):
            continue
        inside = [part for part in Path(path).parts[1:] if part != ".."]
        for mount in {CGROUPS, CGROUPS / (controllers or "unified"), CGROUPS / "cpu"}:
            for depth in range(len(inside), -1, -1):
                group = mount.joinpath(*inside[:depth])
                limit = text_of(group / "cpu.max").split() or [
                    text_of(group / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")
                ]
                if limit[0].isdecimal() and limit[-1].isdecimal():  # neither `max` nor -1
                    yield int(limit[0]) / int(limit[-1])


def text_of(path: Path) -> str:
    """The content of a file such as those of /proc, empty where the system has none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
