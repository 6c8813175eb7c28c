"""The way of a photograph through infer.py: which files of the repository it enters, and how often it comes back.

    python -m benchmarks.trace [--input PHOTOGRAPH] [--checkpoint FILE] [key=value ...]

infer.py inverts one photograph in this process, under sys.setprofile. The way begins where `infer.invert` is called:
the command is parsed then, and the networks are loaded. Each function counts once, at its first call, as in a first
reading; what threads do ahead or behind is not seen. A file is entered where a function of it is called from that of
another file, and that is a return where the file had been entered, and left, before.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, FrameType

import PIL.Image

import infer
from benchmarks.machine import ROOT, photograph
from models.weights import SHIPPED
from utils.errors import UserError, run_command

BEGINNING = "infer.py", "invert"
SIZE = 160  # pixels along the edge of the photograph, where none is given


def main(argv: Sequence[str] | None = None) -> int:
    """Invert a photograph and print its way; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, help="an image; default: a synthetic one")
    parser.add_argument("--checkpoint", type=Path, default=SHIPPED, help="inverter to invert it by")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="options of infer.py")
    arguments = parser.parse_intermixed_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.input or Path(folder, "photograph.png")
        if arguments.input is None:
            PIL.Image.fromarray(photograph(SIZE)).save(path)
        places = ["--input", str(path), "--output", f"{folder}/results", "--checkpoint", str(arguments.checkpoint)]
        way, returns = trace([*places, *arguments.overrides])
    for number, file in enumerate(way, 1):
        print(f"{number:3} {file}")
    print(f"files entered: {len(way)}; returns to files that had been left: {returns}")
    return 0


def trace(arguments: Sequence[str]) -> tuple[list[str], int]:
    """The files that infer.py enters with these arguments, in their order, and the number of returns."""
    codes: dict[CodeType, str] = {}  # of our functions, in the order of their first calls

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code not in codes and Path(code.co_filename).is_relative_to(ROOT):
            codes[code] = str(Path(code.co_filename).relative_to(ROOT))

    sys.setprofile(note)
    try:
        code = infer.main(arguments)
    finally:
        sys.setprofile(None)
    if code:
        raise UserError(f"infer.py ended with {code}")
    calls = [(file, code.co_name) for code, file in codes.items() if not file.startswith(".venv")]
    return way_of([file for file, _ in calls[calls.index(BEGINNING) :]])


def way_of(files: Sequence[str]) -> tuple[list[str], int]:
    """The distinct files among those of consecutive calls, in their order, and how often one is come back to."""
    entered = [file for last, file in zip([None, *files[:-1]], files, strict=True) if file != last]
    distinct = list(dict.fromkeys(entered))
    return distinct, len(entered) - len(distinct)


if __name__ == "__main__":
    sys.exit(run_command(main))
