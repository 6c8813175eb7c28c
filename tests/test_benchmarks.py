"""The benchmarks measure what they say, and tell failure by their exit code."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import inversion, machine, memory, shared, trace, training
from benchmarks.published import CELLS, PLAIN, Canvas, Published, Windows, make_plain
from models.geometry import Interval, texture
from models.layers import EqualizedConv2d, ModulatedConv2d, ShiftedConv2d
from tests.inversion.conftest import tiny_inverter, tiny_model
from tests.training.conftest import TINY
from utils.errors import UserError, run_command

CPU = torch.device("cpu")


# The published algorithm


def test_windows_are_those_of_the_description():
    published = Published(tiny_inverter(4), CPU)
    axis = published.windows(512)
    assert (axis.size, axis.drawn, axis.step, axis.context) == (161, 101, 48, 60)
    assert (axis.count, axis.padded, axis.before) == (11, 641, 70)
    assert len(published.patches(512, 512)) == 121


@given(length=st.integers(1, 3000), stages=st.integers(3, 6))
def test_windows_cover_the_image(length, stages):
    axis = Windows.over(length, 2**stages, texture(stages).valid_output(Interval(0, CELLS - 1)).size)
    starts = [axis.step * number for number in range(axis.count)]
    assert starts[-1] + axis.size == axis.padded
    assert axis.drawn >= axis.step
    assert axis.context <= axis.before
    assert axis.before + length <= starts[-1] + axis.context + axis.drawn


@pytest.mark.parametrize("stages", [3, 4])
def test_published_patches_are_drawn_as_ours(stages):
    inverter = tiny_inverter(stages)
    for layer in inverter.generator.texture.layers:
        torch.nn.init.zeros_(layer.noise_strength)
    published, ours = Published(inverter, CPU), inverter.generator.texture
    z_s, z_g = torch.randn(2, 5, CELLS, CELLS), torch.randn(2, 6)
    with torch.inference_mode():
        expected, found = ours(z_s, ours.mapping(z_g), None), published.synthesize(z_s, z_g)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_published_inversion_draws_every_pixel():
    model = tiny_model(tiny_inverter(4))
    image, published = model.open(machine.photograph(100)[:60]), Published(model.networks, CPU)
    canvas = Canvas(published, image, torch.randn(6))
    canvas.pixels.fill_(math.nan)
    for patch in published.patches(60, 100):
        canvas.draw(*patch)
    assert canvas.result().shape == (3, 60, 100) and bool(canvas.result().isfinite().all())


def test_published_algorithm_of_another_encoder():
    with pytest.raises(UserError, match="shifted"):
        Published(tiny_inverter(convolution="valid"), CPU)


# Speed and memory of the inversion


def test_table_of_the_inversion(checkpoint, capsys):
    arguments = ["--sizes", "40", "60", "--repeats", "1", "--checkpoint", str(checkpoint), "device=cpu", "block=24"]
    assert run_command(inversion.main, arguments) == 0
    heading, *lines, about = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines]
    methods = [("published", "float32"), ("loop", "float32"), ("blocks", "float32"), ("blocks", "bfloat16")]
    assert [(int(row[0]), row[3], row[4]) for row in rows] == [(size, *each) for size in (40, 60) for each in methods]
    assert all(float(row[6]) > 0 and float(row[8]) > 0 for row in rows) and rows[1][5] == "24"
    assert heading.split()[0] == "pixels" and about.startswith("machine: ")


def test_the_plain_loop_draws_the_same():
    networks = tiny_inverter()
    for stage in networks.generator.texture.synthesis:
        stage.to_rgb.conv.weight.data *= 5
    model, whole = (tiny_model(networks, block) for block in (24, "whole"))
    image = model.open(machine.photograph(70)[:50])
    ours, theirs = inversion.invert(model, image), inversion.plain_loop(model, image)
    assert ours.std() > 5 and np.abs(ours.astype(int) - theirs).max() <= 1
    assert inversion.multiply_adds(model, image) > 1.1 * inversion.multiply_adds(whole, image)


def test_memory_beyond_the_budget_is_a_failure(checkpoint, capsys):
    arguments = ["--sizes", "40", "--budgets", "1", "--checkpoint", str(checkpoint), "device=cpu"]
    assert run_command(memory.main, arguments) == 1
    loaded, _, line = capsys.readouterr().out.splitlines()
    assert 50 < float(loaded.split()[-2]) < 2000 and line.split()[:4] == ["40", "x", "40", "1"]
    assert line.endswith("too much")


# The way through infer.py


def test_returns_are_counted():
    assert trace.count(["a", "a", "b", "a", "c", "b", "b"]) == (3, 2)


def test_a_photograph_takes_a_straight_way(checkpoint, capsys):
    assert run_command(trace.main, ["--checkpoint", str(checkpoint), "device=cpu"]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    files, returns = (int(part.split(": ")[1]) for part in last.split("; "))
    assert files <= 19 and returns <= 56  # no more than now


# Speed of training


def test_training_figures(tmp_path, capsys):
    paths = [tmp_path / f"{stage}.yaml" for stage in ("generator", "inverter")]
    for path in paths:
        path.write_text(TINY.replace("train:", f"train:\n  stage: {path.stem}"))
    assert run_command(training.main, ["--config", *map(str, paths), "--repeats", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:-1]
    assert [line.split()[0].split("/")[1] for line in lines] == ["generator.yaml", "inverter.yaml"]
    for line in lines:
        ours, plain, times = map(float, line.split()[2:])
        assert ours > 0 and times == pytest.approx(ours / plain, rel=0.1)


@pytest.mark.parametrize("make", [
    lambda: ModulatedConv2d(3, 4, 3, 5), lambda: ModulatedConv2d(3, 4, 3, 5, upsample=True),
    lambda: ModulatedConv2d(3, 4, 3, 5, demodulate=False), lambda: EqualizedConv2d(3, 4, 3, 2),
    lambda: EqualizedConv2d(3, 4, 1, 2, bias=False, activation=False), lambda: EqualizedConv2d(3, 4, 1, gain=0.7),
    lambda: ShiftedConv2d(3, 4), lambda: ShiftedConv2d(3, 4, 2, 3),
])  # fmt: skip
def test_plain_layers_compute_the_same(make):
    layer, inputs = make(), [torch.randn(2, 3, 9, 8)]
    if isinstance(layer, ModulatedConv2d):
        inputs.append(torch.randn(2, 5))
    elif layer.bias is not None:
        torch.nn.init.normal_(layer.bias)
    expected, plain = layer(*inputs), make_plain(layer, CPU)
    assert type(plain) in PLAIN.values()
    torch.testing.assert_close(plain(*inputs), expected, rtol=1e-4, atol=1e-5)


# A machine that others use


def test_every_condition_is_measured_in_turn_and_told_beside_idle(monkeypatch, capsys):
    """With a run that takes as many seconds as it has been called times."""
    calls = []

    def run(prefix, tree, given, scratch, overrides):
        calls.append((given.stem, bool(prefix)))
        return float(len(calls))

    monkeypatch.setattr(shared, "run", run)
    monkeypatch.setattr(shared, "GROUPS", {})
    assert run_command(shared.main, ["--repeats", "3", "--images", "2", "--size", "20", "30"]) == 0
    assert calls == 3 * [(name, quota) for name in ("small", "large") for quota in (False, False, True)]
    printed = capsys.readouterr().out.splitlines()
    assert printed[2].split() == ["2", "of", "64", "x", "64", "busy", "now", "8.00", "1.14"]
    assert len(printed) == 8 and "quota: bound to core 0" in printed[-1]


def test_a_commit_that_is_none_is_one_line(capsys):
    assert run_command(shared.main, ["--before", "nowhere"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --before nowhere: ")


def test_a_failed_run_is_one_line(capsys):
    arguments = ["--repeats", "1", "--images", "1", "--size", "8", "8", "infer.blocks=3"]
    assert run_command(shared.main, arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "infer.py ended with 2: error: " in line and "infer.blocks" in line
