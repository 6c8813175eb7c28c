"""The table of `benchmarks.inversion`, and its files."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.plot import Panel, write_plot
from utils.files import atomic_path

COLUMNS = (
    ("pixels", 13), ("method", 10), ("dtype", 8), ("block", 9), ("count", 18), ("seconds", 9), ("Mpx/s", 8),
    ("of peak", 8), ("of conv", 8), ("twice", 7), ("working MiB", 12), ("peak MiB", 9),
)  # fmt: skip
HEADING = " ".join(f"{name:>{width}}" for name, width in COLUMNS)


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    method: str  # published | blocks | whole | infer.py
    size: int  # edge of the image, pixels
    dtype: str
    block: str
    count: int  # measurements that the median is of
    of: str  # what they are measurements of: "images", or "of N patches"
    seconds: float  # for the image
    megapixels_per_second: float
    fraction_of_peak: float | None = None  # of a matrix product
    fraction_of_convolution: float | None = None
    computed_twice: float | None = None
    working_memory_mib: float | None = None
    peak_memory_mib: float | None = None


def line(row: Row) -> str:
    """A row as text."""

    def share(value: float | None) -> str:
        return "" if value is None else f"{100 * value:.1f} %"

    def whole(value: float | None) -> str:
        return "" if value is None else f"{value:.0f}"

    cells = (
        f"{row.size} x {row.size}", row.method, row.dtype, row.block, f"{row.count} {row.of}", f"{row.seconds:.3g}",
        f"{row.megapixels_per_second:.3g}", share(row.fraction_of_peak), share(row.fraction_of_convolution),
        share(row.computed_twice), whole(row.working_memory_mib), whole(row.peak_memory_mib),
    )  # fmt: skip
    return " ".join(f"{cell:>{width}}" for cell, (_, width) in zip(cells, COLUMNS, strict=True))


def write(path: Path, figures: dict, rows: list[Row]) -> None:
    """The figures as JSON, and the plot beside them."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(figures | {"rows": list(map(asdict, rows))}, indent=2) + "\n", encoding="utf-8")
    panels = []
    for title, key in (("time, seconds", "seconds"), ("peak memory, MiB", "peak_memory_mib")):
        series: dict[str, list] = {}
        for row in rows:
            points = series.setdefault(f"{row.method}, {row.dtype}", [])
            value = getattr(row, key)
            if value is not None and row.size not in (x for x, _ in points):
                points.append((row.size, value))
        panels.append(Panel(title, "edge of the image, pixels", series))
    write_plot(path.with_suffix(".png"), panels)
