"""Processes of one run: whether one that is waited for still works, and the end of those whose parent has ended."""

from __future__ import annotations

import signal
import time
from contextlib import suppress

import psutil

from utils.device import libc

LOOK = 2.5  # seconds between two looks at a process
LEAST = 0.02  # seconds of computing between two looks that count as work
PR_SET_PDEATHSIG = 1  # Linux's prctl.h
BUSY = (psutil.STATUS_RUNNING, psutil.STATUS_DISK_SLEEP)  # the second one: a disk is slow, which is no hanging


class Watch:
    """Looks at a process that is waited for, and at those that it has started, at most once in `LOOK` seconds."""

    def __init__(self, pid: int, patience: int) -> None:
        """`patience`: so many looks in a row must show no work."""
        self.pid, self.patience = pid, patience
        self._idle, self._before, self._looked = 0, None, time.monotonic()

    def gone(self) -> bool:
        """Whether the process has ended."""
        try:
            return psutil.Process(self.pid).status() == psutil.STATUS_ZOMBIE
        except psutil.Error:
            return True

    def hangs(self) -> bool:
        """Whether the process, and those below it, have neither computed, read nor written at the last looks."""
        if time.monotonic() - self._looked < LOOK:
            return False
        self._looked, before = time.monotonic(), self._before
        self._before, busy = _work(self.pid)
        works = busy or before is None or self._before[0] - before[0] > LEAST or self._before[1] != before[1]
        self._idle = 0 if works else self._idle + 1
        return self._idle >= self.patience


def _work(pid: int) -> tuple[tuple[float, int], bool]:
    """Seconds that a process and those below it have computed, bytes that they moved, and whether one is busy."""
    seconds, moved, busy = 0.0, 0, False
    with suppress(psutil.Error):
        first = psutil.Process(pid)
        for process in [first, *first.children(recursive=True)]:
            with suppress(psutil.Error, AttributeError):  # it has ended; macOS counts no bytes
                busy |= process.status() in BUSY
                seconds += sum(process.cpu_times()[:2])
                counted = process.io_counters()
                moved += counted.read_bytes + counted.write_bytes + getattr(counted, "read_chars", 0)
    return (seconds, moved), busy


def end_with_parent() -> None:
    """Have the system kill this process when its parent ends, however that does (Linux; elsewhere nothing)."""
    prctl = libc("prctl")
    if prctl:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
