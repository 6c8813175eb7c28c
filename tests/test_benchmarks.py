"""The benchmarks measure what they say, and tell failure by their exit code."""

import csv
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import infer
from benchmarks import memory, quality
from datasets.image import Image
from models.weights import export
from tests.inversion.conftest import tiny_inverter
from utils.errors import run_command


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path, inverter = tmp_path_factory.mktemp("weights") / "tiny.safetensors", tiny_inverter()
    networks = {name: getattr(inverter, name) for name in ("generator", "encoder", "global_encoder")}
    export(path, inverter.model, networks, step=0)
    return path


def picture(number, height, width):
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)


def means_written_out(pixels):
    """The picture of mean colours, cell by cell."""
    result = pixels.copy()
    for top in range(0, pixels.shape[0], 16):
        for left in range(0, pixels.shape[1], 16):
            cell = pixels[top : top + 16, left : left + 16]
            result[top : top + 16, left : left + 16] = np.rint(cell.mean(axis=(0, 1)))
    return result


@pytest.mark.parametrize("size", [(32, 48), (37, 61), (5, 3), (1, 17)])
def test_mean_colours(size):
    pixels = picture(0, *size)
    error = np.square(pixels.astype(float) - means_written_out(pixels)).mean()
    found = quality.cell_psnr(Image(PIL.Image.fromarray(pixels)))
    assert found == pytest.approx(10 * np.log10(255**2 / error), abs=1e-9)


def test_quality(checkpoint, tmp_path, capsys):
    folder = tmp_path / "photographs"
    folder.mkdir()
    pictures = [picture(number, 24 + number, 40) for number in range(2)]
    for number, pixels in enumerate(pictures):
        PIL.Image.fromarray(pixels).save(folder / f"{number}.png")
    options = ["--checkpoint", str(checkpoint), "infer.device=cpu", "infer.dtype=float32"]
    assert run_command(quality.main, [str(folder), *options]) == 0
    heading, _, line = capsys.readouterr().out.splitlines()
    found = dict(zip(heading.strip("| ").split(" | "), line.strip("| ").split(" | "), strict=True))
    assert infer.main(["--input", str(folder), "--output", str(tmp_path / "out"), *options]) == 0
    with open(tmp_path / "out/metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert (found["folder"], found["images"]) == ("photographs", "2")
    assert float(found["PSNR"]) == pytest.approx(np.mean([float(row["psnr"]) for row in rows]), abs=0.006)
    assert float(found["SSIM"]) == pytest.approx(np.mean([float(row["ssim"]) for row in rows]), abs=0.0006)
    cells = np.mean([quality.cell_psnr(Image(PIL.Image.fromarray(pixels))) for pixels in pictures])
    assert float(found["PSNR of 16 x 16 means"]) == pytest.approx(cells, abs=0.006)
    assert float(found["seconds per megapixel"]) > 0


def test_quality_of_what_cannot_be_inverted(checkpoint, tmp_path, capfd):
    (tmp_path / "text.png").write_text("no pixels")
    assert run_command(quality.main, [str(tmp_path), "--checkpoint", str(checkpoint)]) == 2
    assert f"error: {tmp_path}: infer.py ended with 1" in capfd.readouterr().err
    assert run_command(quality.main, [str(tmp_path), "train.batch=8"]) == 2


@pytest.mark.parametrize(("large", "code"), [(100 + 6, 0), (100 + 6.1, 1)])
def test_memory_beyond_two_buffers_is_a_failure(monkeypatch, capsys, large, code):
    peaks = {16: 100.0, 1024: large}

    def measure(size, checkpoint, overrides):
        assert (checkpoint, overrides) == (Path("a.safetensors"), ["infer.block=64"])
        return {"peak_memory_mib": peaks[size], "seconds": 1.0, "megapixels_per_second": 1.0}

    monkeypatch.setattr(memory, "measure", measure)
    arguments = ["--sizes", "16", "1024", "--checkpoint", "a.safetensors", "infer.block=64"]
    assert run_command(memory.main, arguments) == code
    verdict = "beyond" if code else "within"
    line = f"growth {large - 100:.0f} MiB: {verdict} the two image buffers of 6 MiB"
    assert capsys.readouterr().out.splitlines()[-1] == line


def test_memory_measures_a_photograph(checkpoint):
    figures = memory.measure(40, checkpoint, ["infer.device=cpu"])
    assert all(value > 0 for value in figures.values())
