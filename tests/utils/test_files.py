"""Files appear whole or not at all, one run writes to a folder, no input is overwritten; the user is told why."""

import os
import signal
import subprocess
import sys
import unicodedata
from pathlib import Path
from unittest import mock

import pytest

from utils import files
from utils.errors import UserError
from utils.files import (
    atomic_folder,
    atomic_path,
    free_space,
    lock_folder,
    only_files,
    refuse_overwriting,
    remove_stale,
    require_space,
)

ROOT = Path(files.__file__).parents[1]


def test_success_replaces_and_keeps_the_suffix(tmp_path):
    target = tmp_path / "new" / "photo.png"
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent and temporary.suffix == ".png" and str(os.getpid()) in temporary.name
        temporary.write_bytes(b"1")
        assert not target.exists()
    assert target.read_bytes() == b"1" and list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("appear", [atomic_path, atomic_folder])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left"), OSError("by a library")])
def test_failure_keeps_the_old_file(tmp_path, appear, error):
    """A disk that is to blame is no mistake of the user, nor is what a library says without a number."""
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises((KeyboardInterrupt, UserError)) as caught, appear(target) as temporary:
        temporary.write_text("half")
        raise error
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]
    assert getattr(caught.value, "exit_code", 1) == 1


@pytest.mark.parametrize("phase", ["fsync", "replace"])
def test_failure_of_each_later_phase(tmp_path, monkeypatch, phase):
    monkeypatch.setattr(os, phase, mock.Mock(side_effect=OSError(5, "Input/output error")))
    message = r"cannot write .*a\.txt: Input/output error \(\d+ MiB free\)"
    with pytest.raises(UserError, match=message), atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("x")
    assert not list(tmp_path.iterdir())


def test_a_file_in_place_of_the_folder_and_a_folder_in_place_of_the_file(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "taken").mkdir()
    for path in (tmp_path / "file" / "a.txt", tmp_path / "taken"):
        with pytest.raises(UserError, match="cannot write"), atomic_path(path) as temporary:
            temporary.write_text("x")
    with pytest.raises(UserError, match=f"^cannot write {tmp_path}/file"), lock_folder(tmp_path / "file"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "taken"]


