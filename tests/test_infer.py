"""infer.py as a user calls it: what it writes, what it never writes onto, and the one line for each wrong input."""

import csv
import json
import os
import shutil
import subprocess
import sys
from functools import partial

import numpy as np
import PIL.Image
import pytest
import tifffile
import torch
from PIL.ExifTags import IFD, Base
from safetensors.torch import load_file
from skimage.metrics import peak_signal_noise_ratio

import infer
from images import reading
from images.reading import open_image
from inversion import refinement
from inversion.latents import Latents
from inversion.tiling import Tiling
from models.weights import export
from tests.conftest import lines
from tests.inversion.conftest import photograph, tiny_inverter

NAMES = {"a": (37, 61), "more/B": (64, 20), "tiny": (1, 1)}  # of the photographs, and their heights and widths
EXACT = ["infer.save_float=true", "infer.dtype=float32"]


@pytest.fixture
def run(command):
    """Runs infer.py; returns the exit code, what it printed to stderr, and the output folder."""
    return partial(command, infer.main)


def png(path):
    return np.asarray(PIL.Image.open(path)).astype(int)


def latents(output):
    return {path.stem: load_file(path) for path in sorted((output / "latents").rglob("*.safetensors"))}


def mean_psnr(output):
    return json.loads((output / "summary.json").read_text())["mean"]["psnr"]


def test_a_folder_of_photographs(run, photographs):
    code, err, output = run("--input", photographs, *EXACT)
    assert code == 0, err
    for name, (height, width) in NAMES.items():
        result = png(output / f"reconstruction/{name}.png")
        assert result.shape == (height, width, 3)
        assert png(output / f"comparison/{name}.png").shape == (height, 3 * width, 3)
        values = np.load(output / f"float/{name}.npy")
        assert values.dtype == np.float32
        assert (np.clip(np.rint((values + 1) * 127.5), 0, 255) == result).all()
        latents = load_file(output / f"latents/{name}.safetensors")
        assert latents["structure"].shape[0] == 5
        assert latents["global"].shape == (6,)
    with open(output / "metrics.csv") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert set(rows) == set(NAMES) and all(float(row["peak_memory_mib"]) > 0 for row in rows.values())
    pictures = png(photographs / "a.png"), png(output / "reconstruction/a.png")
    expected = peak_signal_noise_ratio(*pictures, data_range=255)
    assert float(rows["a"]["psnr"]) == pytest.approx(expected, abs=1e-3)
    summary = json.loads((output / "summary.json").read_text())
    assert summary["images"] == 3 and summary["failed"] == {}
    assert mean_psnr(output) == pytest.approx(np.mean([float(row["psnr"]) for row in rows.values()]))


def table(output):
    with open(output / "metrics.csv", newline="", encoding="utf-8") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def test_several_inputs(run, photographs, tmp_path, monkeypatch):
    """Files and folders, given again, among options, and called like an option."""
    (tmp_path / "other").mkdir()
    shutil.copy(photographs / "tiny.png", tmp_path / "other" / "a.png")
    shutil.copy(photographs / "tiny.png", tmp_path / "block=9.png")
    monkeypatch.chdir(tmp_path)
    inputs = ["photographs/a.png", "other", "comparison=false", "--input", "photographs/more", "./block=9.png"]
    code, err, output = run("--input", *inputs, "latents=none")
    assert code == 0 and not err and not (output / "comparison").exists() and not (output / "latents").exists()
    assert set(table(output)) == {"photographs/a", "other/a", "B", "block=9"}
    assert png(output / "reconstruction" / "other" / "a.png").shape == (1, 1, 3)
    code, err, _ = run("--input", "block=9.png", output="none")
    assert code == 2 and lines(err) == [err.strip()] and "give it as ./block=9.png" in err
    code, err, _ = run("--input", "photographs", "block=9.png", output="none")
    assert code == 2 and lines(err) == [err.strip()] and "(a file is given as ./block=9.png): infer.block" in err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("place", ["photographs/results", "."])
