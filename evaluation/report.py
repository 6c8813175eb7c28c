"""The report of an evaluation: one HTML file that holds all it shows.

H, W are an image's height and width in pixels.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from evaluation.measures import MEASURES, PER_IMAGE, Measure
from evaluation.plots import SERIES, charts, draw
from utils.files import atomic_path

Row = tuple[str, np.ndarray, np.ndarray, np.ndarray]  # name of an image, three pictures, uint8 [H, W, 3]
Pictures = Mapping[str, tuple[Sequence[Row], Sequence[Row]]]

EDGE = 640  # pixels; larger pictures are shrunk
BUDGET = 3 * 2**20  # bytes that all pictures share; as text they take a third more
# Of WebP, from the best: bytes for each pixel that photographs take at least, and options.
ENCODINGS = (
    (0.75, {"lossless": True, "method": 2}),
    *(
        (least, {"quality": quality, "method": 2})
        for least, quality in ((0.15, 95), (0.1, 90), (0.05, 80), (0, 70), (0, 50))
    ),
)
NARROWEST, WIDEST = 120, 300  # pixels that pictures are wide on the page at least, where there is room
SHARE = 0.8  # of their own width, that they want in between
ABSENT = "–"
SECONDS = ("Time", "s", 2)  # title, unit and digits of an image's time, for which MEASURES has no entry


@dataclass(frozen=True)
class Cell:
    """A number as the report shows it."""

    text: str
    value: float | None  # None: not measured
    best: bool = False


def write_report(path: str | Path, evaluation: Mapping, pictures: Pictures) -> None:
    """Write an evaluation, as `evaluation.json` holds it, as one HTML file that needs no other and no network.

    `pictures` gives two lists of rows by the name of a checkpoint: (image name, photograph, reconstruction, error x 4)
    and (image name, photograph, style source, edit); checkpoints without pictures may be missing.
    UserError where the system refuses to write.
    """
    page = render(evaluation, pictures)
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="replace")  # names of files need not be UTF-8


def render(evaluation: Mapping, pictures: Pictures) -> str:
    """The text of the page; the arguments are those of `write_report`."""
    checkpoints = evaluation["checkpoints"]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja").render(
        checkpoints=checkpoints,
        series=SERIES,
        absent=ABSENT,
        story=story(evaluation),
        measures=measure_rows(checkpoints),
        same_images=len({frozenset(values_of(each, "name")) for each in checkpoints}) == 1,
        plots=[(chart, Markup(draw(chart, f"plot-{number}"))) for number, chart in enumerate(charts(checkpoints))],
        columns=image_columns(checkpoints),
        images=image_rows(checkpoints),
        settings=setting_groups(evaluation["settings"]),
        **cards([pictures.get(each["name"], ((), ())) for each in checkpoints], checkpoints),
    )


# Words and numbers


def story(evaluation: Mapping) -> str:
    """The evaluation in a sentence or two."""
    checkpoints = evaluation["checkpoints"]
    images = {image["name"]: image for each in checkpoints for image in each["images"]}.values()
    if not images:
        return "No photograph could be inverted."
    text = f"{counted(len(images), 'photograph')} of {size_range(images)} pixels, inverted by "
    text += f"{checkpoints[0]['name'] if len(checkpoints) == 1 else counted(len(checkpoints), 'checkpoint')}."
    quality = {each["name"]: each["means"].get("psnr") for each in checkpoints}
    quality = {name: value for name, value in quality.items() if is_number(value)}
    if quality:
        best = number_text(max(quality.values()), 2)
        leaders = [name for name, value in quality.items() if number_text(value, 2) == best]
        ahead = "On average" if len(leaders) == len(quality) else f"Closest on average: {', '.join(leaders)}"
        text += f" {ahead}, {best} dB."
    return text


def counted(count: int, noun: str) -> str:
    """A number and its noun."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def size_range(images: Iterable[Mapping]) -> str:
    """Width and height of the smallest and of the largest image."""
    sizes = sorted({(image["height"] * image["width"], size_text(image)) for image in images})
    return " to ".join(dict.fromkeys((sizes[0][1], sizes[-1][1])))


def size_text(image: Mapping) -> str:
    """Width and height."""
    return f"{image['width']} × {image['height']}"


def is_number(value: float | None) -> bool:
    """Whether something was measured; infinity, the PSNR of equal images, was."""
    return value is not None and not math.isnan(value)


def number_text(value: float | None, digits: int) -> str:
    """A number with so many digits after the point; a dash for what was not measured."""
    if not is_number(value):
        return ABSENT
    text = f"{value:,.{digits}f}" if math.isfinite(value) else f"{value}".replace("inf", "∞")
    return text.replace("-", "−")


def measure_rows(checkpoints: Sequence[Mapping]) -> list[tuple[Measure, list[Cell]]]:
    """All measures and their cells; those that no checkpoint has come last."""
    rows = [(measure, measure_cells(key, checkpoints)) for key, measure in MEASURES.items()]
    return sorted(rows, key=lambda row: all(cell.value is None for cell in row[1]))


def measure_cells(key: str, checkpoints: Sequence[Mapping]) -> list[Cell]:
    """The row of a measure, a cell for each checkpoint. The best is marked where some are worse."""
    measure = MEASURES[key]
    values = [each["means"].get(key) for each in checkpoints]
    ranks = [rank(value, measure.better, measure.digits) for value in values]
    known = {each for each in ranks if each is not None}
    best = min(known) if len(known) > 1 else None
    return [
        Cell(number_text(value, measure.digits), value if is_number(value) else None, each is not None and each == best)
        for value, each in zip(values, ranks, strict=True)
    ]


