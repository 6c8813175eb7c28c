"""Folders and LMDBs: layouts, damage, forks, digests and splits."""

import hashlib
import json
import os
import pickle
import random
import struct

import lmdb
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import prepare_data
from datasets.sources import FolderSource, LmdbSource, open_source
from datasets.splits import refuse_shared, split
from images.reading import ImageError
from utils.errors import UserError

LIMIT = 10**6
PAGE = 4096


def read_all(paths):
    """What each record of each LMDB gave, or None where the LMDB was refused; and the exit code of the reader.

    A process of its own reads, since a damaged file may kill it; what it had read by then still arrives.
    """
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        with open(sender, "w") as lines:
            for path in paths:
                lines.write(json.dumps(read_one(path)) + "\n")
                lines.flush()
        os._exit(0)
    os.close(sender)
    with open(receiver) as lines:
        found = [json.loads(line) for line in lines]
    return found, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def read_one(path):
    try:
        source = LmdbSource(path)
    except UserError:
        return None
    found = []
    for index in range(len(source)):
        try:
            found.append(hashlib.md5(source.read(index)).hexdigest())
        except ImageError:
            found.append("noticed")
    return found


@pytest.fixture
def our_lmdb(make_folder, tmp_path, encoded):
    """An LMDB as prepare_data.py writes it, of 19 images."""
    files = {f"{number:02d}.png": encoded(number, 40, 50) for number in range(20)}
    assert prepare_data.main(["--input", str(make_folder("photos", files)), "--output", str(tmp_path / "set")]) == 0
    return tmp_path / "set" / "train"


def test_folder(make_folder, encoded):
    source = open_source(make_folder("photos", {"b.png": encoded(1), "a/c.JPG": encoded(2, kind="JPEG")}))
    assert isinstance(source, FolderSource) and len(source) == 2
    assert [source.label(index) for index in range(2)] == ["a/c.JPG", "b.png"]
    assert source.read(1) == encoded(1)
    assert source.open(1, LIMIT).width == 24


def test_places_without_images(tmp_path, encoded):
    (tmp_path / "file.png").write_bytes(encoded(0))
    (tmp_path / "empty").mkdir()
    for name, reason in (("file.png", "is a file"), ("nowhere", "no such folder"), ("empty", "holds no JPEG")):
        with pytest.raises(UserError, match=reason):
            open_source(tmp_path / name)


@pytest.mark.parametrize("digits", [8, 5])
def test_public_layout(make_public_lmdb, digits, encoded):
    source = open_source(make_public_lmdb("public", [encoded(number) for number in range(12)], digits))
    assert isinstance(source, LmdbSource) and len(source) == 12
    assert source.read(7) == encoded(7)
    assert source.label(7) == f"197-{7:0{digits}d}"
    assert source.open(7, LIMIT).height == 20


def test_our_layout_keeps_names_and_bytes(our_lmdb, encoded):
    source = open_source(our_lmdb)
    assert len(source) == 19
    for index in range(19):
        assert source.read(index) == encoded(int(source.label(index)[:2]), 40, 50)
    assert source.name(0) == f"{our_lmdb}:{source.label(0)}"


def test_digests_compare_contents_across_sources(make_folder, make_public_lmdb, encoded):
    records = [encoded(number) for number in range(3)]
    folder = open_source(make_folder("photos", {f"{3 - n}.png": data for n, data in enumerate(records)}))
    public = open_source(make_public_lmdb("public", records))
    assert folder.digests()[::-1] == public.digests()
    assert len(set(public.digests())) == 3


def test_digests_read_both_ends(make_folder):
    """One that cannot be read has a digest, too."""
    body = bytes(300_000)
    files = {"a.bmp": body + b"a", "b.bmp": body + b"b", "c.bmp": b"c" + body, "d.bmp": body, "e.bmp": body + b"a"}
    folder = make_folder("photos", files)
    (folder / "x.png").symlink_to(folder / "nowhere")
    source = open_source(folder)
    digests = source.digests()
    assert len(set(digests)) == 5 and digests[0] == digests[4]
    with pytest.raises(ImageError, match=r"x\.png"):
        source.read(5)


