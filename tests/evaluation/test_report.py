"""The report is one file that stands alone, says what was measured, and survives any name."""

import base64
import io
import math
import re
from html.parser import HTMLParser

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation import report
from evaluation.measures import MEASURES
from evaluation.report import ABSENT, BUDGET, data_uri, measure_cells, number_text, render, write_report

VOID = {"meta", "link", "img", "br"}
HOSTILE = """<script>alert("1")</script>&amp;'" <b>"""


def smooth(number, height=24, width=36):
    """A picture that compresses as photographs do, uint8 [H, W, 3]."""
    y, x = np.mgrid[:height, :width] / 9.0
    waves = np.stack([np.sin(x + number), np.cos(y * 0.7), np.sin(x * y / 7 + number)], -1)
    grain = np.random.default_rng(number).normal(0, 4, (height, width, 3))
    return np.clip(128 + 90 * waves + grain, 0, 255).astype(np.uint8)


def checkpoint(name, images=("a", "b"), psnr=20.0, **means):
    """A checkpoint of an evaluation, with a PSNR, the given means, and nothing else measured."""
    figures = {"height": 24, "width": 36, "ssim": 0.5, "ms_ssim": None, "lpips": None, "seconds": 0.25}
    rows = [{"name": each, **figures, "psnr": psnr + rank, "peak_memory_mib": 99.5} for rank, each in enumerate(images)]
    return {
        "name": name, "path": f"{name}.safetensors", "weights": "0f1e", "parameters": {"generator": 12345},
        "failed": {}, "means": {"psnr": psnr, **means}, "images": rows, "cycles": [], "pyramid": [],
        "scale_invariant_fid": [], "curves": {},
    }  # fmt: skip


def evaluation(*checkpoints, **settings):
    options = {"input": "photographs", "images": 2, "infer": {"block": "auto", "region": None}, "seed": 1}
    return {"settings": options | settings, "checkpoints": list(checkpoints)}


def rows(*names):
    return [(name, *(smooth(number + 7 * place) for place in range(3))) for number, name in enumerate(names)]


