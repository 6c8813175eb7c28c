"""generate.py as a user calls it: images by seed, panoramas, and latents for further edits."""

from functools import partial

import numpy as np
import PIL.Image
import pytest
import torch
from inversion.tool import Tool
from safetensors.torch import load_file

import generate
import infer
from models.geometry import Region
from tests.conftest import lines
from utils.config import load_config
from utils.schema import GenerateConfig

SIZE = ["generate.height=45", "generate.width=70", "generate.seed=3"]
FLOAT32 = "infer.dtype=float32"


@pytest.fixture
def run(command):
    """Runs generate.py; returns the exit code, what it printed to stderr, and the output folder."""
    return partial(command, generate.main)


def png(path):
    return np.asarray(PIL.Image.open(path)).astype(int)


def test_an_image_is_a_function_of_the_seed_and_not_of_the_block(run):
    pictures = []
    for block in ("16", "whole"):
        code, err, output = run(*SIZE, "generate.count=2", FLOAT32, f"infer.block={block}", output=block)
        assert code == 0, err
        pictures.append([png(output / f"seed-{seed}.png") for seed in (3, 4)])
    assert pictures[0][0].shape == (45, 70, 3)
    assert abs(pictures[0][0] - pictures[1][0]).max() <= 1  # a value between two may round either way
    assert (pictures[0][0] != pictures[0][1]).any()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("more", [[], ["generate.panorama=true", "generate.width=72"]], ids=["image", "panorama"])
def test_saved_latents_draw_the_same_image(run, command, dtype, more):
    """With their noise; a panorama's own noise repeats, so that its latents alone are the same."""
    noise = "none" if more else "field"
    dtype = f"infer.dtype={dtype}"
    code, err, output = run(*SIZE, *more, f"generate.noise={noise}", "generate.save_latents=true", dtype)
    assert code == 0, err
    latents = load_file(output / "latents" / "seed-3.safetensors")
    assert latents["structure"].shape[0] == 5 and latents["global"].shape == (6,)
    arguments = ["--latents", output / "latents", f"infer.noise={noise}", dtype]
    code, err, again = command(infer.main, *arguments, output="again")
    assert code == 0, err
    assert (png(again / "reconstruction" / "seed-3.png") == png(output / "seed-3.png")).all()


def test_latents_are_saved_only_where_they_are_asked_for(run):
    _, _, output = run(*SIZE)
    assert [path.name for path in output.iterdir()] == ["seed-3.png"]


def drawn(checkpoint, window, *overrides):
    """The pixels [h, w, 3] of a window, which may lie beyond the image, of seed 3."""
    config = load_config(GenerateConfig, None, [*overrides, FLOAT32, "infer.device=cpu"])
    tool = Tool.load(checkpoint, config.infer, encoders=False)
    scene = generate.make_scene(tool, config.generate, 3)
    ((_, pixels),) = tool.decoder.decode(scene, [[window]], eight_bit=False)
    return pixels


@pytest.mark.parametrize("noise", ["none", "field"])
def test_a_panorama_closes(checkpoint, run, noise):
    """Beyond its right edge it begins again, where another image does not."""
    options = ["generate.height=24", "generate.width=64", f"generate.noise={noise}"]
    twice = drawn(checkpoint, Region.at(0, 0, 24, 128), *options, "generate.panorama=true")
    assert abs(twice[:, :64] - twice[:, 64:]).max() <= 1e-5
    other = drawn(checkpoint, Region.at(0, 0, 24, 128), *options)
    assert abs(other[:, :64] - other[:, 64:]).max() > 0.1
    code, err, output = run(*options, "generate.seed=3", "generate.panorama=true", FLOAT32, "infer.block=16")
    assert code == 0, err
    expected = np.clip(np.rint((twice[:, :64] + 1) * 127.5), 0, 255)
    assert abs(png(output / "seed-3.png") - expected).max() <= 1


def test_the_latents_of_a_panorama_repeat(checkpoint):
    config = load_config(GenerateConfig, None, ["generate.width=64", "generate.panorama=true", "infer.device=cpu"])
    scene = generate.make_scene(Tool.load(checkpoint, config.infer, encoders=False), config.generate, 0)
    cells = scene.read(Region.at(-2, -9, 6, 30))
    assert torch.equal(cells[..., :22], cells[..., 8:]) and not torch.equal(cells[..., :23], cells[..., 7:])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["generate.panorama=true", "generate.width=60"], "generate.width: 60; a panorama takes a multiple of 8"),
        (["generate.heigth=60"], "generate.height"),
        (["generate.width=0"], "generate.width"),
        (["fuse.blur=3"], "'fuse' is not read here"),
        (["infer.block=7"], "at least 8"),
        (["infer.refine=3"], "'infer.refine' is not read here"),
        (["--checkpoint", "{tmp}/none.safetensors"], "none.safetensors"),
        (["--config", "{tmp}/none.yaml"], "none.yaml"),
        (["--output", "{tmp}/file"], "file"),
    ],
)
def test_a_wrong_command_gets_one_line(run, tmp_path, arguments, said):
    (tmp_path / "file").write_text("in the way")
    code, err, output = run(*SIZE, *(text.format(tmp=tmp_path) for text in arguments))
    assert code == 2 and len(err.strip().splitlines()) == len(lines(err)) == 1
    assert said in err and not output.exists()
