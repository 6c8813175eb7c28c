"""Lines for the user that leave progress bars whole."""

import sys
from collections.abc import Iterable
from typing import TextIO

from tqdm import tqdm


def info(text: str, main: bool = True) -> None:
    """Print a line to stdout at once, above any progress bar; nothing where `main` is false (other ranks)."""
    if main:
        _write(text, sys.stdout)


def error(text: str) -> None:
    """Print one line to stderr at once, above any progress bar, whatever line breaks the text has."""
    _write(" ".join(text.splitlines()), sys.stderr)


def progress(items: Iterable, name: str, unit: str = "block", main: bool = True) -> Iterable:
    """The items, with a progress bar where they take a while; `main` is false for other ranks, which show nothing."""
    items = list(items)
    # None: but on a terminal
    return tqdm(items, desc=name, unit=unit, leave=False, disable=len(items) < 8 or not main or None)


def printable(text: str) -> str:
    """The text in UTF-8: other bytes, that a file's name may have, stand as \\xNN."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _write(text: str, file: TextIO) -> None:
    """The bar is drawn again after the line has left its buffer, or the line would follow the bar."""
    with tqdm.external_write_mode(file=file):
        file.write(f"{printable(text)}\n")
        file.flush()