class Page(HTMLParser):
    """Elements, their attributes and texts; AssertionError where elements are not nested."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(((self.open or [""])[-1], data.strip()))

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self, tag):
        return [text for name, text in self.texts if name == tag and text]


@pytest.mark.parametrize("count", [1, 2, 8])
def test_the_report_stands_alone(count):
    names = [f"checkpoint-{number}" for number in range(count)]
    pictures = {name: (rows("a", "b"), rows("a")) for name in names}
    text = render(evaluation(*map(checkpoint, names)), pictures)
    page = Page(text)
    for tag, attributes in page.elements:
        for key in ("src", "href", "srcset", "action", "poster", "xlink:href", "style"):
            value = attributes.get(key) or ""
            assert not re.search(r"https?:|//|@import", value.split(";base64,")[0]), (tag, key, value[:80])
    assert all(each["src"].startswith("data:image/webp;base64,") for each in page.all("img"))
    targets = {each["href"] for each in page.all("a")}
    assert targets == {f"#{each['id']}" for each in page.all("h2")}
    rest = re.sub(r"data:image/webp;base64,[\w+/=]+", "", text)
    assert set(re.findall(r"https?://[^\"'\s]*", rest)) == {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert not re.search(r"@import|url\((?!#)", rest)
    assert [page.all(tag) for tag in ("iframe", "object", "embed")] == [[], [], []]
    assert page.all("script") == [{}]
    assert "default-src 'none'" in text


@pytest.mark.parametrize("count", [1, 3, 8])
def test_pictures_and_columns_of_each_checkpoint(count):
    names = [f"checkpoint-{number}" for number in range(count)]
    page = Page(render(evaluation(*map(checkpoint, names)), {name: (rows("a", "b"), rows("a")) for name in names}))
    labels = [each["alt"] for each in page.all("img")]
    assert [labels.count(label) for label in ("photograph", "reconstruction", "error × 4")] == [3, 2 * count, 2 * count]
    assert [labels.count(label) for label in ("source of the style", "edit")] == [1, count]
    assert {each["colspan"] for each in page.all("td") if "colspan" in each} == {str(count + 1)}
    assert len([each for each in page.all("th") if each.get("scope") == "col"]) == count


def test_ids_are_given_once():
    cycles = {"cycles": [{"cycle": 1, "psnr": 20.0, "ssim": 0.5}], "pyramid": [{"size": 64, "distance": 9.0}]}
    page = Page(render(evaluation(checkpoint("a") | cycles), {}))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(page.all("svg")) == 3
    assert len(set(ids)) == len(ids)


def test_names_are_text():
    one = checkpoint(HOSTILE, images=(HOSTILE, "b"))
    one["failed"] = {HOSTILE + "2": HOSTILE}
    pictures = {HOSTILE: (rows(HOSTILE), rows(HOSTILE))}
    page = Page(render(evaluation(one, checkpoint("other"), input=HOSTILE), pictures))
    assert page.all("script") == [{}]
    assert [each for each in page.all("b") if "title" not in each] == []
    assert page.text("li") == [f"{HOSTILE}2: {HOSTILE}"]
    assert page.text("td").count(HOSTILE) >= 2
    assert page.text("dd").count(HOSTILE) == 1
    assert [text for text in page.text("span") if text == HOSTILE]


def test_pictures_survive_their_way():
    pixels = smooth(1, 40, 60)
    page = Page(render(evaluation(checkpoint("a")), {"a": ([("a", pixels, pixels[::-1], 255 - pixels)], [])}))
    shown = [decoded(each["src"]) for each in page.all("img")]
    for found, expected in zip(shown, (pixels, pixels[::-1], 255 - pixels), strict=True):
        assert np.array_equal(found, expected)


def decoded(uri):
    with PIL.Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as image:
        return np.asarray(image)


def test_an_image_that_one_checkpoint_failed_on():
    second = checkpoint("second", images=("b",))
    second["failed"] = {"a": "not an image"}
    pictures = {"first": (rows("a", "b"), []), "second": (rows("b"), [])}
    text = render(evaluation(checkpoint("first"), second), pictures)
    labels = [each["alt"] for each in Page(text).all("img")]
    assert [labels.count(label) for label in ("photograph", "reconstruction")] == [2, 3]
    assert "not of the same" in text
    assert "1 failed with second" in text
    assert "not of the same" not in render(evaluation(checkpoint("first"), checkpoint("second")), {})


def test_edits_in_different_styles_stand_apart():
    (edit,) = rows("a")
    other = (edit[0], edit[1], smooth(50), edit[3])
    labels = [
        [each["alt"] for each in Page(render(evaluation(*map(checkpoint, "pq")), pictures)).all("img")]
        for pictures in ({"p": ([], [edit]), "q": ([], [edit])}, {"p": ([], [edit]), "q": ([], [other])})
    ]
    assert [each.count("source of the style") for each in labels] == [1, 2]
    assert [each.count("edit") for each in labels] == [2, 2]


# Numbers


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (None, 2, ABSENT), (math.nan, 2, ABSENT), (0.0, 2, "0.00"), (-1.25, 1, "−1.2"), (12345.6, 0, "12,346"),
        (math.inf, 2, "∞"),
    ],
)  # fmt: skip
def test_numbers(value, digits, text):
    assert number_text(value, digits) == text


def marked(key, *values):
    checkpoints = [{"means": {} if value is None else {key: value}} for value in values]
    return [cell.best for cell in measure_cells(key, checkpoints)]


@pytest.mark.parametrize(
    ("key", "values", "best"),
    [
        ("psnr", (20.0, 21.0, 19.0), (0, 1, 0)), ("psnr", (20.0, None, 19.0), (1, 0, 0)),
        ("psnr", (20.0, math.nan, 21.0), (0, 0, 1)), ("psnr", (20.001, 20.004, 19.0), (1, 1, 0)),
        ("psnr", (20.0, 20.0), (0, 0)), ("psnr", (20.0,), (0,)), ("psnr", (20.0, None), (0, 0)),
        ("psnr", (20.0, math.inf), (0, 1)), ("swd", (30.0, 20.0), (0, 1)), ("swd", (0.0, 20.0), (1, 0)),
        ("seam_score", (0.7, 1.2, 1.5), (0, 1, 0)), ("seam_score", (0.9, 1.1, 1.5), (1, 1, 0)),
        ("swd_floor", (3.0, 2.0), (0, 0)),
    ],
)  # fmt: skip
def test_the_best_is_marked(key, values, best):
    assert marked(key, *values) == [bool(each) for each in best]


@settings(max_examples=50)
@given(key=st.sampled_from(sorted(MEASURES)), values=st.lists(st.floats(-50, 50), min_size=2, max_size=8))
def test_no_other_value_is_better_than_the_marked(key, values):
    better, digits = MEASURES[key].better, MEASURES[key].digits
    distance = {"higher": lambda x: -x, "lower": lambda x: x, "one": lambda x: abs(x - 1), "none": lambda x: 0}[better]
    for best, value in zip(marked(key, *values), values, strict=True):
        step = 10.0**-digits
        if best:
            assert distance(value) <= min(map(distance, values)) + 1.001 * step
        elif better != "none" and distance(value) < min(map(distance, values)) + step / 1e6:
            assert max(map(distance, values)) <= distance(value) + 1.001 * step


def test_the_table_shows_marks_and_dashes():
    text = render(evaluation(checkpoint("p", psnr=20.5), checkpoint("q", psnr=22.25, ssim=0.5)), {})
    page = Page(text)
    assert page.text("b") == ["22.25"]
    assert len([each for each in page.all("td") if each.get("aria-label") == "not measured"]) == 2 * len(MEASURES) - 3
    for measure in MEASURES.values():
        assert measure.note in page.text("div")
    titles = [text for text in page.text("th") if text in {measure.title for measure in MEASURES.values()}]
    assert titles[:2] == [MEASURES["psnr"].title, MEASURES["ssim"].title]


@pytest.mark.parametrize(
    ("checkpoints", "story"),
    [
        ([checkpoint("p")], "2 photographs of 36 × 24 pixels, inverted by p. On average, 20.00 dB."),
        (
            [checkpoint("p", ("a",)), checkpoint("q", ("a",), 21.0)],
            "1 photograph of 36 × 24 pixels, inverted by 2 checkpoints. Closest on average: q, 21.00 dB.",
        ),
        (
            [checkpoint("p", psnr=20.001), checkpoint("q", psnr=20.002)],
            "2 photographs of 36 × 24 pixels, inverted by 2 checkpoints. On average, 20.00 dB.",
        ),
        ([checkpoint("p", (), None)], "No photograph could be inverted."),
    ],
)
def test_story(checkpoints, story):
    assert report.story(evaluation(*checkpoints)) == story


def test_sizes_of_the_story():
    one = checkpoint("p", ("a", "b", "c"))
    one["images"][1] |= {"height": 1000}
    one["images"][2] |= {"width": 5}
    assert "of 5 × 24 to 36 × 1000 pixels" in report.story(evaluation(one))


def test_all_images():
    one = checkpoint("p", ("a", "b"))
    one["images"][1] |= {"psnr": math.inf, "peak_memory_mib": None}
    text = render(evaluation(one, checkpoint("q", ("b", "a"))), {})
    assert [row["name"] + str(row["checkpoint"]) for row in report.image_rows([one])] == ["a0", "b0"]
    cells = re.findall(r'<td data-value="([^"]*)">([^<]*)</td>', text)
    assert cells[0] == ("864", "36 × 24")
    assert ("inf", "∞") in cells
    assert ("", ABSENT) in cells
    assert "MS-SSIM" not in Page(text).text("button")


def test_settings_are_shown():
    found = Page(render(evaluation(checkpoint("p"), machine={"cores": 2, "gpu": None}), {})).text("dd")
    assert [text for text in found if text in ("photographs", "auto", "null", "0f1e", "12,345 parameters")] == [
        "0f1e", "12,345 parameters", "photographs", "auto", "null", "null",
    ]  # fmt: skip


# Pictures


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (2000, 1), (900, 600)])
def test_pictures_of_any_size(size):
    found = decoded(data_uri(smooth(0, *size), 10**6))
    assert max(found.shape) <= report.EDGE
    assert found.shape[:2] == size or max(found.shape) == report.EDGE


def test_encodings_keep_to_their_limit():
    sizes = []
    for limit in (10**6, 20000, 8000, 5000):
        uri = data_uri(smooth(0, 150, 200), limit)
        sizes.append(len(base64.b64decode(uri.partition(",")[2])))
        assert sizes[-1] <= limit
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1]
    assert data_uri(smooth(0), 1)


def test_the_file_stays_small(tmp_path, monkeypatch):
    budget = BUDGET // 32
    monkeypatch.setattr(report, "BUDGET", budget)
    pictures = [(name, *(smooth(number, 150, 200) for number in range(3))) for name in "abc"]
    found = evaluation(checkpoint("p", "abc"))
    write_report(tmp_path / "report.html", found, {})
    alone = (tmp_path / "report.html").stat().st_size
    write_report(tmp_path / "report.html", found, {"p": (pictures, pictures)})
    with_pictures = (tmp_path / "report.html").stat().st_size
    assert budget / 2 < with_pictures - alone < budget * 4 / 3 + 10000
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_names_that_are_no_text(tmp_path):
    write_report(tmp_path / "report.html", evaluation(checkpoint("p", ("caf\udce9",))), {})
    assert "caf?" in (tmp_path / "report.html").read_text(encoding="utf-8")
