"""Importing public InfinityGAN weights: what is written serves the other commands, a mistake is one line."""

import os

import pytest
import torch

from models.weights import load_inverter
from scripts import import_infinitygan
from tests.models.public_infinitygan import public_checkpoint, public_discriminator, public_generator
from utils.checkpoint import load_weights
from utils.config import load_config
from utils.errors import run_command
from utils.schema import TrainConfig

STRUCTURE = "structure_synthesizer.implicit_model.conv_stack.0.conv."
TEXTURE = "texture_synthesizer."


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Saves a public checkpoint with some keys changed, imports it, and returns what is in the folder besides."""
    monkeypatch.chdir(tmp_path)

    def run(*options, code=0, output="b.safetensors", words="", **changed):
        torch.save(public_checkpoint(**changed), tmp_path / "a.pth.tar")
        arguments = [tmp_path / "a.pth.tar", tmp_path / output, "--ts-input-size=8", *options]
        assert run_command(import_infinitygan.main, [*map(str, arguments)]) == code
        printed = capsys.readouterr()
        assert words in (printed.err if code else printed.out)
        assert code == 0 or printed.err.startswith("error: ") and printed.err.count("\n") == 1
        return sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".tar")

    return run


def test_what_it_writes(run, tmp_path):
    words = "iteration 1,234, best FID 11.25; 8 x 8 cells draw 29 x 29 px\n"
    assert run(words=words) == ["b-training.safetensors", "b.safetensors", "b.yaml"]
    inverter, public = load_inverter(tmp_path / "b.safetensors", encoders=False), public_generator()
    for k, stage in enumerate(inverter.generator.texture.synthesis):
        assert torch.equal(stage.up.conv.weight, public[f"{TEXTURE}convs.{2 * k}.conv.weight"][0])
        assert torch.equal(stage.conv.noise_strength, public[f"{TEXTURE}convs.{2 * k + 1}.noise.weight"][0])
        assert torch.equal(stage.to_rgb.bias, public[f"{TEXTURE}to_rgbs.{k}.bias"].flatten())
    tensors, metadata = load_weights(tmp_path / "b-training.safetensors")
    assert metadata["networks"] == "generator discriminator average" and metadata["step"] == "1234"
    bias = "structure.layers.1.bias"
    assert torch.equal(tensors[f"generator.{bias}"], tensors[f"average.{bias}"] + 0.5) and tensors["path_mean"] == 1.5
    assert torch.equal(tensors["discriminator.blocks.1.skip.weight"], public_discriminator()["convs.2.skip.1.weight"])
    config = load_config(TrainConfig, tmp_path / "b.yaml")
    assert config.model == inverter.model and config.train.patch_cells == 8 and config.data.resize == 53
    assert config.train.generator == config.train.discriminator == str(tmp_path / "b-training.safetensors")
    run()  # once more


def test_settings_that_no_tensor_tells(run, tmp_path):
    run("--vert-sample-size=5", "--hori-occupy-ratio=0.5", "--vert-cut-pt=6")
    assert load_inverter(tmp_path / "b.safetensors", encoders=False).model["structure"] == {
        "layers": 2, "radius": 1, "widths": [], "dilations": [],
        "vertical_slope": 1.0, "horizontal_period": 24, "row_starts": 5,
    }  # fmt: skip
    run("--hori-occupy-ratio=nan", code=2, words="; allowed: ")


def test_without_training_weights(run, tmp_path, missing="d"):
    assert run(**{missing: None}, words="b-training.safetensors: the checkpoint has no") == ["b.safetensors", "b.yaml"]
    settings = load_config(TrainConfig, tmp_path / "b.yaml").train
    assert settings.generator == str(tmp_path / "b.safetensors") and settings.discriminator is None
    run()
    run(**{missing: None}, code=2, words="b-training.safetensors: of another import")


WRONG = {
    "missing": (STRUCTURE + "activate.bias", lambda x: None, "activate.bias is missing"),
    "shape": (TEXTURE + "convs.1.conv.modulation.weight", lambda x: x[:, :3], "has (6, 3), not (6, 5)"),
    "infinite": (TEXTURE + "mapping.1.bias", lambda x: x.double() * 1e300, "not finite"),
    "sparse": (TEXTURE + "mapping.1.weight", lambda x: x.to_sparse(), "not a plain tensor"),
    "unfolds": (TEXTURE + "mapping.1.bias", lambda x: torch.ones(1).expand(2**40), "not a plain tensor"),
    "kernel": (TEXTURE + "to_rgbs.1.upsample.kernel", lambda x: x * 1.1, "is another blur"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_state_that_does_not_fit_is_one_line(run, kind):
    (name, change, words), state = WRONG[kind], public_generator()
    state[name] = change(state.get(name))
    assert run(g_ema={k: value for k, value in state.items() if value is not None}, code=2, words=words) == []


class Command:
    """A pickle that makes a file named `ran` in the working folder of whoever unpickles it."""

    def __reduce__(self):
        return os.system, ("touch ran",)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"g_ema": [1]}, "g_ema: a list, not a dict of tensors"),
        ({"g": public_discriminator()}, "a.pth.tar: g: "),
        ({"note": Command()}, "refused"),
        ({"iter": -1}, "iter: allowed: a number from 0 on"),
        ({"output": "out"}, "must be a file with the suffix .safetensors"),
        ({"output": "a.pth.tar/b.safetensors"}, "would overwrite the input"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(run, changed, words):
    assert run(**changed, code=2, words=words) == []
