"""What an evaluation measures: the name, unit and meaning of every number in `means`, as measures.csv says."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple


class Measure(NamedTuple):
    """How a measure is shown and read."""

    title: str
    unit: str  # empty: none
    better: str  # higher | lower | one (the nearer to 1) | none
    digits: int  # after the point
    note: str  # what it is, in a sentence


def read_measures(of: str) -> dict[str, Measure]:
    """Those of each `image`, or those of `all` images together, by key."""
    with open(Path(__file__).with_name("measures.csv"), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["digits"] = int(row["digits"])
    return {row.pop("key"): Measure(**row) for row in rows if row.pop("of") in (of, "both")}


MEASURES, PER_IMAGE = read_measures("all"), read_measures("image")


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of the finite values (an exact result has an infinite PSNR); None if there are none."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return sum(finite) / len(finite) if finite else None
