"""Lines for the user that leave progress bars whole, on streams that never stop the work."""

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from tqdm import tqdm

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # characters that move the cursor, or do worse


def info(text: str, main: bool = True) -> None:
    """Print lines to stdout at once, above any progress bar; nothing where `main` is false (other ranks)."""
    if main:
        _write(text, sys.stdout)


def error(text: str) -> None:
    """Print one line to stderr at once, above any progress bar, whatever line breaks the text has."""
    _write(" ".join(text.splitlines()), sys.stderr)


def progress(items: Iterable, name: str, unit: str = "block", main: bool = True) -> Iterable:
    """The items, with a progress bar where they take a while; `main` is false for other ranks, which show nothing."""
    items = list(items)
    hidden = len(items) < 8 or not main or sys.stderr is None
    return tqdm(items, desc=printable(name), unit=unit, leave=False, disable=hidden or None)  # None: but on a terminal


def printable(text: str) -> str:
    """The text in UTF-8 and on one line: other bytes, and control characters, of a file's name stand as \\xNN."""
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


class Stream:
    """A standard stream that goes quiet where it cannot be written any more; `failed` is the reason."""

    def __init__(self, stream: TextIO | None) -> None:
        self.failed: OSError | None = None
        self._stream = stream or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (as long as the program)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text, or nothing where that is impossible."""
        try:
            self._stream.write(text)
        except OSError as error:
            self._end(error)
        return len(text)

    def flush(self) -> None:
        """Pass on what was written, or nothing where that is impossible."""
        try:
            self._stream.flush()
        except OSError as error:
            self._end(error)

    def _end(self, error: OSError) -> None:
        """What is still in the buffer, and all that follows, goes nowhere."""
        self.failed = error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        self.flush()


@contextmanager
def steady_streams() -> Iterator[Stream]:
    """Inside, neither a reader who has gone nor a full disk stops who writes to stdout or stderr; the first of them."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed: the next file that is opened would get what is meant for the user
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(Stream, before)
    try:
        yield sys.stdout
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


def _write(text: str, file: TextIO | None) -> None:
    """The bar is drawn again after the line has left its buffer, or the line would follow the bar."""
    if file is None:  # closed
        return
    encoding = file.encoding or "utf-8"
    text = "\n".join(map(printable, text.split("\n"))).encode(encoding, "backslashreplace").decode(encoding)
    with tqdm.external_write_mode(file=file):
        file.write(f"{text}\n")
        file.flush()
