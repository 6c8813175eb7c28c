"""The command: exact resumption, signals, errors in one line, and what a run writes."""

import os
import re
import signal
import struct

import pytest
import torch
from tensorboardX.proto.event_pb2 import Event

import datasets
import train
import training.events
import training.generator
import training.inverter
from models.weights import load_generator, load_inverter
from utils.checkpoint import load_latest, load_weights
from utils.config import load_config
from utils.distributed import ProcessGroup
from utils.schema import TrainConfig

STAGES = ["generator", "inverter"]
STEPS = 60


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Folders of uninterrupted runs, by stage; each is trained when it is first asked for."""
    root, done = tmp_path_factory.mktemp("straight"), set()

    def straight(run, arguments, stage):
        if stage not in done:
            assert run(*arguments, f"train.output={root / stage}", f"train.steps={STEPS}") == 0
            done.add(stage)
        return root / stage

    return straight


def assert_same(one, other):
    """Equal leaves, tensors bit for bit."""
    assert one.keys() == other.keys()
    for key, value in one.items():
        same = torch.equal(value, other[key]) if isinstance(value, torch.Tensor) else value == other[key]
        assert same, key


def assert_same_runs(one, other, final_state):
    assert_same(final_state(one), final_state(other))
    exported = sorted(path.name for path in one.glob("*.safetensors"))
    assert exported and exported == sorted(path.name for path in other.glob("*.safetensors"))
    for name in exported:
        assert_same(load_weights(one / name)[0], load_weights(other / name)[0])


@pytest.mark.parametrize("stage", STAGES)
def test_a_resumed_run_equals_an_uninterrupted_one(run, stage_arguments, straight, tmp_path, stage, final_state):
    arguments = [*stage_arguments[stage], f"train.output={tmp_path}"]
    assert run(*arguments, "train.steps=23") == 0
    assert load_latest(tmp_path / "checkpoints")[0]["step"] == 23
    assert run(*arguments, f"train.steps={STEPS}") == 0
    assert_same_runs(straight(run, stage_arguments[stage], stage), tmp_path, final_state)


def test_a_signal_saves_and_the_same_command_goes_on(run, launch, stage_arguments, tmp_path, final_state):
    stopped, straight = tmp_path / "stopped", tmp_path / "straight"
    process = launch(*stage_arguments["generator"], f"train.output={stopped}", "train.steps=100000")
    for line in process.stdout:
        if "step 10 " in line:
            process.send_signal(signal.SIGTERM)
            break
    printed = process.communicate(timeout=60)[0]
    step = load_latest(stopped / "checkpoints")[0]["step"]
    assert process.returncode == 143 and step >= 10
    assert f"stopped at step {step}; the same command goes on from there" in printed
    assert load_weights(stopped / "generator.safetensors")[1]["step"] == str(step)
    for folder in (stopped, straight):
        assert run(*stage_arguments["generator"], f"train.output={folder}", f"train.steps={step + 10}") == 0
    assert_same_runs(straight, stopped, final_state)


def test_a_signal_to_another_process_stops_this_one(run, tmp_path, monkeypatch):
    """Stopped and not complete: saved and exported, though this process heard nothing."""

    class Deaf(train.StopSignal):
        def __init__(self):
            super().__init__()
            self.requested = None

    monkeypatch.setattr(train, "StopSignal", Deaf)
    monkeypatch.setattr(ProcessGroup, "any", lambda world, *flags: tuple(flag is None or flag for flag in flags))
    assert run(f"train.output={tmp_path}", "train.steps=9") == 143
    assert load_latest(tmp_path / "checkpoints")[0]["step"] == 1
    assert (tmp_path / "generator.safetensors").exists()


@pytest.mark.parametrize("stage", STAGES)
def test_a_complete_run_only_exports_again(run, stage_arguments, tmp_path, stage, final_state):
    arguments = [*stage_arguments[stage], f"train.output={tmp_path}", "train.steps=3"]
    assert run(*arguments) == 0
    before = final_state(tmp_path)
    assert run(*arguments) == 0
    assert_same(before, final_state(tmp_path))


def events(folder):
    """The records in the event files of a run."""
    for path in (folder / "events").iterdir():
        data = path.read_bytes()
        while data:
            (size,) = struct.unpack_from("<Q", data)  # length, its CRC, record, its CRC
            yield Event.FromString(data[12 : 12 + size])
            data = data[16 + size :]


def read_events(folder):
    """Scalars {name: {step: value}} and names of images in the event files of a run."""
    scalars, images = {}, set()
    for event in events(folder):
        for value in event.summary.value:
            if value.HasField("image"):
                images.add(value.tag)
            else:
                scalars.setdefault(value.tag, {})[event.step] = value.simple_value
    return scalars, images


@pytest.mark.parametrize(
    ("stage", "names", "pictures"),
    [
        ("generator", ["discriminator/r1", "generator/path_length", "generator/diversity"], {"real", "generated"}),
        ("inverter", ["inverter/reciprocal", "inverter/total"], {"input", "reconstruction", "error"}),
    ],
)
def test_events(run, stage_arguments, straight, stage, names, pictures):
    """Also losses of every few steps are among the scalars, whatever steps are logged."""
    folder = straight(run, stage_arguments[stage], stage)
    scalars, images = read_events(folder)
    assert images == pictures
    for name in names:
        assert list(scalars[name]) == list(range(10, STEPS + 1, 10))
    if stage == "inverter":
        assert list(scalars["validation/psnr"]) == [30, 60]


@pytest.mark.parametrize("stage", STAGES)
def test_what_a_run_leaves(run, stage_arguments, straight, tiny, stage):
    folder = straight(run, stage_arguments[stage], stage)
    config = load_config(TrainConfig, tiny, [*stage_arguments[stage], f"train.output={folder}", f"train.steps={STEPS}"])
    assert load_config(TrainConfig, folder / "config.yaml") == config
    if stage == "generator":
        assert load_generator(folder / "generator.safetensors")[1] == config.model
        assert load_weights(folder / "generator.safetensors")[1]["step"] == str(STEPS)
    else:
        assert load_inverter(folder / "inverter.safetensors").model == config.model


def test_only_the_newest_checkpoints_are_kept(run, tmp_path):
    assert run(f"train.output={tmp_path}", "train.steps=5", "train.save_every=1", "train.keep=2") == 0
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"step-00000004.pt", "step-00000005.pt"}


def test_minutes_end_the_run(run, tmp_path):
    """Called again, it trains no further step and exports again."""
    exported = tmp_path / "generator.safetensors"
    for _ in range(2):
        assert run(f"train.output={tmp_path}", "train.minutes=1e-6") == 0
        assert load_latest(tmp_path / "checkpoints")[0]["step"] == 1
        exported.unlink()


def test_curves_do_not_fold_back(run, tmp_path):
    """A resumed run purges what was logged after the checkpoint that it goes on from."""
    assert run(f"train.output={tmp_path}", "train.steps=2") == 0
    (first,) = (tmp_path / "events").iterdir()
    first.rename(tmp_path / "first")
    assert run(f"train.output={tmp_path}", "train.steps=3") == 0
    started = [event.step for event in events(tmp_path) if event.HasField("session_log")]
    assert started == [3]


@pytest.mark.parametrize("stage", STAGES)
def test_dry_run(run, stage_arguments, tmp_path, stage, capsys):
    assert run("--dry-run", *stage_arguments[stage], f"train.output={tmp_path / 'run'}", "seed=77") == 0
    printed = capsys.readouterr().out
    assert "seed: 77\n" in printed and "patch_cells: 8\n" in printed
    assert "patch      29 x 29 px from 8 x 8 latent cells" in printed
    expected = {
        "generator": ["generator         1,914 parameters", "discriminator", "of 29 x 29 px (0 before, 0 after)"],
        "inverter": ["encoder           1,028 parameters", "global_encoder", "of 78 x 78 px (24 before, 25 after)"],
    }
    assert all(words in printed for words in expected[stage])
    assert not (tmp_path / "run").exists()


def test_a_dry_run_reads_no_file(run, tmp_path, capsys):
    """Neither the generator, nor weights to go on from, nor those of the losses, nor images."""
    missing = tmp_path / "missing"
    files = [f"train.{name}={missing}" for name in ("generator", "discriminator", "encoders")]
    files += [f"losses.weights.{name}={missing}" for name in ("alexnet", "lpips", "resnet50")]
    wanted = ["losses.inverter.lpips=1", "losses.inverter.identity=1", f"data.train={missing}"]
    assert run("--dry-run", "train.stage=inverter", *files, *wanted) == 0
    assert "encoder           1,028 parameters" in capsys.readouterr().out
    assert run("--dry-run", "train.stage=inverter") == 0


@pytest.mark.parametrize("started", [False, True])
def test_batches_are_pinned_for_a_gpu(images, monkeypatch, started):
    config = load_config(TrainConfig, None, [f"data.train={images}"])
    train_set, _ = datasets.build(config.data, patch=8, before=0, after=0, thumbnail=8, seed=0)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: started)
    assert datasets.loader(train_set, 0, 1, 1).pin_memory == started


def test_deterministic_kernels_are_asked_of_cuda_too(run, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "to be restored")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    assert run("--dry-run") == 0 and "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    try:
        assert run("--dry-run", "train.deterministic=true") == 0
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8" and torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("stage", "module", "loss"),
    [("generator", training.generator, "diversity"), ("inverter", training.inverter, "discriminator_logistic")],
)
def test_a_loss_that_is_not_finite_stops_the_run(
    run, stage_arguments, tmp_path, capsys, monkeypatch, stage, module, loss, value
):
    arguments = [*stage_arguments[stage], f"train.output={tmp_path}", "train.save_every=2"]
    calls, sound = [], getattr(module, loss)

    def injected(*tensors):
        calls.append(1)
        return sound(*tensors) * (value if len(calls) == 4 else 1.0)

    monkeypatch.setattr(module, loss, injected)
    assert run(*arguments) == 1
    error = [line for line in capsys.readouterr().err.splitlines() if line.strip() and not line.endswith("step/s]")]
    network = "generator" if stage == "generator" else "discriminator"
    assert len(error) == 1
    assert error[0].startswith(f"error: step 3: loss or gradient of the {network} is not finite (")
    assert f"; this update of the {network} was left out;" in error[0]
    records = re.search(r"; records of the batch: (\d, \d, \d, \d)$", error[0])
    assert len(set(records[1].split(", "))) == 4
    assert load_latest(tmp_path / "checkpoints")[0]["step"] == 2
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize(
    ("stage", "overrides", "words"),
    [
        ("generator", ["train.output=null"], "train.output is not set"),
        ("generator", ["train.output={tmp}/file"], "{tmp}/file"),
        ("generator", ["train.output=/proc/xx/y"], "cannot write /proc/xx/y/config.yaml"),
        ("generator", ["train.output={tmp}/events"], "cannot write {tmp}/events/events"),
        ("generator", ["data.train=null"], "data.train is not set"),
        ("generator", ["data.train={tmp}/missing"], "{tmp}/missing"),
        ("generator", ["data.train={tmp}/empty"], "{tmp}/empty"),
        ("generator", ["data.val={tmp}/empty"], "{tmp}/empty"),
        ("generator", ["train.batch=3"], "train.batch: 3 is not a multiple of 2"),
        ("generator", ["train.batch=6", "model.discriminator.minibatch_group=4"], "multiple of 4 (model.discriminator"),
        ("generator", ["train.patch_cells=4"], "train.patch_cells: 4 cells draw no pixel; at least 5 are needed"),
        ("generator", ["model.texture.widths=[4,4,4,4]"], "model.texture.widths: 4 widths"),
        ("generator", ["model.discriminator.widths=[4,4,4,4,4,4]"], "29 px cannot be halved 5 times"),
        ("generator", ["train.batch=none"], "train.batch"),
        ("generator", ["train.bach=4"], "nearest valid key is 'train.batch'"),
        ("generator", ["--config={tmp}/missing.yaml"], "{tmp}/missing.yaml"),
        ("generator", ["--config={tmp}/typo.yaml"], "{tmp}/typo.yaml: unknown key 'train.stpes'"),
        ("generator", ["--config={tmp}/broken.yaml"], "{tmp}/broken.yaml: line 3"),
        ("generator", ["train.device=cuda:99"], "cuda"),
        ("inverter", ["train.generator=null"], "train.generator is not set"),
        ("inverter", ["train.generator={tmp}/missing"], "{tmp}/missing"),
        ("inverter", ["train.generator={tmp}/file"], "{tmp}/file"),
        ("inverter", ["train.generator={run}/discriminator.safetensors"], "holds no generator, only discriminator"),
        ("inverter", ["model.texture.widths=[6,4,3]"], "model.texture: "),
        ("inverter", ["model.structure.radius=2"], "model.structure: "),
        (
            "inverter",
            ["model.stages=4", "model.texture.widths=[6,4,4,4]", "model.encoder.widths=[4,4,4,6]"]
            + ["losses.inverter.reciprocal=0"],
            "model.stages: 4, but the generator",
        ),
        (
            "inverter",
            ["train.patch_cells=6"],
            "train.patch_cells: 6 cells draw 13 px, which is no whole context of an encoded cell;"
            " the loss reciprocal needs more cells",
        ),
        ("inverter", ["train.discriminator={run}/generator.safetensors"], "holds no discriminator"),
        (
            "inverter",
            ["train.discriminator={run}/discriminator.safetensors", "model.discriminator.widths=[4,5,6]"],
            "another architecture: discriminator.",
        ),
        ("inverter", ["train.encoders={run}/generator.safetensors"], "holds no encoder"),
        ("inverter", ["train.tune_texture=false"], "losses.inverter.preservation"),
        ("inverter", ["losses.inverter.lpips=1"], "losses.weights.lpips"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_is_one_line(run, stage_arguments, generator_run, tmp_path, capsys, stage, overrides, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("no weights")
    (tmp_path / "events").mkdir()
    (tmp_path / "events" / "events").write_text("a file where a folder is to be")
    (tmp_path / "typo.yaml").write_text("train:\n  stpes: 4\n")
    (tmp_path / "broken.yaml").write_text("train:\n  steps: [4\n")
    names = {"{tmp}": str(tmp_path), "{run}": str(generator_run)}

    def filled(text):
        for name, value in names.items():
            text = text.replace(name, value)
        return text

    arguments = [*stage_arguments[stage], f"train.output={tmp_path}/run", "train.steps=1", *map(filled, overrides)]
    assert run(*arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and filled(words) in lines[0]


def test_a_full_disk_is_one_line(run, tmp_path, capsys, monkeypatch):
    """Also where only the event files are written to."""
    monkeypatch.setattr(training.events, "free_space", lambda path: 2**20)
    assert run(f"train.output={tmp_path}", "train.log_every=1") == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert error == [f"error: cannot write {tmp_path / 'events'}: 1 MiB free"]