def test_lmdb_crosses_forks_and_pickles(our_lmdb):
    source, other = open_source(our_lmdb), open_source(our_lmdb)
    assert source.read(3) == other.read(3) == pickle.loads(pickle.dumps(source)).read(3)
    child = os.fork()
    if child == 0:
        os._exit(0 if source.read(3) == other.read(3) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(source.read(4)) > 0


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.99, "one byte"])
def test_truncated_lmdb_is_refused(our_lmdb, share):
    source = LmdbSource(our_lmdb)
    data = (our_lmdb / "data.mdb").read_bytes()
    (our_lmdb / "data.mdb").write_bytes(data[: -1 if share == "one byte" else int(len(data) * share)])
    assert read_all([our_lmdb]) == ([None], 0)
    with pytest.raises(ImageError):  # a file that shrinks while it is in use
        source.read(0)


def tree_pages(data):
    """Numbers of the pages whose header says that they are branches, leaves or meta pages."""
    headers = (struct.unpack_from("<QHH", data, start) for start in range(0, len(data), PAGE))
    return [number for number, (own, _, flags) in enumerate(headers) if own == number and flags & 15 in (1, 2, 8)]


def corrupt(data, random_source, places):
    data = bytearray(data)
    for _ in range(8):
        position = random_source.choice(places) * PAGE + random_source.randrange(PAGE - 64)
        data[position : position + 64] = random_source.randbytes(64)
    return data


def test_corruption_is_noticed(our_lmdb, tmp_path):
    expected = read_one(our_lmdb)
    data = (our_lmdb / "data.mdb").read_bytes()
    random_source = random.Random(0)
    paths = [tmp_path / f"damaged{number}" for number in range(300)]
    for number, path in enumerate(paths):
        path.mkdir()
        # Every third one in the pages of the tree, where damage could kill the reader.
        places = tree_pages(data) if number % 3 == 0 else range(len(data) // PAGE)
        (path / "data.mdb").write_bytes(corrupt(data, random_source, places))
    results, code = read_all(paths)
    assert code == 0 and len(results) == len(paths)
    for found in results:
        if found is not None:
            assert len(found) == len(expected)
            assert all(each in ("noticed", right) for each, right in zip(found, expected, strict=True))
    assert sum(found is None or "noticed" in found for found in results) > 200


def test_lmdb_of_something_else(make_public_lmdb, tmp_path):
    (tmp_path / "noise").mkdir()
    (tmp_path / "noise" / "data.mdb").write_bytes(bytes(100_000))
    with pytest.raises(UserError, match="noise"):
        open_source(tmp_path / "noise")
    with pytest.raises(UserError, match="empty"):
        open_source(make_public_lmdb("empty", []))


def test_missing_records_are_named(make_public_lmdb, encoded):
    path = make_public_lmdb("public", [encoded(number) for number in range(3)])
    with lmdb.open(str(path)) as environment, environment.begin(write=True) as transaction:
        transaction.delete(b"197-00000001")
        transaction.put(b"other", b"x")
    with pytest.raises(ImageError, match="197-00000001: is missing"):
        open_source(path).read(1)


@given(contents=st.lists(st.integers(0, 30), min_size=1, max_size=60), fraction=st.floats(0, 1))
def test_splits_do_not_leak(contents, fraction):
    digests = [hashlib.md5(str(each).encode()).digest() for each in contents]
    distinct = len(set(contents))
    if distinct < 2:
        with pytest.raises(UserError, match="distinct"):
            split(digests, fraction)
        return
    training, validation = split(digests, fraction)
    assert sorted(training + validation) == list(range(len(contents)))
    held = {contents[index] for index in validation}
    assert not held & {contents[index] for index in training}
    assert len(held) == np.clip(round(fraction * distinct), 1, distinct - 1)
    # The order does not matter.
    again = split(digests[::-1], fraction)
    assert {contents[::-1][index] for index in again[1]} == held


def test_shared_images_are_refused(make_folder, make_public_lmdb, encoded):
    train = open_source(make_folder("train", 5))
    refuse_shared(train, open_source(make_folder("other", {"a.png": encoded(77)})))
    with pytest.raises(UserError, match=r"x\.png is .*003\.png"):
        refuse_shared(train, open_source(make_folder("valid", {"x.png": encoded(3)})))
    with pytest.raises(UserError, match="shares images"):
        refuse_shared(open_source(make_public_lmdb("public", [encoded(9), encoded(4)])), train)


def test_equal_margins_are_not_equal_images(make_folder):
    margin = bytes(70_000)
    train = open_source(make_folder("train", {"a.bmp": margin + b"1" + margin}))
    other = open_source(make_folder("valid", {"a.bmp": margin + b"2" + margin}))
    assert train.digests() == other.digests()  # which is cheap, and so only a reason to look closer
    refuse_shared(train, other)
