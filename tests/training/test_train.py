"""The command: exact resumption, signals, errors in one line, and what a run writes."""

import multiprocessing
import os
import re
import shutil
import signal
import struct
from unittest import mock

import pytest
import torch
from tensorboardX.proto.event_pb2 import Event

import training.generator
import training.inverter
from models.weights import read_weights
from tests.training.conftest import STEPS, TRUNK_INVERTER, last_step, same_state
from training.inverter import InverterStage
from utils.checkpoint import load_weights
from utils.config import load_config
from utils.files import lock_folder
from utils.schema import TrainConfig

STAGES = pytest.mark.parametrize("stage", ["generator", "inverter", "trunk", "structure"])


@STAGES
def test_a_signal_saves_and_the_same_command_goes_on(
    run, stage_arguments, finished, tmp_path, capsys, monkeypatch, stage
):
    """It comes within a step, which is finished first; a terminal that closes sends one, too."""
    sent = signal.SIGHUP if stage == "trunk" else signal.SIGTERM
    owner = training.STAGES["inverter" if stage == "trunk" else stage]
    arguments, step = [*stage_arguments[stage], f"train.output={tmp_path}", f"train.steps={STEPS}"], owner.step

    def interrupted(stage, number, batch):
        if number == 5:
            os.kill(os.getpid(), sent)
        return step(stage, number, batch)

    monkeypatch.setattr(owner, "step", interrupted)
    assert run(*arguments) == 128 + sent
    assert last_step(tmp_path) == 6 and "stopped at step 6; the same command goes on" in capsys.readouterr().out
    assert all(load_weights(path)[1]["step"] == "6" for path in tmp_path.glob("*.safetensors"))
    monkeypatch.undo()
    assert run(*arguments) == 0
    same_state(finished(stage), tmp_path)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_a_loader_that_is_killed_ends_the_run_and_the_same_command_goes_on(
    run, trunk_run, tmp_path, capsys, monkeypatch
):
    """While a step computes: that one is finished, and saved."""
    arguments = [*TRUNK_INVERTER, f"train.output={tmp_path}", f"train.steps={STEPS}"]
    step = InverterStage.step

    def killing(stage, number, batch):
        if number == 1:
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
        return step(stage, number, batch)

    monkeypatch.setattr(InverterStage, "step", killing)
    assert run(*arguments, "data.workers=1") == 1
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert error.startswith("error: loading failed (being read: ") and "ended by SIGKILL" in error
    assert last_step(tmp_path) >= 2 and not multiprocessing.active_children()
    monkeypatch.undo()
    assert run(*arguments) == 0
    same_state(trunk_run, tmp_path)


def test_one_run_at_a_time_in_a_folder(run, tmp_path, capsys):
    with lock_folder(tmp_path):
        assert run(f"train.output={tmp_path}", "train.steps=1") == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}: another run is writing there")
    assert run(f"train.output={tmp_path}", "train.steps=1") == 0


def events(folder):
    """The records in the event files of a run."""
    for path in (folder / "events").iterdir():
        data = path.read_bytes()
        while data:
            (size,) = struct.unpack_from("<Q", data)  # length, its CRC, record, its CRC
            yield Event.FromString(data[12 : 12 + size])
            data = data[16 + size :]


@pytest.mark.parametrize(
    ("stage", "names", "pictures"),
    [
        ("generator", ["discriminator/r1", "generator/path_length", "generator/diversity"], {"real", "generated"}),
        ("inverter", ["inverter/reciprocal", "inverter/total"], {"input", "reconstruction", "error"}),
        ("trunk", ["inverter/l1", "inverter/total"], {"input", "reconstruction", "error"}),
        ("structure", ["critic/penalty_real", "structure/local"], {"photograph", "generated"}),
    ],
)
def test_what_a_run_leaves(run, stage_arguments, finished, tmp_path, stage, names, pictures):
    """Curves, also of losses of every few steps; pictures; its config; weights, which it exports again."""
    folder = shutil.copytree(finished(stage), tmp_path / "run")
    shown = [(event.step, value) for event in events(folder) for value in event.summary.value]
    assert {value.tag for _, value in shown if value.HasField("image")} == pictures
    for name in names:
        assert [step for step, value in shown if value.tag == name] == [5, 10]
    validated = [step for step, value in shown if value.tag == "validation/psnr"]
    assert validated == ([10] if stage in ("inverter", "trunk") else [])

    written = (folder / "config.yaml").read_bytes()
    config = load_config(TrainConfig, folder / "config.yaml")
    assert config.train.stage in (stage, "inverter") and config.train.steps == STEPS
    for path in folder.glob("*.safetensors"):
        path.unlink()
    assert run(f"--config={folder}/config.yaml", f"train.output={folder}", "train.log_every=7") == 0
    same_state(finished(stage), folder)
    assert (folder / "config.yaml").read_bytes() == written  # it is the one that was given
    assert read_weights(next(folder.glob("*r.safetensors"))).model == config.model


