"""Stopping a run at a safe point."""

import signal
import sys
import time
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# A launcher passes on a signal that the whole group already got: within this many seconds it is the same request.
ECHO_SECONDS = 3.0


class StopSignal:
    """Inside `with StopSignal() as stop:` SIGINT and SIGTERM only set `stop.requested`; a second one exits at once.

    stop.exit_code: 128 + the signal's number (143 after SIGTERM), 0 while none came. Main thread only.
    """

    def __init__(self) -> None:
        self.requested = False
        self.exit_code = 0
        self._first = 0.0
        self._previous = {}

    def __enter__(self) -> "StopSignal":
        self._previous = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and time.monotonic() - self._first > ECHO_SECONDS:
            raise SystemExit(128 + number)
        if not self.requested:
            self.requested, self.exit_code, self._first = True, 128 + number, time.monotonic()


def ignore_signals(worker: int = 0) -> None:
    """Leave SIGINT and SIGTERM to the main process: a `worker_init_fn`, so that loaders outlive the last save."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def exit_on_terminate() -> None:
    """Let SIGTERM end this process as Ctrl-C does: through every clean-up, with exit code 143."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
