"""The command: what it writes serves the other commands; a mistake is one line and leaves nothing."""

import os

import cv2
import pytest
import torch

import generate
import import_infinitygan
from models import build_discriminator
from models.infinitygan import discriminator_state, generator_state
from models.weights import load_generator
from tests.models.public_infinitygan import (
    PUBLISHED,
    PUBLISHED_DISCRIMINATOR,
    SMALL,
    public_checkpoint,
    public_discriminator,
    public_generator,
)
from utils import files
from utils.checkpoint import load_weights
from utils.config import load_config
from utils.errors import run_command
from utils.schema import TrainConfig


@pytest.fixture
def checkpoint(tmp_path):
    """The path of a small public checkpoint."""
    path = tmp_path / "best_fid.pth.tar"
    torch.save(public_checkpoint(), path)
    return path


def run(*arguments):
    """Exit code of the command for patches of eight cells."""
    return run_command(import_infinitygan.main, [*map(str, arguments), "--ts-input-size", "8"])


def names(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_what_it_writes(checkpoint, tmp_path, capsys):
    output = tmp_path / "new" / "public.safetensors"
    assert run(checkpoint, output) == 0
    assert names(output.parent) == ["public-training.safetensors", "public.safetensors", "public.yaml"]
    printed = capsys.readouterr().out
    for words in (
        "iteration             1,234, best FID 11.25\n",
        "8 x 8 latent cells draw 29 x 29 px; one cell more draws 8 px more\n",
        *(f"wrote {path}\n" for path in output.parent.iterdir()),
    ):
        assert words in printed

    generator, model = load_generator(output)
    average = generator_state(public_generator(**SMALL, seed=2))
    assert all(torch.equal(value, average[key]) for key, value in generator.state_dict().items())
    tensors, metadata = load_weights(output.parent / "public-training.safetensors")
    assert metadata["networks"] == "generator discriminator average" and metadata["step"] == "1234"
    assert tensors["path_mean"] == 1.5
    assert torch.equal(tensors["average.texture.to_rgb.0.bias"], average["texture.to_rgb.0.bias"])
    config = load_config(TrainConfig, output.with_suffix(".yaml"))
    assert config.model == model and config.train.patch_cells == 8 and config.data.resize == 53


def test_the_config_goes_on_from_anywhere(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(checkpoint.name, "a: #b.safetensors") == 0
    monkeypatch.chdir("/")
    settings = load_config(TrainConfig, tmp_path / "a: #b.yaml").train
    assert settings.generator == settings.discriminator == str(tmp_path / "a: #b-training.safetensors")
    assert settings.stage == "generator" and settings.batch == 16 and settings.optimizer.lr == 0.002
    assert run(checkpoint, tmp_path / "a: #b.safetensors") == 0, "written again"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"d": None}, "the checkpoint has no discriminator (d)"),
        ({"g": None}, "the checkpoint has no generator (g)"),
        ({"g": None, "d": None, "best_fid": None}, "the checkpoint has no generator (g) and no discriminator (d)"),
    ],
)
def test_without_the_training_weights(tmp_path, capsys, changed, words):
    torch.save(public_checkpoint(**changed), tmp_path / "a.pth.tar")
    assert run(tmp_path / "a.pth.tar", tmp_path / "b.safetensors") == 0
    assert names(tmp_path) == ["a.pth.tar", "b.safetensors", "b.yaml"]
    assert f"no {tmp_path / 'b-training.safetensors'}: {words}\n" in capsys.readouterr().out
    settings = load_config(TrainConfig, tmp_path / "b.yaml").train
    assert settings.generator == str(tmp_path / "b.safetensors") and settings.discriminator is None


def test_training_weights_of_another_import_are_not_left_beside_a_generator(checkpoint, tmp_path, capsys):
    assert run(checkpoint, tmp_path / "b.safetensors") == 0
    before = {path: path.read_bytes() for path in tmp_path.glob("b*")}
    torch.save(public_checkpoint(d=None), tmp_path / "a.pth.tar")
    assert run(tmp_path / "a.pth.tar", tmp_path / "b.safetensors") == 2
    assert "b-training.safetensors: of another import" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.glob("b*")} == before


def test_options(checkpoint, tmp_path):
    options = ["--vert-sample-size", "5", "--hori-occupy-ratio", "0.5", "--vert-cut-pt", "6"]
    assert run(checkpoint, tmp_path / "a.safetensors", *options) == 0
    model = load_config(TrainConfig, tmp_path / "a.yaml").model
    assert model.structure == {
        "layers": 2, "radius": 1, "vertical_slope": 1.0, "horizontal_period": 24, "row_starts": 5
    }  # fmt: skip
    assert load_generator(tmp_path / "a.safetensors")[1] == model


