"""The plots of the report, as SVG to stand in the text of a page.

Colours are variables of the page's style sheet (`--muted`, `--rule`, `--series-0` to `--series-7`), so that
one drawing serves light and dark pages. matplotlib, slow to import, is imported by what draws.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import escape

if TYPE_CHECKING:
    from matplotlib.axis import Axis

SERIES = 8  # colours; more checkpoints begin anew
# Stand-ins that matplotlib draws with; no two look the same, and nothing else is drawn in them.
PAINT = {"muted": "#010203", "rule": "#010204"} | {f"series-{n}": f"#0102{n + 16}" for n in range(SERIES)}
NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))  # equal charts give equal text
SIZE = 5.6, 3.3  # inches of 72 units of the drawing
# Where optimisations begin: key of the curves, whether the line is dashed, what the report says of it.
STARTS = (
    ("refinement", False, "Solid: from the latents of the encoder."),
    ("random latents", True, "Dashed: from random latents, without an encoder."),
)
MARKED = 16  # points of a line, up to which each is marked


@dataclass(frozen=True)
class Line:
    """Points joined in their order, in a checkpoint's colour."""

    checkpoint: int
    points: Sequence[tuple[float, float]]
    dashed: bool = False


@dataclass(frozen=True)
class Chart:
    """One pair of axes."""

    title: str
    note: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    scale: str = "linear"  # of the horizontal axis: linear | log
    ticks: Sequence[float] = ()  # of the horizontal axis; none: round numbers


def charts(checkpoints: Sequence[Mapping]) -> list[Chart]:
    """What there is to draw of the checkpoints of an evaluation; those without any point are left out."""
    every = (quality(checkpoints), cycles(checkpoints), pyramid(checkpoints), scales(checkpoints), curves(checkpoints))
    return [chart for chart in every if any(line.points for line in chart.lines)]


def quality(checkpoints: Sequence[Mapping]) -> Chart:
    """PSNR of the images, sorted; image number i of n stands at the share (i + 1/2) / n."""
    lines = []
    for number, checkpoint in enumerate(checkpoints):
        found = sorted(value for _, value in points(checkpoint["images"], "height", "psnr"))
        lines.append(Line(number, [(100 * (rank + 0.5) / len(found), value) for rank, value in enumerate(found)]))
    note = "A curve that lies higher is better at every rank; a steep start means a few images that fail."
    return Chart("PSNR of each image", note, "images from worst to best, %", "dB", lines)


def cycles(checkpoints: Sequence[Mapping]) -> Chart:
    """PSNR against the photograph after repeated inversion."""
    lines = of_each(checkpoints, "cycles", "cycle", "psnr")
    note = "Each inversion is of the result of the one before, and is compared with the photograph. Level is stable."
    return Chart("Drift over cycles of inversion", note, "inversions", "PSNR, dB", lines)


def pyramid(checkpoints: Sequence[Mapping]) -> Chart:
    """Sliced Wasserstein distance of each level of the Laplacian pyramids."""
    lines = of_each(checkpoints, "pyramid", "size", "distance")
    title, label = "Distance of Laplacian pyramids", "edge of the level, pixels"
    note = "Sliced Wasserstein distance between patches of generated and real images, coarse to fine. Lower is better."
    return Chart(title, note, label, "SWD × 1,000", lines, "log", columns(lines))


def scales(checkpoints: Sequence[Mapping]) -> Chart:
    """FID of canvases of several sizes, shrunk to one."""
    lines = of_each(checkpoints, "scale_invariant_fid", "scale", "fid")
    note = (
        "Generated canvases of several sizes, shrunk to the same. A level line: size does not matter. Lower is better."
    )
    return Chart("FID over the size of the canvas", note, "times the edge", "FID", lines, "log", columns(lines))


def curves(checkpoints: Sequence[Mapping]) -> Chart:
    """PSNR over the seconds of optimisation, from encoded and from random latents."""
    lines, notes = [], []
    for name, dashed, note in STARTS:
        sources = [checkpoint["curves"].get(name, ()) for checkpoint in checkpoints]
        found = [[(x, y) for x, y in points(source, "seconds", "psnr") if x > 0] for source in sources]
        lines += [Line(number, each, dashed) for number, each in enumerate(found)]
        notes += [note] if any(found) else []
    return Chart("Optimisation over time", " ".join(notes), "seconds", "PSNR, dB", lines, "log")