def test_results_inside_the_input_folder_or_around_it(run, photographs, place):
    for _ in range(2):  # results are not inverted again
        code, _, output = run("--input", photographs, output=place)
        assert code == 0 and json.loads((output / "summary.json").read_text())["images"] == 3


def test_a_region_is_that_of_the_whole(run, photographs):
    _, _, whole = run("--input", photographs, *EXACT, "infer.noise=field")
    files = [whole / "latents" / "a.safetensors", whole / "latents" / "more"]
    for block, region in (("whole", (13, 2, 31, 20)), (8, (36, 19, 37, 20))):
        top, left, bottom, right = region
        options = f"infer.region={top},{left},{bottom},{right}", f"infer.block={block}"
        code, _, output = run("--latents", *files, *options, *EXACT, output="region")
        assert code == 0 and len(table(output)) == 2 * (1 if block == "whole" else 2)
        for name in ("a", "B"):
            drawn = np.load(output / "float" / f"{name}-{'-'.join(map(str, region))}.npy")
            expected = np.load(whole / "float" / f"{'a' if name == 'a' else 'more/B'}.npy")[top:bottom, left:right]
            assert drawn.shape == expected.shape and abs(drawn - expected).max() <= 1e-5
    code, err, _ = run("--latents", whole / "latents", "region=0,0,38,20", output="region")
    assert code == 1 and len(lines(err)) == 2 and "[0, 0, 38, 20], but the image has 37 x 61" in err


@pytest.mark.parametrize(("kind", "suffix"), [("jpeg", ".jpg"), ("tiff", ".tif"), ("dzi", ".dzi")])
def test_pictures_of_each_format(run, photographs, kind, suffix):
    code, err, output = run("--input", photographs / "a.png", "infer.save_float=true", f"infer.format={kind}")
    assert code == 0, err
    for folder, width in (("comparison", 3 * 61), ("reconstruction", 61)):
        assert [path.name for path in (output / folder).iterdir() if path.is_file()] == [f"a{suffix}"]
        if kind == "dzi":
            assert f'Width="{width}"' in (output / folder / "a.dzi").read_text()
            assert (output / folder / "a_files" / "0" / "0_0.jpg").exists()
            continue
        picture = png(output / folder / f"a{suffix}")
        assert picture.shape == (37, width, 3)
    if kind != "dzi":
        expected = np.clip(np.rint((np.load(output / "float" / "a.npy") + 1) * 127.5), 0, 255)
        assert abs(picture - expected).max() <= (40 if kind == "jpeg" else 0)


def test_a_picture_that_a_format_does_not_hold(run, photographs):
    """Only a comparison that nobody asked for is left out."""
    PIL.Image.new("RGB", (8192, 1)).save(photographs / "a.png")
    PIL.Image.new("RGB", (16_384, 1)).save(photographs / "tiny.png")
    code, err, output = run("--input", photographs, "infer.format=webp")
    assert code == 1 and len(lines(err)) == 1 and "webp holds edges of at most 16383 pixels" in lines(err)[0]
    assert [path.stem for path in (output / "comparison").rglob("*.*")] == ["B"]
    assert sorted(path.stem for path in (output / "reconstruction").rglob("*.*")) == ["B", "a"]
    code, err, _ = run("--input", photographs / "a.png", "infer.format=webp", "infer.comparison=true")
    assert code == 1 and "1 x 24576" in lines(err)[0]


