"""prepare_data.py: what it stores, splits and leaves out, and how it fails."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import lmdb
import numpy as np
import PIL.Image
import pytest

import prepare_data
from datasets.sources import FolderSource, open_source
from datasets.splits import refuse_shared
from utils.errors import run_command
from utils.files import DiskFailure

ROOT = Path(__file__).parents[1]
COUNT = 7  # photographs


@pytest.fixture
def photos(tmp_path):
    """Six PNGs of 30 x 40, two of them the same, and a JPEG of 60 x 30 in a folder."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for number in range(6):
        values = np.random.default_rng(number % 5).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        PIL.Image.fromarray(values).save(folder / f"{number}.png")
    PIL.Image.new("RGB", (30, 60), (200, 100, 50)).save(folder / "more" / "portrait.jpg")
    return folder


@pytest.fixture(autouse=True)
def opened(monkeypatch):
    """The labels of the images that are decoded by this process, which is then alone; `opened.fail` ends it at one."""
    found, decode = SimpleNamespace(labels=[], fail={}), FolderSource.open

    def open_counted(self, index, max_pixels):
        found.labels.append(self.label(index))
        if error := found.fail.pop(self.label(index), None):
            raise error
        return decode(self, index, max_pixels)

    monkeypatch.setattr(FolderSource, "open", open_counted)
    monkeypatch.setattr(prepare_data, "usable_cores", lambda: 0)
    return found


@pytest.fixture
def run(photos, tmp_path):
    """Runs the command, by default with the photographs; returns the exit code."""

    def start(*options, given=(), output="set"):
        arguments = ["--input", *(given or [photos]), "--output", tmp_path / output, *options]
        return run_command(prepare_data.main, [str(each) for each in arguments])

    return start