def test_minutes_end_the_run(run, tmp_path):
    """Called again, it trains no further step and exports again."""
    for _ in range(2):
        assert run(f"train.output={tmp_path}", "train.minutes=1e-6") == 0
        assert last_step(tmp_path) == 1
        (tmp_path / "generator.safetensors").unlink()


def test_only_the_newest_checkpoints_are_kept_and_curves_do_not_fold_back(run, tmp_path):
    """A resumed run purges what was logged after the checkpoint that it goes on from."""
    arguments = [f"train.output={tmp_path}", "train.save_every=1", "train.keep=2"]
    assert run(*arguments, "train.steps=3") == 0
    (first,) = (tmp_path / "events").iterdir()
    first.rename(tmp_path / "first")
    assert run(*arguments, "train.steps=5") == 0
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"step-00000004.pt", "step-00000005.pt"}
    assert [event.step for event in events(tmp_path) if event.HasField("session_log")] == [4]


@pytest.mark.parametrize(
    ("stage", "lines"),
    [
        ("generator", ["generator         1,914 parameters", "discriminator", "of 29 x 29 px (0 before, 0 after)"]),
        ("inverter", ["encoder           1,028 parameters", "global_encoder", "of 78 x 78 px (24 before, 25 after)"]),
    ],
)
def test_a_dry_run_reads_no_file(run, tmp_path, stage, lines, capsys):
    """Neither the generator, nor weights to go on from, nor those of the losses, nor images."""
    missing = tmp_path / "missing"
    files = [f"train.{name}={missing}" for name in ("generator", "discriminator", "encoders", "output")]
    files += [f"losses.weights.{name}={missing}" for name in ("alexnet", "lpips", "resnet50")]
    wanted = ["losses.inverter.lpips=1", "losses.inverter.identity=1", f"data.train={missing}", "seed=77"]
    assert run("--dry-run", f"train.stage={stage}", *files, *wanted) == 0
    printed = capsys.readouterr().out
    expected = ["seed: 77\n", "patch_cells: 8\n", "patch      29 x 29 px from 8 x 8 latent cells", *lines]
    assert all(words in printed for words in expected) and not missing.exists()


