"""Plots show what there is, as SVG that may stand beside others in one page."""

import math
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from evaluation import plots
from evaluation.plots import Chart, Line, charts, draw

ROOT = Path(__file__).parent.parent.parent
HREF = "{http://www.w3.org/1999/xlink}href"


def checkpoint(**given):
    """A checkpoint of an evaluation, of which nothing was measured but what is given."""
    return {"images": [], "cycles": [], "pyramid": [], "scale_invariant_fid": [], "curves": {}} | given


def images(*values):
    return [{"name": str(number), "height": 9, "width": 9, "psnr": value} for number, value in enumerate(values)]


def chart(number=0):
    lines = [Line(0, [(1, 2.0), (2, 3.0)]), Line(1, [(1, 2.5), (2, 2.0 + number)], dashed=True), Line(2, [])]
    return Chart(f"<Plot> & {number}", "", "x", "dB", lines, ticks=[1, 2])


def of(title, *checkpoints):
    return next(each for each in charts(checkpoints) if each.title.startswith(title))


def test_nothing_measured_nothing_drawn():
    assert charts([checkpoint(), checkpoint(curves={"refinement": []})]) == []
    assert charts([checkpoint(pyramid=[{"size": 64, "distance": None}])]) == []


@pytest.mark.parametrize(
    ("given", "title"),
    [
        ({"images": images(20.0)}, "PSNR of each"),
        ({"cycles": [{"cycle": 1, "psnr": 20.0, "ssim": 0.5}]}, "Drift"),
        ({"pyramid": [{"size": 64, "distance": 9.0}]}, "Distance of Laplacian"),
        ({"scale_invariant_fid": [{"scale": 1, "fid": 50.0}]}, "FID"),
        ({"curves": {"random latents": [{"seconds": 1.0, "psnr": 9.0}]}}, "Optimisation"),
    ],
)
def test_each_measurement_has_its_plot(given, title):
    (found,) = charts([checkpoint(), checkpoint(**given)])
    assert found.title.startswith(title)
    assert [line.checkpoint for line in found.lines if line.points] == [1]
    ElementTree.fromstring(draw(found, "p"))  # a single point, on logarithmic axes as well


def test_images_are_sorted_and_spread_over_the_axis():
    found = of("PSNR of each", checkpoint(images=images(30.0, None, 10.0, math.inf, 20.0, 25.0, math.nan)))
    assert found.lines[0].points == [(12.5, 10.0), (37.5, 20.0), (62.5, 25.0), (87.5, 30.0)]


def test_rows_are_drawn_from_left_to_right():
    rows = [{"size": size, "distance": 1.0 / size} for size in (128, 64, 32)]
    found = of("Distance", checkpoint(pyramid=rows), checkpoint(pyramid=rows[:1]))
    assert found.ticks == [32, 64, 128]
    assert [[x for x, _ in line.points] for line in found.lines] == [[32, 64, 128], [128]]


def test_curves_leave_out_what_a_logarithmic_axis_has_no_place_for():
    curve = [{"seconds": seconds, "psnr": 10.0 + seconds} for seconds in (0.0, 0.5, 2.0)]
    found = of("Optimisation", checkpoint(curves={"refinement": curve, "random latents": curve[:2]}))
    assert found.note.startswith("Solid: ")
    assert "Dashed: " in found.note
    assert of("Optimisation", checkpoint(curves={"random latents": curve})).note.startswith("Dashed: ")
    assert [(line.dashed, line.points) for line in found.lines] == [
        (False, [(0.5, 10.5), (2.0, 12.0)]),
        (True, [(0.5, 10.5)]),
    ]


@pytest.mark.parametrize(("last", "expected"), [(2.0, (1, 2, 3, 5, 7)), (100.0, (1, 3)), (1e5, (1,))])
def test_ticks_of_seconds(last, expected):
    assert plots.factors([1.0, 1.5, last]) == expected


def test_plots_are_xml_without_anything_from_elsewhere():
    text = draw(chart(), "p0")
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.get("aria-label") == "<Plot> & 0"
    assert root.get("viewBox")
    assert root.get("width") is None
    assert not [each for each in root.iter() if each.tag.endswith(("style", "metadata", "script", "image"))]
    assert set(re.findall(r'"(https?:[^"]*)"', text)) == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_colours_are_the_variables_of_the_page():
    text = draw(chart(), "p0")
    assert not re.search(r"#[0-9a-f]{6}\b", text.replace("url(#", ""))
    assert set(re.findall(r"var\((--[\w-]+)\)", text)) == {"--muted", "--rule", "--series-0", "--series-1"}


def test_ids_do_not_clash_and_references_hold():
    roots = [ElementTree.fromstring(draw(chart(), f"p{number}")) for number in range(2)]
    ids = [[each.get("id") for each in root.iter() if each.get("id")] for root in roots]
    assert len(set(ids[0] + ids[1])) == len(ids[0]) + len(ids[1]) > 20
    for root, known in zip(roots, ids, strict=True):
        targets = [each.get(HREF) for each in root.iter() if each.get(HREF)]
        targets += [each.get("clip-path")[4:-1] for each in root.iter() if each.get("clip-path")]
        assert len(targets) > 2
        assert {target.removeprefix("#") for target in targets} <= set(known)


def test_equal_charts_give_equal_text():
    assert draw(chart(), "p") == draw(chart(), "p") != draw(chart(1), "p")


def test_what_does_not_draw_does_not_import_matplotlib():
    program = "import sys, evaluation.plots, benchmarks.plot; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=60).returncode == 0