def test_an_image_read_by_window_is_as_any_other(run, photographs, monkeypatch):
    pixels = photograph(90, 120)
    PIL.Image.fromarray(pixels).save(photographs / "plain.png")
    tifffile.imwrite(photographs / "tiled.tif", pixels, tile=(32, 16), photometric="rgb", compression="adobe_deflate")
    _, _, plain = run("--input", photographs / "plain.png", "infer.block=32", output="plain")
    monkeypatch.setattr(reading, "WINDOWED", 1000)
    code, err, tiled = run("--input", photographs / "tiled.tif", "infer.block=32", output="tiled")
    assert code == 0, err
    assert (png(tiled / "comparison" / "tiled.png") == png(plain / "comparison" / "plain.png")).all()
    assert (png(tiled / "reconstruction" / "tiled.png") == png(plain / "reconstruction" / "plain.png")).all()
    assert mean_psnr(tiled) == mean_psnr(plain)
    assert latents(tiled)["tiled"]["structure"].equal(latents(plain)["plain"]["structure"])


def test_latents_in_files_and_folders(run, photographs):
    options = ["infer.block=16", "infer.noise=field", *EXACT]
    none = run("--input", photographs, *options, "infer.latents=none", output="none")[2]
    assert not (none / "latents").exists()
    for kind in ("safetensors", "zarr"):
        first = run("--input", photographs, *options, f"infer.latents={kind}", output=kind)[2]
        assert sorted(path.suffix for path in (first / "latents").iterdir()) == ["", f".{kind}", f".{kind}"]
        code, err, again = run("--latents", first / "latents", *options, output="again")
        assert code == 0 and not err and not list(again.rglob(".*")) and not (again / "comparison").exists()
        for name in NAMES:
            assert (np.load(again / f"float/{name}.npy") == np.load(none / f"float/{name}.npy")).all()


def test_saved_latents_keep_their_noise_unless_another_is_asked_for(run, photographs):
    folders = [run("--input", photographs / "a.png", "infer.noise=field", "infer.seed=7")[2]]
    for number, options in enumerate([[], ["infer.noise=field", "infer.seed=8"], ["infer.noise=none"]]):
        folders.append(run("--latents", folders[0] / "latents", *options, output=str(number))[2])
    first, same, other, none = (png(folder / "reconstruction/a.png") for folder in folders)
    assert (first == same).all() and (first != other).any() and (first != none).any() and (other != none).any()


# What is written where a photograph, or whatever else is read, lies; `{r}`: the output folder of an earlier run.
OVERWRITING = {
    "folder of results": ["--input", "{r}/reconstruction"],
    "single result": ["--input", "{r}/reconstruction/a.png"],
    "comparison": ["--input", "{r}/comparison"],
    "dots": ["--input", "{r}/latents/../reconstruction/a.png"],
    "link": ["--input", "{tmp}/links/a.png"],
    "link to the folder": ["--input", "{tmp}/folder/a.png"],
    "hard link": ["--input", "{tmp}/hard/a.png"],
    "link in the place of a result": ["--input", "{tmp}/linked"],
    "tiles": ["--input", "{r}/reconstruction/a_files/a.png"],
    "latent files": ["--latents", "{r}/latents"],
    "latent file": ["--latents", "{r}/latents/a.safetensors"],
    "unfinished latents": ["--latents", "{r}/.unfinished/job/a.safetensors"],
    "output in a latent folder": ["--latents", "{tmp}/a.zarr", "--output", "{tmp}/a.zarr/results"],
    "checkpoint": ["--input", "{images}/a.png", "--checkpoint", "{r}/float/a.npy"],
    "config": ["--input", "{images}/a.png", "--config", "{r}/metrics.csv"],
    "base of a config": ["--input", "{images}/a.png", "--config", "{tmp}/on_it.yaml"],
    "one of several": ["--input", "{images}/more", "{r}/reconstruction/a.png"],
}


