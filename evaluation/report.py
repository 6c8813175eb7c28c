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
from evaluation.plots import COLOURS, charts, draw
from utils.files import atomic_path

Pictures = Mapping[str, Mapping[str, np.ndarray]]  # image name -> caption -> uint8 [H, W, 3]
EDGE = 640  # pixels; larger pictures are shrunk
ABSENT = "–"


def write_report(path: str | Path, evaluation: Mapping, inversions: Pictures, edits: Pictures) -> None:
    """Write an evaluation, as evaluation.json holds it, with pictures. UserError where the system refuses to write."""
    page = render(evaluation, inversions, edits)
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="replace")  # names of files need not be UTF-8


def render(evaluation: Mapping, inversions: Pictures, edits: Pictures) -> str:
    """The text of the page; the arguments are those of `write_report`."""
    checkpoints = evaluation["checkpoints"]
    loader, blocks = FileSystemLoader(Path(__file__).parent), {"trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, **blocks)
    environment.filters |= {"number": number_text, "webp": webp}
    return environment.get_template("report.html.jinja").render(
        checkpoints=checkpoints,
        colours=COLOURS,
        story=story(checkpoints),
        measures=[(measure, table_row(key, checkpoints)) for key, measure in MEASURES.items()],
        same_images=len({tuple(image["name"] for image in each["images"]) for each in checkpoints}) == 1,
        pictures={"Inversions": inversions, "Edits": edits},
        plots=[(chart, data_uri("svg+xml", draw(chart))) for chart in charts(checkpoints)],
        columns=PER_IMAGE,
        settings=evaluation["settings"],
    )


def story(checkpoints: Sequence[Mapping]) -> str:
    """The evaluation in a sentence or two."""
    images = {image["name"]: image for each in checkpoints for image in each["images"]}.values()
    if not images:
        return "No photograph could be inverted."
    sizes = sorted((image["height"] * image["width"], f"{image['width']} × {image['height']}") for image in images)
    edges = " to ".join(dict.fromkeys((sizes[0][1], sizes[-1][1])))
    by = checkpoints[0]["name"] if len(checkpoints) == 1 else f"{len(checkpoints)} checkpoints"
    text = f"{len(images):,} photograph{'s' * (len(images) > 1)} of {edges} pixels, inverted by {by}."
    psnr = {each["name"]: each["means"]["psnr"] for each in checkpoints if each["means"]["psnr"] is not None}
    if len(psnr) > 1:
        best = max(psnr, key=psnr.get)
        text += f" Closest on average: {best}, {number_text(psnr[best], 2)} dB."
    return text


def number_text(value: float | None, digits: int) -> str:
    """A number with so many digits after the point; a dash for what was not measured."""
    if value is None or math.isnan(value):
        return ABSENT
    text = f"{value:,.{digits}f}" if math.isfinite(value) else f"{value}".replace("inf", "∞")
    return text.replace("-", "−")


def table_row(key: str, checkpoints: Sequence[Mapping]) -> list[tuple[str, bool]]:
    """The text of a measure for each checkpoint, and whether it is the best: where some are worse, as far as shown."""
    measure, values = MEASURES[key], [each["means"].get(key) for each in checkpoints]
    texts = [number_text(value, measure.digits) for value in values]
    loss = {"higher": lambda x: -x, "lower": lambda x: x, "one": lambda x: abs(x - 1), "none": lambda x: 0}
    # what is shown is compared, and again rounded, for 1.1 - 1 is not 1 - 0.9 in binary
    pairs = zip(texts, values, strict=True)
    shown = (None if text == ABSENT else round(value, measure.digits) for text, value in pairs)
    losses = [None if value is None else round(loss[measure.better](value), measure.digits) for value in shown]
    known = {value for value in losses if value is not None}
    return [(text, len(known) > 1 and value == min(known)) for text, value in zip(texts, losses, strict=True)]


def shrunk(picture: np.ndarray) -> np.ndarray:
    """A picture, uint8 [H, W, 3], as large as the report shows it."""
    image = PIL.Image.fromarray(picture)
    image.thumbnail((EDGE, EDGE), PIL.Image.Resampling.LANCZOS)
    return np.array(image)


def webp(picture: np.ndarray) -> str:
    """A picture, uint8 [H, W, 3], as an address."""
    written = io.BytesIO()
    PIL.Image.fromarray(shrunk(picture)).save(written, "WEBP", quality=92)
    return data_uri("webp", written.getvalue())


def data_uri(kind: str, content: bytes) -> str:
    """An image file as an address that holds all of it."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