@pytest.mark.parametrize("stage", ["inverter", "structure"])
def test_one_photograph_trains(run, stage_arguments, images, tmp_path, capsys, stage):
    """Without validation, which the log says; and with it, one line tells how."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    shutil.copy(images / "9.png", folder)
    arguments = [*stage_arguments[stage], f"data.train={folder}", f"train.output={tmp_path / 'run'}", "train.steps=2"]
    assert run(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "1 distinct image(s)" in line and "data.val=none" in line
    assert run(*arguments, "data.val=none", "train.validate_every=1") == 0
    printed = capsys.readouterr().out
    assert "data       1 images, none to validate" in printed and "validation/" not in printed
    assert last_step(tmp_path / "run") == 2


def test_where_processes_cannot_meet_a_training_goes_on(run, tmp_path, monkeypatch, capsys):
    """As where /dev/shm cannot be written, in which semaphores lie."""
    for name in ("Lock", "Queue"):
        monkeypatch.setattr(multiprocessing, name, mock.Mock(side_effect=FileNotFoundError))
    assert run(f"train.output={tmp_path}", "train.steps=1", "data.workers=2") == 0
    assert "note: /dev/shm cannot be written: data.workers=0 in place of 2" in capsys.readouterr().out
    assert any(event.HasField("summary") for event in events(tmp_path))


def test_deterministic_kernels_are_asked_of_cuda_too(run, monkeypatch):
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr(torch, "use_deterministic_algorithms", mock.Mock())
    for asked in (False, True):
        assert run("--dry-run", f"train.deterministic={asked}".lower()) == 0
        assert (os.environ.get("CUBLAS_WORKSPACE_CONFIG") == ":4096:8") == asked
        torch.use_deterministic_algorithms.assert_called_with(asked)


@pytest.mark.parametrize(
    ("stage", "module", "loss", "network", "value"),
    [
        ("generator", training.generator, "diversity", "generator", float("nan")),
        ("inverter", training.inverter, "discriminator_logistic", "discriminator", float("inf")),
    ],
)
def test_a_loss_that_is_not_finite_stops_the_run(
    run, stage_arguments, tmp_path, capsys, monkeypatch, stage, module, loss, network, value
):
    calls, sound = [], getattr(module, loss)

    def injected(*tensors):
        calls.append(1)
        return sound(*tensors) * (value if len(calls) == 4 else 1.0)

    monkeypatch.setattr(module, loss, injected)
    assert run(*stage_arguments[stage], f"train.output={tmp_path}", "train.save_every=2") == 1
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.strip() and not line.endswith("step/s]")]
    assert error.startswith(f"error: step 3: loss or gradient of the {network} is not finite (")
    assert f"; this update of the {network} was left out;" in error
    records = re.search(r"; records of the batch: (\d, \d, \d, \d)$", error)
    assert len(set(records[1].split(", "))) == 4
    assert last_step(tmp_path) == 2 and not list(tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize(
    ("stage", "overrides", "words"),
    [
        ("generator", ["train.output=null"], "train.output is not set"),
        ("generator", ["train.output={tmp}/file"], "cannot write {tmp}/file"),
        ("generator", ["train.output={tmp}/events"], "cannot write {tmp}/events/events"),
        ("generator", ["data.train=null"], "data.train is not set"),
        ("generator", ["data.val={tmp}/empty"], "{tmp}/empty"),
        ("generator", ["train.batch=3"], "train.batch: 3 is not a multiple of 2"),
        ("generator", ["train.patch_cells=4"], "train.patch_cells: 4 cells draw no pixel; at least 5 are needed"),
        ("generator", ["train.optimizer.cosine_steps=1", "train.steps=2"], "train.optimizer.cosine_steps: 1 of 2"),
        ("generator", ["train.generator={run}/generator.safetensors", "train.output={run}"], "would overwrite the inp"),
        ("generator", ["train.discriminator={run}/generator.safetensors"], "holds no discriminator, only generator"),
        ("inverter", ["train.generator=null"], "train.generator is not set"),
        ("inverter", ["train.patch_cells=6"], "no whole context of an encoded cell; the loss reciprocal needs more"),
        ("inverter", ["train.tune_texture=false"], "losses.inverter.preservation"),
        ("inverter", ["losses.inverter.lpips=1", "losses.weights.lpips={tmp}/file"], "{tmp}/file"),
        ("trunk", ["train.tune_texture=false"], "train.tune_texture: false"),
        ("trunk", ["losses.inverter.reciprocal=1"], "losses.inverter.reciprocal: with model.trunk"),
        ("trunk", ["data.resize=12"], "data.train: no image of at least 16 x 16 pixels"),
        ("structure", ["model.trunk=false"], "train.stage: structure needs a model with a trunk"),
        ("structure", ["train.inverter=null"], "train.inverter is not set"),
        ("structure", ["train.inverter={run}/generator.safetensors"], "holds no encoder"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_is_one_line(run, stage_arguments, generator_run, tmp_path, capsys, stage, overrides, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("no weights")
    (tmp_path / "events").mkdir()
    (tmp_path / "events" / "events").write_text("a file where a folder is to be")
    def filled(text):
        return text.replace("{tmp}", str(tmp_path)).replace("{run}", str(generator_run))

    arguments = [*stage_arguments[stage], f"train.output={tmp_path}/run", "train.steps=1", *map(filled, overrides)]
    assert run(*arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and filled(words) in lines[0]


def test_a_full_disk_is_one_line(run, tmp_path, capsys, monkeypatch):
    """Also where only the event files are written to."""
    monkeypatch.setattr("utils.files.free_space", lambda path: 2**20)
    assert run(f"train.output={tmp_path}", "train.log_every=1") == 1
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert error == [f"error: {tmp_path / 'events'}: 16 MiB are needed on the disk, 1 MiB are free"]