def test_no_input_is_written_onto(run, photographs, checkpoint, tmp_path):
    _, _, r = run("--input", photographs / "a.png", "infer.latents=zarr", output="zarr")
    shutil.move(r / "latents" / "a.zarr", tmp_path / "a.zarr")
    _, _, r = run("--input", photographs / "a.png", "infer.save_float=true")
    shutil.copy(checkpoint, r / "float" / "a.npy")
    (r / "metrics.csv").write_text("infer: {seed: 1}")
    (tmp_path / "on_it.yaml").write_text(f"base: {r}/metrics.csv")
    for place in ("a_files", "../.unfinished/job", "../../links", "../../hard", "../../linked"):
        (r / "reconstruction" / place).mkdir(parents=True)
    shutil.copy(photographs / "a.png", r / "reconstruction" / "a_files")
    shutil.copy(r / "latents" / "a.safetensors", r / ".unfinished" / "job")
    (tmp_path / "folder").symlink_to(r / "reconstruction")
    (tmp_path / "links" / "a.png").symlink_to(r / "reconstruction" / "a.png")
    os.link(r / "reconstruction" / "a.png", tmp_path / "hard" / "a.png")
    shutil.copy(photographs / "a.png", tmp_path / "linked" / "b.png")
    (r / "reconstruction" / "b.png").symlink_to(tmp_path / "linked" / "b.png")

    def everything():
        return {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}

    before = everything()
    for case, arguments in OVERWRITING.items():
        code, err, _ = run(*(text.format(r=r, tmp=tmp_path, images=photographs) for text in arguments))
        assert code == 2 and len(err.splitlines()) == len(lines(err)) == 1, case
        assert "would overwrite the input" in err and everything() == before, case


@pytest.fixture
def quick(monkeypatch):
    """The curvature is measured in a small window, and latents are refined in blocks of few cells."""
    monkeypatch.setattr(refinement, "WINDOW_CELLS", 1)
    monkeypatch.setattr(Tiling, "refined_edge", lambda tiling: 5)


def test_refined_results_are_nearer_to_the_photographs(run, quick, photographs):
    options = {"none": ["refine=0"], "6": ["refine=6"], "style": ["refine_style=10"]}
    outputs = {name: run("--input", photographs, *EXACT, *given, output=name)[2] for name, given in options.items()}
    quality = {name: mean_psnr(output) for name, output in outputs.items()}
    assert min(quality["6"], quality["style"]) > quality["none"]
    assert not torch.equal(*(latents(outputs[name])["a"]["global"] for name in ("none", "style")))


@pytest.mark.parametrize("options", [["infer.refine_prior=0.1", "infer.noise=field"], ["infer.refine_style=3"]])
def test_refined_latents_are_the_same_to_the_last_bit_in_any_blocks(run, quick, photographs, options):
    found, pixels = [], []
    for block in ("auto", "13"):
        arguments = ["--input", photographs, *EXACT, "infer.refine=3", f"infer.block={block}", *options]
        code, err, output = run(*arguments, output=block)
        assert code == 0, err
        found.append(latents(output))
        pixels.append({path.stem: np.load(path) for path in output.rglob("*.npy")})
    assert len(found[0]) == len(pixels[0]) == 3
    for name in found[0]:
        for part in ("structure", "global"):
            assert all(torch.equal(found[0][name][part], other[name][part]) for other in found[1:])
        assert max(abs(pixels[0][name] - other[name]).max() for other in pixels[1:]) <= 1e-5


def test_results_appear_together_or_not_at_all(run, photographs, monkeypatch):
    """The latents are the last ones."""

    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(Latents, "save", fail)
    code, err, output = run("--input", photographs / "a.png", "infer.format=dzi")
    assert code == 1 and len(lines(err)) == 1 and "a.png: out of memory" in lines(err)[0]
    assert {path.name for path in output.rglob("*") if path.is_file()} == {"metrics.csv", "summary.json"}


