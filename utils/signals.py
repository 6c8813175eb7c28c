"""Stopping a run at a safe point: Ctrl-C, SIGTERM, and SIGHUP, which comes when a terminal or a connection closes.

What the starter of a process had ignored stays ignored (nohup: SIGHUP; `&` in a script: SIGINT).
"""

import signal
import sys
import time
from collections.abc import Callable
from types import FrameType

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # the last one is unknown to Windows
SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))
# A launcher passes on a signal that the whole group already got: within this many seconds it is the same request.
ECHO_SECONDS = 3.0


class StopSignal:
    """Inside `with StopSignal() as stop:` a signal only sets `stop.requested`; a second one exits at once.

    stop.exit_code: 128 + the signal's number (143 after SIGTERM), 0 while none came. Main thread only.
    """

    def __init__(self) -> None:
        self.requested = False
        self.exit_code = 0
        self._first = 0.0
        self._previous = {}

    def __enter__(self) -> "StopSignal":
        self._previous = _handle(self._ask)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: FrameType | None) -> None:
        if self.requested and time.monotonic() - self._first > ECHO_SECONDS:
            raise SystemExit(128 + number)
        if not self.requested:
            self.requested, self.exit_code, self._first = True, 128 + number, time.monotonic()


def ignore_signals(worker: int = 0) -> None:
    """Leave signals to the main process: a `worker_init_fn`, so that loaders outlive the last save."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def exit_on_terminate() -> None:
    """Let SIGTERM and SIGHUP end this process as Ctrl-C does: through every clean-up, with exit code 128 + number."""
    _handle(lambda number, _: sys.exit(128 + number), *SIGNALS[1:])


def _handle(action: Callable[[int, FrameType | None], None], *numbers: int) -> dict:
    """Set the handlers of signals (none: all) that are not ignored; those of before."""
    taken = [number for number in numbers or SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    return {number: signal.signal(number, action) for number in taken}
