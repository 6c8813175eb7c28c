"""Log-log plots as PNG files. matplotlib, slow to import, is imported by what draws."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evaluation.plots import style
from utils.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 5.6, 4.0  # inches of a panel
LEGEND = 1.8  # inches beside the panels
DOTS = 110  # per inch
MANY = 9  # ticks, beyond which only powers of ten are shown
COLOURS = ("#3f67c4", "#d98a00", "#d9503f", "#2a9d8f", "#4c9a3f", "#8f56d6")
INK, GRID = "#333333", "#e4e4e4"


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    title: str  # what the vertical axis shows, and its unit
    x_label: str
    series: Mapping[str, Sequence[tuple[float, float]]]  # name -> points (x, y), all positive


def write_plot(path: Path, panels: Sequence[Panel]) -> None:
    """Write panels side by side, and one legend. UserError where the system refuses to write."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    names = dict.fromkeys(name for panel in panels for name in panel.series)
    colours = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(names)}
    with matplotlib.rc_context(style(INK, GRID)), atomic_path(path) as temporary:
        figure = Figure((WIDTH * len(panels) + LEGEND, HEIGHT), layout="constrained")
        for index, panel in enumerate(panels):
            if any(panel.series.values()):
                draw(figure.add_subplot(1, len(panels), index + 1), panel, colours)
        handles = [Line2D([], [], color=colour) for colour in colours.values()]
        figure.legend(handles, list(names), loc="outside right upper")
        figure.savefig(temporary, dpi=DOTS)


def draw(axes: Axes, panel: Panel, colours: Mapping[str, str]) -> None:
    """Lines, and ticks at round numbers and at every column."""
    from matplotlib.ticker import NullLocator

    for name, points in panel.series.items():
        if points:
            axes.plot(*zip(*sorted(points), strict=True), marker="o", color=colours[name])
    columns = sorted({x for points in panel.series.values() for x, _ in points})
    values = [y for points in panel.series.values() for _, y in points]
    rows = ticks(min(values), max(values))
    axes.set(xlabel=panel.x_label, xscale="log", yscale="log", ylim=(rows[0], rows[-1]))
    axes.set_title(panel.title, loc="left", fontsize=11)
    for axis, places in ((axes.xaxis, columns), (axes.yaxis, rows)):
        axis.set_ticks(places, [f"{place:,.10g}" for place in places])
        axis.set_minor_locator(NullLocator())


def ticks(low: float, high: float) -> list[float]:
    """Round numbers on a logarithmic axis, the first at most `low` and the last at least `high`."""
    decades = range(math.floor(math.log10(low)) - 1, math.floor(math.log10(high)) + 3)
    for factors in ((1, 2, 5), (1,)):
        numbers = [factor * 10.0**decade for decade in decades for factor in factors]
        first = max(index for index, number in enumerate(numbers) if number <= low)
        last = min(index for index, number in enumerate(numbers) if number >= high and index > first)
        if last - first < MANY:
            break
    return numbers[first : last + 1]