def test_bad_images_are_named_and_the_others_are_done(run, photographs):
    (photographs / "text.png").write_text("this is a text file")
    (photographs / "empty.jpg").write_bytes(b"")
    whole = (photographs / "more" / "B.JPG").read_bytes()
    (photographs / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    code, err, output = run("--input", photographs)
    assert code == 1 and len(lines(err)) == 3
    for name in ("text.png", "empty.jpg", "truncated.jpg"):
        assert sum(name in line for line in lines(err)) == 1
    summary = json.loads((output / "summary.json").read_text())
    assert summary["images"] == 3 and set(summary["failed"]) == {"text", "empty", "truncated"}
    assert len(list((output / "reconstruction").rglob("*.png"))) == 3


WRONG = [  # arguments, and what is said
    (["--input", "{tmp}/nowhere"], "no such file or folder"),
    (["--input", "{images}", "--output", "{images}/a.png"], "a.png"),
    (["--input", "{images}", "--output", "{images}"], "is the input folder"),
    (["--input", "{tmp}/empty"], "no JPEG, PNG"),
    (["--latents", "{tmp}/empty"], "no .safetensors"),
    (["--input", "{images}", "infer.block=7"], "a number of pixels from 8 on, one latent cell of this checkpoint"),
    (["--input", "{images}", "blok=8"], "block"),
    (["--input", "{images}", "infer.refine=-1"], "infer.refine"),
    (["--latents", "{images}", "infer.refine=3"], "--latents have none"),
    (["--input", "{tmp}/none.zarr"], "latents are given as --latents"),
    (["--latents", "{tmp}/none.zarr"], "no such file or folder"),
    (["--input", "{images}", "infer.region=0,0,8,8"], "give --latents"),
    (["--latents", "{images}", "infer.region=0,0,8"], "four whole numbers"),
    (["--latents", "{images}", "scale=1/3"], "allowed: 1, 1/2, 1/4"),
    (["--latents", "{images}", "scale=1/1e999"], "allowed: 1, 1/2, 1/4"),
    (["--input", "{images}", "model.stages=3"], "model"),
    (["--input", "{images}", "--config", "{tmp}/typo.yaml"], "typo.yaml"),
    (["--input", "{images}", "infer.device=cuda:99"], "cuda:99"),
    (["--input", "{images}", "--checkpoint", "{tmp}/none.safetensors"], "none.safetensors"),
    (["--input", "{images}", "--checkpoint", "{tmp}/text.safetensors"], "text.safetensors"),
    (["--input", "{images}", "--checkpoint", "{tmp}/generator.safetensors"], "holds no encoder"),
]


def test_a_wrong_command_gets_one_line(run, photographs, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "typo.yaml").write_text("infer:\n  sead: 3\n")
    (tmp_path / "text.safetensors").write_text("no weights")
    inverter = tiny_inverter()
    export(tmp_path / "generator.safetensors", inverter.model, {"generator": inverter.generator}, step=0)
    for arguments, said in WRONG:
        code, err, output = run(*(text.format(tmp=tmp_path, images=photographs) for text in arguments))
        assert code == 2 and len(lines(err)) == 1 and said in lines(err)[0], arguments
        assert not output.exists(), arguments


def write_photograph(path):
    """A photograph that is turned, taken in a camera at a place, with 300 pixels for an inch."""
    exif = PIL.Image.Exif()
    exif[Base.Make], exif[Base.Orientation] = "Maker", 6
    exif.get_ifd(IFD.GPSInfo)[1] = "N"
    PIL.Image.fromarray(photograph(40, 70)).save(path, exif=exif.tobytes(), dpi=(300, 300))
    return path


@pytest.mark.parametrize("kept", [True, False])
def test_a_photograph_is_kept_with_what_it_says_of_itself(run, tmp_path, kept):
    path = write_photograph(tmp_path / "a.jpg")
    code, err, output = run("--input", path, f"metadata={kept}".lower())
    assert code == 0, err
    with PIL.Image.open(output / "reconstruction/a.png") as picture:
        exif = picture.getexif()
        assert picture.size == (40, 70) and picture.info["srgb"] == 0
        assert (exif.get(Base.Make), exif.get(Base.Orientation)) == (("Maker", 1) if kept else (None, None))
        assert exif.get_ifd(IFD.GPSInfo).get(1) == ("N" if kept else None) and ("dpi" in picture.info) == kept


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_results_of_16_bits_come_from_floats(run, photographs, kind):
    code, err, output = run("--input", photographs / "a.png", "depth=16", f"format={kind}", *EXACT)
    assert code == 0, err
    path = next((output / "reconstruction").iterdir())
    values = np.load(output / "float/a.npy").astype(np.float64)
    found = open_image(path, 10**6).window_float(0, 0, *values.shape[:2])
    assert abs(found - values.clip(-1, 1)).max() <= 1.01 / 65535
    assert mean_psnr(output) and np.asarray(PIL.Image.open(next((output / "comparison").iterdir()))).dtype == np.uint8
    code, err, again = run("--latents", output / "latents", "depth=16", f"format={kind}", "dtype=float32", output="b")
    assert code == 0, err
    assert next((again / "reconstruction").iterdir()).read_bytes() == path.read_bytes()


def test_formats_of_8_bits_refuse_16(run, photographs):
    code, err, output = run("--input", photographs, "depth=16", "format=jpeg")
    assert code == 2 and len(lines(err)) == 1 and not output.exists()
    assert "infer.depth: 16, but jpeg holds 8 bits; allowed: infer.format=png|tiff|pyramid|auto" in err


@pytest.mark.parametrize("mode", ["RGB", "1"])
def test_grey_photographs_come_back_grey(run, tmp_path, mode):
    grey = PIL.Image.fromarray(photograph(40, 70)).convert("1" if mode == "1" else "L").convert(mode)
    path = tmp_path / "a.png"
    grey.save(path)
    code, err, output = run("--input", path, *EXACT)
    assert code == 0, err
    result = png(output / "reconstruction/a.png")
    assert (result == result[..., :1]).all() and np.ptp(result) > 0
    values = np.load(output / "float/a.npy")
    assert (values == values[..., :1]).all()
    code, err, again = run("--latents", output / "latents", "region=3,5,30,20", "dtype=float32", output="b")
    assert code == 0, err
    part = png(next((again / "reconstruction").iterdir()))
    np.testing.assert_array_equal(part, result[3:30, 5:20])


def test_names_that_are_no_text_in_any_locale(run, photographs, checkpoint, tmp_path):
    """Results have the same names, and all that is written is UTF-8."""
    names = {"a.png": b"caf\xe9.png", "tiny.png": "é → 👍.png".encode(), "more/B.JPG": b"more/\x1b[2J\n.jpg"}
    for name, new in names.items():
        os.rename(os.fsencode(photographs / name), os.fsencode(photographs) + b"/" + new)
    with open(os.fsencode(photographs) + b"/bad\xe9.png", "wb") as file:
        file.write(b"no image")
    command = [sys.executable, infer.__file__, "--input", photographs, "--output", tmp_path / "out", "device=cpu"]
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "OMP_NUM_THREADS": "1"}
    command += ["--checkpoint", checkpoint]
    done = subprocess.run(command, capture_output=True, env=os.environ | ascii_only)
    assert done.returncode == 1 and b"bad\\xe9.png" in done.stderr and done.stderr.count(b"\n") == 1
    assert b"\x1b" not in done.stdout
    picture = tmp_path / "out" / "reconstruction" / "é → 👍.png"
    written = picture.stat().st_mtime_ns
    assert run("--input", photographs, output="out")[0] == 1 and picture.stat().st_mtime_ns == written
    assert set(table(tmp_path / "out")) == {"caf\\xe9", "é → 👍", "more/\\x1b[2J\\n"}
    summary = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    json.dumps(summary, ensure_ascii=False).encode()
    assert list(summary["failed"]) == ["bad\\xe9"] and len(summary["finished"]) == 3
