"""The benchmarks measure what they say, and tell failure by their exit code."""

import math

import pytest
import torch

from benchmarks import inversion, machine, memory, shared, trace, training
from benchmarks.published import CELLS, PLAIN, Canvas, Published, make_plain
from models.layers import EncoderConv2d, EqualizedConv2d, ModulatedConv2d
from tests.inversion.conftest import tiny_inverter, tiny_model
from tests.training.conftest import TINY
from utils.errors import UserError, run_command

CPU = torch.device("cpu")


# The published algorithm


def test_windows_are_those_of_the_description():
    model = tiny_model(tiny_inverter(4))
    published = Published(model.networks, CPU)
    assert (published.size, published.drawn, published.step) == (161, 101, 48)
    canvas = Canvas(published, model.open(machine.photograph(512)), torch.randn(6))
    assert len(canvas.places) == 121 and canvas.padded.shape == (1, 3, 641, 641)


def test_published_windows_are_drawn_as_ours():
    inverter = tiny_inverter()
    for layer in inverter.generator.texture.layers:
        torch.nn.init.zeros_(layer.noise_strength)
    published, ours = Published(inverter, CPU), inverter.generator.texture
    z_s, z_g = torch.randn(2, 5, CELLS, CELLS), torch.randn(2, 6)
    with torch.inference_mode():
        expected, found = ours(z_s, ours.mapping(z_g), None), published.synthesize(z_s, z_g)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_published_inversion_draws_every_pixel():
    model = tiny_model(tiny_inverter())
    image, published = model.open(machine.photograph(100)[:60]), Published(model.networks, CPU)
    canvas = Canvas(published, image, torch.randn(6))
    canvas.pixels.fill_(math.nan)
    for place in canvas.places:
        canvas.draw(*place)
    assert canvas.result().shape == (3, 60, 100) and bool(canvas.result().isfinite().all())


def test_published_algorithm_of_another_encoder():
    with pytest.raises(UserError, match="shifted"):
        Published(tiny_inverter(convolution="valid"), CPU)


# Speed and memory of the inversion


def test_table_of_the_inversion(checkpoint, capsys):
    arguments = ["--sizes", "40", "--repeats", "1", "--checkpoint", str(checkpoint), "device=cpu", "block=24"]
    assert run_command(inversion.main, arguments) == 0
    heading, *lines, about = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines]
    methods = [("published", "float32"), ("loop", "float32"), ("blocks", "float32"), ("blocks", "bfloat16")]
    assert [(int(row[0]), row[3], row[4]) for row in rows] == [(40, *each) for each in methods]
    assert all(float(row[6]) > 0 and float(row[8]) > 0 for row in rows) and rows[1][5] == "24"
    assert heading.split()[0] == "pixels" and about.startswith("machine: ")


def test_memory_beyond_the_budget_is_a_failure(checkpoint, monkeypatch, capsys):
    """Of infer.py in a process of its own, where the networks, it is said, take nothing."""
    assert 50 < memory.held_mib(checkpoint, "cpu", "float32") < 4000
    monkeypatch.setattr(memory, "loaded_mib", lambda *_: 0.0)
    arguments = ["--sizes", "40", "--budgets", "1", "--checkpoint", str(checkpoint), "device=cpu"]
    assert run_command(memory.main, arguments) == 1
    *_, line = capsys.readouterr().out.splitlines()
    assert line.split()[:4] == ["40", "x", "40", "1"] and float(line.split()[5]) > 50 and line.endswith("too much")


def test_the_way_of_a_photograph(checkpoint, capsys):
    assert trace.count(["a", "a", "b", "a", "c", "b", "b"]) == (3, 2)
    assert run_command(trace.main, ["--checkpoint", str(checkpoint), "device=cpu"]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    files, returns = (int(part.split(": ")[1]) for part in last.split("; "))
    assert 12 < files <= 22 and 12 < returns <= 56  # no more than now


# Speed of training


def test_training_figures(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training, "STEPS", 2)
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
    lambda: EncoderConv2d("shifted", 3, 4, 2, 3), lambda: EncoderConv2d("zero_pad", 3, 4),
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

    def run(given, arguments, prefix):
        calls.append((given.stem, bool(prefix)))
        return float(len(calls)), []

    monkeypatch.setattr(shared, "run_infer", run)
    assert run_command(shared.main, ["--repeats", "3", "--images", "2", "--size", "20", "30"]) == 0
    assert calls == 3 * [(name, bound) for name in ("small", "large") for bound in (False, False, True)]
    printed = capsys.readouterr().out.splitlines()
    assert printed[2].split() == ["2", "of", "64", "x", "64", "busy", "8.00", "1.14"] and len(printed) == 8


def test_a_failed_run_is_one_line(tmp_path):
    with pytest.raises(UserError, match="infer.py ended with 3: no$"):
        machine.run_infer(tmp_path, [], ["sh", "-c", "echo yes; echo no >&2; exit 3"])
