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
from utils.errors import UserError, run_command
from utils.files import DiskFailure

ROOT = Path(__file__).parents[1]


@pytest.fixture
def photos(tmp_path):
    """Ten PNGs of 30 x 40, two of them the same, and a JPEG of 60 x 30 in a folder."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for number in range(10):
        values = np.random.default_rng(number % 9).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        PIL.Image.fromarray(values).save(folder / f"{number}.png")
    PIL.Image.new("RGB", (30, 60), (200, 100, 50)).save(folder / "more" / "portrait.jpg")
    return folder


def command(*arguments):
    return run_command(prepare_data.main, [str(each) for each in arguments])


def labels(source):
    return [source.label(index) for index in range(len(source))]


def test_the_command_runs(photos, tmp_path):
    arguments = [sys.executable, "prepare_data.py", "--input", str(photos), "--output", str(tmp_path / "set")]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{tmp_path}/set/train: 10 images", f"{tmp_path}/set/valid: 1 images"]


def test_several_inputs(photos, tmp_path):
    """Folders, files and LMDBs, each image once; a folder may be nothing but links."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "link").symlink_to(photos / "more")
    PIL.Image.new("RGB", (9, 9), "blue").save(tmp_path / "name=1.jfif", "JPEG")
    inputs = [tmp_path / "other", photos / "1.png", tmp_path / "name=1.jfif", photos / "1.png"]
    assert command("--input", *inputs, "--input", photos / "2.png", "--output", tmp_path / "set") == 0
    found = [open_source(tmp_path / "set" / side) for side in ("train", "valid")]
    assert sorted(sum(map(labels, found), [])) == ["link/portrait.jpg", "name=1.jfif", "photos/1.png", "photos/2.png"]
    assert command("--input", tmp_path / "set" / "train", tmp_path / "set" / "valid", "--output", tmp_path / "two") == 0
    again = [open_source(tmp_path / "two" / side) for side in ("train", "valid")]
    assert sorted(sum(map(labels, again), [])) == sorted(sum(map(labels, found), []))


def test_files_are_stored_as_they_are(photos, tmp_path):
    out = tmp_path / "set"
    assert command("--input", photos, "--output", out, "--val-fraction", 0.3) == 0
    train, valid = open_source(out / "train"), open_source(out / "valid")
    assert sorted(labels(train) + labels(valid)) == [*(f"{number}.png" for number in range(10)), "more/portrait.jpg"]
    for source in (train, valid):
        for index, label in enumerate(labels(source)):
            assert source.read(index) == (photos / label).read_bytes()
    assert len({"0.png", "9.png"} & set(labels(train))) in (0, 2)  # the same image
    refuse_shared(train, valid)
    assert sorted(os.listdir(out)) == ["train", "valid"]


def test_size_gives_the_public_layout(photos, tmp_path):
    out = tmp_path / "set"
    assert prepare_data.main(["--input", str(photos), "--output", str(out), "--size", "20"]) == 0
    train = open_source(out / "train")
    with lmdb.open(str(out / "train"), readonly=True, lock=False) as environment, environment.begin() as transaction:
        assert int(transaction.get(b"length")) == len(train)
        assert transaction.get(b"20-00000000").startswith(b"\x89PNG")
    index = labels(train).index("more/portrait.jpg") if "more/portrait.jpg" in labels(train) else None
    sizes = {(train.open(each, 10**6).height, train.open(each, 10**6).width) for each in range(len(train))}
    assert sizes <= {(20, 27), (40, 20)}
    if index is not None:
        shown = train.open(index, 10**6).window(0, 0, 40, 20).astype(int)
        assert np.abs(shown - [200, 100, 50]).max() <= 3


