"""The report is one file that stands alone, says what was measured, and survives any name; and its plots."""

import base64
import io
import math
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import PIL.Image
import pytest
from markupsafe import escape

from evaluation.measures import MEASURES
from evaluation.plots import CHARTS, draw, points_of
from evaluation.report import ABSENT, EDGE, number_text, render, table_row, webp
from tests.evaluation.tiny import checkpoint_entry as checkpoint
from tests.evaluation.tiny import noise

HOSTILE = """<script>alert("1")</script>&amp;'" <b>"""


def page(*checkpoints, inversions=None, edits=None, **settings):
    settings = {"input": "photographs", "images": 2, "infer": {"block": "auto", "seed": None}} | settings
    pictures = {"Inversions": inversions or {}, "Edits": edits or {}}
    return render({"settings": settings, "checkpoints": list(checkpoints)}, pictures)


def test_the_report_stands_alone():
    pictures = {"a": {"a": webp(noise(9, 9)), "p, 20.00 dB": webp(noise(9, 9, 1))}}
    cycles = [{"cycle": 1, "psnr": 20.0}, {"cycle": 2, "psnr": 19.0}]
    text = page(checkpoint(cycles=cycles), inversions=pictures, edits=pictures)
    assert re.findall(r'src="(.*?);', text) == ["data:image/webp"] * 4 + ["data:image/svg+xml"] * 2
    text = re.sub(r"base64,[\w+/=]+", "", text)
    assert not re.search(r"https?:|@import|url\(|<(script|a|link|iframe|object)\b", text)
    assert "default-src 'none'" in text
    for each in ("p, 20.00 dB", "20.00", "0.25", "36 × 24", "12,345 parameters", "auto", "null"):
        assert f">{each}<" in text
    assert "Inversions of 2 photographs by p." in text
    assert all(escape(measure.note) in text for measure in MEASURES.values())


def test_names_are_text():
    pictures = {HOSTILE: {HOSTILE: webp(noise(9, 9))}}
    one = checkpoint(HOSTILE, images=(HOSTILE,), failed={"x" + HOSTILE: HOSTILE})
    text = page(one, inversions=pictures, input=HOSTILE)
    assert "<script" not in text and "<b>" not in text
    assert text.count(escape(HOSTILE)) > 8 and f'alt="{escape(HOSTILE)}"' in text


@pytest.mark.parametrize("size", [(1, 3000), (40, 60)])
def test_pictures_survive_their_way(size):
    pixels = np.full((*size, 3), [30, 120, 200], np.uint8)
    with PIL.Image.open(io.BytesIO(base64.b64decode(webp(pixels).partition(",")[2]))) as found:
        assert max(found.size) == min(max(size), EDGE)
        assert np.abs(np.asarray(found).astype(int) - [30, 120, 200]).max() < 5


def test_checkpoints_that_failed_on_different_images():
    second = checkpoint("q", images=("b",), failed={"a": "not an image"}, psnr=20.5)
    text = page(checkpoint(), second)
    assert "not of the same ones" in text and "1 failed with q" in text and "<b>20.50</b>" in text
    assert "not of the same ones" not in page(checkpoint(), checkpoint("q"))


def test_numbers():
    for value, digits, text in (
        (None, 2, ABSENT), (math.nan, 2, ABSENT), (-1.25, 1, "−1.2"), (12345.6, 0, "12,346"), (math.inf, 2, "∞")
    ):  # fmt: skip
        assert number_text(value, digits) == text


@pytest.mark.parametrize(
    ("key", "values", "best"),
    [
        ("psnr", (20.0, None, 19.0), (1, 0, 0)), ("psnr", (20.001, 20.004, 19.0), (1, 1, 0)),
        ("psnr", (20.0, 20.0), (0, 0)), ("psnr", (20.0, None), (0, 0)), ("swd", (0.0, 20.0), (1, 0)),
        ("seam_score", (0.9, 1.1, 1.5), (1, 1, 0)), ("swd_floor", (3.0, 2.0), (0, 0)),
    ],
)  # fmt: skip
def test_the_best_is_marked(key, values, best):
    found = table_row(key, [{"means": {key: value}} for value in values])
    assert [mark for _, mark in found] == [bool(each) for each in best]


def test_each_measurement_has_its_plot():
    none = checkpoint(images=())
    given = none | {
        "images": [{"psnr": value} for value in (30.0, None, 10.0)],
        "pyramid": [{"size": 64, "distance": 9.0, "floor": 2.0}, {"size": 32, "distance": 8.0, "floor": None}],
        "curves": {"random latents": [{"seconds": 0.0, "psnr": 8.0}, {"seconds": 1.0, "psnr": 9.0}]},
    }
    points = {chart.title: [points_of(given, *columns) for *columns, _ in chart.curves] for chart in CHARTS}
    assert list(points.values()) == [
        [[(25, 10.0), (75, 30.0)]], [[]], [[(32, 8.0), (64, 9.0)], [(64, 2.0)]], [[]],
        [[], [(1.0, 9.0)]],  # a logarithmic axis has no place for 0
    ]  # fmt: skip
    drawn = [draw(chart, [none, given]) for chart in CHARTS[1:3]]
    assert drawn[0] is None and drawn[1] == draw(CHARTS[2], [none, given])
    assert ElementTree.fromstring(drawn[1]).tag == "{http://www.w3.org/2000/svg}svg" and b"#d98a00" in drawn[1]
