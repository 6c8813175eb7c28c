"""The ablation trains every config once, measures all inverters, and writes a table that says so."""

import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import evaluate
import train
from benchmarks import ablation
from models.weights import read_weights
from utils.config import load_config
from utils.errors import run_command
from utils.schema import TrainConfig

TINY = [
    "model.local_dim=4", "model.global_dim=6", "model.structure.layers=1", "model.structure.radius=1",
    "model.structure.row_starts=4", "model.structure.horizontal_period=12", "model.texture.widths=[6,4,4]",
    "model.texture.mapping_layers=1", "model.discriminator.widths=[4,4,6]", "model.discriminator.minibatch_group=2",
    "model.encoder.widths=[4,4,6]", "model.global_encoder.thumbnail=24",
    "train.device=cpu", "train.dtype=float32", "train.steps=2", "train.batch=4", "train.patch_cells=10",
    "infer.device=cpu", "infer.dtype=float32", "evaluate.details=1", "evaluate.cycles=1", "evaluate.pictures=0",
    "evaluate.generated=2", "evaluate.generated_size=32", "evaluate.seam_block=32",
]  # fmt: skip
CHOSEN = ["rolled", "random-global"]


class Programs:
    """Stands in for `run_program`: trains in this process; evaluate.py only writes `evaluation`, if there is one."""

    def __init__(self):
        self.started, self.codes, self.evaluation = [], {}, None

    def __call__(self, name, arguments):
        self.started.append(name if name == "evaluate.py" else Path(arguments[1]).stem)
        code = self.codes.get(self.started[-1], 0)
        if name == "evaluate.py" and self.evaluation is not None:
            output = Path(arguments[arguments.index("--output") + 1])
            output.mkdir(exist_ok=True)
            (output / "evaluation.json").write_text(json.dumps(self.evaluation))
        if code or (name == "evaluate.py" and self.evaluation is not None):
            return code
        with torch.random.fork_rng():
            return run_command({"train.py": train.main, "evaluate.py": evaluate.main}[name], arguments)


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


@pytest.fixture(scope="module")
def finished(folders, tmp_path_factory):
    """The folder of a study of two inverters, done once, and what it has started."""
    programs, threads, handler = Programs(), torch.get_num_threads(), signal.getsignal(signal.SIGTERM)
    folder = tmp_path_factory.mktemp("study") / "runs"
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ablation, "run_program", programs)
        command = [*TINY, *folders, "--output", str(folder), "--configs", *reversed(CHOSEN)]
        assert run_command(ablation.main, command) == 0
    torch.set_num_threads(threads)
    signal.signal(signal.SIGTERM, handler)
    return folder, programs.started


@pytest.fixture
def programs(monkeypatch):
    """What was started, and how it ends."""
    programs = Programs()
    monkeypatch.setattr(ablation, "run_program", programs)
    return programs


@pytest.fixture
def study(finished, folders, programs, tmp_path):
    """Gives the command again, in a copy of the finished folder, with more arguments; its exit code."""
    shutil.copytree(finished[0], tmp_path / "runs")
    programs.evaluation = evaluation_of(tmp_path / "runs")

    def study(*arguments, configs=CHOSEN):
        command = [*TINY, *arguments, *folders, "--output", str(tmp_path / "runs"), "--configs", *configs]
        return run_command(ablation.main, command)

    study.folder = tmp_path / "runs"
    return study


def evaluation_of(folder):
    return json.loads((folder / "evaluation/evaluation.json").read_text())


def cells(line):
    return line[2:-2].split(" | ")


