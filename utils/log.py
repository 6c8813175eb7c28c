"""Lines for the user that leave progress bars whole."""

import sys
from typing import TextIO

from tqdm import tqdm


def info(text: str, main: bool = True) -> None:
    """Print a line to stdout at once, above any progress bar; nothing where `main` is false (other ranks)."""
    if main:
        _write(text, sys.stdout)


def error(text: str) -> None:
    """Print one line to stderr at once, above any progress bar, whatever line breaks the text has."""
    _write(" ".join(text.splitlines()), sys.stderr)


def _write(text: str, file: TextIO) -> None:
    """The bar is drawn again after the line has left its buffer, or the line would follow the bar."""
    with tqdm.external_write_mode(file=file):
        file.write(f"{text}\n")
        file.flush()
