"""The way of a photograph through infer.py: which files of the repository it enters, and how often it comes back.

    python -m benchmarks.trace [--input PHOTOGRAPH] [--checkpoint FILE] [key=value ...]

infer.py inverts one photograph in several blocks, in this process, under sys.setprofile. The way begins where
`infer.process` is called: the command is parsed then, and the networks are loaded. Each named function counts once, at
its first call, as in a first reading; those of utils/ do not count, nor what threads do ahead or behind. A file is
entered where one of its functions follows one of another file; where it had been entered before, that is a return.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from types import CodeType, FrameType

import PIL.Image

import infer
from benchmarks.machine import ROOT, photograph
from models.weights import SHIPPED
from utils.errors import UserError, run_command

BEGINNING = "infer.py", "process"
SIZE = 288  # pixels along the edge of the photograph, where none is given: small ones are done in threads of their own
BLOCK = "block=160"


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
        calls = trace([*places, BLOCK, *arguments.overrides])
    seen: set[str] = set()
    for file, group in groupby(calls, key=lambda call: call[0]):
        print(f"{'back to' if file in seen else 'enters':>8} {file:24} {' '.join(name for _, name in group)}")
        seen.add(file)
    print("files entered: {}; returns to files that had been left: {}".format(*count([file for file, _ in calls])))
    return 0


def trace(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """(file, function) of our functions that infer.py calls with these arguments, in the order of their first calls."""
    codes: dict[CodeType, None] = {}

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            codes.setdefault(frame.f_code)

    sys.setprofile(note)
    try:
        code = infer.main(arguments)
    finally:
        sys.setprofile(None)
    if code:
        raise UserError(f"infer.py ended with {code}")
    ours = [code for code in codes if Path(code.co_filename).is_relative_to(ROOT) and code.co_name[0] != "<"]
    calls = [(str(Path(code.co_filename).relative_to(ROOT)), code.co_name) for code in ours]
    counted = [call for call in calls if not call[0].startswith(("utils/", ".venv/"))]
    return counted[counted.index(BEGINNING) :]


def count(files: Sequence[str]) -> tuple[int, int]:
    """The number of distinct files among those of consecutive calls, and how often one is come back to."""
    entered = [file for file, _ in groupby(files)]
    return len(set(entered)), len(entered) - len(set(entered))


if __name__ == "__main__":
    sys.exit(run_command(main))
