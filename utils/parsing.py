"""JSON that comes from files, which may hold anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from utils.files import read_file

LARGEST = 2**26  # bytes of JSON


def read_json(source: Path | str) -> Any:
    """What JSON says, of a file (a path) or a text. OSError where it cannot be read; ValueError for what is no JSON, or
    too large, or nested too deeply.
    """
    text = read_file(source, LARGEST) if isinstance(source, Path) else source
    if len(text) > LARGEST:
        raise ValueError(f"{len(text)} bytes; allowed: at most {LARGEST}")
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
