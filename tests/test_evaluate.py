"""evaluate.py as a user calls it: its files, what fails, and wrong commands."""

import csv
import json
import math

import numpy as np
import PIL.Image
import pytest

import evaluate
from evaluation.measures import MEASURES
from tests.conftest import lines, write_inverter
from tests.evaluation.tiny import checkpoint_entry
from tests.inversion.conftest import photograph, tiny_inverter, trunk_inverter
from utils.errors import run_command

SMALL = [
    "infer.device=cpu", "infer.dtype=float32", "details=2", "evaluate.hidden=1",
    "evaluate.seam_block=32", "evaluate.cycles=2",
    "generated=4", "generated_size=56", "pictures=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Three photographs, of which a is too small for patches, and a damaged one."""
    folder, random = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for name, size in {"a.png": (48, 70), "b.jpg": (93, 104), "sub/c.png": (100, 90)}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        PIL.Image.fromarray(random.integers(0, 256, (*size, 3), np.uint8)).save(folder / name)
    (folder / "damaged.png").write_bytes((folder / "a.png").read_bytes()[:2000])
    return folder


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    """Another inverter whose file has the same name, and whose encoder pads its blocks with zeros."""
    path = tmp_path_factory.mktemp("other") / "tiny.safetensors"
    write_inverter(path, tiny_inverter(convolution="zero_pad"))
    return path


@pytest.fixture(scope="module")
def evaluated(checkpoint, second, photographs, tmp_path_factory):
    """The exit code and the folder of an evaluation of two checkpoints."""
    output = tmp_path_factory.mktemp("evaluation") / "output"
    places = ["--input", str(photographs), "--output", str(output)]
    return run_command(evaluate.main, [*places, "--checkpoint", str(checkpoint), str(second), *SMALL]), output


@pytest.fixture(scope="module")
def evaluation(evaluated):
    return json.loads((evaluated[1] / "evaluation.json").read_text())


def test_images_that_fail_are_named_and_the_others_evaluated(evaluated, evaluation):
    code, output = evaluated
    assert code == 1 and evaluation["settings"]["images"] == 4
    for checkpoint in evaluation["checkpoints"]:
        assert list(checkpoint["failed"]) == ["damaged"] and "damaged.png" in checkpoint["failed"]["damaged"]
        assert [image["name"] for image in checkpoint["images"]] == ["a", "b", "sub/c"]
    files = sorted(path.name for path in output.iterdir() if not path.name.startswith("."))
    assert files == ["evaluation.csv", "evaluation.json", "report.html"]


def test_checkpoints_of_one_name_get_names_of_their_own(evaluated, evaluation, checkpoint, second):
    names = [f"{path.parent.name}-tiny" for path in (checkpoint, second)]
    assert [each["name"] for each in evaluation["checkpoints"]] == names
    assert evaluation["checkpoints"][0]["weights"] != evaluation["checkpoints"][1]["weights"]
    page = (evaluated[1] / "report.html").read_text()
    assert all(name in page for name in names) and "damaged" in page and page.count("data:image/webp") == 5 + 4
    assert list(evaluate.names_of([checkpoint, second.with_name("other.safetensors")])) == ["tiny", "other"]


def test_everything_that_is_asked_for_is_measured(evaluation):
    unasked = {"lpips", "edit_score", "reconstruction_score", "real_score", "fid", "fid_floor"}
    unasked |= {"frechet", "frechet_floor", "coverage", "direction_monotony"}  # of so few images, without a trunk
    unasked |= {key for key in MEASURES if key.startswith(("fill_", "outpaint_"))}  # of such small ones
    for checkpoint in evaluation["checkpoints"]:
        means = checkpoint["means"]
        assert list(means) == list(MEASURES)
        assert {key for key, value in means.items() if value is None} == unasked
        assert all(math.isfinite(value) for value in means.values() if value is not None)
        assert [cycle["cycle"] for cycle in checkpoint["cycles"]] == [1, 2]
        drop = checkpoint["cycles"][0]["psnr"] - checkpoint["cycles"][1]["psnr"]
        assert means["cycle_psnr_drop"] == pytest.approx(drop)
        assert [level["size"] for level in checkpoint["pyramid"]] == [56, 28] and means["distance_images"] == 2
        assert checkpoint["scale_invariant_fid"] == [] and checkpoint["curves"] == {}


def test_a_model_with_a_trunk(tmp_path):
    """Its rate is that of the channels, and it finds again what it draws, but for what is clipped."""
    path, folder = tmp_path / "trunk.safetensors", tmp_path / "photographs"
    write_inverter(path, trunk_inverter())
    folder.mkdir()
    for number in range(12):
        PIL.Image.fromarray(photograph(60, 70, number)).save(folder / f"{number}.png")
    files = ["--checkpoint", str(path), "--input", str(folder), "--output", str(tmp_path / "out")]
    options = [*SMALL, "details=1", "hidden=0", "generated=12", "infer.channels=20"]
    assert run_command(evaluate.main, [*files, *options]) == 0
    (entry,) = json.loads((tmp_path / "out" / "evaluation.json").read_text())["checkpoints"]
    means = entry["means"]
    assert means["values_per_pixel"] == pytest.approx(20 / 64) and 10 < means["psnr_linear"] < 60
    assert means["reciprocal_error"] < 0.4 and means["reciprocal_error_encoded"] < 0.2
    assert all(math.isfinite(means[key]) for key in ("latent_mmd", "cycle_psnr_drop", "frechet", "frechet_floor"))
    assert 0 <= means["coverage"] <= 1


def test_padded_blocks_show(evaluation):
    """Their borders differ from those of one pass, to either side."""
    scores = [checkpoint["means"]["seam_score"] for checkpoint in evaluation["checkpoints"]]
    assert scores[0] == pytest.approx(1, abs=1e-3) and abs(scores[1] - 1) > 0.02


def test_the_table(evaluated, evaluation):
    with open(evaluated[1] / "evaluation.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    expected = [(each["name"], image) for each in evaluation["checkpoints"] for image in each["images"]]
    assert [(row.pop("checkpoint"), row["name"]) for row in rows] == [(name, image["name"]) for name, image in expected]
    assert rows[1] == {key: "" if value is None else str(value) for key, value in expected[1][1].items()}


def test_nothing_but_inversions(checkpoint, photographs, tmp_path):
    """Without details and generated images; what is not measured is null."""
    files = ["--checkpoint", str(checkpoint), "--input", str(photographs / "a.png"), "--output", str(tmp_path / "out")]
    assert run_command(evaluate.main, [*files, *SMALL, "details=0", "hidden=0", "generated=0", "pictures=0"]) == 0
    (entry,) = json.loads((tmp_path / "out" / "evaluation.json").read_text())["checkpoints"]
    measured = {"psnr", "values_per_pixel", "psnr_linear", "ssim", "ms_ssim"}
    measured |= {"seconds_per_megapixel", "peak_memory_mib"}
    assert {key for key, value in entry["means"].items() if value is not None} == measured
    assert entry["cycles"] == entry["pyramid"] == []


def test_all_images_may_fail(checkpoint, photographs, tmp_path):
    places = ["--input", str(photographs / "damaged.png"), "--output", str(tmp_path / "out")]
    assert run_command(evaluate.main, ["--checkpoint", str(checkpoint), *places, *SMALL]) == 1
    (entry,) = json.loads((tmp_path / "out" / "evaluation.json").read_text())["checkpoints"]
    assert entry["images"] == [] and entry["means"]["psnr"] is None and entry["means"]["reciprocal_error"] > 0
    assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["evaluate.lpips=true", "losses.weights.lpips=nowhere"], "nowhere"),
        (["evaluate.discriminator={checkpoint}"], "holds no discriminator"),
        (["evaluate.inception={tmp}/none.pth"], "evaluate.inception"),
        (["--output", "{photographs}/results"], "lies in --input"),
        (["--input", "{tmp}"], "no JPEG"),
        (["--checkpoint", "{checkpoint}", "{tmp}/none.safetensors"], "none.safetensors"),
        (["--checkpoint", "{checkpoint}", "{checkpoint}"], "given twice"),
        (["--checkpoint", "evaluate.details=3"], "names no file"),
    ],
)
def test_a_wrong_command_gets_one_line(checkpoint, photographs, tmp_path, capsys, arguments, said):
    places = {"tmp": tmp_path, "photographs": photographs, "checkpoint": checkpoint}
    files = ["--checkpoint", str(checkpoint), "--input", str(photographs), "--output", str(tmp_path / "output")]
    code = run_command(evaluate.main, [*files, *(text.format(**places) for text in arguments)])
    err = capsys.readouterr().err
    assert code == 2 and len(err.strip().splitlines()) == len(lines(err)) == 1
    assert said in err and not (tmp_path / "output").exists() and not (photographs / "results").exists()


def test_results_do_not_replace_what_is_read(checkpoint, photographs, tmp_path, capsys):
    config = tmp_path / "evaluation.json"
    config.write_text('{"seed": 1}')
    files = ["--checkpoint", str(checkpoint), "--input", str(photographs), "--output", str(tmp_path)]
    assert run_command(evaluate.main, [*files, "--config", str(config)]) == 2
    assert "evaluation.json" in capsys.readouterr().err and config.read_text() == '{"seed": 1}'


def test_exact_results_and_names_that_are_no_text(tmp_path):
    """JSON has no infinite numbers, and UTF-8 not every name of a file."""
    entry = checkpoint_entry(images=("caf\udce9",), psnr=math.inf)
    evaluate.write(tmp_path, {"settings": {"images": 1}, "checkpoints": [entry]}, {})
    (written,) = json.loads((tmp_path / "evaluation.json").read_text())["checkpoints"]
    assert written["images"][0]["psnr"] is None and written["images"][0]["ssim"] == 0.5
    assert "caf?" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "caf\\udce9" in (tmp_path / "evaluation.csv").read_text(encoding="utf-8")
