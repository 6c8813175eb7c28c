"""infer.py with refinement as a user calls it: nearer to the photographs, in any blocks, stopped, and by workers."""

import json
import signal
from functools import partial

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import load_file

import infer
import resample
from inversion import outputs, sweeps
from inversion.latents import LatentStore
from inversion.refinement import Refiner
from tests.conftest import lines
from tests.inversion.test_work import images, programs, results

REFINE = ["infer.dtype=float32", "infer.refine=3"]
STEPS = "complete.steps=3"
SIZES = {"a.png": (70, 90), "more/b.png": (48, 33), "tiny.png": (1, 1)}


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    (folder / "more").mkdir(parents=True)
    random = np.random.default_rng(0)
    for name, (height, width) in SIZES.items():
        small = PIL.Image.fromarray(random.integers(0, 256, (4, 4, 3), np.uint8))
        small.resize((width, height), PIL.Image.Resampling.BICUBIC).save(folder / name)
    return folder


@pytest.fixture
def run(command):
    return partial(command, infer.main, *REFINE)


@pytest.fixture(autouse=True)
def small_window(monkeypatch):
    """The curvature is measured in a small window, which takes less time."""
    monkeypatch.setattr("inversion.refinement.WINDOW_CELLS", 1)


@pytest.fixture
def small_blocks(monkeypatch):
    """Latents are refined in blocks of few cells."""
    monkeypatch.setattr("inversion.blocks.refined_edge", lambda texture, dtype: 5)


def latents(output):
    return {path.stem: load_file(path) for path in sorted((output / "latents").rglob("*.safetensors"))}


def stopping(monkeypatch, owner, name, count):
    """Lets the run stop at the `count`th call of a method; returns the list of calls."""
    calls, method = [], getattr(owner, name)

    def stop(*arguments):
        calls.append(None)
        if len(calls) == count:
            raise KeyboardInterrupt
        return method(*arguments)

    monkeypatch.setattr(owner, name, stop)
    return calls


def test_refined_results_are_nearer_to_the_photographs(run, photographs):
    quality = {}
    for steps in (0, 3, 12):
        code, err, output = run("--input", photographs, f"infer.refine={steps}", output=str(steps))
        assert code == 0 and not lines(err)
        assert images(output) == 3
        quality[steps] = json.loads((output / "summary.json").read_text())["mean"]["psnr"]
    assert quality[12] > quality[3] + 0.1 > quality[0] + 0.2


def test_a_fitted_style_is_nearer_to_the_photographs(run, photographs):
    quality, styles = [], []
    for steps in (0, 10):
        options = ["infer.refine=0", f"infer.refine_style={steps}"]
        output = run("--input", photographs / "a.png", *options, output=str(steps))[2]
        quality.append(json.loads((output / "summary.json").read_text())["mean"]["psnr"])
        styles.append(latents(output)["a"]["global"])
    assert quality[1] > quality[0] and not torch.equal(*styles)


@pytest.mark.parametrize("options", [[], ["infer.refine_prior=0.1", "infer.noise=field"], ["infer.refine_style=3"]])
def test_latents_are_the_same_to_the_last_bit_in_any_blocks(run, small_blocks, photographs, options):
    found, pixels = [], []
    for block in ("auto", "whole", "13"):
        arguments = ["--input", photographs, "infer.save_float=true", f"infer.block={block}", *options]
        code, err, output = run(*arguments, output=block)
        assert code == 0, err
        found.append(latents(output))
        pixels.append({path.stem: np.load(path) for path in output.rglob("*.npy")})
    assert len(found[0]) == len(pixels[0]) == 3
    for name in found[0]:
        for part in ("structure", "global"):
            assert all(torch.equal(found[0][name][part], other[name][part]) for other in found[1:])
        assert max(abs(pixels[0][name] - other[name]).max() for other in pixels[1:]) <= 1e-5


def test_blocks_of_refinement_give_what_the_whole_gives(run, photographs, monkeypatch):
    found = []
    for edge in (3, 100):
        monkeypatch.setattr("inversion.blocks.refined_edge", lambda texture, dtype, edge=edge: edge)
        output = run("--input", photographs / "a.png", "infer.refine=2", output=str(edge))[2]
        found.append(latents(output)["a"]["structure"])
    assert (found[0] - found[1]).abs().max() <= 1e-4 * found[1].abs().max()


def test_the_prior_and_the_noise_change_what_is_found(run, photographs):
    found = [
        latents(run("--input", photographs / "a.png", *options, output=str(number))[2])["a"]["structure"]
        for number, options in enumerate(([], ["infer.refine_prior=1"], ["infer.noise=field"]))
    ]
    assert not torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


