"""Log-log plots as PNG files, drawn with Pillow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import PIL.Image
from PIL import ImageDraw, ImageFont

from utils.files import atomic_path

SCALE = 3  # drawn so many times as large, for smooth edges
WIDTH, HEIGHT = 620, 440  # pixels of a panel
LEFT, RIGHT, TOP, BOTTOM = 76, 12, 44, 56  # around its axes
LEGEND = 190  # pixels beside the panels
MANY = 9  # ticks, beyond which only powers of ten are shown
COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#a463f2")
INK, GRID = "#333333", "#e4e4e4"


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    title: str  # what the vertical axis shows, and its unit
    x_label: str
    series: Mapping[str, Sequence[tuple[float, float]]]  # name -> points (x, y), all positive


def write_plot(path: Path, panels: Sequence[Panel]) -> None:
    """Write panels side by side, and one legend. UserError where the system refuses to write."""
    names = list(dict.fromkeys(name for panel in panels for name in panel.series))
    colours = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(names)}
    size = WIDTH * len(panels) + LEGEND, HEIGHT
    image = PIL.Image.new("RGB", (SCALE * size[0], SCALE * size[1]), "white")
    pen = _Pen(ImageDraw.Draw(image))
    for index, panel in enumerate(panels):
        if any(panel.series.values()):
            _Axes(pen, index * WIDTH, panel, colours).draw()
    for row, (name, colour) in enumerate(colours.items()):
        x, y = WIDTH * len(panels) + RIGHT, TOP + 12 + 20 * row
        pen.line([(x, y), (x + 18, y)], colour, 3)
        pen.text((x + 26, y), name, "lm")
    with atomic_path(path) as temporary:
        image.resize(size, PIL.Image.Resampling.LANCZOS).save(temporary)


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


class _Pen:
    """Draws in pixels of the result."""

    def __init__(self, canvas: ImageDraw.ImageDraw) -> None:
        self.canvas = canvas

    def line(self, points: Sequence[tuple[float, float]], colour: str, width: float) -> None:
        """A line through points."""
        scaled = [(SCALE * x, SCALE * y) for x, y in points]
        self.canvas.line(scaled, fill=colour, width=round(SCALE * width), joint="curve")

    def dot(self, x: float, y: float, colour: str) -> None:
        """A point."""
        self.canvas.circle((SCALE * x, SCALE * y), SCALE * 4, colour)

    def text(self, at: tuple[float, float], text: str, anchor: str, size: int = 13) -> None:
        """Text at a point, anchored as Pillow names it."""
        font = ImageFont.load_default(SCALE * size)
        self.canvas.text((SCALE * at[0], SCALE * at[1]), text, fill=INK, font=font, anchor=anchor)


class _Axes:
    """Draws one panel; positions in pixels of the result."""

    def __init__(self, pen: _Pen, left: int, panel: Panel, colours: Mapping[str, str]) -> None:
        self.pen, self.panel, self.colours = pen, panel, colours
        self.left, self.right, self.bottom = left + LEFT, left + WIDTH - RIGHT, HEIGHT - BOTTOM
        points = [point for series in panel.series.values() for point in series]
        self.columns = sorted({x for x, _ in points})
        self.rows = ticks(min(y for _, y in points), max(y for _, y in points))
        margin = 0.06 * max(math.log10(self.columns[-1] / self.columns[0]), 0.3)
        self.x_range = math.log10(self.columns[0]) - margin, math.log10(self.columns[-1]) + margin

    def draw(self) -> None:
        """Grid, labels, lines."""
        for value in self.rows:
            y = self.place(self.columns[0], value)[1]
            self.pen.line([(self.left, y), (self.right, y)], GRID, 1)
            self.pen.text((self.left - 8, y), f"{value:,.10g}", "rm")
        for value in self.columns:
            x = self.place(value, self.rows[0])[0]
            self.pen.line([(x, TOP), (x, self.bottom)], GRID, 1)
            self.pen.text((x, self.bottom + 8), f"{value:.10g}", "mt")
        self.pen.line([(self.left, TOP), (self.left, self.bottom), (self.right, self.bottom)], INK, 1)
        self.pen.text((self.left, 14), self.panel.title, "lt", 15)
        self.pen.text(((self.left + self.right) / 2, HEIGHT - 8), self.panel.x_label, "mb")
        for name, points in self.panel.series.items():
            places = [self.place(*point) for point in sorted(points)]
            self.pen.line(places, self.colours[name], 2.2)
            for x, y in places:
                self.pen.dot(x, y, self.colours[name])

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a point lies."""
        across = (math.log10(x) - self.x_range[0]) / (self.x_range[1] - self.x_range[0])
        up = math.log10(y / self.rows[0]) / math.log10(self.rows[-1] / self.rows[0])
        return self.left + across * (self.right - self.left), self.bottom - up * (self.bottom - TOP)
