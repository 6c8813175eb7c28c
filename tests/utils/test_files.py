"""Files appear whole or not at all; the user is told why when they cannot."""

import os
import subprocess
import sys
from contextlib import nullcontext

import pytest

from utils import files, log
from utils.errors import UserError
from utils.files import atomic_folder, atomic_path, free_space, remove_all_stale, remove_stale, scratch_folder


def test_success_replaces_and_keeps_the_suffix(tmp_path):
    target = tmp_path / "new" / "photo.png"
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent and temporary.suffix == ".png" and str(os.getpid()) in temporary.name
        temporary.write_bytes(b"1")
        assert not target.exists()
    assert target.read_bytes() == b"1" and list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), UserError("x"), OSError(28, "No space left")])
def test_failure_keeps_the_old_file(tmp_path, error):
    target = tmp_path / "a.txt"
    target.write_text("old")
    expected = UserError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise error
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("phase", ["_sync", "_sync_folder"])
def test_failure_of_each_later_phase(tmp_path, monkeypatch, phase):
    def fail(path):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(files, phase, fail)
    message = r"cannot write .*a\.txt: Input/output error \(\d+ MiB free\)"
    with pytest.raises(UserError, match=message), atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("x")
    assert not list(tmp_path.glob(".tmp*"))


def test_failure_of_the_rename(tmp_path, monkeypatch):
    (tmp_path / "taken").mkdir()
    with pytest.raises(UserError, match="cannot write"), atomic_path(tmp_path / "taken") as temporary:
        temporary.write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot write"), atomic_path(tmp_path / "file" / "a.txt"):
        pass


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
    removed = {path.name for path in remove_stale(tmp_path)}
    assert removed == {names["dead"], names["own"], names["ancient"]}
    assert remove_stale(tmp_path) == [] == remove_stale(tmp_path / "missing")


def test_folders_are_cleared_away_too(tmp_path):
    name = f".tmp-{os.getpid()}-0123abcd.zarr"
    for folder in (tmp_path, tmp_path / "deep" / "er"):
        (folder / name / "inner").mkdir(parents=True)
        (folder / name / "inner" / "file").write_text("x")
    remove_all_stale(tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["deep", "er"]


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


@pytest.mark.parametrize("error", [KeyboardInterrupt(), UserError("x"), OSError(28, "No space left")])
def test_a_folder_that_fails_leaves_the_old_one(tmp_path, error):
    target = tmp_path / "a"
    target.mkdir()
    expected = UserError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected), atomic_folder(target) as temporary:
        temporary.mkdir()
        raise error
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_a_scratch_folder_goes_whatever_happens(tmp_path, error):
    with pytest.raises(error) if error else nullcontext(), scratch_folder(tmp_path / "a.png") as folder:
        (folder / "inner").mkdir(parents=True)
        if error:
            raise error
    assert not list(tmp_path.iterdir())


def test_without_sync_no_disk_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_sync", None)
    with atomic_path(tmp_path / "a", sync=False) as temporary:
        temporary.write_text("x")
    assert (tmp_path / "a").read_text() == "x"


def test_free_space_of_a_place_that_does_not_exist_yet(tmp_path):
    assert free_space(tmp_path / "a" / "b") == pytest.approx(free_space(tmp_path), rel=0.1)


def test_say_prints_at_once_on_the_main_rank_only(capsys):
    log.info("one")
    log.info("two", main=False)
    assert capsys.readouterr().out == "one\n"
