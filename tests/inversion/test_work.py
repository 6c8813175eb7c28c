"""Runs that stop at any moment go on, and workers share a run: the files are those of one undisturbed run."""

import fcntl
import json
import os
import resource
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import PIL.Image
import pytest

import infer
from images.reading import ImageError
from inversion import outputs
from inversion.latents import LatentStore
from tests.conftest import lines
from utils.errors import UserError

ROOT = Path(__file__).parents[2]
OPTIONS = ["infer.dtype=float32", "infer.block=16", "infer.noise=field"]
SIZES = {"a.png": (70, 90), "more/b.jpg": (48, 33), "tiny.png": (1, 1)}
FLOATS = ["infer.save_float=true", "infer.latents=zarr", "infer.format=tiff"]


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    (folder / "more").mkdir(parents=True)
    random = np.random.default_rng(0)
    for name, size in SIZES.items():
        PIL.Image.fromarray(random.integers(0, 256, (*size, 3), np.uint8)).save(folder / name)
    return folder


@pytest.fixture
def run(command, monkeypatch):
    """Runs infer.py, where images of more than 100 pixels are drawn on disk: exit code, stderr, output folder."""
    monkeypatch.setattr(outputs, "RESUMABLE", 100)
    return partial(command, infer.main, *OPTIONS)


def results(folder):
    """The content of all results; figures hold times, and are left out."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    assert not [name for name in found if ".tmp-" in name or ".unfinished" in name]
    return {name: path.read_bytes() for name, path in found.items() if name not in ("metrics.csv", "summary.json")}


def images(output):
    """How many images the summary counts."""
    return json.loads((output / "summary.json").read_text())["images"]


def stopping(monkeypatch, count, error=KeyboardInterrupt):
    """Lets the run stop at the `count`th block that is written; returns the numbers of blocks so far."""
    written = []
    write = outputs.Pixels.write

    def stop(pixels, region, block):
        written.append(region)
        if len(written) == count:
            raise error
        write(pixels, region, block)

    monkeypatch.setattr(outputs.Pixels, "write", stop)
    return written


def programs(*arguments):
    """The exit codes of runs in processes of their own, and what they said."""
    command = [sys.executable, "-m", "tests.infer_runs", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    *said, codes = done.stdout.splitlines()
    return json.loads(codes), "\n".join(said), done.stderr


def test_images_on_disk_are_those_in_memory(command, run, photographs):
    disk = run("--input", photographs, *FLOATS, output="disk")[2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outputs, "RESUMABLE", 10**6)
        memory = run("--input", photographs, *FLOATS, output="memory")[2]
    assert results(disk) == results(memory) and len(results(disk)) > 12


@pytest.mark.parametrize("count", [1, 2, 17, 31, 40])
def test_an_interrupted_run_goes_on(run, photographs, monkeypatch, count):
    whole = run("--input", photographs, output="whole")[2]
    with monkeypatch.context() as patch:
        before = stopping(patch, count)
        code, _, output = run("--input", photographs)
    assert code == 130 and count <= len(before) <= count + 2  # two blocks may wait to be written
    assert images(output) == (0 if count <= 30 else 1 if count < 40 else 2)
    with monkeypatch.context() as patch:
        after = stopping(patch, 10**6)
        code, _, output = run("--input", photographs)
    # 30 blocks of a, 9 of b, one of the tiny image, which is in memory
    assert code == 0 and 39 - count <= len(after) <= 41 - count
    assert results(output) == results(whole) and images(output) == 3


def test_a_result_that_was_deleted_is_made_again_even_if_that_is_stopped(run, photographs, monkeypatch):
    """The record of the image's first result must not make its unfinished latents count as done."""
    options = ["--input", photographs, "infer.latents=zarr"]
    whole = run(*options, output="whole")[2]
    with monkeypatch.context() as patch:
        stopping(patch, 35)
        output = run(*options)[2]
    shutil.rmtree(output / "latents" / "a.zarr")
    for error in (KeyboardInterrupt, None):
        with monkeypatch.context() as patch:
            if error:
                patch.setattr(LatentStore, "write", Mock(side_effect=error))
            code = run(*options)[0]
    assert code == 0 and results(output) == results(whole)


@pytest.mark.parametrize(("error", "kept"), [(OSError(5, "Input/output error"), True), (OSError("broken"), False)])
def test_an_error_of_the_disk_keeps_what_is_done_and_damage_does_not(run, photographs, monkeypatch, error, kept):
    def damaged(image, *window):
        raise ImageError("a.png", "cannot be read") from error

    with monkeypatch.context() as patch:
        patch.setattr("infer.measure", damaged)
        code, err, output = run("--input", photographs / "a.png")
    assert code == 1 and len(lines(err)) == 1
    assert bool(list(output.rglob("pixels.zarr"))) == kept


def test_what_goes_on_is_said(run, photographs, monkeypatch, capsys):
    said = []
    monkeypatch.setattr("inversion.work.log.info", lambda text, main=True: said.append(text))
    monkeypatch.setattr("infer.log.info", lambda text, main=True: said.append(text))
    with monkeypatch.context() as patch:
        stopping(patch, 35)
        run("--input", photographs)
    assert said[-1] == "note: stopped; the same command goes on from here"
    said.clear()
    run("--input", photographs)
    assert said[0] == "note: going on with an unfinished run: 1 of 3 images done"
    assert [text.split()[0] for text in said[1:]] == ["more/b", "tiny", "3"]


