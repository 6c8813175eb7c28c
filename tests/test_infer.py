"""infer.py as a user calls it: what it writes, and the one line for each wrong input."""

import csv
import json
import struct
import subprocess
import sys
import time
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile
import zarr
from inversion.inputs import unique_names
from safetensors.torch import load_file, save_file
from skimage.metrics import peak_signal_noise_ratio

import images.reading
import infer
from models.weights import export
from tests.conftest import lines, write_inverter
from tests.inversion.conftest import tiny_inverter


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    (folder / "more").mkdir(parents=True)
    random = np.random.default_rng(0)
    for name, size in {"a.png": (37, 61), "more/B.JPG": (64, 20), "tiny.png": (1, 1)}.items():
        PIL.Image.fromarray(random.integers(0, 256, (*size, 3), np.uint8)).save(folder / name)
    return folder


@pytest.fixture
def run(command):
    """Runs infer.py; returns the exit code, what it printed to stderr, and the output folder."""
    return partial(command, infer.main)


def test_a_folder_of_photographs(run, photographs):
    code, err, output = run("--input", photographs, "infer.save_float=true", "infer.dtype=float32")
    assert code == 0, err
    for name, (height, width) in {"a": (37, 61), "more/B": (64, 20), "tiny": (1, 1)}.items():
        result = np.asarray(PIL.Image.open(output / f"reconstruction/{name}.png"))
        assert result.shape == (height, width, 3)
        assert np.asarray(PIL.Image.open(output / f"comparison/{name}.png")).shape == (height, 3 * width, 3)
        values = np.load(output / f"float/{name}.npy")
        assert values.dtype == np.float32
        assert (np.clip(np.rint((values + 1) * 127.5), 0, 255) == result).all()
        latents = load_file(output / f"latents/{name}.safetensors")
        assert latents["structure"].shape[0] == 5
        assert latents["global"].shape == (6,)
    with open(output / "metrics.csv") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"a", "more/B", "tiny"}
    original = np.asarray(PIL.Image.open(photographs / "a.png"))
    expected = peak_signal_noise_ratio(original, np.asarray(PIL.Image.open(output / "reconstruction/a.png")))
    assert float(rows["a"]["psnr"]) == pytest.approx(expected, abs=1e-3)
    summary = json.loads((output / "summary.json").read_text())
    assert summary["images"] == 3
    assert summary["failed"] == {}
    assert summary["mean"]["psnr"] == pytest.approx(np.mean([float(row["psnr"]) for row in rows.values()]))
    assert all(float(row["peak_memory_mib"]) > 0 for row in rows.values())


def test_blocks_equal_the_whole_in_files(run, photographs):
    results = [
        run("--input", photographs, "infer.save_float=true", "infer.dtype=float32", f"infer.block={block}",
            output=block)
        for block in ("8", "29", "whole")
    ]  # fmt: skip
    for name in ("a", "more/B", "tiny"):
        values = [np.load(folder / f"float/{name}.npy") for _, _, folder in results]
        latents = [load_file(folder / f"latents/{name}.safetensors")["structure"].numpy() for _, _, folder in results]
        for found in (values, latents):
            assert max(abs(found[0] - found[2]).max(), abs(found[1] - found[2]).max()) <= 1e-5


def test_saved_latents_draw_the_same_image(run, photographs):
    _, _, first = run("--input", photographs)
    code, err, second = run("--latents", first / "latents", output="again")
    assert code == 0, err
    for name in ("a", "more/B", "tiny"):
        one, other = (PIL.Image.open(folder / f"reconstruction/{name}.png") for folder in (first, second))
        assert (np.asarray(one) == np.asarray(other)).all()
    assert not (second / "comparison").exists()


