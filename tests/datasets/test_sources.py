"""Folders, zip files and LMDBs: layouts, damage, forks, digests and splits."""

import hashlib
import os
import pickle
import random
import struct
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets.lmdb_tree import HEADER, LEAF, MAGIC, META, NODE, Tree
from datasets.sources import FolderSource, LmdbSource, describe, open_source, record_key
from datasets.splits import refuse_shared, split
from images.reading import ImageError
from utils.errors import UserError

LIMIT = 10**6
PAGE = 4096
COUNT = 60  # images of an LMDB: their entries fill several pages


def read_one(path):
    """What each image of an LMDB gave; None where that is refused."""
    try:
        source = LmdbSource(path)
    except UserError:
        return None
    found = []
    for index in range(len(source)):
        try:
            found.append(source.read(index))
        except ImageError:
            found.append("noticed")
    return found


@pytest.fixture
def our_lmdb(make_lmdb, encoded):
    """An LMDB as prepare_data.py writes it: images within the pages of the tree, and with pages of their own."""
    records = {b"length": b"%d" % COUNT}
    for number in range(COUNT):
        edge, name = 60 if number % 4 == 0 else 8, f"{number:02d}.png".encode()
        records[record_key("0", number)] = encoded(number, edge, edge)
        records[record_key("meta", number)] = describe(records[record_key("0", number)], name)
    return make_lmdb("ours", records)


def test_folder(make_folder, encoded):
    source = open_source(make_folder("photos", {"b.png": encoded(1), "a/c.JPG": encoded(2, kind="JPEG")}))
    assert isinstance(source, FolderSource) and len(source) == 2
    assert [source.label(index) for index in range(2)] == ["a/c.JPG", "b.png"]
    assert source.read(1) == encoded(1)
    assert source.open(1, LIMIT).width == 24


def test_places_without_images(tmp_path, encoded):
    (tmp_path / "file.png").write_bytes(encoded(0))
    (tmp_path / "empty").mkdir()
    for name, reason in (("file.png", "is a file"), ("nowhere", "no such folder"), ("empty", "holds no images")):
        with pytest.raises(UserError, match=reason):
            open_source(tmp_path / name)


@pytest.mark.parametrize("digits", [8, 5])
def test_public_layout(make_lmdb, digits, encoded):
    source = open_source(make_lmdb("public", [encoded(number) for number in range(12)], digits))
    assert isinstance(source, LmdbSource) and len(source) == 12
    assert source.read(7) == encoded(7)
    assert source.label(7) == f"197-{7:0{digits}d}"
    assert source.open(7, LIMIT).height == 20


def test_our_layout_keeps_names_and_bytes(our_lmdb, encoded):
    """In other processes, too."""
    source = pickle.loads(pickle.dumps(open_source(our_lmdb)))
    assert [source.label(index) for index in range(len(source))] == [f"{number:02d}.png" for number in range(COUNT)]
    assert source.read(4) == encoded(4, 60, 60) and source.read(5) == encoded(5, 8, 8)
    assert source.name(0) == f"{our_lmdb}:00.png"


def test_digests_compare_contents_across_sources(make_folder, make_lmdb, encoded):
    records = [encoded(number) for number in range(3)]
    folder = open_source(make_folder("photos", {f"{3 - n}.png": data for n, data in enumerate(records)}))
    public = open_source(make_lmdb("public", records))
    assert folder.digests[::-1] == public.digests and len(set(public.digests)) == 3


def test_digests_read_both_ends(make_folder):
    """One that cannot be read has a digest, too; equal ends are cheap, and so only a reason to look closer."""
    body = bytes(300_000)
    files = {"a.bmp": body + b"a", "b.bmp": body + b"b", "c.bmp": b"c" + body, "d.bmp": body, "e.bmp": body + b"a"}
    folder = make_folder("photos", files)
    (folder / "x.png").symlink_to(folder / "nowhere")
    source = open_source(folder)
    assert len(set(source.digests)) == 5 and source.digests[0] == source.digests[4]
    with pytest.raises(ImageError, match=r"x\.png"):
        source.read(5)
    other = open_source(make_folder("valid", {"a.bmp": bytes(150_000) + b"2" + bytes(150_000)[1:] + b"a"}))
    assert other.digests[0] == source.digests[0]
    refuse_shared(source, other)