def points(rows: Sequence[Mapping], x: str, y: str) -> list[tuple[float, float]]:
    """The values of two columns, where both are finite numbers."""
    pairs = ((row.get(x), row.get(y)) for row in rows)
    return [(a, b) for a, b in pairs if all(value is not None and math.isfinite(value) for value in (a, b))]


def of_each(checkpoints: Sequence[Mapping], table: str, x: str, y: str) -> list[Line]:
    """A line for each checkpoint, from left to right."""
    return [Line(number, sorted(points(checkpoint[table], x, y))) for number, checkpoint in enumerate(checkpoints)]


def columns(lines: Sequence[Line]) -> list[float]:
    """Where points lie on the horizontal axis."""
    return sorted({x for line in lines for x, _ in line.points})


def style(muted: str, rule: str) -> dict:
    """matplotlib's settings for quiet axes, with colours for their words and their lines."""
    return {
        "svg.fonttype": "none",
        "svg.hashsalt": "report",
        "font.size": 10,
        "text.color": muted,
        "axes.labelcolor": muted,
        "axes.edgecolor": rule,
        "axes.formatter.useoffset": False,
        "axes.spines.left": False,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": rule,
        "grid.linewidth": 0.8,
        "xtick.color": muted,
        "ytick.color": muted,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "legend.frameon": False,
        "lines.linewidth": 1.8,
        "lines.markersize": 4.5,
    }


def draw(chart: Chart, prefix: str) -> str:
    """A chart as an `<svg>` element without width and height, whose ids begin with `prefix`."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(style(PAINT["muted"], PAINT["rule"])):
        figure = Figure(SIZE, layout="constrained")
        axes = figure.add_subplot()
        for line in chart.lines:
            if line.points:
                axes.plot(*zip(*line.points, strict=True), **look(line))
        axes.set(xlabel=chart.x_label, xscale=chart.scale)
        axes.set_title(chart.y_label, loc="left", fontsize=10)
        axes.grid(visible=False, axis="x")
        place_ticks(axes.xaxis, chart)
        written = io.StringIO()
        figure.savefig(written, format="svg", transparent=True, metadata=NO_METADATA)
    return inline(written.getvalue(), prefix, chart.title)


def look(line: Line) -> dict:
    """How a line is drawn."""
    return {
        "color": PAINT[f"series-{line.checkpoint % SERIES}"],
        "linestyle": (0, (2, 1.6)) if line.dashed else "-",
        "marker": "o" if len(line.points) <= MARKED else "",
    }


def place_ticks(axis: Axis, chart: Chart) -> None:
    """Ticks of the horizontal axis, as plain numbers."""
    from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullLocator

    if chart.ticks:
        axis.set_major_locator(FixedLocator(chart.ticks))
    elif chart.scale == "log":
        axis.set_major_locator(LogLocator(subs=factors(columns(chart.lines)), numticks=12))
    else:
        axis.set_major_locator(MaxNLocator(integer=True))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: f"{value:,.10g}")


def factors(values: Sequence[float]) -> tuple[int, ...]:
    """What powers of ten are multiplied with for the ticks of a logarithmic axis, from the values in rising order."""
    ratio = values[-1] / values[0]
    return (1,) if ratio > 1000 else (1, 3) if ratio > 30 else (1, 2, 3, 5, 7)


def inline(document: str, prefix: str, label: str) -> str:
    """The `<svg>` element of a document of matplotlib's, fit to stand beside others in a page."""
    element = document[document.index("<svg") :]
    # Its style sheet would hold for the whole page, and its ids are those of every other plot.
    element = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", element, flags=re.DOTALL)
    element = re.sub(r'\bid="|href="#|url\(#', lambda found: f"{found[0]}{prefix}-", element)
    element = re.sub(r" font-family: [^;]*;", "", element)
    element = re.sub(r' width="[^"]*" height="[^"]*"', f' role="img" aria-label="{escape(label)}"', element, count=1)
    for variable, stand_in in PAINT.items():
        element = element.replace(stand_in, f"var(--{variable})")
    return element
