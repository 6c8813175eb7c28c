"""The benchmarks measure what they say, and tell failure by their exit code."""

import json
import math
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import ImageColor
from torch.utils.flop_counter import FlopCounterMode

import infer
from benchmarks import inversion, machine, memory, plot, training
from benchmarks.published import (
    CELLS,
    Canvas,
    Published,
    Windows,
    concatenated_weight,
    convolve,
    modulated,
    shifted_copies,
)
from datasets.image import Image, open_image
from inversion.blocks import blocks, plan
from inversion.cost import decode_cost, encode_cost
from models.geometry import Interval, Region, regions_from, texture
from models.layers import EqualizedConv2d, ModulatedConv2d, ShiftedConv2d, activate
from models.noise import NoiseField, noise_in
from models.weights import export, load_inverter
from tests.inversion.conftest import tiny_inverter
from tests.training.conftest import TINY
from utils.config import load_config
from utils.errors import UserError, run_command
from utils.schema import InferConfig

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path, inverter = tmp_path_factory.mktemp("weights") / "tiny.safetensors", tiny_inverter()
    networks = {name: getattr(inverter, name) for name in ("generator", "encoder", "global_encoder")}
    export(path, inverter.model, networks, step=0)
    return path


def picture(number, height, width):
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(("large", "code"), [(355.9, 0), (356.1, 1)])
def test_memory_beyond_the_budget_is_a_failure(monkeypatch, capsys, large, code):
    peaks = {(16, 256): 120.0, (16, 1024): 1000.0, (1024, 256): large, (1024, 1024): 1000.0}

    def measure(size, checkpoint, overrides):
        assert (checkpoint, overrides[:1]) == (Path("a.safetensors"), ["infer.block=64"])
        peak = peaks[size, int(overrides[1].removeprefix("infer.memory_mib="))]
        return {"peak_memory_mib": peak, "seconds": 1.0, "megapixels_per_second": 1.0}

    monkeypatch.setattr(memory, "measure", measure)
    monkeypatch.setattr(memory, "in_a_process_of_its_own", lambda *_: 100.0)
    arguments = ["--sizes", "16", "1024", "--budgets", "256", "1024", "--checkpoint", "a.safetensors"]
    assert run_command(memory.main, [*arguments, "infer.block=64"]) == code
    lines = capsys.readouterr().out.splitlines()
    assert [line.endswith("too much") for line in lines[2:]] == [False, False, bool(code), False]


def test_memory_of_the_loaded_networks(checkpoint):
    assert 50 < memory.in_a_process_of_its_own(checkpoint, ["infer.device=cpu"]) < 2000


def test_memory_measures_a_photograph(checkpoint):
    figures = memory.measure(40, checkpoint, ["infer.device=cpu"])
    assert all(value > 0 for value in figures.values())


# The published algorithm


@pytest.fixture(scope="module")
def published():
    return Published(tiny_inverter(4), CPU)


def windows(length, stages):
    return Windows(length, 2**stages, texture(stages).valid_output(Interval(0, CELLS - 1)).size)


def test_windows_are_those_of_the_description(published):
    axis = published.windows(512)
    assert (axis.size, axis.drawn, axis.step, axis.context) == (161, 101, 48, 60)
    assert (axis.count, axis.padded, axis.before) == (11, 641, 70)
    assert len(published.patches(512, 512)) == 121


@given(length=st.integers(1, 3000), stages=st.integers(3, 6))
def test_windows_cover_the_image(length, stages):
    axis = windows(length, stages)
    starts = [axis.step * number for number in range(axis.count)]
    assert starts[-1] + axis.size == axis.padded
    assert axis.drawn >= axis.step
    assert axis.context <= axis.before
    assert axis.before + length <= starts[-1] + axis.context + axis.drawn


@pytest.mark.parametrize("stages", [3, 4])
def test_published_patches_are_drawn_as_ours(stages):
    inverter = tiny_inverter(stages)
    published, drawn = Published(inverter, CPU), inverter.generator.texture
    z_s, z_g = torch.randn(2, 5, CELLS, CELLS), torch.randn(2, 6)
    field = NoiseField(torch.tensor([1, 2]))
    regions = [region for stage in regions_from(Region.at(0, 0, CELLS, CELLS), stages) for region in stage.outputs]
    noise = [noise_in(field, layer, region) for layer, region in enumerate(regions)]
    with torch.inference_mode():
        ours, theirs = drawn(z_s, drawn.mapping(z_g), field), published.synthesize(z_s, z_g, noise)
    assert theirs.shape == ours.shape
    assert (theirs - ours).abs().max() <= 1e-4 * ours.abs().max()


