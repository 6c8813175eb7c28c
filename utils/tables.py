"""Tables of figures as CSV files, whose text no spreadsheet takes for a formula."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from utils.files import atomic_path, read_file

LARGEST = 2**28  # bytes of a table
QUOTE = "'"  # before text that begins like a formula, or with this; spreadsheets do not show it
FORMULA = ("=", "+", "-", "@", "\t", "\r", QUOTE)


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """Write rows, by their columns, as UTF-8; the file appears whole or not at all. None is an empty cell."""
    text = {"newline": "", "encoding": "utf-8", "errors": "backslashreplace"}
    with atomic_path(path) as temporary, open(temporary, "w", **text) as file:
        table = csv.DictWriter(file, columns)
        table.writeheader()
        table.writerows({key: _cell(value) for key, value in row.items()} for row in rows)


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a table that `write_table` wrote. OSError where it cannot be read, ValueError for what is none."""
    text = read_file(path, LARGEST).decode("utf-8")
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise ValueError(str(error)) from error
    return [{key: (value or "").removeprefix(QUOTE) for key, value in row.items() if key} for row in rows]


def _cell(value: object) -> object:
    return f"{QUOTE}{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
