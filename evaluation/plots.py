"""The plots of the report, each an SVG document. matplotlib is slow to import: it is imported by what draws."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import NamedTuple

COLOURS = ("#3f67c4", "#d98a00", "#d9503f", "#2a9d8f", "#4c9a3f", "#8f56d6", "#d6609a", "#8a6243")  # by checkpoint
SIZE = 5.6, 3.1  # inches
MARKED = 16  # points of a curve, up to which each is marked
STYLE = ("seaborn-v0_8-whitegrid", {"axes.edgecolor": "white", "svg.hashsalt": "report"})  # equal charts, equal files


class Chart(NamedTuple):
    """One pair of axes."""

    title: str
    note: str
    labels: tuple[str, str]  # of the axes
    scale: str  # of the horizontal axis: linear | log
    curves: Sequence[tuple[str, str, str, str]]  # table of a checkpoint, its columns x and y, line style


CHARTS = (
    Chart("PSNR of each image", "The higher the better; a steep start means a few images that fail.",
          ("images from worst to best, %", "PSNR, dB"), "linear", [("ranks", "rank", "psnr", "-")]),
    Chart("Drift over repeated inversion", "Each inversion is of the result of the one before. Level is stable.",
          ("inversions", "PSNR, dB"), "linear", [("cycles", "cycle", "psnr", "-")]),
    Chart("Distance of Laplacian pyramids", "Of patches of generated and real images; dotted: of real ones.",
          ("edge of the level, pixels", "SWD × 1000"), "log",
          [("pyramid", "size", "distance", "-"), ("pyramid", "size", "floor", ":")]),
    Chart("FID over the size of the canvas", "Of generated canvases, shrunk to one size. Level: size is no matter.",
          ("times the edge", "FID"), "log", [("scale_invariant_fid", "scale", "fid", "-")]),
    Chart("Optimisation over time", "Solid: from the latents of the encoder; dashed: from random latents.",
          ("seconds", "PSNR, dB"), "log",
          [("refinement", "seconds", "psnr", "-"), ("random latents", "seconds", "psnr", "--")]),
)  # fmt: skip


def points_of(checkpoint: Mapping, table: str, x: str, y: str) -> list[tuple[float, float]]:
    """The points of a curve, where both columns are finite, and x is positive: axes may be logarithmic."""
    psnr = sorted(image["psnr"] for image in checkpoint["images"] if image["psnr"] is not None)
    ranks = [{"rank": 100 * (rank + 0.5) / len(psnr), "psnr": value} for rank, value in enumerate(psnr)]
    rows = ({"ranks": ranks} | checkpoint["curves"] | checkpoint).get(table, ())
    return sorted((row[x], row[y]) for row in rows if row[x] and row[y] is not None and math.isfinite(row[y]))


def draw(chart: Chart, checkpoints: Sequence[Mapping]) -> bytes | None:
    """A chart of the checkpoints of an evaluation as an SVG document; None without any point."""
    import matplotlib.style
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, MaxNLocator

    with matplotlib.style.context(STYLE):
        figure = Figure(SIZE, layout="constrained")
        axes = figure.add_subplot(xlabel=chart.labels[0], xscale=chart.scale)
        for colour, checkpoint in zip(cycle(COLOURS), checkpoints, strict=False):
            for *columns, line in chart.curves:
                points = points_of(checkpoint, *columns)
                if points:
                    marker = "o" if len(points) <= MARKED else ""
                    axes.plot(*zip(*points, strict=True), color=colour, linestyle=line, marker=marker)
        if not axes.lines:
            return None
        axes.set_title(chart.labels[1], loc="left", fontsize=10)
        axes.xaxis.set_major_locator(LogLocator(2) if chart.scale == "log" else MaxNLocator(integer=True))
        axes.set_xticks([], minor=True)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
        written = io.BytesIO()
        figure.savefig(written, format="svg", metadata={"Date": None})
    return written.getvalue()