def test_damaged_images_are_named_and_left_out(photos, tmp_path, capsys):
    (photos / "cut.png").write_bytes((photos / "1.png").read_bytes()[:1000])
    (photos / "text.jpg").write_text("no pixels")
    assert command("--input", photos, "--output", tmp_path / "set") == 1
    said = capsys.readouterr().err
    assert said.count("left out:") == 2 and "cut.png" in said and "text.jpg" in said
    stored = labels(open_source(tmp_path / "set" / "train")) + labels(open_source(tmp_path / "set" / "valid"))
    assert len(stored) == 11 and "cut.png" not in stored


def test_what_grows_too_large_is_named_and_left_out(photos, tmp_path, capsys):
    PIL.Image.new("RGB", (1, 900)).save(photos / "strip.png")
    out = tmp_path / "set"
    assert command("--input", photos, "--output", out, "--size", 20, "--max-pixels", 10**4) == 1
    said = capsys.readouterr().err
    assert said.count("left out:") == 1 and "strip.png: resized to 18000 x 20" in said
    assert not any("strip.png" in labels(open_source(out / side)) for side in ("train", "valid"))


def test_an_lmdb_can_be_prepared_again(photos, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    assert prepare_data.main(["--input", str(photos), "--output", str(first)]) == 0
    assert prepare_data.main(["--input", str(first / "train"), "--output", str(second)]) == 0
    assert set(labels(open_source(second / "train"))) < set(labels(open_source(first / "train")))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--size", "0"], "--size 0"),
        (["--size", "9999999"], "--size=9999999: even a square"),
        (["--val-fraction", "1"], "--val-fraction 1.0"),
        (["--max-pixels", "0"], "--max-pixels 0"),
        (["--input", "/nowhere/at/all"], "no such folder"),
    ],
)
def test_wrong_arguments(photos, tmp_path, arguments, reason, capsys):
    assert command("--input", photos, "--output", tmp_path / "set", *arguments) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and reason in said
    assert not (tmp_path / "set").exists()


def test_nothing_is_overwritten(photos, tmp_path):
    (tmp_path / "set" / "valid").mkdir(parents=True)
    with pytest.raises(UserError, match="exists already"):
        prepare_data.main(["--input", str(photos), "--output", str(tmp_path / "set")])
    assert os.listdir(tmp_path / "set") == ["valid"]


@pytest.fixture
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


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (SystemExit(143), 143)])
def test_a_run_that_was_stopped_goes_on(photos, tmp_path, opened, error, code):
    """What was decoded is not decoded again, the results are those of one run, and nothing else is left."""
    arguments = ["--input", photos, "--size", 20, "--output"]
    assert command(*arguments, tmp_path / "straight") == 0
    assert sorted(opened.labels) == labels(open_source(photos))  # each once
    opened.labels.clear()
    opened.fail["7.png"] = error
    assert command(*arguments, tmp_path / "set") == code
    assert os.listdir(tmp_path / "set") == [".unfinished"]
    assert command(*arguments, tmp_path / "set") == 0
    assert sorted(opened.labels) == sorted([*labels(open_source(photos)), "7.png"])
    assert contents(tmp_path / "set") == contents(tmp_path / "straight")
    assert sorted(os.listdir(tmp_path / "set")) == ["train", "valid"]


def test_what_was_kept_is_used_as_it_was_written_or_not_at_all(photos, tmp_path, opened):
    arguments = ["--input", photos, "--size", 20, "--output"]
    assert command(*arguments, tmp_path / "straight") == 0
    opened.fail["7.png"] = KeyboardInterrupt()
    assert command(*arguments, tmp_path / "set") == 130
    kept = sorted((tmp_path / "set" / ".unfinished").iterdir())
    content = bytearray(kept[0].read_bytes())
    content[-20] ^= 1
    kept[0].write_bytes(content)
    kept[1].write_bytes(b"")
    opened.labels.clear()
    assert command(*arguments, tmp_path / "set") == 0 and len(opened.labels) == 11 - len(kept) + 2
    assert contents(tmp_path / "set") == contents(tmp_path / "straight")


def test_an_unfinished_folder_that_is_a_link_is_not_followed(photos, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "valid").write_text("x")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / ".unfinished").symlink_to(tmp_path / "precious")
    assert command("--input", photos, "--size", 20, "--output", tmp_path / "set") == 0
    assert contents(tmp_path / "precious") == {Path("valid"): b"x"}