def table_of(text):
    """Rows of the table by name, each a dict by heading, and the groups."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    heading = cells(lines[0])
    rows = {cells(line)[0]: dict(zip(heading, cells(line), strict=True)) for line in lines[2:]}
    groups = [name for name in rows if name.startswith("**")]
    return {name: row for name, row in rows.items() if name not in groups}, groups


def weights(folder, name):
    return folder / name / ("generator.safetensors" if name == "generator" else "inverter.safetensors")


# The whole


def test_trains_and_measures_in_order(finished):
    folder, started = finished
    assert started == ["generator", *CHOSEN, "evaluate.py"]
    generator = read_weights(weights(folder, "generator")).tensors
    for name in CHOSEN:
        inverter = read_weights(weights(folder, name)).tensors
        assert all(torch.equal(inverter[key], value) for key, value in generator.items())
    assert Path(evaluation_of(folder)["settings"]["evaluate"]["discriminator"]).parent == folder / "generator"


def test_the_table_has_the_measured_numbers(finished):
    folder, _ = finished
    evaluation, text = evaluation_of(folder), (folder / "ablation.md").read_text()
    found, groups = table_of(text)
    assert list(found) == CHOSEN
    assert groups == ["**Kinds of convolution**", "**Global latent**"]
    for name, entry in zip(CHOSEN, evaluation["checkpoints"], strict=True):
        assert Path(entry["path"]) == weights(folder, name)
        row, means = found[name], entry["means"]
        assert row["encoder parameters"] == f"{entry['parameters']['encoders']:,}"
        for heading, key, digits in (
            ("PSNR, dB", "psnr", 2),
            ("seams", "seam_score", 3),
            ("latent mean", "latent_mean_distance", 3),
        ):
            assert row[heading] == f"{means[key]:.{digits}f}"
        assert row["latent MMD (floor)"] == f"{means['latent_mmd']:.4f} ({means['latent_mmd_floor']:.4f})"
        scores = [means[key] for key in ("edit_score", "reconstruction_score", "real_score")]
        expected = "{:.3f} ({:.3f}, {:.3f})".format(*scores).replace("-", "−")
        assert row["score of edits (reconstructions, photographs)"] == expected
    words = " ".join(text.split())
    assert "took 2 steps of 4 patches of 10 latent cells; each inverter" in words
    assert "seed 0, with 4 images of" in words and "Measured on 2 of" in words and "1 for seams and edits" in words
    assert "--configs random-global rolled --data pictures0/train " in text and "model.local_dim=4" in text
    assert str(folder.parent) not in text


def test_a_measure_that_is_missing_is_a_dash():
    assert (
        ablation.cell({"edit_score": 1.0, "real_score": None}, ("edit_score", "reconstruction_score", "real_score"))
        == "1.000 (–, –)"
    )


# Again


def test_what_is_finished_is_not_trained_again(study, programs, tmp_path, capsys):
    weights(study.folder, "rolled").unlink()
    assert study("--table", str(tmp_path / "docs/table.md")) == 0
    assert programs.started == ["rolled", "evaluate.py"]
    assert weights(study.folder, "rolled").exists()
    text = (tmp_path / "docs/table.md").read_text()
    assert table_of(text) == table_of((study.folder / "ablation.md").read_text())
    assert text in capsys.readouterr().out


def test_what_was_stopped_goes_on(study, programs, capsys):
    name, path = CHOSEN[1], weights(study.folder, CHOSEN[1])
    run = ablation.Run(name, path.parent, [], generator=weights(study.folder, "generator"))
    shutil.rmtree(path.parent)
    assert study("train.steps=1") == 0
    assert (run.steps(), programs.started) == (1, [name, "evaluate.py"])
    assert study() == 0
    assert (run.steps(), programs.started[2:]) == (2, [name, "evaluate.py"])
    assert "resuming from" in capsys.readouterr().out


def test_inverters_of_another_generator_are_refused(study, programs, capsys):
    shutil.rmtree(study.folder / "generator")
    assert study("seed=1") == 2
    assert programs.started == ["generator", CHOSEN[0]]
    assert "holds another run: fingerprint of train.generator" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["model.encoder.depth=2", "model.local_dim=5"])
def test_other_networks_are_refused(study, key, capsys):
    assert study(key) == 2
    assert key.partition("=")[0] in capsys.readouterr().err


# Failures


def test_a_failed_training_ends_the_command(study, programs, capsys):
    weights(study.folder, "rolled").unlink()
    (study.folder / "ablation.md").unlink()
    programs.codes["rolled"] = 5
    assert study() == 5
    assert programs.started == ["rolled"]
    assert capsys.readouterr().err == "error: rolled: train.py ended with 5\n"
    assert not (study.folder / "ablation.md").exists()


@pytest.mark.parametrize("written", [True, False])
def test_failed_images_are_told_but_the_others_are_in_the_table(study, programs, written):
    (study.folder / "ablation.md").unlink()
    programs.codes["evaluate.py"] = 1
    if not written:
        programs.evaluation = None
    assert study() == 1
    assert (study.folder / "ablation.md").exists() == written


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train.output=x"], "train.output: is set by this command"),
        (["evaluate.discriminator=x"], "evaluate.discriminator: is set by this command"),
        (["model.encoder.convolution=valid"], "model.encoder.convolution: is what tells"),
        (["losses.inverter.reciprocal=0"], "tells no-reciprocal from shifted"),
        (["model.encoder={convolution: valid}"], "model.encoder: is what tells"),
        (["generate.width=3"], "'generate' is not read here"),
        (["evaluate.details=-1"], "evaluate.details: -1 given"),
        (["train.step=1"], "unknown key 'train.step'"),
        (["train.batch=3"], "batch"),
        (["model.global_encoder.thumbnail=16"], "cannot be halved"),
        (["--input", "nowhere"], "--input nowhere: no such file"),
        (["--data", "nowhere"], "nowhere: no such folder"),
    ],
)  # fmt: skip
def test_a_wrong_command_is_refused_before_anything_is_trained(folders, programs, tmp_path, capsys, arguments, words):
    command = [*folders, "--configs", "shifted", "--output", str(tmp_path), *TINY, *arguments]
    assert run_command(ablation.main, command) == 2
    assert words in capsys.readouterr().err
    assert programs.started == []


def program(folder, text, monkeypatch):
    (folder / "program.py").write_text(text)
    monkeypatch.setattr(ablation, "ROOT", folder)


@pytest.mark.parametrize(("text", "code"), [("exit(7)", 7), ("import os; os.kill(os.getpid(), 9)", 137), ("", 0)])
def test_exit_code_of_a_program(tmp_path, monkeypatch, text, code):
    program(tmp_path, text, monkeypatch)
    assert ablation.run_program("program.py", []) == code


def test_a_program_may_save_before_it_stops(tmp_path, monkeypatch):
    text = """