@pytest.mark.parametrize("option", ["infer.refine=3", "infer.refine_style=3"])
def test_saved_latents_are_not_refined(command, photographs, option):
    first = command(infer.main, "--input", photographs / "a.png", output="first")[2]
    code, err, output = command(infer.main, "--latents", first / "latents", option)
    assert code == 2 and len(lines(err)) == 1
    assert "those of --latents have none" in lines(err)[0] and not output.exists()


@pytest.mark.parametrize("wrong", ["refine=-1", "refine_prior=-0.1", "refine_style=x"])
def test_a_wrong_option_is_one_line(run, photographs, wrong):
    code, err, _ = run("--input", photographs, f"infer.{wrong}")
    assert code == 2 and len(lines(err)) == 1 and "infer.refine" in lines(err)[0]


@pytest.mark.parametrize(("kind", "limit"), [("safetensors", 100), ("zarr", 10**9), ("safetensors", 10**9)])
def test_an_interrupted_run_goes_on(run, small_blocks, photographs, monkeypatch, kind, limit):
    """In a step, while refined latents are stored, and while they are drawn.

    The image and its latents are on disk, or only its latents, or neither.
    """
    options = ["--input", photographs / "a.png", f"infer.latents={kind}", "infer.block=32"]
    whole = run(*options, output="whole")[2]
    monkeypatch.setattr(outputs, "RESUMABLE", limit)
    for owner, name, count in (
        (Refiner, "step", 1), (Refiner, "step", 30), (LatentStore, "write", 20), (outputs.Pixels, "write", 2)
    ):  # fmt: skip
        with monkeypatch.context() as patch:
            stopping(patch, owner, name, count)
            assert run(*options)[0] == 130
        code, _, output = run(*options)
        assert code == 0 and results(output) == results(whole)


def test_a_long_refinement_goes_on_within_the_step(run, small_blocks, photographs, monkeypatch):
    monkeypatch.setattr(sweeps, "RESUMABLE", 0)
    options = ["--input", photographs / "a.png"]
    with monkeypatch.context() as patch:
        calls = stopping(patch, Refiner, "step", 10**6)
        whole = run(*options, output="whole")[2]
    total = len(calls)
    with monkeypatch.context() as patch:
        stopping(patch, Refiner, "step", total - 1)
        assert run(*options)[0] == 130
    with monkeypatch.context() as patch:
        calls = stopping(patch, Refiner, "step", 10**6)
        code, _, output = run(*options)
    assert code == 0 and len(calls) == 2 and results(output) == results(whole)


def test_other_steps_are_another_run(run, small_blocks, photographs, monkeypatch):
    monkeypatch.setattr(outputs, "RESUMABLE", 100)
    options = ["--input", photographs / "a.png", "infer.refine=2"]
    whole = run(*options, output="whole")[2]
    with monkeypatch.context() as patch:
        stopping(patch, outputs.Pixels, "write", 1)
        run("--input", photographs / "a.png")
    assert results(run(*options)[2]) == results(whole)


def arguments(photographs, output, checkpoint):
    given = ["--input", photographs, "--output", output, "--checkpoint", checkpoint]
    return [*map(str, given), "infer.device=cpu", "infer.block=32", *REFINE]


def test_two_workers_of_which_one_was_killed_refine_as_one_does(photographs, checkpoint, tmp_path):
    """Both on the blocks of one image, which are refined on disk."""
    source, one, two = photographs / "wide.png", tmp_path / "one", tmp_path / "two"
    PIL.Image.open(photographs / "a.png").resize((700, 20)).save(source)  # two blocks
    assert programs("workers", 1, *arguments(source, one, checkpoint))[0] == [0]
    assert programs("lose", 2, *arguments(source, two, checkpoint))[0] == [1, -signal.SIGKILL]
    assert programs("workers", 2, *arguments(source, two, checkpoint))[0] == [0, 0]
    assert results(one) == results(two)


def test_photographs_are_refined_before_they_are_edited(command, run, photographs):
    edit = partial(command, resample.main, "--input", photographs / "a.png", "resample.region=[0,0,9,9]", STEPS)
    expected = latents(run("--input", photographs / "a.png", output="inverted")[2])["a"]
    code, err, output = edit(*REFINE)
    assert code == 0, err
    (path,) = (output / "inversions").glob("*.safetensors")
    found = load_file(path)
    assert all(torch.equal(found[part], expected[part]) for part in ("structure", "global"))
    plain = edit(REFINE[0], output="plain")[2]
    (path,) = (plain / "inversions").glob("*.safetensors")
    assert not torch.equal(load_file(path)["structure"], expected["structure"])