def test_an_unfinished_result_does_not_appear(run, photographs, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr("images.writing.error_times_four", fail)
    code, err, output = run("--input", photographs / "a.png")
    assert code == 1
    assert "out of memory" in lines(err)[0]
    assert not list(output.rglob("*.png"))
    assert not list(output.rglob(".tmp*"))


def test_names_that_differ_in_the_suffix_only(run, photographs):
    PIL.Image.open(photographs / "a.png").save(photographs / "a.bmp")
    assert run("--input", photographs)[0] == 0
    _, _, output = run("--input", photographs)
    assert {path.name for path in (output / "reconstruction").iterdir() if path.is_file()} == {
        "a.png.png", "a.bmp.png", "tiny.png"
    }  # fmt: skip


def test_results_inside_the_input_folder_are_not_inverted_again(run, photographs):
    for _ in range(2):
        code, _, output = run("--input", photographs, output="photographs/results")
        assert code == 0
        assert json.loads((output / "summary.json").read_text())["images"] == 3


def test_inputs_inside_the_output_folder(run, photographs):
    code, err, output = run("--input", photographs, output=".")
    assert code == 0, err
    assert (output / "reconstruction" / "a.png").exists()


@pytest.mark.parametrize("region", [(0, 0, 5, 61), (13, 20, 31, 47), (36, 60, 37, 61)])
@pytest.mark.parametrize("block", ["whole", 8])
def test_a_region_is_that_of_the_whole(run, photographs, region, block):
    options = ["infer.save_float=true", "infer.dtype=float32", "infer.noise=field"]
    _, _, whole = run("--input", photographs / "a.png", *options)
    pixels = np.load(whole / "float" / "a.npy")
    top, left, bottom, right = region
    text = f"{top},{left},{bottom},{right}"
    code, _, output = run("--latents", whole / "latents" / "a.safetensors", f"infer.region={text}",
                          f"infer.block={block}", *options, output="region")  # fmt: skip
    assert code == 0
    drawn = np.load(output / "float" / f"a-{text.replace(',', '-')}.npy")
    assert drawn.shape == (bottom - top, right - left, 3)
    assert abs(drawn - pixels[top:bottom, left:right]).max() <= 1e-5


@pytest.mark.parametrize("kind", ["png", "tiff", "jpeg", "webp"])
def test_pictures_of_each_format(run, photographs, kind):
    options = ["infer.save_float=true", f"infer.format={kind}"]
    code, err, output = run("--input", photographs, *options)
    assert code == 0, err
    suffix = {"png": ".png", "tiff": ".tif", "jpeg": ".jpg", "webp": ".webp"}[kind]
    pictures = sorted(path for name in ("comparison", "reconstruction") for path in (output / name).rglob("*.*"))
    assert [path.suffix for path in pictures] == 6 * [suffix]
    values = np.load(output / "float" / "a.npy")
    picture = np.asarray(PIL.Image.open(output / "reconstruction" / f"a{suffix}")).astype(int)
    error = abs(picture - np.clip(np.rint((values + 1) * 127.5), 0, 255))
    assert error.max() <= (0 if kind != "jpeg" else 40) and PIL.Image.open(pictures[0]).size == (3 * 61, 37)


@pytest.mark.parametrize(("wanted", "there"), [("true", True), ("false", False), ("auto", True)])
def test_comparisons_are_written_where_they_are_wanted(run, photographs, wanted, there):
    _, _, output = run("--input", photographs / "a.png", f"infer.comparison={wanted}")
    assert (output / "comparison" / "a.png").exists() == there


@pytest.mark.parametrize(("kind", "edge"), [("webp", 16_384), ("jpeg", 65_501)])
def test_a_picture_that_a_format_does_not_hold(run, photographs, kind, edge):
    """Only a comparison that nobody asked for is left out."""
    PIL.Image.new("RGB", (edge // 2, 1)).save(photographs / "a.png")
    PIL.Image.new("RGB", (edge, 1)).save(photographs / "tiny.png")
    code, err, output = run("--input", photographs, f"infer.format={kind}")
    assert code == 1 and len(lines(err)) == 1 and f"{kind} holds edges of at most {edge - 1} pixels" in lines(err)[0]
    assert [path.stem for path in (output / "comparison").rglob("*.*")] == ["B"]
    assert sorted(path.stem for path in (output / "reconstruction").rglob("*.*")) == ["B", "a"]
    code, err, _ = run("--input", photographs / "a.png", f"infer.format={kind}", "infer.comparison=true")
    assert code == 1 and f"1 x {edge // 2 * 3}" in lines(err)[0]


def test_an_image_read_by_window_is_as_any_other(run, photographs, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    PIL.Image.fromarray(pixels).save(photographs / "plain.png")
    tifffile.imwrite(photographs / "tiled.tif", pixels, tile=(32, 16), photometric="rgb", compression="adobe_deflate")
    _, _, plain = run("--input", photographs / "plain.png", "infer.block=32", output="plain")
    monkeypatch.setattr(images.reading, "WINDOWED", 1000)
    code, err, tiled = run("--input", photographs / "tiled.tif", "infer.block=32", output="tiled")
    assert code == 0, err
    assert not (tiled / "comparison").exists()
    picture = np.asarray(PIL.Image.open(tiled / "reconstruction" / "tiled.tif"))
    assert (picture == np.asarray(PIL.Image.open(plain / "reconstruction" / "plain.png"))).all()
    latents = [(folder / "latents" / f"{folder.name}.safetensors").read_bytes() for folder in (plain, tiled)]
    assert latents[0] == latents[1]
    rows = [(folder / "metrics.csv").read_text().splitlines()[1].split(",")[3:5] for folder in (plain, tiled)]
    assert rows[0] == rows[1]
    code, err, again = run("--input", tiled / "reconstruction" / "tiled.tif", output="again")  # our own is read so too
    assert code == 0 and not (again / "comparison").exists()


def test_latents_in_files_and_folders(run, photographs):
    options = ["infer.block=16", "infer.dtype=float32", "infer.noise=field", "infer.save_float=true"]
    found = {}
    for kind in ("safetensors", "zarr", "none"):
        _, _, found[kind] = run("--input", photographs, *options, f"infer.latents={kind}", output=kind)
        assert not list(found[kind].rglob(".*"))
    assert not (found["none"] / "latents").exists()
    assert [path.suffix for path in sorted((found["zarr"] / "latents").iterdir())] == [".zarr", "", ".zarr"]
    for name in ("a", "more/B", "tiny"):
        structure = zarr.open_group(found["zarr"] / f"latents/{name}.zarr", mode="r")["structure"][:]
        file = load_file(found["safetensors"] / f"latents/{name}.safetensors")
        assert (structure == file["structure"].numpy()).all()
    for kind in ("safetensors", "zarr"):
        code, err, again = run("--latents", found[kind] / "latents", *options, output=f"{kind}-again")
        assert code == 0, err
        for name in ("a", "more/B", "tiny"):
            values = [np.load(folder / f"float/{name}.npy") for folder in (again, found["none"])]
            assert (values[0] == values[1]).all()
    one = run("--latents", found["zarr"] / "latents" / "a.zarr", *options, "infer.region=9,8,25,40", output="one")[2]
    region = np.load(one / "float" / "a-9-8-25-40.npy")
    assert abs(region - np.load(found["none"] / "float" / "a.npy")[9:25, 8:40]).max() <= 1e-5


def test_a_damaged_latent_folder_is_one_line(run, photographs):
    _, _, output = run("--input", photographs, "infer.latents=zarr")
    (output / "latents" / "a.zarr" / "structure" / "c" / "0" / "0" / "0").unlink()
    code, err, again = run("--latents", output / "latents", output="again")
    assert code == 1 and len(lines(err)) == 1 and "a.zarr: not a whole latent folder" in lines(err)[0]
    assert json.loads((again / "summary.json").read_text())["images"] == 2


def test_names_are_unique_whatever_the_files_are_called():
    files = [Path("in", name) for name in ("x.jpg", "x.png", "x.jpg.png", "y.png", "z/x.jpg")]
    names = unique_names(files, Path("in"))
    assert len(set(names.values())) == len(files)
    assert names[files[-1]].startswith("z/x")


def test_the_seed_of_saved_latents_is_kept(run, photographs):
    _, _, first = run("--input", photographs / "a.png", "infer.noise=field", "infer.seed=7")
    _, _, same = run("--latents", first / "latents", "infer.noise=field", output="same")
    _, _, other = run("--latents", first / "latents", "infer.noise=field", "infer.seed=8", output="other")
    pictures = [np.asarray(PIL.Image.open(folder / "reconstruction/a.png")) for folder in (first, same, other)]
    assert (pictures[0] == pictures[1]).all()
    assert (pictures[0] != pictures[2]).any()


def test_a_file_in_the_place_of_a_folder(run, photographs, tmp_path):
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "comparison").write_text("in the way")
    code, err, output = run("--input", photographs / "a.png")
    assert code == 1
    assert len(lines(err)) == 1
    assert not list(output.rglob(".tmp*"))


def test_termination_leaves_nothing_half_written(photographs, checkpoint, tmp_path):
    large = np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), np.uint8)
    PIL.Image.fromarray(large).save(photographs / "large.png")
    command = [sys.executable, infer.__file__, "--input", photographs / "large.png", "--output", tmp_path / "output"]
    command += ["--checkpoint", checkpoint, "infer.block=8"]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    while not list((tmp_path / "output").rglob("latents.safetensors")):
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    assert "the same command goes on" in process.communicate(timeout=20)[0]
    assert process.returncode == 143
    assert not list((tmp_path / "output").rglob(".tmp*"))
    assert {path.name for path in (tmp_path / "output").iterdir()} == {"metrics.csv", "summary.json", ".unfinished"}
    assert json.loads((tmp_path / "output" / "summary.json").read_text())["images"] == 0


def bomb(path):
    """A PNG header of 20,000 x 20,000 pixels and as many zeros, in about a megabyte."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = bytes(60_001)
    deflate = zlib.compressobj(9)
    data = b"".join(deflate.compress(row) for _ in range(2_000)) + deflate.flush()
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))


def test_bad_images_are_named_and_the_others_are_done(run, photographs):
    (photographs / "text.png").write_text("this is a text file")
    (photographs / "empty.jpg").write_bytes(b"")
    whole = (photographs / "more" / "B.JPG").read_bytes()
    (photographs / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    bomb(photographs / "bomb.png")
    code, err, output = run("--input", photographs)
    assert code == 1
    assert len(lines(err)) == 4
    for name in ("text.png", "empty.jpg", "truncated.jpg", "bomb.png"):
        assert sum(name in line for line in lines(err)) == 1
    assert json.loads((output / "summary.json").read_text())["images"] == 3
    assert set(json.loads((output / "summary.json").read_text())["failed"]) == {"text", "empty", "truncated", "bomb"}
    assert len(list((output / "reconstruction").rglob("*.png"))) == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--input", "{tmp}/nowhere"], "no such file or folder"),
        (["--input", "{images}", "--output", "{images}/a.png"], "--output"),
        (["--input", "{images}", "--output", "{images}"], "is the input folder"),
        (["--input", "{tmp}/empty"], "no JPEG, PNG"),
        (["--latents", "{tmp}/empty"], "no .safetensors"),
        (["--input", "{images}", "infer.block=7"], "smaller than one latent cell of this checkpoint; at least 8"),
        (["--input", "{images}", "infer.block=0"], "infer.block"),
        (["--input", "{images}", "infer.blok=8"], "infer.block"),
        (["--input", "{images}", "infer.seed=x"], "infer.seed"),
        (["--input", "{images}", "infer.format=gif"], "infer.format"),
        (["--input", "{images}", "infer.comparison=maybe"], "auto | true | false"),
        (["--input", "{images}", "infer.latents=npy"], "infer.latents"),
        (["--input", "{tmp}/none.zarr"], "latents are given as --latents"),
        (["--latents", "{tmp}/none.zarr"], "no such file or folder"),
        (["--input", "{images}", "infer.region=0,0,8,8"], "give --latents"),
        (["--latents", "{images}", "infer.region=0,0,8"], "four whole numbers"),
        (["--latents", "{images}", "infer.region=[0,8,8,8]"], "four whole numbers"),
        (["--input", "{images}", "model.stages=3"], "model"),
        (["--input", "{images}", "--config", "{tmp}/typo.yaml"], "typo.yaml"),
        (["--input", "{images}", "infer.device=cuda:99"], "cuda:99"),
        (["--input", "{images}", "--checkpoint", "{tmp}/none.safetensors"], "none.safetensors"),
        (["--input", "{images}", "--checkpoint", "{tmp}/text.safetensors"], "text.safetensors"),
        (["--input", "{images}", "--checkpoint", "{tmp}/other.safetensors"], "another architecture"),
        (["--input", "{images}", "--checkpoint", "{tmp}/generator.safetensors"], "holds no encoder"),
        (["--input", "{images}", "--checkpoint", "{tmp}/foreign.safetensors"], "foreign.safetensors"),
    ],
)  # fmt: skip
def test_a_wrong_command_gets_one_line(run, photographs, tmp_path, arguments, said):
    (tmp_path / "empty").mkdir()
    (tmp_path / "typo.yaml").write_text("infer:\n  sead: 3\n")
    (tmp_path / "text.safetensors").write_text("no weights")
    inverter = tiny_inverter()
    export(tmp_path / "generator.safetensors", inverter.model, {"generator": inverter.generator}, 0)
    inverter.model["local_dim"] = 7
    write_inverter(tmp_path / "other.safetensors", inverter)
    save_file({"a": inverter.encoder.project[0].bias.data}, tmp_path / "foreign.safetensors")
    code, err, output = run(*(text.format(tmp=tmp_path, images=photographs) for text in arguments))
    assert code == 2
    assert len(lines(err)) == 1
    assert said in lines(err)[0]
    assert not output.exists()


def test_latents_of_other_weights_are_refused(run, photographs, tmp_path):
    _, _, first = run("--input", photographs / "a.png")
    other = tiny_inverter()
    other.encoder.project[0].bias.data += 1
    write_inverter(tmp_path / "changed.safetensors", other)
    code, err, _ = run("--latents", first / "latents" / "a.safetensors", given=tmp_path / "changed.safetensors")
    assert code == 1
    assert "encoded by the weights" in lines(err)[0]