@pytest.mark.parametrize("share", [0.02, 0.7, "one byte"])
def test_truncated_lmdb_is_refused(our_lmdb, share):
    source = LmdbSource(our_lmdb)
    data = (our_lmdb / "data.mdb").read_bytes()
    (our_lmdb / "data.mdb").write_bytes(data[: -1 if share == "one byte" else int(len(data) * share)])
    assert read_one(our_lmdb) is None
    if share == 0.02:
        with pytest.raises(ImageError, match="truncated"):  # a file that shrinks while it is in use
            source.read(0)


def test_corruption_is_noticed(our_lmdb, tmp_path):
    expected, chance, noticed = read_one(our_lmdb), random.Random(0), 0
    data = (our_lmdb / "data.mdb").read_bytes()
    headers = (struct.unpack_from("<QHH", data, start) for start in range(0, len(data), PAGE))
    tree = [number for number, (own, _, flags) in enumerate(headers) if own == number and flags & 15 in (1, 2, 8)]
    assert len(tree) > 4
    for number in range(120):
        damaged, places = bytearray(data), tree if number % 2 else range(len(data) // PAGE)
        for _ in range(8):
            position = chance.choice(places) * PAGE + chance.randrange(PAGE - 64)
            damaged[position : position + 64] = chance.randbytes(64)
        (our_lmdb / "data.mdb").write_bytes(damaged)
        found = read_one(our_lmdb)
        noticed += found is None or "noticed" in found
        assert found is None or all(each in ("noticed", right) for each, right in zip(found, expected, strict=True))
    assert noticed > 80


def test_entries_that_share_their_bytes_are_refused(tmp_path):
    """Three pages would otherwise become gigabytes of keys."""
    size = 2**15

    def meta(number):
        return HEADER.pack(number, 0, 8, 0, 0) + META.pack(MAGIC, 1, size, 2, 2, number)

    pointers, key = 1000, 20_000
    leaf = HEADER.pack(2, 0, LEAF, HEADER.size + 2 * pointers, 0) + struct.pack("<H", 4000) * pointers
    leaf = leaf.ljust(4000, b"\0") + NODE.pack(1, 0, 0, key)
    (tmp_path / "data.mdb").write_bytes(b"".join(page.ljust(size, b"\0") for page in (meta(0), meta(1), leaf)))
    with pytest.raises(ValueError, match="damaged in page 2: entries overlap"):
        Tree(tmp_path / "data.mdb")


LSUN = [hashlib.sha1(bytes([number])).hexdigest().encode() for number in range(5)]
BASICSR = [b"0001_s%03d" % number for number in range(5)]


@pytest.mark.parametrize(("keys", "kind"), [(LSUN, "WEBP"), (BASICSR, "PNG"), ([b"caf\xe9", b"b"], "JPEG")])
def test_lmdbs_of_others_hold_an_image_under_each_key(make_lmdb, encoded, keys, kind):
    records = {key: encoded(number, kind=kind) for number, key in enumerate(keys)}
    source = pickle.loads(pickle.dumps(open_source(make_lmdb("other", records))))
    assert [os.fsencode(source.label(index)) for index in range(len(source))] == sorted(keys)
    assert [source.read(index) for index in range(len(source))] == [records[key] for key in sorted(keys)]
    assert source.open(1, LIMIT).height == 20 and len(set(source.digests)) == len(keys)


@pytest.mark.parametrize("records", [{b"a": b"not a picture"}, {b"__keys__": b"\x80\x04]", b"0": bytes(2000)}])
def test_lmdbs_of_no_images_are_named_with_what_to_do(make_lmdb, records, tmp_path):
    with pytest.raises(UserError, match=r"other: [^\n]*no images[^\n]*into a folder or a zip file$"):
        open_source(make_lmdb("other", records))
    with pytest.raises(UserError, match="empty"):
        open_source(make_lmdb("empty", []))
    (tmp_path / "other" / "data.mdb").write_bytes(bytes(100_000))
    with pytest.raises(UserError, match="other: not a readable image LMDB"):
        open_source(tmp_path / "other")


@pytest.fixture
def make_zip(tmp_path):
    """make_zip(name, {file: bytes}, **options of ZipFile) -> path."""

    def make(name, files, **options):
        with zipfile.ZipFile(tmp_path / name, "w", **options) as archive:
            for file, data in files.items():
                archive.writestr(file, data)
        return tmp_path / name

    return make


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_is_read_as_a_folder_is(make_zip, make_folder, encoded, compression, capsys):
    """As StyleGAN's tools and others write it, by content; also after a fork, by both processes at once."""
    files = ("00000/img00000000.png", "00000/img00000001.png", "b.jpg_large", "c")
    images = {name: encoded(number) for number, name in enumerate(files)}
    others = {"dataset.json": b"{}", "__MACOSX/._a.png": b"x", ".hidden.png": b"x", "00000/": b"", "d.pdf": b"%PDF"}
    source = open_source(make_zip("images.zip", images | others, compression=compression))
    assert capsys.readouterr().out == "left out: 1 .json, 1 .pdf\n"
    folder = open_source(make_folder("photos", images))
    assert [source.label(index) for index in range(len(source))] == sorted(images)
    assert source.digests == folder.digests and source.name(1).endswith("images.zip:00000/img00000001.png")
    child = os.fork()
    for index in [*range(4)] * 20:
        if source.read(index) != folder.read(index):
            os._exit(1)
    if child == 0:
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert pickle.loads(pickle.dumps(source)).open(3, LIMIT).width == 24


def test_zips_that_are_of_no_use_are_one_line(make_zip, encoded, tmp_path):
    whole = make_zip("whole.zip", {"a.png": encoded(0), "b.png": encoded(1)})
    (tmp_path / "cut.zip").write_bytes(whole.read_bytes()[:-30])
    (tmp_path / "no.zip").write_bytes(b"no archive")
    locked = bytearray(whole.read_bytes())
    for start in (locked.find(b"PK\1\2"), locked.rfind(b"PK\1\2")):
        locked[start + 8] |= 1
    (tmp_path / "locked.zip").write_bytes(locked)
    make_zip("text.zip", {"a.txt": b"x"})
    cases = {"cut": "not a whole zip", "no": "not a whole zip", "text": "without images", "locked": "encrypted"}
    for name, words in cases.items():
        with pytest.raises(UserError, match=rf"{name}\.zip: .*{words}") as error:
            open_source(tmp_path / f"{name}.zip")
        assert "\n" not in str(error.value)


def test_damage_within_a_zip_is_noticed(make_zip, encoded):
    path = make_zip("images.zip", {"a.png": encoded(0), "b.png": encoded(1)})
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    source = open_source(path)
    with pytest.raises(ImageError, match=r"images\.zip:a\.png: .*CRC"):
        source.read(0)
    assert source.read(1) == encoded(1) and len(set(source.digests)) == 2


def test_missing_records_are_named(make_lmdb, encoded):
    records = {b"length": b"3", b"197-0": encoded(0), b"197-2": encoded(2), b"other": b"x"}
    with pytest.raises(ImageError, match="197-1: is missing"):
        open_source(make_lmdb("public", records)).read(1)


def digest(content):
    return hashlib.md5(str(content).encode()).digest()


def sides(contents, fraction):
    """The contents that train and those that validate."""
    training, validation = split([digest(each) for each in contents], fraction)
    assert sorted(training + validation) == list(range(len(contents)))
    return ({contents[index] for index in side} for side in (training, validation))


@given(contents=st.lists(st.integers(0, 10**6), min_size=2, max_size=60, unique=True), fraction=st.floats(0.01, 0.4))
def test_an_image_that_was_trained_on_never_validates(contents, fraction):
    """Whatever images come or are moved; and one that validates goes on to, unless it did for want of another."""
    try:
        trained, held = sides(contents + contents[:3], fraction)
    except UserError:
        return
    assert trained and held and not trained & held
    more, held_then = sides([*range(-20, 0), *contents[::-1]], fraction)
    assert trained <= more
    assert held <= held_then or len(held) == 1
    assert sum(held_then & set(contents)) in (sum(held), 0)


def test_the_share_is_that_of_many():
    _, held = sides(range(4000), 0.1)
    assert 340 < len(held) < 460


@pytest.mark.parametrize(("contents", "fraction"), [([1], 0.05), ([1, 1], 0.5), (range(3), 1.0)])
def test_no_image_to_train_on_is_refused(contents, fraction):
    with pytest.raises(UserError, match="would validate"):
        sides(contents, fraction)
    assert [*map(len, split([digest(each) for each in contents], 0.0))] == [len(contents), 0]


def test_shared_images_are_refused(make_folder, make_lmdb, encoded):
    train = open_source(make_folder("train", 5))
    refuse_shared(train, open_source(make_folder("other", {"a.png": encoded(77)})))
    with pytest.raises(UserError, match=r"x\.png is .*003\.png"):
        refuse_shared(train, open_source(make_folder("valid", {"x.png": encoded(3)})))
    with pytest.raises(UserError, match="shares images"):
        refuse_shared(open_source(make_lmdb("public", [encoded(9), encoded(4)])), train)
