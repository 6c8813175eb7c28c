"""The parts of a checkpoint's evaluation whose result is known; all of it together is tested with evaluate.py."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from evaluation import run
from evaluation.inversions import Inversions
from evaluation.measures import MEASURES, mean, ratio
from evaluation.optimization import Point
from evaluation.run import Judges, Subject
from inversion.canvas import error_times_four
from inversion.outputs import Record, write_figures
from tests.evaluation.tiny import tiny_tool
from utils.config import load_config
from utils.schema import EvaluateConfig

SIZES = {"a": (40, 50), "b": (60, 30), "c": (33, 47)}


@pytest.fixture
def subject(checkpoint, tmp_path):
    """Makes a subject, of whose photographs each reconstruction is brighter by 10; `overrides`: single options."""
    random, records = np.random.default_rng(0), []
    photographs = {name: tmp_path / f"{name}.png" for name in SIZES}
    (tmp_path / "reconstruction").mkdir(exist_ok=True)
    for index, (name, size) in enumerate(SIZES.items()):
        pixels = random.integers(0, 200, (*size, 3), np.uint8)
        PIL.Image.fromarray(pixels).save(photographs[name])
        PIL.Image.fromarray(pixels + 10).save(tmp_path / "reconstruction" / f"{name}.png")
        records.append(Record(name, *size, 20.0 + index, 0.5, 2.0, 1.0, 100.0 + index))
    write_figures(tmp_path, records, {}, {})

    def make(*overrides, **judges):
        options = load_config(EvaluateConfig, None, overrides).evaluate
        parts = Inversions(tmp_path), photographs, None, options, 7, Judges(**judges)
        return Subject("tiny", tiny_tool(checkpoint), *parts)

    return make


def opened(path):
    return np.asarray(PIL.Image.open(path))


def test_figures_of_images_and_their_summary(subject):
    images = run.measure_images(subject())
    assert [(image["name"], image["height"], image["width"]) for image in images] == [(k, *v) for k, v in SIZES.items()]
    assert [image["psnr"] for image in images] == [20.0, 21.0, 22.0]
    assert all(0.5 < image["ms_ssim"] < 1 and image["lpips"] is None for image in images)
    summary = run.summarize(images)
    assert summary["psnr"] == 21 and summary["lpips"] is None and summary["peak_memory_mib"] == 102
    assert summary["seconds_per_megapixel"] == pytest.approx(6e6 / sum(h * w for h, w in SIZES.values()))
    assert set(summary) <= set(MEASURES)


def test_the_summary_of_nothing():
    assert set(run.summarize([]).values()) == {None}


def test_rows_of_pictures(subject, tmp_path):
    made = subject()
    (first, second) = run.inversion_rows(made, ["c", "a"])
    assert [first[0], second[0]] == ["c", "a"]
    photograph = opened(tmp_path / "c.png")
    for found, expected in zip(first[1:], (photograph, photograph + 10, None), strict=True):
        assert expected is None or (found == expected).all()
    assert (first[3] == error_times_four(photograph, photograph + 10)).all()


def test_rows_of_edits_show_whose_style_they_have(subject, tmp_path):
    edits = {name: tmp_path / "reconstruction" / f"{name}.png" for name in SIZES}
    rows = run.edit_rows(subject(), edits)
    assert [row[0] for row in rows] == ["a", "b", "c"]
    for row, name, style in zip(rows, "abc", "bca", strict=True):
        expected = tmp_path / f"{name}.png", tmp_path / f"{style}.png", edits[name]
        assert all((found == opened(path)).all() for found, path in zip(row[1:], expected, strict=True))


def test_pictures_are_of_the_size_that_is_shown(subject, monkeypatch):
    monkeypatch.setattr(run, "EDGE", 20)
    assert [each.shape for each in run.inversion_rows(subject(), ["b"])[0][1:]] == [(20, 10, 3)] * 3
    monkeypatch.setattr(run, "LARGEST", 1799)
    assert [row[0] for row in run.inversion_rows(subject(), ["a", "b", "c"])] == ["c"]


def test_curves_are_means_over_the_images(subject, tmp_path, monkeypatch):
    seen = []

    def optimize(tool, image, steps, seed, perceptual):
        seen.append((image.shape[:2], steps, seed, perceptual))
        yield from (Point(step, step * len(seen), 10.0 + len(seen)) for step in (0, 2))

    def invert(inputs, output, options):
        steps = int(options[0].removeprefix("infer.refine="))
        names = sorted(path.stem for path in inputs.iterdir())
        records = [Record(name, 9, 9, 20.0 + steps + k, 0.5, 1.0 + k, 1.0, 1.0) for k, name in enumerate(names)]
        output.mkdir()
        write_figures(output, records, {}, {})

    monkeypatch.setattr(run, "optimize", optimize)
    made = replace(subject("evaluate.optimized=2", "evaluate.optimization_steps=9"), invert=invert)
    curves = run.optimization_curves(made, tmp_path / "refined")
    assert curves["random latents"] == [{"seconds": 0, "psnr": 11.5}, {"seconds": 3, "psnr": 11.5}]
    assert curves["refinement"] == [{"seconds": 1.5, "psnr": 20.5 + steps} for steps in run.REFINEMENTS]
    assert seen == [(SIZES["a"], 9, 7, None), (SIZES["c"], 9, 7, None)]
    assert run.optimization_curves(subject(), tmp_path / "none") == {}


def test_scores_are_of_the_details(subject, tmp_path):
    class Brightness:
        def score(self, images, seed):
            assert seed == 7
            return mean(image.window(0, 0, image.height, image.width).mean() for image in images)

    made = subject("evaluate.details=2", critic=Brightness())
    scores = run.measure_scores(made, {name: tmp_path / f"{name}.png" for name in ("a", "c")})
    assert scores["edit_score"] == scores["real_score"] == pytest.approx(scores["reconstruction_score"] - 10)
    assert run.measure_scores(subject(), {}) == {}


def test_seams_of_too_small_blocks_are_not_measured(subject, capsys):
    assert run.measure_seams(subject("evaluate.seam_block=31"), {}, Path("none")) is None
    assert "evaluate.seam_block: 31 px, but 32 are needed" in capsys.readouterr().out


def test_generated_images_are_measured_as_far_as_there_are(subject):
    options = ["evaluate.generated=3", "evaluate.generated_size=40"]
    real = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), np.uint8)
    scalars, series = run.measure_generated(subject(*options), real)
    assert scalars["swd"] > 0 and scalars["swd_floor"] > 0 and scalars["reciprocal_error"] > 0 and "fid" not in scalars
    assert [level["size"] for level in series["pyramid"]] == [40, 20] and series["scale_invariant_fid"] == []
    scalars, series = run.measure_generated(subject(*options), real[:0])
    assert list(scalars) == ["reciprocal_error"] and series["pyramid"] == []
    scalars, _ = run.measure_generated(subject("evaluate.generated=0", options[1]), real)
    assert scalars == {"reciprocal_error": None}


def test_fid_is_that_of_the_generated_images(subject, monkeypatch):
    monkeypatch.setattr(run, "fid", lambda inception, first, second: float(len(first) + 10 * len(second)))
    monkeypatch.setattr(run, "scale_invariant_fid", lambda *arguments: [arguments[3:]])
    made = subject("evaluate.generated=3", "evaluate.generated_size=40", "evaluate.scales=[1,3]", inception=object())
    scalars, series = run.measure_generated(made, np.zeros((2, 40, 40, 3), np.uint8))
    assert scalars["fid"] == 23 and series["scale_invariant_fid"] == [(range(7, 10), [1, 3])]


def test_the_machine_and_the_networks(subject):
    assert run.machine(torch.device("cpu"))["torch"] == torch.__version__
    made = subject()
    networks = made.tool.encoder.networks
    count = sum(p.numel() for network in (networks.encoder, networks.global_encoder) for p in network.parameters())
    generator = sum(p.numel() for p in made.tool.generator.parameters())
    assert run.parameters(made.tool) == {"generator": generator, "encoders": count}


@pytest.mark.parametrize(
    ("values", "expected"), [([1, None, 3], 2), ([float("inf"), 5.0], 5), ([], None), ([None], None)]
)
def test_means_leave_out_what_is_no_number(values, expected):
    assert mean(values) == expected


def test_every_measure_is_described():
    assert ratio(1, 0) is None and ratio(1, 2) == 0.5
    for measure in MEASURES.values():
        assert measure.better in ("higher", "lower", "one", "none") and measure.title and measure.note.endswith(".")
