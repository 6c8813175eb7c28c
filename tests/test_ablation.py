"""The ablation trains every config once, measures all inverters, and writes a table that says so."""

import json

import cv2
import numpy as np
import pytest
import torch

from benchmarks import ablation
from models.weights import read_weights
from utils.config import load_config
from utils.errors import run_command
from utils.schema import TrainConfig

SMALL = [
    "train.device=cpu", "train.dtype=float32", "train.steps=2", "train.batch=4", "train.patch_cells=10",
    "infer.device=cpu", "infer.dtype=float32", "evaluate.details=1", "evaluate.hidden=0", "evaluate.cycles=1",
    "evaluate.pictures=0", "evaluate.generated=2", "evaluate.generated_size=32", "evaluate.seam_block=32",
    "model.global_dim=6", "model.structure.layers=1", "model.texture.widths=[6,4,4]",
]  # fmt: skip
TINY = [
    *SMALL, "model.local_dim=4", "model.structure.radius=1", "model.structure.row_starts=4",
    "model.structure.horizontal_period=12", "model.texture.mapping_layers=1", "model.discriminator.widths=[4,4,6]",
    "model.discriminator.minibatch_group=2", "model.encoder.widths=[4,4,6]", "model.global_encoder.thumbnail=24",
]  # fmt: skip
TRUNK = [
    *SMALL, "model.local_dim=8", "model.structure.widths=[4]", "model.structure.dilations=[1]",
    "model.critic.widths=[4,4]", "model.critic.texture_widths=[4]", "data.resize=100",
]  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Options with folders of smooth pictures, to train with and to measure on."""
    random, folder = np.random.default_rng(0), tmp_path_factory.mktemp("pictures")
    for name, count in (("train", 4), ("val", 2)):
        (folder / name).mkdir()
        for number in range(count):
            picture = random.integers(0, 256, (6, 7, 3), dtype=np.uint8)
            cv2.imwrite(str(folder / name / f"{number}.png"), cv2.resize(picture, (66, 48)))
    return ["--data", str(folder / "train"), "--val", str(folder / "val"), "--input", str(folder / "val")]


def rows_of(runs):
    lines = (runs / "ablation.md").read_text().splitlines()
    return [line.strip("| ").split(" | ") for line in lines if line.startswith("|")]


def test_inverters_stand_on_a_generator(folders, tmp_path):
    runs = tmp_path / "runs"
    with torch.random.fork_rng():
        assert run_command(ablation.main, [*TINY, *folders, "--output", str(runs), "--configs", "random-global"]) == 0
    generator = read_weights(runs / "generator/generator.safetensors").tensors
    inverter = read_weights(runs / "random-global/inverter.safetensors").tensors
    assert all(torch.equal(inverter[key], value) for key, value in generator.items())
    (entry,) = json.loads((runs / "evaluation-inverters/evaluation.json").read_text())["checkpoints"]
    heading, _, row = rows_of(runs)
    values = dict(zip(heading, row, strict=True))
    assert values["run"] == "random-global" and "Score of edits" in values
    assert values["encoder parameters"] == f"{entry['parameters']['encoders']:,}"
    assert values["PSNR"] == f"{entry['means']['psnr']:.2f}"


def test_structure_stages_stand_on_a_trunk(folders, tmp_path):
    runs, chosen = tmp_path / "runs", ["trunk", "no-style"]
    with torch.random.fork_rng():
        assert run_command(ablation.main, [*TRUNK, *folders, "--output", str(runs), "--configs", *chosen]) == 0
    rows = rows_of(runs)
    assert [row[0] for row in rows] == ["run", "---", *chosen]
    assert {"Rate", "Reciprocal error, encoded", "Latent MMD"} <= set(rows[0]) and not (runs / "generator").exists()
    trunk, other = (read_weights(runs / name / "inverter.safetensors").tensors for name in chosen)
    assert {key.split(".")[1] for key in other if not torch.equal(other[key], trunk[key])} == {"structure"}


def test_a_failed_training_ends_the_command(folders, tmp_path, capsys):
    (tmp_path / "generator").write_text("no folder")
    assert run_command(ablation.main, [*TINY, *folders, "--output", str(tmp_path), "--configs", "shifted"]) == 2
    assert not (tmp_path / "ablation.md").exists() and capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize(("arguments", "words"), [
    (["model.encoder.convolution=valid"], "tells the configs apart"), (["train.step=1"], "train.step"),
    (["evaluate.details=-1"], "evaluate.details"),
])  # fmt: skip
def test_a_wrong_command_is_refused_before_anything_is_trained(folders, tmp_path, capsys, arguments, words):
    command = [*folders, "--configs", "shifted", "--output", str(tmp_path / "runs"), *TINY, *arguments]
    assert run_command(ablation.main, command) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "runs").exists()


# The configs


def flat(values, prefix=""):
    for key, value in values.items():
        yield from flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]


def test_every_config_has_its_row():
    runs = {*ablation.INVERTERS, *ablation.STRUCTURES, "generator"}
    assert {path.stem for path in ablation.CONFIGS.glob("*.yaml")} == runs
    generator, shifted = (load_config(TrainConfig, ablation.CONFIGS / f"{k}.yaml") for k in ("generator", "shifted"))
    assert shifted.model == generator.model and not shifted.train.tune_texture


@pytest.mark.parametrize(("of", "name", "changed"), [
    *(("shifted", kind, {"model.encoder.convolution": kind}) for kind in ("valid", "zero_pad", "rolled")),
    *(("shifted", f"no-{loss}", {f"losses.inverter.{loss}": 0.0}) for loss in ("reciprocal", "distribution")),
    ("shifted", "random-global", {"model.global_encoder.widths": [], "losses.inverter.global_latent": 0.0,
                                  "losses.inverter.distribution": 0.0}),
    *(("structure", f"no-{part}", {f"losses.structure.{part}": 0.0}) for part in ("texture", "local", "whole")),
    ("structure", "no-style", {"model.critic.style": False}),
])  # fmt: skip
def test_a_config_changes_one_thing(of, name, changed):
    whole, other = (dict(flat(load_config(TrainConfig, ablation.CONFIGS / f"{each}.yaml"))) for each in (of, name))
    assert {key: value for key, value in other.items() if value != whole[key]} == changed