def damaged(path):
    os.truncate(path, path.stat().st_size // 2)


def renamed(name):
    return lambda path: path.rename(path.with_name(name))


@pytest.mark.parametrize(
    ("prepare", "output", "words"),
    [
        (None, "out", "{tmp}/out: the output must be a file with the suffix .safetensors"),
        (None, ".safetensors", "{tmp}/.safetensors: the output must be a file with the suffix"),
        (None, "folder.safetensors", "{tmp}/folder.safetensors: is a folder"),
        (None, "/proc/a.safetensors", "cannot write /proc/a"),
        (None, "best_fid.pth.tar/a.safetensors", "cannot write {tmp}/best_fid.pth.tar/a"),
        (renamed("a.safetensors"), "a.safetensors", "is the checkpoint itself"),
        (renamed("a-training.safetensors"), "a.safetensors", "is the checkpoint itself"),
        (lambda path: path.unlink(), "a.safetensors", "{tmp}/best_fid.pth.tar: No such file or directory"),
        (lambda path: path.write_text("text"), "a.safetensors", "best_fid.pth.tar: refused: not a file of weights"),
        (damaged, "a.safetensors", "{tmp}/best_fid.pth.tar: damaged: not a whole archive"),
        (lambda path: torch.save(public_checkpoint(g_ema=None), path), "a.safetensors", "no generator under 'g_ema'"),
        (lambda path: torch.save(public_checkpoint(d=[1]), path), "a.safetensors", "d: a list, not a dict of tensors"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_leaves_nothing(checkpoint, tmp_path, capsys, prepare, output, words):
    (tmp_path / "folder.safetensors").mkdir()
    source = checkpoint
    if prepare:
        prepare(source)
        source = next((path for path in tmp_path.glob("a*.safetensors")), source)
    before = names(tmp_path)
    assert run(source, tmp_path / output) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and words.replace("{tmp}", str(tmp_path)) in line
    assert names(tmp_path) == before


@pytest.mark.parametrize("option", ["--ts-input-size=4", "--hori-occupy-ratio=nan", "--vert-cut-pt=1e9"])
def test_an_option_of_no_use_is_one_line(checkpoint, tmp_path, capsys, option):
    arguments = [str(checkpoint), str(tmp_path / "a.safetensors"), option]
    assert run_command(import_infinitygan.main, arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {option[2:].split('=')[0].replace('-', '_')}: ") and "allowed: " in line


@pytest.mark.parametrize("last", [1, 2, 3])
def test_all_files_appear_or_none(checkpoint, tmp_path, capsys, monkeypatch, last):
    """Whichever file the disk is full at."""
    calls, sync = [], files._sync

    def full(path):
        calls.append(path)
        if len(calls) == last:
            raise OSError(28, "No space left on device")
        sync(path)

    monkeypatch.setattr(files, "_sync", full)
    assert run(checkpoint, tmp_path / "a.safetensors") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: cannot write {tmp_path / 'a'}") and "No space left on device" in line
    assert ".tmp-" not in line and names(tmp_path) == ["best_fid.pth.tar"]


def test_the_published_widths(tmp_path, capsys):
    """A generator of 36 million values, from the public layout to an image."""
    public = public_generator(**PUBLISHED)
    unused = ("kernel", "noises.")
    learned = {name: value for name, value in public.items() if not any(word in name for word in unused)}
    assert (len(public), sum(value.numel() for value in learned.values())) == (105, 36_358_944)
    torch.save({"iter": 1, "g_ema": public}, tmp_path / "a.pth.tar")
    del public, learned
    output = tmp_path / "a.safetensors"
    assert run_command(import_infinitygan.main, [str(tmp_path / "a.pth.tar"), str(output)]) == 0
    assert "11 x 11 latent cells draw 101 x 101 px; one cell more draws 16 px more" in capsys.readouterr().out
    options = ["generate.height=101", "generate.width=101", "infer.device=cpu"]
    assert generate.main(["--checkpoint", str(output), "--output", str(tmp_path / "images"), *options]) == 0
    image = cv2.imread(str(tmp_path / "images" / "seed-0.png"))
    assert image.shape == (101, 101, 3) and image.std() > 1


def test_the_published_discriminator():
    public = public_discriminator(PUBLISHED_DISCRIMINATOR, edge=3)
    learned = {name: value for name, value in public.items() if "kernel" not in name}
    assert (len(public), sum(value.numel() for value in learned.values())) == (47, 28_915_460)
    with torch.device("meta"):
        network = build_discriminator(load_config(TrainConfig).model, 101)
    network.load_state_dict(discriminator_state(public, 101), assign=True)
