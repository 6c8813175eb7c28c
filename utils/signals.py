"""Stopping a run at a safe point: Ctrl-C, SIGTERM, and SIGHUP, which comes when a terminal or a connection closes.

What the starter of a process had ignored stays ignored (nohup: SIGHUP; `&` in a script: SIGINT).
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


def ignore_signals() -> None:
    """Leave signals to the main process, so that loaders outlive the last save."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def exit_at_once() -> None:
    """Let signals end this process with one line, and exit code 128 + number, while it has nothing to clean up.

    For commands, before they import what takes seconds; `raising_signals` then takes over.
    """
    _handle(_end_at_once)


@contextmanager
def raising_signals() -> Iterator[None]:
    """Inside, signals end this process through every clean-up: SIGINT raises KeyboardInterrupt, SIGTERM and SIGHUP
    SystemExit of 128 + number. Afterwards they do as before, unless others have set them. Main thread only.
    """
    before = _handle(signal.default_int_handler, signal.SIGINT) | _handle(_exit, *SIGNALS[1:])
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) in (signal.default_int_handler, _exit):
                signal.signal(number, handler)


def _exit(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)


def _end_at_once(number: int, _: FrameType | None) -> None:
    os.write(2, b"interrupted\n" if number == signal.SIGINT else b"terminated\n")
    os._exit(128 + number)


def _handle(action: Callable[[int, FrameType | None], None], *numbers: int) -> dict:
    """Set the handlers of signals (none: all) that are not ignored; those of before."""
    taken = [number for number in numbers or SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    return {number: signal.signal(number, action) for number in taken}
