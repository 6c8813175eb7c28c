"""The plots of the report, each an SVG document. matplotlib is slow to import: it is imported by what draws."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

COLOURS = ("#3f67c4", "#d98a00", "#d9503f", "#2a9d8f", "#4c9a3f", "#8f56d6", "#d6609a", "#8a6243")  # by checkpoint
SIZE = 5.6, 3.1  # inches
MARKED = 16  # points of a curve, up to which each is marked
WORDS, LINES = "#676b72", "#e2e2dc"  # colours of what stands around the curves
STYLE = {
    "text.color": WORDS, "axes.labelcolor": WORDS, "xtick.color": WORDS, "ytick.color": WORDS,
    "axes.edgecolor": LINES, "grid.color": LINES, "axes.grid": True, "axes.grid.axis": "y",
    "axes.spines.left": False, "axes.spines.top": False, "axes.spines.right": False,
    "xtick.major.size": 0, "ytick.major.size": 0, "lines.linewidth": 1.8, "lines.markersize": 4.5,
    "svg.hashsalt": "report",  # equal charts give equal files
}  # fmt: skip

Curve = tuple[str, str, Sequence[tuple[float, float]]]  # colour, line style, points (x, y) from left to right


@dataclass(frozen=True)
class Chart:
    """One pair of axes."""

    title: str
    note: str
    x_label: str
    y_label: str
    curves: Sequence[Curve]
    log: bool = False  # the horizontal axis
    ticks: bool = True  # at the points of the curves; False: at round numbers


def charts(checkpoints: Sequence[Mapping]) -> list[Chart]:
    """What there is to draw of the checkpoints of an evaluation; charts without any point are left out."""
    tables = {key: [each[key] for each in checkpoints] for key in ("cycles", "pyramid", "scale_invariant_fid")}
    starts = {key: [each["curves"].get(key, ()) for each in checkpoints] for key in ("refinement", "random latents")}
    every = [
        Chart("PSNR of each image", "The higher the better; a steep start means a few images that fail.",
              "images from worst to best, %", "PSNR, dB",
              curves((ranks(each["images"]) for each in checkpoints), "rank", "psnr"), ticks=False),
        Chart("Drift over repeated inversion", "Each inversion is of the result of the one before. Level is stable.",
              "inversions", "PSNR, dB", curves(tables["cycles"], "cycle", "psnr")),
        Chart("Distance of Laplacian pyramids", "Of patches of generated and real images; dotted: of real ones.",
              "edge of the level, pixels", "SWD × 1000",
              [*curves(tables["pyramid"], "size", "distance"), *curves(tables["pyramid"], "size", "floor", ":")], True),
        Chart("FID over the size of the canvas", "Of generated canvases, shrunk to one size. Level: size is no matter.",
              "times the edge", "FID", curves(tables["scale_invariant_fid"], "scale", "fid"), True),
        Chart("Optimisation over time", "Solid: from the latents of the encoder; dashed: from random latents.",
              "seconds", "PSNR, dB", [*curves(starts["refinement"], "seconds", "psnr"),
                                      *curves(starts["random latents"], "seconds", "psnr", "--")], True, False),
    ]  # fmt: skip
    return [chart for chart in every if chart.curves]


def ranks(images: Sequence[Mapping]) -> list[dict]:
    """The PSNR of images, sorted: number i of n stands at the share (i + 1/2) / n, in per cent."""
    found = sorted(image["psnr"] for image in images if image["psnr"] is not None)
    return [{"rank": 100 * (rank + 0.5) / len(found), "psnr": value} for rank, value in enumerate(found)]


def curves(tables: Iterable[Sequence[Mapping]], x: str, y: str, line: str = "-") -> list[Curve]:
    """A curve for each checkpoint's table, over two columns, where both are finite and positive."""
    pairs = ([(row[x], row[y]) for row in table if row[x] and row[y] is not None] for table in tables)
    finite = [sorted(pair for pair in each if all(map(math.isfinite, pair))) for each in pairs]
    return [(COLOURS[number % len(COLOURS)], line, each) for number, each in enumerate(finite) if each]


def draw(chart: Chart) -> bytes:
    """A chart as an SVG document."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(SIZE, layout="constrained")
        axes = figure.add_subplot(xlabel=chart.x_label, xscale="log" if chart.log else "linear")
        for colour, line, points in chart.curves:
            marker = "o" if len(points) <= MARKED else ""
            axes.plot(*zip(*points, strict=True), color=colour, linestyle=line, marker=marker)
        axes.set_title(chart.y_label, loc="left", fontsize=10)
        if chart.ticks:
            axes.set_xticks(sorted({x for _, _, points in chart.curves for x, _ in points}))
        axes.set_xticks([], minor=True)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
        written = io.BytesIO()
        figure.savefig(written, format="svg", metadata={"Date": None})
    return written.getvalue()
