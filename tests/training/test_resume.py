"""What a run may not change between two sessions, and what it may, with a note."""

import re
import shutil

import pytest
import torch

from tests.training.conftest import STEPS, last_step, same_state


@pytest.fixture
def again(run, stage_arguments, finished, tmp_path, capsys):
    """Goes on with a copy of a finished run, with overrides; its folder, exit code, and what was printed."""

    def again(stage, *overrides, now=None):
        folder = tmp_path / "run"
        shutil.copytree(finished(stage), folder, dirs_exist_ok=True)
        capsys.readouterr()
        code = run(*stage_arguments[now or stage], *overrides, f"train.output={folder}", f"train.steps={STEPS + 1}")
        return folder, code, capsys.readouterr()

    return again


FROZEN = ["train.tune_texture=false", "losses.inverter.preservation=0"]
NO_ADVERSARY = ["losses.inverter.adversarial=0", "losses.inverter.feature_matching=0"]


@pytest.mark.parametrize(
    ("stage", "overrides", "words"),
    [
        ("generator", ["train.stage=inverter"], "train.stage was generator and is inverter"),
        ("trunk", ["model.critic.style=false"], "model.critic.style was True and is False"),
        ("inverter", FROZEN, "train.tune_texture was True and is False"),
        ("inverter", NO_ADVERSARY, "discriminator (losses.inverter: adversarial, feature_matching) was trained and is"),
        ("inverter", ["train.generator={tmp}/other/generator.safetensors"], "fingerprint of train.generator was "),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, list) else None,
)
def test_what_makes_the_state_unusable_is_refused(run, again, tmp_path, stage, overrides, words):
    if "other" in str(overrides):
        assert run(f"train.output={tmp_path / 'other'}", "train.steps=1", "seed=9") == 0
    now = "inverter" if "train.stage=inverter" in overrides else stage
    folder, code, printed = again(stage, *(text.replace("{tmp}", str(tmp_path)) for text in overrides), now=now)
    (line,) = printed.err.splitlines()
    assert code == 2 and last_step(folder) == STEPS
    assert line.startswith(f"error: {folder} holds another run: {words}") and "choose another train.output" in line


@pytest.mark.parametrize("stage", ["generator", "inverter"])
def test_muon_along_a_cosine_resumes_to_the_last_bit(run, stage_arguments, tmp_path, stage):
    """With networks wide enough for it to have matrices, and between two steps on generated images."""
    muon = ["train.optimizer.name=muon", "train.optimizer.cosine_steps=6", "train.optimizer.decay_every=null"]
    arguments = [*stage_arguments[stage], *muon, "losses.generated_every=2", "model.encoder.widths=[4,16,16]"]
    arguments.append("model.discriminator.widths=[4,16,16]")
    for folder, sessions in (("straight", [5]), ("twice", [3, 5])):
        for steps in sessions:
            assert run(*arguments, f"train.output={tmp_path / folder}", f"train.steps={steps}") == 0
    state = same_state(tmp_path / "straight", tmp_path / "twice")
    assert any(name.endswith("/momentum") for name in state)


def test_what_merely_changes_results_is_noted(again):
    changes = {
        "seed=9": "seed was 0 and is 9",
        "train.batch=8": "batch was 4 x 1 and is 8 x 2 x 1",
        "train.accumulate=2": None,
        "train.dtype=bfloat16": "dtype was torch.float32 and is torch.bfloat16",
        "data.flip=false": "data.flip was True and is False",
        "train.ema_images=60": "train.ema_images was 50 and is 60",
        "train.optimizer.lr=0.001": "train.optimizer.lr was 0.003 and is 0.001",
        "losses.r1_every=3": "losses.r1_every was 4 and is 3",
        "train.log_every=1": None,
        "data.workers=1": None,
        "train.keep=1": None,
    }
    folder, code, printed = again("inverter", *changes)
    notes = [line for line in printed.out.splitlines() if line.startswith("note: ")]
    words = [f"note: {text}: results differ from those of an uninterrupted run" for text in changes.values() if text]
    assert sorted(notes) == sorted(words) and code == 0 and last_step(folder) == STEPS + 1


def test_other_photographs_are_noted(run, images, tmp_path, capsys):
    """More of them, one in another's place, and another folder: one note for each."""
    photographs = tmp_path / "photographs"
    shutil.copytree(images, photographs)
    arguments = [f"train.output={tmp_path / 'run'}", "data.val=none"]

    def notes(steps, folder=photographs):
        assert run(*arguments, f"data.train={folder}", f"train.steps={steps}") == 0
        found = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
        return [re.sub(r"\([0-9a-f]{8}\)", "(X)", line.removeprefix("note: ").partition(":")[0]) for line in found]

    assert notes(1) == []
    shutil.copy(photographs / "1.png", photographs / "more.png")
    with open(photographs / "more.png", "ab") as file:
        file.write(b"another one")
    assert notes(2) == ["images of data.train was 10 (X) and is 11 (X)"]
    shutil.copy(photographs / "more.png", photographs / "0.png")
    assert notes(3) == ["images of data.train was 11 (X) and is 11 (X)"]
    moved = photographs.rename(tmp_path / "moved")
    assert notes(4, moved) == [f"data.train was {photographs} and is {moved}"]


def other_shapes(state):
    """With a momentum of another shape."""
    (part,) = [each for name, each in state["stage"].items() if name == "optimizer" or "param_groups" in each][:1]
    next(iter(part["state"].values()))["exp_avg"] = torch.zeros(3, 2, 1)
    return state


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state | {"conditions": {"torch": "2.0"}}, "holds another run: train.stage was None"),
        (lambda state: state | {"stage": {}}, "does not hold the state of this run ('generator')"),
        (lambda state: state | {"step": 2.0}, "does not hold the state of this run (no step"),
        (lambda state: state | {"elapsed": float("nan")}, "does not hold the state of this run (no step"),
        (lambda state: other_shapes(state), "optimizer has other shapes"),
    ],
)
def test_another_state_is_refused(run, generator_run, tmp_path, capsys, change, words):
    """As of another version, or altered."""
    folder = shutil.copytree(generator_run, tmp_path / "run")
    for path in (folder / "checkpoints").iterdir():
        torch.save(change(torch.load(path, weights_only=True)), path)
    assert run(f"train.output={folder}", "train.steps=11") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
