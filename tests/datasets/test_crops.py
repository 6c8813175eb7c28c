"""Crops: addressed by position, whatever the workers do; damage; the loader's failures."""

import multiprocessing
import os
import shutil
import signal
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from datasets import CropDataset, Window, build, loader, loading
from datasets.sources import FolderSource, open_source
from images.thumbnail import thumbnail
from utils import watching
from utils.config import load_config
from utils.errors import UserError
from utils.schema import TrainConfig

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")
PATCH, BEFORE, AFTER, THUMBNAIL = 8, 3, 5, 4
SIZE = BEFORE + PATCH + AFTER
SIZES = {"window": Window(PATCH, BEFORE, AFTER), "thumbnail": THUMBNAIL, "seed": 0}


def crops(folder, **options):
    source = FolderSource(folder)
    return CropDataset(source, list(range(len(source))), **SIZES | options)


def config(*overrides):
    """A section `data`."""
    overrides = ["data.max_pixels=1000000", "data.val_fraction=0.2", *overrides]
    return load_config(TrainConfig, overrides=overrides).data


def equal(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def windows(image, top, mirrored):
    """All windows [3, S, S] of patches whose first row is `top`, cut out of the whole reflected image."""
    pixels = image.window_float(0, 0, image.height, image.width)
    shown = pixels[:, ::-1] if mirrored else pixels
    plane = np.pad(shown, ((BEFORE, AFTER), (BEFORE, AFTER), (0, 0)), mode="reflect").transpose(2, 0, 1)
    return [plane[:, top : top + SIZE, left : left + SIZE] for left in range(image.width - PATCH + 1)]


def test_a_window_is_a_patch_of_the_image_in_its_reflected_context(make_folder):
    """Mirrored or not, as the thumbnail is; over the whole range of rows."""
    dataset = crops(make_folder("photos", 3), flip=True)
    rows, flips = set(), set()
    for step in range(40):
        item = dataset[step, 0]
        assert all(item[key].dtype == torch.float32 for key in ("window", "thumbnail", "row"))
        image = dataset.source.open(int(item["id"]), 10**6)
        small = thumbnail(image, THUMBNAIL).transpose(2, 0, 1)
        mirrored = not np.array_equal(small, item["thumbnail"])
        np.testing.assert_array_equal(small[..., ::-1] if mirrored else small, item["thumbnail"])
        room = image.height - PATCH
        top = round((float(item["row"]) + 1) / 2 * room)
        assert any(np.array_equal(window, item["window"]) for window in windows(image, top, mirrored))
        rows.add(top)
        flips.add(mirrored)
    assert min(rows) == 0 and max(rows) == room and flips == {False, True}


@pytest.mark.parametrize("shape", [(1, 1), (3, 50), (8, 8), (50, 2)])
def test_images_smaller_than_the_patch_are_reflected(make_folder, shape, encoded):
    dataset = crops(make_folder("photos", {"a.png": encoded(0, *shape)}))
    for step in range(5):
        item = dataset[step, 0]
        assert item["window"].shape == (3, 16, 16) and torch.isfinite(item["window"]).all()
        assert shape[0] > PATCH or item["row"] == 0


def test_every_epoch_shows_every_image_once_in_its_own_order(make_folder):
    dataset = crops(make_folder("photos", 7)).with_batch(3)
    order = [int(dataset[divmod(position, 3)]["id"]) for position in range(21)]
    epochs = [order[0:7], order[7:14], order[14:21]]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert [int(dataset[divmod(position, 3)]["id"]) for position in reversed(range(21))] == order[::-1]
    first, again, other = (crops(dataset.source.folder, seed=seed)[5, 2] for seed in (-1, -1, 2))
    assert equal(first, again) and not equal(first, other)


def test_batches_do_not_depend_on_workers_ranks_or_the_first_step(make_folder):
    dataset = crops(make_folder("photos", 9), flip=True)
    straight = list(loader(dataset, 0, 6, 4))
    assert len(straight) == 6 and straight[0]["window"].shape == (4, 3, 16, 16)
    for workers in (1, 2):
        assert all(map(equal, straight, loader(dataset, 0, 6, 4, workers=workers)))
    assert all(map(equal, straight[4:], loader(dataset, 4, 2, 4, workers=1)))
    halves = [list(loader(dataset, 0, 6, 2, rank=rank, world=2)) for rank in range(2)]
    for whole, *parts in zip(straight, *halves, strict=True):
        assert equal(whole, {key: torch.cat([part[key] for part in parts]) for key in whole})


def test_a_zip_is_read_by_workers_as_a_folder_is(make_folder, tmp_path, monkeypatch):
    """By those that begin anew (macOS, Windows), too."""
    folder = make_folder("photos", 9)
    archive = open_source(shutil.make_archive(str(tmp_path / "photos"), "zip", folder))
    spawn = multiprocessing.get_context("spawn")
    monkeypatch.setattr(multiprocessing.context._default_context, "_actual_context", spawn)
    dataset = CropDataset(archive, list(range(9)), **SIZES)
    assert all(map(equal, loader(crops(folder), 0, 2, 4), loader(dataset, 0, 2, 4, workers=1)))


@pytest.mark.parametrize("shared", [2**14, None])
def test_little_shared_memory(make_folder, monkeypatch, tmp_path, capsys, shared):
    """Batches then come by pipe: none of a worker's tensors is shared; the note is one, of the first process."""
    def refuse(*_):
        raise OSError("shared memory")

    monkeypatch.setattr(torch.UntypedStorage, "_new_shared", refuse)
    monkeypatch.setattr(torch.UntypedStorage, "_share_fd_cpu_", refuse)
    if shared is None:
        monkeypatch.setattr(loading, "SHARED", tmp_path / "missing")
    else:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=shared))
    dataset = crops(make_folder("photos", 9))
    straight = list(loader(dataset, 0, 5, 4))
    assert capsys.readouterr().out == ""
    assert all(map(equal, straight, loader(dataset, 0, 5, 4, workers=2)))
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("note: ") and "MiB free" in line and "by pipe" in line
    list(loader(dataset, 0, 1, 2, rank=1, world=2, workers=1))
    assert capsys.readouterr().out == ""