def test_only_abandoned_temporaries_are_removed(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", "pass"])
    ended.wait()
    names = {
        "dead": f".tmp-{ended.pid}-0123abcd.pt",
        "own": f".tmp-{os.getpid()}-0123abcd",
        "living": f".tmp-{os.getppid()}-0123abcd.png",
        "ancient": f".tmp-{os.getppid()}-0123abce.png",
        "foreign": ".tmp-notes.txt",
        "plain": "step-00000001.pt",
    }
    for name in names.values():
        (tmp_path / name).write_text("x")
    os.utime(tmp_path / names["ancient"], (0, 0))
    remove_stale(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {names[kind] for kind in ("living", "foreign", "plain")}
    remove_stale(tmp_path / "missing")


@pytest.mark.parametrize("old", ["folder", "file", "nothing"])
def test_a_folder_takes_the_place_of_what_was_there(tmp_path, old):
    target = tmp_path / "new" / "a.zarr"
    if old != "nothing":
        target.parent.mkdir()
        target.mkdir() if old == "folder" else target.write_text("old")
    with atomic_folder(target) as temporary:
        assert temporary.parent == target.parent and temporary.suffix == ".zarr" and not temporary.exists()
        temporary.mkdir(parents=True)
        (temporary / "file").write_text("x")
    assert list(target.iterdir()) == [target / "file"] and list(target.parent.iterdir()) == [target]


def lock_in_another_process(folder):
    """A process that holds the lock of a folder until its stdin closes, and a child of it that lives on."""
    code = """
import os, sys, time
from utils.files import lock_folder
with lock_folder(sys.argv[1]):
    if os.fork() == 0:
        time.sleep(2)
        os._exit(0)
    print("locked", flush=True)
    sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "locked\n"
    return process


@pytest.mark.parametrize("end", ["kill", "close"])
def test_another_run_is_kept_out_until_it_ends_however_it_does(tmp_path, end):
    folder = tmp_path / "new"
    with lock_in_another_process(folder) as process:
        with pytest.raises(UserError, match=f"^{folder}: another run is writing there"), lock_folder(folder):
            pass
        process.send_signal(signal.SIGKILL) if end == "kill" else process.stdin.close()
        process.wait()
        with lock_folder(folder):
            (folder / "file").write_text("x")
    assert [path.name for path in folder.iterdir()] == ["file"]


def test_what_killed_processes_left_goes_when_a_folder_is_locked(tmp_path):
    """Files and folders below it, and the lock itself."""
    (tmp_path / ".lock").touch()
    name = ".tmp-999999999-0123abcd.zarr"
    for folder in (tmp_path, tmp_path / "deep"):
        (folder / name / "inner" / name).mkdir(parents=True)
        (folder / name / "inner" / "file").write_text("x")
    with lock_folder(tmp_path):
        assert sorted(path.name for path in tmp_path.rglob("*")) == [".lock", "deep"]
    assert list(tmp_path.iterdir()) == [tmp_path / "deep"]


@pytest.mark.parametrize("kind", ["link", "pipe", "link of a folder", "itself"])
def test_folders_of_files_only(tmp_path, kind):
    folder = tmp_path / "folder"
    assert only_files(folder)
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "file").write_text("x")
    assert only_files(folder) and not only_files(folder / "a" / "file")
    if kind == "pipe":
        os.mkfifo(folder / "a" / "b")
    elif kind == "itself":
        folder = tmp_path / "link"
        folder.symlink_to(tmp_path / "folder")
    else:
        (folder / "a" / "b").symlink_to(folder / "a" / "file" if kind == "link" else tmp_path)
    assert not only_files(folder)


def test_room_that_is_not_there(tmp_path):
    """Asked of a place that does not exist yet."""
    assert free_space(tmp_path / "a" / "b") == pytest.approx(free_space(tmp_path), rel=0.1)
    require_space(tmp_path / "new" / "file", free_space(tmp_path) // 2)
    with pytest.raises(UserError, match=r"file: \d+ MiB are needed on the disk, \d+ MiB are free") as error:
        require_space(tmp_path / "new" / "file", 2**60)
    assert error.value.exit_code == 1


OCCUPY = {
    "link": lambda place, target: place.symlink_to(target),
    "hard link": lambda place, target: os.link(target, place),
    "folder": lambda place, target: place.mkdir(),
    "file": lambda place, target: place.write_bytes(target.read_bytes()),
}


@pytest.mark.parametrize("occupy", OCCUPY)
def test_what_is_in_the_place_of_the_lock_stays(tmp_path, occupy):
    (tmp_path / "photo.jpg").write_text("precious")
    OCCUPY[occupy](tmp_path / ".lock", tmp_path / "photo.jpg")
    with pytest.raises(UserError, match=r"\.lock: is in the place of the lock of this folder"), lock_folder(tmp_path):
        pass
    assert os.path.lexists(tmp_path / ".lock") and (tmp_path / "photo.jpg").read_text() == "precious"


@pytest.fixture
def folding(monkeypatch):
    """A file system that takes names for one another that differ in case, or in the form of accents."""
    stat = os.stat

    def fold(name):
        return unicodedata.normalize("NFC", name).casefold()

    def found(path, *arguments, **options):
        true = Path("/")
        for part in Path(os.path.abspath(os.fspath(path))).parts[1:]:
            entries = {fold(each): each for each in os.listdir(true)} if true.is_dir() else {}
            true /= entries.get(fold(part), part)
        return stat(true, *arguments, **options)

    monkeypatch.setattr(files.os, "stat", found)


@pytest.mark.parametrize(("name", "other"), [("IMG.PNG", "img.png"), ("caf\u00e9.png", "cafe\u0301.png")])
def test_file_systems_that_ignore_case_or_forms_of_accents(tmp_path, folding, name, other):
    (tmp_path / "Out").mkdir()
    (tmp_path / "Out" / name).write_text("precious")
    for folder in ("Out", "OUT"):
        with pytest.raises(UserError, match="would overwrite the input"):
            refuse_overwriting([tmp_path / "Out" / name], [tmp_path / folder / other])
    refuse_overwriting([tmp_path / "Out" / name], [tmp_path / "out" / "another.png"])


def spellings(path, links):
    """Names of the same file: itself, from here, by way of other folders, and by links of each kind."""
    links.mkdir()
    (links / "folder").symlink_to(path.parent)
    (links / "file").symlink_to(path)
    (links / "twice").symlink_to(links / "file")
    os.link(path, links / "hard")
    yield from (path, str(path), os.path.relpath(path), path.parent / ".." / path.parent.name / path.name)
    yield from (links / "folder" / path.name, links / "file", links / "twice", links / "hard")


def test_no_spelling_of_an_input_is_written(tmp_path):
    folder = tmp_path / "r" / "reconstruction"
    folder.mkdir(parents=True)
    inputs = [folder / f"{name}.png" for name in "abc"]
    for path in inputs:
        path.write_text(path.name)
    refuse_overwriting(inputs, [folder / "d.png", tmp_path / "a.png", folder / "a.png.tif"])
    for name in spellings(inputs[1], tmp_path / "links"):
        with pytest.raises(UserError, match=r"would overwrite the input .*b\.png; choose") as error:
            refuse_overwriting(inputs, [folder / "d.png", name])
        assert str(name) in str(error.value) and "\n" not in str(error.value)
        with pytest.raises(UserError, match="would overwrite the input"):
            refuse_overwriting([name], [folder / "d.png", inputs[1]])
    for one, other in (("r/new", "r/new/a.png"), ("r/new/a", "r/new"), ("r/reconstruction", "r")):  # inside one another
        with pytest.raises(UserError, match="would overwrite the input"):
            refuse_overwriting([tmp_path / one], [tmp_path / other])