CHANGES = {
    "settings": lambda folder: ["infer.seed=5"],
    "blocks": lambda folder: ["infer.block=24"],
    "input": lambda folder: PIL.Image.new("RGB", (90, 70), "red").save(folder / "a.png") or [],
    "touched input": lambda folder: os.utime(folder / "a.png", ns=(1, 1)) or [],
    "result": lambda folder: (folder.parent / "output" / "reconstruction" / "a.png").unlink() or [],
    "nothing": lambda folder: [],
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_has_changed_is_done_anew(run, photographs, monkeypatch, change):
    with monkeypatch.context() as patch:
        stopping(patch, 35)
        _, _, output = run("--input", photographs)
    assert (output / "reconstruction" / "a.png").exists()
    options = CHANGES[change](photographs)
    with monkeypatch.context() as patch:
        written = stopping(patch, 10**6)
        run("--input", photographs, *options)
    assert (len(written) > 16) == (change != "nothing")
    assert results(output) == results(run("--input", photographs, *options, output="whole")[2])


def test_a_complete_run_is_done_anew(run, photographs, monkeypatch):
    for _ in range(2):
        with monkeypatch.context() as patch:
            written = stopping(patch, 10**6)
            _, _, output = run("--input", photographs)
        assert len(written) == 40 and not (output / ".unfinished").exists()


def test_latents_are_drawn_on_too(run, photographs, monkeypatch):
    _, _, first = run("--input", photographs, output="first")
    whole = run("--latents", first / "latents", output="whole")[2]
    with monkeypatch.context() as patch:
        stopping(patch, 20)
        assert run("--latents", first / "latents")[0] == 130
    code, _, output = run("--latents", first / "latents")
    assert code == 0 and results(output) == results(whole)


def test_a_full_disk_is_one_line_and_the_work_stays(run, photographs, monkeypatch):
    whole = run("--input", photographs / "a.png", output="whole")[2]
    with monkeypatch.context() as patch:
        stopping(patch, 20, UserError("cannot write pixels: No space left on device"))
        code, err, output = run("--input", photographs / "a.png")
    assert code == 1 and len(lines(err)) == 1 and "No space left" in lines(err)[0]
    with monkeypatch.context() as patch:
        written = stopping(patch, 10**6)
        assert run("--input", photographs / "a.png")[0] == 0
    assert len(written) <= 30 - 19 and results(output) == results(whole)


def test_a_file_system_that_refuses(run, photographs):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
        code, err, output = run("--input", photographs / "a.png", "infer.block=70")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 1 and len(lines(err)) == 1 and "MiB free" in lines(err)[0]
    assert not list(output.rglob(".tmp*")) and not list(output.rglob("*.png"))


def test_two_runs_do_not_share_a_folder(run, photographs, tmp_path):
    (tmp_path / "output").mkdir()
    handle = os.open(tmp_path / "output", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    code, err, _ = run("--input", photographs)
    assert code == 2 and lines(err) == [f"error: --output {tmp_path / 'output'}: another run is writing there"]
    os.close(handle)
    assert run("--input", photographs)[0] == 0


def arguments(source, output, checkpoint, *options):
    given = ["--input", source, "--output", output, "--checkpoint", checkpoint, "infer.device=cpu"]
    return [*map(str, given), *OPTIONS, *FLOATS, *options]


def test_a_run_that_is_killed_at_random_moments(photographs, checkpoint, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert programs("workers", 1, *arguments(photographs, whole, checkpoint, "infer.block=8"))[0] == [0]
    codes, _, _ = programs("kill", 3, *arguments(photographs, killed, checkpoint, "infer.block=8"))
    assert codes[-1] == 0 and codes.count(-9) >= 2
    assert results(killed) == results(whole)


@pytest.mark.parametrize("source", ["a.png", "."])
def test_two_workers_write_what_one_does(photographs, checkpoint, tmp_path, source):
    (photographs / "broken.png").write_text("no image")
    broken = [] if source == "." else photographs / "broken.png"
    output = {count: tmp_path / str(count) for count in (1, 2)}
    for count, folder in output.items():
        codes, said, err = programs("workers", count, *arguments(photographs / source, folder, checkpoint))
        assert codes == [0 if broken else 1] * count
        assert len(said.splitlines()) == (2 if broken else 4)
        assert len(lines(err)) == (0 if broken else 1)
    assert results(output[1]) == results(output[2])
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in output.values()]
    assert summaries[0]["failed"] == summaries[1]["failed"] and summaries[0]["images"] == summaries[1]["images"]
    names = [(folder / "metrics.csv").read_text().split(",")[0::7] for folder in output.values()]
    assert names[0][0] == names[1][0]


def test_an_image_that_fails_fails_in_all_workers(photographs, checkpoint, tmp_path):
    (photographs / "broken.png").write_text("no image")
    codes, _, err = programs("workers", 2, *arguments(photographs / "broken.png", tmp_path / "output", checkpoint))
    assert codes == [1, 1] and len(lines(err)) == 1 and "broken.png" in err
    assert not (tmp_path / "output" / ".unfinished").exists()


def test_a_lost_worker(photographs, checkpoint, tmp_path):
    """The others say so; one worker alone goes on with what both have done."""
    whole, output = tmp_path / "whole", tmp_path / "output"
    codes, _, err = programs("lose", 2, *arguments(photographs / "a.png", output, checkpoint))
    assert codes == [1, -9] and lines(err) == ["error: another worker was lost; start again to go on"]
    assert images(output) == 0 and (output / ".unfinished").exists()
    for folder in (output, whole):
        assert programs("workers", 1, *arguments(photographs / "a.png", folder, checkpoint))[0] == [0]
    assert results(output) == results(whole)