def rank(value: float | None, better: str, digits: int) -> float | None:
    """What is less for a better value, as far as its digits on the page tell; None where there is nothing to rank."""
    if not is_number(value) or better == "none":
        return None
    shown = round(value, digits)
    # Rounded again, for 1.1 - 1 is not 1 - 0.9 in binary.
    return round({"higher": -shown, "lower": shown, "one": abs(shown - 1)}[better], digits)


# All images


def values_of(checkpoint: Mapping, key: str) -> list:
    """A column of the images' table."""
    return [image.get(key) for image in checkpoint["images"]]


def image_columns(checkpoints: Sequence[Mapping]) -> list[tuple[str, str, str, int]]:
    """Key, title, unit and digits of what was measured of any image."""
    measured = [
        key for key in PER_IMAGE if any(is_number(value) for each in checkpoints for value in values_of(each, key))
    ]
    return [(key, *about(key)) for key in measured]


def about(key: str) -> tuple[str, str, int]:
    """Title, unit and digits of a column."""
    if key not in MEASURES:
        return SECONDS
    return MEASURES[key].title, MEASURES[key].unit, MEASURES[key].digits


def image_rows(checkpoints: Sequence[Mapping]) -> list[dict]:
    """All images, each with its checkpoints below each other."""
    columns = image_columns(checkpoints)
    rows: dict[str, list[dict]] = {}
    for number, checkpoint in enumerate(checkpoints):
        for image in checkpoint["images"]:
            cells = [Cell(number_text(image.get(key), digits), image.get(key)) for key, _, _, digits in columns]
            area = image["height"] * image["width"]
            row = {"name": image["name"], "size": size_text(image), "area": area, "checkpoint": number, "cells": cells}
            rows.setdefault(image["name"], []).append(row)
    return [row for group in rows.values() for row in group]


# Settings


def setting_groups(settings: Mapping) -> dict[str, dict[str, str]]:
    """Keys and values by section; what is in none comes first, under an empty name."""
    groups = {"": {key: setting_text(value) for key, value in settings.items() if not isinstance(value, Mapping)}}
    for section, values in settings.items():
        if isinstance(values, Mapping):
            groups[section] = {key: setting_text(value) for key, value in values.items()}
    return groups


def setting_text(value: object) -> str:
    """A value as a config has it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# Pictures


def cards(rows: Sequence[tuple[Sequence[Row], Sequence[Row]]], checkpoints: Sequence[Mapping]) -> dict:
    """What the template shows of the pictures: `pictures`, `edits`, and `picture_width` in pixels of the page."""
    inversions = aligned([each for each, _ in rows], lambda row: row[0])
    edits = aligned([each for _, each in rows], lambda row: (row[0], row[2].tobytes()))
    present = (
        [len(group) - group.count(None) for group in inversions],
        [len(group) - group.count(None) for group in edits],
    )
    count = sum(1 + 2 * number for number in present[0]) + sum(2 + number for number in present[1])

    def embed(picture: np.ndarray) -> str:
        return data_uri(picture, BUDGET // count)

    widths = [picture.shape[1] for group in (*inversions, *edits) for row in group if row for picture in row[1:]]
    return {
        "pictures": [picture_card(group, checkpoints, embed) for group in inversions],
        "edits": [edit_card(group, embed) for group in edits],
        "picture_width": round(min(max([NARROWEST, *(SHARE * width for width in widths)]), WIDEST)),
    }


def aligned(tables: Sequence[Sequence[Row]], key: Callable[[Row], object]) -> list[list[Row | None]]:
    """For each key, in order of appearance, its row in each table; None where a table lacks it."""
    found = [{key(row): row for row in table} for table in tables]
    keys = dict.fromkeys(each for table in found for each in table)
    return [[table.get(each) for table in found] for each in keys]


def picture_card(group: Sequence[Row | None], checkpoints: Sequence[Mapping], embed: Callable) -> dict:
    """A photograph, and its reconstruction and error of each checkpoint."""
    name, photograph, *_ = next(row for row in group if row)
    digits = MEASURES["psnr"].digits
    results = []
    for row, checkpoint in zip(group, checkpoints, strict=True):
        psnr = {image["name"]: image["psnr"] for image in checkpoint["images"]}.get(name)
        text = f"{number_text(psnr, digits)}\u00a0dB" if is_number(psnr) else ""
        results.append(row and {"reconstruction": embed(row[2]), "error": embed(row[3]), "psnr": text})
    return {"name": name, "photograph": embed(photograph), "results": results}


def edit_card(group: Sequence[Row | None], embed: Callable) -> dict:
    """A photograph, where its new style comes from, and what each checkpoint makes of them."""
    name, photograph, style, _ = next(row for row in group if row)
    results = [row and embed(row[3]) for row in group]
    return {"name": name, "photograph": embed(photograph), "style": embed(style), "results": results}


def data_uri(picture: np.ndarray, limit: int) -> str:
    """A picture, uint8 [H, W, 3], as WebP in text: the best encoding within `limit` bytes, else the last."""
    image = PIL.Image.fromarray(picture)
    image.thumbnail((EDGE, EDGE), PIL.Image.Resampling.LANCZOS)
    worth_trying = (options for least, options in ENCODINGS if least * image.width * image.height <= limit)
    for options in worth_trying:
        written = io.BytesIO()
        image.save(written, "WEBP", **options)
        if written.tell() <= limit:
            break
    return "data:image/webp;base64," + base64.b64encode(written.getvalue()).decode("ascii")
