"""What the benchmarks share: infer.py, run as a user does, in a process of its own."""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
from pathlib import Path

from models.weights import SHIPPED
from utils.errors import UserError

INFER = Path(__file__).parents[1] / "infer.py"


def make_parser(description: str) -> argparse.ArgumentParser:
    """A parser with the option --checkpoint."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=SHIPPED, help="inverter to measure")
    return parser


def positive(text: str) -> int:
    """A whole number from 1, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1")
    return int(text)


def invert(images: Path, checkpoint: Path, overrides: list[str]) -> list[dict[str, str]]:
    """Invert an image or a folder of them; the rows of metrics.csv. UserError where one of them failed."""
    with tempfile.TemporaryDirectory() as folder:
        places = ["--input", str(images), "--output", folder, "--checkpoint", str(checkpoint)]
        command = [sys.executable, str(INFER), *places, *overrides]
        code = subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode
        if code:
            raise UserError(f"{images}: infer.py ended with {code}")
        with open(Path(folder, "metrics.csv"), newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
