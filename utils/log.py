"""Lines for the user that leave progress bars whole."""

import sys

from tqdm import tqdm


def say(text: str, main: bool = True) -> None:
    """Print a line to stdout at once, above any progress bar; nothing where `main` is false (other ranks)."""
    if main:
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()


def complain(text: str) -> None:
    """Print one line to stderr at once, above any progress bar, whatever line breaks the text has."""
    tqdm.write(" ".join(text.splitlines()), file=sys.stderr)
    sys.stderr.flush()