def test_where_no_worker_can_start_this_process_loads(make_folder, monkeypatch, capsys):
    def refuse():
        raise FileNotFoundError

    monkeypatch.setattr(multiprocessing, "Lock", refuse)
    batches = loader(crops(make_folder("photos", 9)), 0, 2, 4, workers=2)
    assert batches.num_workers == 0 and len(list(batches)) == 2
    assert capsys.readouterr().out.startswith("note: /dev/shm cannot be written: data.workers=0 in place of 2")


def test_validation_is_fixed_and_even(make_folder):
    dataset = crops(make_folder("photos", 9))
    batches = dataset.centre_crops(3, 2)
    assert [batch["id"].tolist() for batch in batches] == [[0, 3], [6]]
    assert all(map(equal, batches, dataset.centre_crops(3, 2)))
    assert len(dataset.centre_crops(100, 1)) == 9
    image = dataset.source.open(0, 10**6)
    top, left = (image.height - PATCH) // 2, (image.width - PATCH) // 2
    expected = image.window_float(top - BEFORE, left - BEFORE, 16, 16).transpose(2, 0, 1)
    np.testing.assert_array_equal(batches[0]["window"][0], expected)


def damage(folder, names):
    for name in names:
        (folder / name).write_bytes((folder / name).read_bytes()[:200])


def test_damage_is_named_once_and_replaced_by_the_next(make_folder, caplog):
    folder = make_folder("photos", 20)
    damage(folder, ["004.png", "005.png"])
    dataset = crops(folder, max_bad_fraction=0.1).with_batch(20)
    identities = [int(dataset[step, index]["id"]) for step in range(2) for index in range(20)]
    assert identities.count(6) == 6 and not {4, 5} & set(identities)
    assert dataset.damaged == 2
    assert len(caplog.records) == 2 and "004.png" in caplog.text and "005.png" in caplog.text
    late = crops(folder, max_bad_fraction=0.1).with_batch(20)
    assert [int(late[1, index]["id"]) for index in range(20)] == identities[20:]


def test_resizing(make_folder, encoded, caplog):
    """Changes the shorter side; an image that it makes too large counts as damaged."""
    dataset = crops(make_folder("wide", {"a.png": encoded(0, 40, 80)}), resize=PATCH)
    assert dataset[0, 0]["row"] == 0  # 8 rows are left, and the patch takes them all
    folder = make_folder("photos", 9)
    (folder / "strip.png").write_bytes(encoded(0, 1, 5000))
    dataset = crops(folder, max_bad_fraction=0.1, resize=20, max_pixels=10**5).with_batch(10)
    assert {int(dataset[0, index]["id"]) for index in range(10)} == set(range(9))
    assert dataset.damaged == 1 and "strip.png: resized to 20 x 100000" in caplog.text


def test_too_much_damage_stops_with_one_line(make_folder):
    folder = make_folder("photos", 20)
    damage(folder, [f"{number:03d}.png" for number in range(4, 10)])
    with pytest.raises(UserError, match=r"^6 of 20 images are damaged.*max_bad_fraction=0\.1[^\n]*\.png[^\n]*$"):
        list(loader(crops(folder, max_bad_fraction=0.1), 0, 10, 4, workers=1))


@pytest.mark.parametrize(("images", "allowed"), [(1, 0), (7, 3), (30, 5)])
def test_a_few_damaged_files_end_no_small_run(make_folder, images, allowed):
    """By the default share, which is less than one of them; as many as half of them, though, are no data."""
    folder = make_folder("photos", images)
    damage(folder, [f"{number:03d}.png" for number in range(allowed)])
    dataset = crops(folder).with_batch(images)
    assert {int(dataset[0, index]["id"]) for index in range(images)} == set(range(allowed, images))
    damage(folder, [f"{allowed:03d}.png"])
    with pytest.raises(UserError, match=f"{allowed + 1} of {images} images are damaged"):
        [crops(folder).with_batch(images)[0, index] for index in range(images)]
    damage(folder, ["000.png"])
    with pytest.raises(UserError, match=f"1 of {images} images are damaged"):
        [crops(folder, max_bad_fraction=0.0).with_batch(images)[0, index] for index in range(images)]


