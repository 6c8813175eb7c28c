"""generate.py as a user calls it: images by seed, panoramas, and latents for further edits."""

from functools import partial

import numpy as np
import PIL.Image
import pytest

import generate
import infer
from inversion import Latents, PatchInverter, jobs
from inversion.noise import FieldNoise
from inversion.synthesis import GeneratedStructure, LocalField
from tests.conftest import lines
from utils.files import lock_folder

SIZE = ["generate.height=45", "generate.width=70", "generate.seed=3"]
FLOAT32 = "infer.dtype=float32"


@pytest.fixture
def run(command):
    """Runs generate.py; returns the exit code, what it printed to stderr, and the output folder."""
    return partial(command, generate.main)


def png(path):
    return np.asarray(PIL.Image.open(path)).astype(int)


def test_an_image_is_a_function_of_the_seed_and_not_of_the_block(run, monkeypatch):
    pictures = []
    for block in ("16", "whole", "24"):
        if block == "24":
            monkeypatch.setattr(jobs, "HELD", 100)  # drawn on the disk
        code, err, output = run(*SIZE, "count=2", FLOAT32, f"infer.block={block}", output=block)
        assert code == 0 and not err
        assert {path.name for path in output.iterdir()} == {"seed-3.png", "seed-4.png"}
        pictures.append([png(output / f"seed-{seed}.png") for seed in (3, 4)])
    assert pictures[0][0].shape == (45, 70, 3) and (pictures[0][0] != pictures[0][1]).any()
    for seed in (0, 1):  # a value between two may round either way
        assert max(abs(pictures[0][seed] - other[seed]).max() for other in pictures[1:]) <= 1
    code, err, output = run(*SIZE, "seeds=[9,4]", FLOAT32, "infer.block=whole", output="seeds")
    assert {path.name for path in output.iterdir()} == {"seed-9.png", "seed-4.png"}, err
    assert (png(output / "seed-4.png") == pictures[1][1]).all()


@pytest.mark.parametrize("options", [[FLOAT32], ["panorama=true", "width=72", "infer.dtype=bfloat16"]])
def test_saved_latents_draw_the_same_image(run, command, options):
    code, err, output = run(*SIZE, *options, "save_latents=true")
    assert code == 0, err
    code, err, again = command(infer.main, "--latents", output / "latents", options[-1], output="again")
    assert code == 0, err
    assert (png(again / "reconstruction" / "seed-3.png") == png(output / "seed-3.png")).all()


@pytest.mark.parametrize("noise", ["none", "field"])
def test_a_panorama_closes(checkpoint, run, noise):
    """Beyond its right edge it begins again, where another image does not."""
    options = ["height=24", "width=64", f"noise={noise}", "seed=3", FLOAT32, "infer.block=16"]
    code, err, output = run(*options, "panorama=true")
    assert code == 0, err
    model = PatchInverter.from_pretrained(checkpoint, device="cpu", dtype="float32")

    def twice(period):
        local = LocalField(model.generator.structure.local_dim, 3, model.device, period and period // model.cell)
        structure = GeneratedStructure(model.generator, model.style(3), local, model.cells((24, 128)))
        spec = FieldNoise(3, period) if noise == "field" else None
        return model.draw(Latents(structure, model.style(3), (24, 128), spec, model.fingerprint)).astype(int)

    assert abs(twice(64) - np.tile(png(output / "seed-3.png"), (1, 2, 1))).max() <= 1
    assert abs(twice(None)[:, :64] - twice(None)[:, 64:]).max() > 20


def test_a_checkpoint_or_config_is_not_written_onto(run, checkpoint, tmp_path):
    output = tmp_path / "output"
    (output / "latents").mkdir(parents=True)
    own, config, base = output / "latents" / "seed-4.safetensors", output / "SEED-3.PNG", tmp_path / "base.yaml"
    own.write_bytes(checkpoint.read_bytes())
    tile = output / "seed-3_files" / "a.yaml"
    tile.parent.mkdir()
    for path in (config, tile):
        path.write_text("generate: {save_latents: true}")
    base.write_text(f"base: {tile}")
    for option, path in (("--checkpoint", own), ("--config", config), ("--config", tile), ("--config", base)):
        before = path.read_bytes()
        code, err, _ = run(*SIZE, "count=2", option, path)
        assert code == 2 and len(lines(err)) == 1 and "would overwrite the input" in err
        assert path.read_bytes() == before and len(list(output.rglob("*"))) == 5
    assert run(*SIZE[:2], "seed=5", "--checkpoint", own)[0] == 0


def test_a_lack_of_memory_is_named(run, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")

    monkeypatch.setattr(PatchInverter, "draw", fail)
    code, err, output = run(*SIZE)
    assert code == 1 and len(lines(err)) == 1 and "out of memory" in err and not list(output.iterdir())


def test_a_wrong_command_gets_one_line(run, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for arguments, said in (
        (["generate.panorama=true", "generate.width=60"], "generate.width: 60; a panorama takes a multiple of 8"),
        (["generate.heigth=60"], "generate.height"),
        (["width=0"], "generate.width"),
        (["generate.seed=4294967295", "count=2"], "seeds end at 4294967295"),
        (["infer.block=7"], "from 8 on"),
        (["infer.refine=3"], "infer.refine"),
        (["--checkpoint", tmp_path / "none.safetensors"], "none.safetensors"),
        (["--config", tmp_path / "none.yaml"], "none.yaml"),
        (["--output", tmp_path / "file"], "file"),
    ):
        code, err, output = run(*SIZE, *arguments)
        assert code == 2 and len(err.strip().splitlines()) == len(lines(err)) == 1
        assert said in err and not output.exists()
    with lock_folder(tmp_path / "output"):
        code, err, output = run(*SIZE)
    assert code == 2 and "another run is writing there" in err and not list(output.iterdir())
