"""The report of an evaluation: one HTML file that needs no other and no network."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import PIL.Image
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from evaluation.measures import MEASURES, PER_IMAGE
from evaluation.plots import CHARTS, COLOURS, draw

Pictures = dict[str, dict[str, str]]  # image name -> caption -> address of the picture
EDGE = 640  # pixels of a picture, at most
ABSENT = "–"


def render(evaluation: Mapping, pictures: Mapping[str, Pictures]) -> str:
    """The text of the page: an evaluation, as evaluation.json holds it, and pictures, by their headings."""
    checkpoints = evaluation["checkpoints"]
    loader, blocks = FileSystemLoader(Path(__file__).parent), {"trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, **blocks)
    environment.filters["number"] = number_text
    drawn = [(chart, draw(chart, checkpoints)) for chart in CHARTS]
    return environment.get_template("report.html.jinja").render(
        checkpoints=checkpoints,
        colours=COLOURS,
        measures=[(measure, table_row(key, checkpoints)) for key, measure in MEASURES.items()],
        pictures=pictures,
        plots=[(chart, data_uri("svg+xml", content)) for chart, content in drawn if content],
        columns=PER_IMAGE,
        settings=evaluation["settings"],
    )


def number_text(value: float | None, digits: int) -> str:
    """A number with so many digits after the point; a dash for what was not measured."""
    if value is None or math.isnan(value):
        return ABSENT
    return f"{value:,.{digits}f}".replace("inf", "∞").replace("-", "−")


def table_row(key: str, checkpoints: Sequence[Mapping]) -> list[tuple[str, bool]]:
    """The text of a measure for each checkpoint, and whether it is the best: where some are worse, as far as shown."""
    measure, values = MEASURES[key], [each["means"].get(key) for each in checkpoints]
    loss = {"higher": lambda x: -x, "lower": lambda x: x, "one": lambda x: abs(x - 1), "none": lambda x: 0}
    # what is shown is compared, and again rounded, for 1.1 - 1 is not 1 - 0.9 in binary
    shown = (None if value is None else round(value, measure.digits) for value in values)
    losses = [None if value is None else round(loss[measure.better](value), measure.digits) for value in shown]
    known = {each for each in losses if each is not None}
    best = [len(known) > 1 and each == min(known) for each in losses]
    return [(number_text(value, measure.digits), mark) for value, mark in zip(values, best, strict=True)]


def webp(picture: np.ndarray) -> str:
    """A picture, uint8 [H, W, 3], as an address, shrunk to what the report shows."""
    image, written = PIL.Image.fromarray(picture), io.BytesIO()
    image.thumbnail((EDGE, EDGE), PIL.Image.Resampling.LANCZOS)
    image.save(written, "WEBP", quality=92)
    return data_uri("webp", written.getvalue())


def data_uri(kind: str, content: bytes) -> str:
    """An image file as an address that holds all of it."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
