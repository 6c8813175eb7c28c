"""The classifier of scenes: trained by its command, and what its features tell apart."""

import numpy as np
import PIL.Image
import pytest
import torch

from losses.frechet import frechet_distance
from models.scenes import SceneFeatures
from scripts import train_scenes
from tests.inversion.conftest import photograph
from utils.checkpoint import load_weights
from utils.errors import UserError, run_command

CPU = torch.device("cpu")


def pictures(count, seed, noise):
    random = np.random.default_rng(seed)
    made = np.stack([photograph(80, 90, seed + k) for k in range(count)]).astype(int)
    return np.clip(made + random.integers(-noise, noise + 1, made.shape), 0, 255).astype(np.uint8)


def test_shipped_features_tell_sets_apart():
    """The more, the noisier they are; of images of any size; and the same ones are at no distance."""
    features = SceneFeatures(CPU)
    plain, *noisy = (features(pictures(40, 0, noise)) for noise in (0, 15, 60, 120))
    assert plain.shape == (40, 128) and plain.dtype == np.float64
    distances = [frechet_distance(plain, each) for each in (plain, *noisy)]
    assert distances[0] == pytest.approx(0, abs=1e-6) and sorted(distances) == distances and distances[1] > 0.01
    few = pictures(3, 0, 0)
    assert features(few[:, :33, :50]).shape == (3, 128) and features(few[:0]).shape == (0, 128)


def test_training_writes_a_classifier(tmp_path, capsys):
    for label in range(2):
        folder = tmp_path / f"images/{label}"
        folder.mkdir(parents=True)
        for number in range(3):
            PIL.Image.fromarray(photograph(50, 60, 10 * label + number)).save(folder / f"{number}.png")
    arguments = ["--input", str(tmp_path / "images"), "--output", str(tmp_path / "own.safetensors"), "--steps=2"]
    assert run_command(train_scenes.main, arguments) == 0
    assert "6 images of 2 labels" in capsys.readouterr().out
    tensors, _ = load_weights(tmp_path / "own.safetensors")
    assert tensors["scene.bias"].shape == (8,) and bool((tensors["deviation"] > 0).all())
    assert SceneFeatures(CPU, tmp_path / "own.safetensors")(pictures(2, 0, 0)).shape == (2, 128)


def test_no_photograph_is_written_onto(tmp_path, capsys):
    (tmp_path / "images" / "sky").mkdir(parents=True)
    path = tmp_path / "images" / "sky" / "a.png"
    PIL.Image.fromarray(photograph(50, 60)).save(path)
    before = path.read_bytes()
    assert run_command(train_scenes.main, ["--input", str(tmp_path / "images"), "--output", str(path)]) == 2
    assert "would overwrite the input" in capsys.readouterr().err and path.read_bytes() == before


def test_what_is_no_classifier(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    arguments = ["--input", f"{tmp_path}/empty", "--output", f"{tmp_path}/x.safetensors"]
    assert run_command(train_scenes.main, arguments) == 2
    assert "no folders of images" in capsys.readouterr().err
    with pytest.raises(UserError, match="no classifier of scenes"):
        SceneFeatures(CPU, train_scenes.Path(__file__).parents[2] / "checkpoints/sample.safetensors")