import pathlib, signal, sys, time
def stop(number, frame):
    time.sleep(0.2)
    pathlib.Path(sys.argv[1], "saved").touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
pathlib.Path(sys.argv[1], "ready").touch()
time.sleep(60)
"""

    def send():
        while not (tmp_path / "ready").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    program(tmp_path, text, monkeypatch)
    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    assert ablation.run_program("program.py", [str(tmp_path)]) == 143
    assert (tmp_path / "saved").exists()
    sender.join()


# The configs


def flat(values, prefix=""):
    for key, value in values.items():
        yield from flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]


def test_every_config_has_its_row():
    assert {path.stem for path in ablation.CONFIGS.glob("*.yaml")} == {*ablation.NAMES, ablation.GENERATOR}


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        *((kind, {"model.encoder.convolution": kind}) for kind in ("valid", "zero_pad", "rolled")),
        *((f"no-{loss}", {f"losses.inverter.{loss}": 0.0}) for loss in ("reciprocal", "distribution")),
        ("random-global", {
            "model.global_encoder.widths": [],
            "losses.inverter.global_latent": 0.0,
            "losses.inverter.distribution": 0.0,
        }),
    ],
)  # fmt: skip
def test_a_config_changes_one_thing(name, changed):
    configs = (load_config(TrainConfig, ablation.CONFIGS / f"{each}.yaml") for each in ("shifted", name))
    shifted, other = (dict(flat(config)) for config in configs)
    assert {key: value for key, value in other.items() if value != shifted[key]} == changed


def test_all_inverters_fit_the_generator():
    names = ("generator", "shifted")
    generator, shifted = (load_config(TrainConfig, ablation.CONFIGS / f"{name}.yaml") for name in names)
    assert shifted.model == generator.model
    assert shifted.model.encoder.convolution == "shifted" and not shifted.train.tune_texture