def test_other_options_and_changed_files_are_not_gone_on_with(photos, tmp_path, opened):
    opened.fail["7.png"] = KeyboardInterrupt()
    assert command("--input", photos, "--size", 20, "--output", tmp_path / "set") == 130
    PIL.Image.new("RGB", (40, 30)).save(photos / "1.png")
    opened.labels.clear()
    opened.fail["7.png"] = KeyboardInterrupt()
    assert command("--input", photos, "--size", 20, "--output", tmp_path / "set") == 130
    assert opened.labels == ["1.png", "7.png"]
    opened.labels.clear()
    assert command("--input", photos, "--size", 21, "--output", tmp_path / "set") == 0
    assert len(opened.labels) == 11 and sorted(os.listdir(tmp_path / "set")) == ["train", "valid"]


@pytest.mark.parametrize("size", [[], ["--size", 20]])
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(photos, tmp_path, monkeypatch, capsys, size):
    with monkeypatch.context() as patch:
        patch.setattr(prepare_data, "describe", Mock(side_effect=lmdb.MapFullError("no room")))
        assert command("--input", photos, "--output", tmp_path / "set", *size) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: cannot write {tmp_path / 'set'}: no room (") and line.endswith("MiB free)")
    assert os.listdir(tmp_path / "set") == [".unfinished"]
    assert command("--input", photos, "--output", tmp_path / "set", *size) == 0
    assert sorted(os.listdir(tmp_path / "set")) == ["train", "valid"]


def test_a_disk_that_is_full_for_a_worker_is_one_line(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(prepare_data, "usable_cores", lambda: 2)
    monkeypatch.setattr(prepare_data, "atomic_path", Mock(side_effect=DiskFailure("cannot write x: no space")))
    assert command("--input", photos, "--output", tmp_path / "set", "--size", 20) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "cannot write" in line]
    assert line == "error: cannot write x: no space"


def test_between_its_last_two_steps(photos, tmp_path):
    """One side is in its place already."""
    arguments = ["--input", photos, "--size", 20, "--output"]
    assert command(*arguments, tmp_path / "straight") == command(*arguments, tmp_path / "set") == 0
    shutil.rmtree(tmp_path / "set" / "valid")
    (tmp_path / "set" / ".unfinished").mkdir()
    assert command(*arguments, tmp_path / "set") == 0
    assert contents(tmp_path / "set") == contents(tmp_path / "straight")


@pytest.mark.parametrize("size", [[], ["--size", 20]])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_the_number_of_processes_changes_nothing(photos, tmp_path, monkeypatch, capsys, size):
    (photos / "text.jpg").write_text("no pixels")
    for cores in (1, 3):
        monkeypatch.setattr(prepare_data, "usable_cores", lambda: cores)  # noqa: B023 (called before the next one)
        assert command("--input", photos, "--output", tmp_path / str(cores), *size) == 1
        assert capsys.readouterr().err.count("left out: ") == 1
    assert contents(tmp_path / "1") == contents(tmp_path / "3")


def test_without_validation(photos, tmp_path):
    """Also of one photograph."""
    for path in photos.rglob("*.png"):
        path.unlink()
    assert command("--input", photos, "--output", tmp_path / "set") == 2
    assert command("--input", photos, "--output", tmp_path / "set", "--val-fraction", 0) == 0
    assert os.listdir(tmp_path / "set") == ["train"] and len(open_source(tmp_path / "set" / "train")) == 1


def test_a_zip_can_be_prepared(photos, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "photos"), "zip", photos)
    for name, given in (("one", photos), ("two", archive)):
        assert command("--input", given, "--output", tmp_path / name, "--size", 20) == 0
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_output_that_cannot_be_made(photos, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot write"):
        prepare_data.main(["--input", str(photos), "--output", str(tmp_path / "file" / "set")])