@pytest.mark.parametrize(("stride", "shift"), [(1, 1), (2, 1), (1, 3), (2, 2)])
def test_published_shifted_convolution(stride, shift):
    conv, x = ShiftedConv2d(3, 4, stride, shift), torch.randn(2, 3, 12, 13)
    torch.nn.init.normal_(conv.bias)
    with torch.no_grad():
        ours = conv(x)
        weight = concatenated_weight(conv)
        wrapped = activate(torch.nn.functional.conv2d(shifted_copies(x, shift), weight, stride=stride), conv.bias)
    assert wrapped.shape[-2:] == tuple(-(-edge // stride) for edge in (12, 13))
    torch.testing.assert_close(wrapped[..., : ours.shape[-2], : ours.shape[-1]], ours, rtol=1e-5, atol=1e-6)


def test_published_inversion(published):
    image, z_g = Image(PIL.Image.fromarray(picture(1, 60, 100))), torch.randn(6)
    canvas = Canvas(published, image, z_g)
    canvas.pixels.fill_(math.nan)
    for patch in published.patches(60, 100):
        canvas.draw(*patch)
    assert canvas.result().shape == (3, 60, 100)
    assert canvas.result().isfinite().all()
    assert published.invert(image, z_g).shape == (3, 60, 100)
    row, col = canvas.rows, canvas.cols
    window = torch.from_numpy(image.window_float(-row.before, -col.before, row.size, col.size)).permute(2, 0, 1)
    torch.testing.assert_close(canvas.padded[0, :, : row.size, : col.size], window)


def test_published_multiply_adds(published):
    window, noise = torch.randn(1, 3, 161, 161), [torch.zeros(1, 1, 1, 1)] * 8
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        published.synthesize(published.encode(window), torch.randn(1, 6), noise)
    assert published.macs() == pytest.approx(counter.get_total_flops() / 2, rel=0.1)


def test_published_algorithm_of_another_encoder():
    with pytest.raises(UserError, match="shifted"):
        Published(tiny_inverter(3, "valid"), CPU)


# Speed of the inversion


@pytest.fixture
def small_machine(monkeypatch):
    """A machine whose peaks are measured at once."""
    monkeypatch.setattr(machine, "PRODUCT", {"cpu": 64})
    monkeypatch.setattr(machine, "FEATURE", {"cpu": 8})
    monkeypatch.setattr(machine, "CHANNELS", 8)
    monkeypatch.setattr(machine, "COPIED", 2**16)
    monkeypatch.setattr(machine, "PEAK_SECONDS", 0.0)


def measured(folder, main, *arguments):
    """The JSON that a benchmark writes."""
    path = folder / "figures.json"
    assert run_command(main, [*map(str, arguments), "--json", str(path)]) == 0
    return json.loads(path.read_text())


def test_quick_figures(checkpoint, small_machine, tmp_path):
    options = ["infer.device=cpu", "infer.block=24"]
    found = measured(
        tmp_path, inversion.main, "--quick", "--sizes", 60, "--repeats", 2, "--checkpoint", checkpoint, *options
    )
    rows = {(row["method"], row["dtype"]): row for row in found["rows"]}
    assert set(rows) == {("published", "float32"), ("blocks", "float32"), ("blocks", "bf16")}
    for name in ("float32", "bf16"):
        assert found[f"seconds_{name}"] == rows["blocks", name]["seconds"] > 0
        assert found[f"speedup_{name}"] == found["seconds_published"] / found[f"seconds_{name}"]
        assert found[f"fraction_of_peak_{name}"] == rows["blocks", name]["fraction_of_peak"] > 0
        assert found[f"peak_gflops_{name}"] > 0
    assert found["published_timed"] == "9 of 9 patches"
    assert found["size"] == 60
    assert 10 < found["psnr_bf16"] < 100
    assert found["machine"]["threads"] == torch.get_num_threads()
    networks = load_inverter(checkpoint)
    assert found["computed_twice"] == pytest.approx(computed_twice(networks, options, 60), rel=1e-12)
    assert found["copy_gigabytes_per_second"] > 0
    assert (tmp_path / "figures.png").exists()


def computed_twice(networks, options, size):
    """The share of multiply-adds that an image in blocks adds to those of the whole."""
    drawn, encoder, dtype = networks.generator.texture, networks.encoder, torch.float32
    image = Region.at(0, 0, size, size)
    cells = image.receptive_field(drawn.rule)
    options = load_config(InferConfig, None, ["infer.memory_mib=2048", *options]).infer
    found = plan(options, image.shape, drawn, dtype, encoder)
    apart = sum(decode_cost(drawn, block, dtype).macs for block in blocks(image, found.pixels))
    apart += sum(encode_cost(encoder, block, dtype).macs for block in blocks(cells, found.cells))
    return apart / (decode_cost(drawn, image, dtype).macs + encode_cost(encoder, cells, dtype).macs) - 1


def test_table_of_the_inversion(checkpoint, small_machine, tmp_path, capsys):
    found = measured(
        tmp_path, inversion.main, "--sizes", 16, 40, "--blocks", 8, "--blocks-at", 40, "--repeats", 1,
        "--checkpoint", checkpoint, "infer.device=cpu",
    )  # fmt: skip
    labels = [(row["size"], row["method"], row["dtype"]) for row in found["rows"]]
    each = [("published", "float32"), *((method, name) for method in ("blocks", "whole") for name in inversion.DTYPES)]
    cut = [(40, "blocks", "float32"), (40, "blocks", "bf16")]
    assert labels == [(size, *label) for size in (16, 40) for label in each] + cut
    assert [row["block"] for row in found["rows"][-2:]] == ["8", "8"]
    numbers = [value for row in found["rows"] for value in row.values() if isinstance(value, float)]
    assert all(map(math.isfinite, numbers))
    assert all(row["computed_twice"] == 0 for row in found["rows"] if row["method"] == "whole")
    assert found["rows"][-1]["computed_twice"] > 0.1
    table = capsys.readouterr().out.splitlines()
    assert table[0].split()[:4] == ["pixels", "method", "dtype", "block"]
    assert table[1].split()[:4] == ["16", "x", "16", "published"]


def test_measured_inversion_is_that_of_the_program(checkpoint, small_machine, tmp_path):
    arguments = inversion.make_parser().parse_args([])
    options = load_config(InferConfig, None, ["infer.device=cpu"]).infer
    bench = inversion.Bench(load_inverter(checkpoint), options, arguments)
    pixels = picture(2, 40, 40)
    PIL.Image.fromarray(pixels).save(tmp_path / "a.png")
    image = Image(PIL.Image.fromarray(pixels))
    found = bench.invert(image, "float32", bench.plan_of(40, "float32", 16))
    places = ["--input", str(tmp_path), "--output", str(tmp_path / "out"), "--checkpoint", str(checkpoint)]
    assert infer.main([*places, "infer.device=cpu", "infer.dtype=float32", "infer.block=16"]) == 0
    with PIL.Image.open(tmp_path / "out/reconstruction/a.png") as written:
        assert np.abs(np.asarray(written).astype(int) - found).max() <= 1


def test_random_networks_draw_in_the_range_of_images():
    model = tiny_inverter(3).model
    image = inversion.random_inverter(model).generator.texture(torch.randn(1, 5, 20, 20), torch.randn(1, 6), None)
    assert 0.1 < image.std() < 2


def test_huge_images_are_left_to_infer(checkpoint, tmp_path, monkeypatch):
    options = ["infer.block=64", "infer.device=cpu"]

    def run_infer(path, given, overrides):
        assert (given, overrides) == (checkpoint, options)
        image = open_image(path, max_pixels=2**20)
        assert (image.height, image.width) == (600, 600)
        expected = memory.photograph(inversion.TEXTURE)[:600, :600, ::-1]
        assert np.array_equal(image.window(0, 0, 600, 600), expected)
        return [{"seconds": "2.0", "megapixels_per_second": "0.18", "peak_memory_mib": "300"}]

    monkeypatch.setattr(inversion, "run_infer", run_infer)
    found = measured(tmp_path, inversion.main, "--sizes", "--huge", 600, "--checkpoint", checkpoint, *options)
    (row,) = found["rows"]
    assert found["machine"]["device"] == "cpu"
    assert (row["method"], row["size"], row["block"], row["peak_memory_mib"]) == ("infer.py", 600, "64", 300)


@pytest.mark.parametrize("sizes", ["0", "-1", "x"])
def test_sizes_are_whole_numbers(sizes, capsys):
    with pytest.raises(SystemExit):
        inversion.main(["--sizes", "16", sizes])
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize(("first", "count"), [(0.5, 5), (2.0, 4), (20.0, 1)])
def test_long_runs_are_repeated_less(monkeypatch, first, count):
    taken = iter([first, *[7.0] * 5])
    monkeypatch.setattr(machine, "seconds", lambda action, device: next(taken))
    expected = [first] if first > 8 else [7.0] * count
    assert machine.repeated(print, CPU, repeats=5, limit=8.0) == expected


@given(low=st.floats(1e-4, 1e5), ratio=st.floats(1, 1e8))
def test_ticks_span_the_values(low, ratio):
    found = plot.ticks(low, low * ratio)
    assert found[0] <= low * (1 + 1e-9)
    assert low * ratio <= found[-1] * (1 + 1e-9)
    assert 2 <= len(found) <= 14
    assert found == sorted(set(found))


def test_plots_show_every_series(tmp_path):
    series = {"one": [(64, 0.5), (16, 2.0)], "none": [], "other": [(32, 7.0)]}
    panels = [plot.Panel("time, seconds", "pixels", series), plot.Panel("nothing", "pixels", {"none": []})]
    plot.write_plot(tmp_path / "a.png", panels)
    with PIL.Image.open(tmp_path / "a.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    size = plot.HEIGHT, len(panels) * plot.WIDTH + plot.LEGEND
    assert pixels.shape[:2] == pytest.approx([plot.DOTS * edge for edge in size], abs=1)
    first = pixels[:, : round(plot.DOTS * plot.WIDTH)]
    drawn = [(first == ImageColor.getrgb(colour)).all(-1).sum() > 20 for colour in plot.COLOURS[:3]]
    assert drawn == [True, False, True]


# Speed of training


def test_training_figures(tmp_path, small_machine):
    paths = [tmp_path / f"{stage}.yaml" for stage in training.training.STAGES]
    for path in paths:
        path.write_text(TINY.replace("train:", f"train:\n  stage: {path.stem}"))
    found = measured(tmp_path, training.main, "--config", *paths, "--repeats", 1)
    assert [stage["stage"] for stage in found["stages"]] == ["generator", "inverter"]
    assert [stage["steps_of_a_measurement"] for stage in found["stages"]] == [12, 4]
    for stage in found["stages"]:
        assert stage["images_per_second"] > 0
        assert stage["speedup"] == stage["images_per_second"] / stage["images_per_second_straightforward"]


@pytest.mark.parametrize("convolution", ["shifted", "rolled", "valid", "zero_pad"])
def test_straightforward_encoders_compute_the_same(convolution):
    encoder, x = tiny_inverter(3, convolution).encoder, torch.randn(2, 3, 72, 72)
    with torch.no_grad():
        ours = encoder(x)
        with training.straightforward():
            theirs = encoder(x)
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("upsample", "demodulate"), [(False, True), (True, True), (False, False)])
def test_straightforward_modulated_convolution(upsample, demodulate):
    conv = ModulatedConv2d(3, 4, 3, 5, demodulate, upsample)
    x, style = torch.randn(2, 3, 7, 8), torch.randn(2, 5)
    torch.testing.assert_close(modulated(conv, x, style), conv(x, style), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kernel", "stride", "bias", "activation"), [(1, 2, False, False), (3, 2, True, True)])
def test_straightforward_convolution(kernel, stride, bias, activation):
    conv, x = EqualizedConv2d(3, 4, kernel, stride, bias=bias, activation=activation), torch.randn(2, 3, 9, 8)
    torch.testing.assert_close(convolve(conv, x), conv(x), rtol=1e-4, atol=1e-5)