def sources(folder):
    """Those of both sides, and the labels of all their images."""
    found = [open_source(folder / side) for side in ("train", "valid")]
    return *found, sorted(source.label(index) for source in found for index in range(len(source)))


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_command_runs_and_files_are_stored_as_they_are(photos, tmp_path):
    out = tmp_path / "set"
    arguments = ["--input", str(photos), "--output", str(out), "--val-fraction", "0.3"]
    done = subprocess.run(
        [sys.executable, "prepare_data.py", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    train, valid, labels = sources(out)
    assert done.stdout.splitlines() == [f"{out}/train: {len(train)} images", f"{out}/valid: {len(valid)} images"]
    assert labels == [*(f"{number}.png" for number in range(6)), "more/portrait.jpg"]
    for source in (train, valid):
        for index in range(len(source)):
            assert source.read(index) == (photos / source.label(index)).read_bytes()
    assert len({"0.png", "5.png"} & {train.label(index) for index in range(len(train))}) in (0, 2)  # the same image
    refuse_shared(train, valid)
    assert sorted(os.listdir(out)) == ["train", "valid"]


def test_several_inputs(photos, tmp_path, run):
    """Folders, files, a zip and LMDBs, each image once; a folder may be nothing but links."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "link").symlink_to(photos / "more")
    PIL.Image.new("RGB", (9, 9), "blue").save(tmp_path / "name=1.jfif", "JPEG")
    inputs = [tmp_path / "other", photos / "1.png", tmp_path / "name=1.jfif", photos / "1.png"]
    assert run("--input", photos / "2.png", given=inputs) == 0
    *_, labels = sources(tmp_path / "set")
    assert labels == ["link/portrait.jpg", "name=1.jfif", "photos/1.png", "photos/2.png"]
    assert run(given=[tmp_path / "set" / "train", tmp_path / "set" / "valid"], output="again") == 0
    assert sources(tmp_path / "again")[2] == labels
    archive = shutil.make_archive(str(tmp_path / "photos"), "zip", photos)
    assert run("--size", 20, given=[archive], output="zip") == run("--size", 20, output="folder") == 0
    assert contents(tmp_path / "zip") == contents(tmp_path / "folder")


def test_size_gives_the_public_layout(tmp_path, run):
    assert run("--size", 20) == 0
    for source in sources(tmp_path / "set")[:2]:
        folder = str(source.folder)
        with lmdb.open(folder, readonly=True, lock=False) as environment, environment.begin() as transaction:
            assert int(transaction.get(b"length")) == len(source)
            assert transaction.get(b"20-00000000").startswith(b"\x89PNG")
        for index in range(len(source)):
            image = source.open(index, 10**6)
            if source.label(index) == "more/portrait.jpg":
                assert abs(image.window(0, 0, 40, 20).astype(int) - [200, 100, 50]).max() <= 3
            else:
                assert (image.height, image.width) == (20, 27)


def test_images_that_cannot_be_used_are_named_and_left_out(photos, tmp_path, capsys, run):
    (photos / "cut.png").write_bytes((photos / "1.png").read_bytes()[:1000])
    (photos / "text.jpg").write_text("no pixels")
    PIL.Image.new("RGB", (1, 900)).save(photos / "strip.png")
    assert run("--size", 20, "--max-pixels", 10**4) == 1
    said = capsys.readouterr().err
    assert said.count("left out:") == 3 and "cut.png" in said and "text.jpg" in said
    assert "strip.png: resized to 18000 x 20" in said
    assert len(sources(tmp_path / "set")[2]) == COUNT


def test_wrong_arguments(tmp_path, capsys, run):
    (tmp_path / "file").write_text("x")
    for options, said in (
        (["--size", "0"], "--size 0"),
        (["--size", "9999999"], "--size=9999999: even a square"),
        (["--val-fraction", "1"], "--val-fraction 1.0"),
        (["--max-pixels", "0"], "--max-pixels 0"),
        (["--input", "/nowhere/at/all"], "no such folder"),
        (["--output", tmp_path / "file" / "set"], "cannot write"),
    ):
        assert run(*options) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and said in err and not (tmp_path / "set").exists()
    (tmp_path / "set" / "valid").mkdir(parents=True)
    assert run() == 2 and "exists already" in capsys.readouterr().err
    assert os.listdir(tmp_path / "set") == ["valid"]


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (SystemExit(143), 143)])
def test_a_run_that_was_stopped_goes_on(photos, tmp_path, run, opened, error, code):
    """What was decoded is not decoded again, the results are those of one run, and nothing else is left."""
    assert run("--size", 20, output="straight") == 0
    every = sorted(opened.labels)
    assert every == sources(tmp_path / "straight")[2]  # each once
    opened.labels.clear()
    opened.fail["4.png"] = error
    assert run("--size", 20) == code and os.listdir(tmp_path / "set") == [".unfinished"]
    assert run("--size", 20) == 0
    assert sorted(opened.labels) == sorted([*every, "4.png"])
    assert contents(tmp_path / "set") == contents(tmp_path / "straight")
    assert sorted(os.listdir(tmp_path / "set")) == ["train", "valid"]
    shutil.rmtree(tmp_path / "set" / "valid")  # as between its last two steps: one side is in its place already
    (tmp_path / "set" / ".unfinished").mkdir()
    assert run("--size", 20) == 0
    assert contents(tmp_path / "set") == contents(tmp_path / "straight")


def test_what_was_kept_is_used_as_it_was_written_or_not_at_all(tmp_path, run, opened):
    assert run("--size", 20, output="straight") == 0
    opened.fail["4.png"] = KeyboardInterrupt()
    assert run("--size", 20) == 130
    kept = sorted((tmp_path / "set" / ".unfinished").iterdir())
    content = bytearray(kept[0].read_bytes())
    content[-20] ^= 1
    kept[0].write_bytes(content)
    kept[1].write_bytes(b"")
    opened.labels.clear()
    assert run("--size", 20) == 0 and len(opened.labels) == COUNT - len(kept) + 2
    assert contents(tmp_path / "set") == contents(tmp_path / "straight")


def test_an_unfinished_folder_that_is_a_link_is_not_followed(tmp_path, run):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "valid").write_text("x")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / ".unfinished").symlink_to(tmp_path / "precious")
    assert run("--size", 20) == 0
    assert contents(tmp_path / "precious") == {Path("valid"): b"x"}


def test_other_options_and_changed_files_are_not_gone_on_with(photos, tmp_path, run, opened):
    for number in range(2):
        opened.labels.clear()
        opened.fail["4.png"] = KeyboardInterrupt()
        assert run("--size", 20) == 130
        PIL.Image.new("RGB", (40, 30), (number, 0, 0)).save(photos / "1.png")
    assert opened.labels == ["1.png", "4.png"]
    opened.labels.clear()
    assert run("--size", 21) == 0
    assert len(opened.labels) == COUNT and sorted(os.listdir(tmp_path / "set")) == ["train", "valid"]


@pytest.mark.parametrize("size", [[], ["--size", 20]])
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(tmp_path, monkeypatch, capsys, run, size):
    with monkeypatch.context() as patch:
        patch.setattr(prepare_data, "describe", Mock(side_effect=lmdb.MapFullError("no room")))
        assert run(*size) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: cannot write {tmp_path / 'set'}: no room (") and line.endswith("MiB free)")
    assert os.listdir(tmp_path / "set") == [".unfinished"]
    assert run(*size) == 0
    assert sorted(os.listdir(tmp_path / "set")) == ["train", "valid"]


def test_a_disk_that_is_full_for_a_worker_is_one_line(monkeypatch, capsys, run):
    monkeypatch.setattr(prepare_data, "usable_cores", lambda: 2)
    monkeypatch.setattr(prepare_data, "atomic_path", Mock(side_effect=DiskFailure("cannot write x: no space")))
    assert run("--size", 20) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "cannot write" in line]
    assert line == "error: cannot write x: no space"


@pytest.mark.parametrize("size", [[], ["--size", 20]])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_the_number_of_processes_changes_nothing(photos, tmp_path, monkeypatch, capsys, run, size):
    (photos / "text.jpg").write_text("no pixels")
    for cores in (0, 3):
        monkeypatch.setattr(prepare_data, "usable_cores", lambda: cores)  # noqa: B023 (called before the next one)
        assert run(*size, output=str(cores)) == 1
        assert capsys.readouterr().err.count("left out: ") == 1
    assert contents(tmp_path / "0") == contents(tmp_path / "3")


def test_without_validation(photos, tmp_path, run):
    """Also of one photograph."""
    one = [photos / "more"]
    assert run(given=one) == 2
    assert run("--val-fraction", 0, given=one) == 0
    assert os.listdir(tmp_path / "set") == ["train"] and len(open_source(tmp_path / "set" / "train")) == 1