@pytest.mark.parametrize("cause", ["kill", "stop", "hang", "memory"])
def test_a_lost_worker_is_an_error_that_names_the_image(make_folder, monkeypatch, cause):
    """Within 15 seconds, and no process stays."""
    source_open = FolderSource.open
    signals = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}

    def fatal(self, index, max_pixels):
        if index == 3 and cause == "hang":
            time.sleep(60)
        elif index == 3 and cause == "memory":
            bytearray(2**60)
        elif index == 3:
            os.kill(os.getpid(), signals[cause])
        return source_open(self, index, max_pixels)

    monkeypatch.setattr(FolderSource, "open", fatal)
    if cause in ("stop", "hang"):  # time is saved
        monkeypatch.setattr(watching, "LOOK", 0.3)
        monkeypatch.setattr(loading, "LOOK", 0.3)
    start = time.monotonic()
    with pytest.raises(UserError, match=r"003\.png") as caught:
        list(loader(crops(make_folder("photos", 6)), 0, 10, 4, workers=1))
    said = {"kill": "SIGKILL, as the system does where memory is", "memory": "out of memory"}
    assert said.get(cause, "hangs") in str(caught.value) and "\n" not in str(caught.value)
    assert time.monotonic() - start < 15 and not multiprocessing.active_children()


def test_a_worker_that_works_for_too_long(make_folder, monkeypatch):
    """One that is slow is waited for."""
    source_open, seconds = FolderSource.open, 1.0

    def busy(self, index, max_pixels):
        begun = time.monotonic()
        while time.monotonic() - begun < seconds:
            pass
        return source_open(self, index, max_pixels)

    monkeypatch.setattr(FolderSource, "open", busy)
    monkeypatch.setattr(loading, "LOOK", 0.1)
    dataset = crops(make_folder("photos", 6))
    assert len(list(loader(dataset, 0, 1, 1, workers=1))) == 1
    seconds = 60
    monkeypatch.setattr(loading, "SILENCE", 0.5)
    with pytest.raises(UserError, match=r"being read: .*png\): DataLoader timed out after 0.5 seconds"):
        list(loader(dataset, 0, 1, 1, workers=1))


def test_a_worker_that_is_lost_during_a_step_does_not_disturb_it(make_folder):
    """It is told where the next batch is asked for: PyTorch would raise from its signal handler."""
    batches, whole = iter(loader(crops(make_folder("photos", 6)), 0, 50, 4, workers=1)), []
    with pytest.raises(UserError, match=r"loading failed \(being read: .*ended by SIGKILL"):
        for number, _ in enumerate(batches):
            if number == 0:
                os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
                time.sleep(0.3)  # in which the handler would raise
            whole.append(number)
    assert whole


@pytest.mark.parametrize("error", [EOFError(), ConnectionResetError("reset by peer"), RuntimeError("our mistake")])
def test_errors_of_loading(make_folder, monkeypatch, error):
    """That of a worker which is lost while it sends is one line; others keep their kind."""
    def fail(self, index):
        raise error

    monkeypatch.setattr(CropDataset, "__getitem__", fail)
    ours = isinstance(error, RuntimeError)
    words = "our mistake" if ours else "loading failed .*: (a worker was lost|reset by peer)"
    with pytest.raises(RuntimeError if ours else UserError, match=words):
        list(loader(crops(make_folder("photos", 6)), 0, 10, 4, workers=0))


def test_build_splits_one_source_without_leaks(make_folder, encoded):
    files = {f"{number}.png": encoded(number % 10) for number in range(30)}  # each image three times
    train, val = build(config(f"data.train={make_folder('photos', files)}"), **SIZES)
    assert len(train) + len(val) == 30 and len(val) % 3 == 0 < len(val)
    pictures = [{data.source.label(record)[-5] for record in data.records} for data in (train, val)]
    assert not pictures[0] & pictures[1]
    assert train.flip and not val.flip


def test_build_with_two_sources(make_folder, encoded):
    train_folder = make_folder("train", 6)
    val_folder = make_folder("val", {"a.png": encoded(100)})
    both = config(f"data.train={train_folder}", f"data.val={val_folder}")
    train, val = build(both, **SIZES)
    assert (len(train), len(val)) == (6, 1)
    (val_folder / "b.png").write_bytes(encoded(2))
    with pytest.raises(UserError, match=r"b\.png is .*002\.png"):
        build(both, **SIZES)
    with pytest.raises(UserError, match=r"data\.train"):
        build(config(), **SIZES)
    with pytest.raises(UserError, match=r"1 distinct image\(s\), and all would validate.*data\.val=none"):
        build(config(f"data.train={make_folder('one', 1)}"), **SIZES)
