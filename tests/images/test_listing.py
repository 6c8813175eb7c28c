"""Which files of folders are taken: by their content, through links, and what is said of the others."""

import io
import os
import socket

import PIL.Image
from hypothesis import given, settings
from hypothesis import strategies as st

from images import headers
from images.listing import find_images

HEIC = b"\0\0\0\x18ftypheic" + bytes(99)


def encoded(kind):
    """A picture of 5 x 4 as a file of a format."""
    file = io.BytesIO()
    PIL.Image.new("RGB", (5, 4), "red").save(file, kind)
    return file.getvalue()


def names(folder, **options):
    return [path.relative_to(folder).as_posix() for path in find_images(folder, **options)]


def write(folder, **files):
    for name, data in files.items():
        (folder / name.replace("__", ".")).write_bytes(data)


def test_names_and_their_order(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / ".cache").mkdir()
    (tmp_path / "@eaDir").mkdir()
    hidden = (".hidden.png", ".cache/f.png", "@eaDir/g.jpg")
    for name in ("b.JPG", "a/z.png", "a/y.WebP", "c.tif", "d.bmp", "e.txt", *hidden, "a.jpeg"):
        (tmp_path / name).write_bytes(b"x")
    assert names(tmp_path) == ["a/y.WebP", "a/z.png", "a.jpeg", "b.JPG", "c.tif", "d.bmp"]


def test_what_a_file_holds_counts_and_not_its_suffix(tmp_path, capsys):
    files = ["x", "x.PNG.part", "x.dat", "x.heic", "x.jfif", "x.jpg!d", "x.jpg_large", "x.txt"]
    kinds = ["JPEG", "PNG", "GIF", "AVIF", "WEBP", "TIFF", "BMP", "JPEG2000"]
    for name, kind in zip(files, kinds, strict=True):
        (tmp_path / name).write_bytes(encoded(kind))
    assert names(tmp_path) == files and capsys.readouterr().out == ""


def test_one_line_counts_what_is_left_out(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(headers, "find_spec", lambda name: None)  # no decoder of HEIC is installed
    write(tmp_path, a__jpg=b"", b__HEIC=HEIC, c__heic=HEIC, d__txt=b"", e__TXT=b"x", README=b"x")
    write(tmp_path, raw__NEF=encoded("TIFF"), f__jxl=b"\xff\x0a" + bytes(20), g__psd=b"8BPS" + bytes(20))
    (tmp_path / "h.zarr" / "c").mkdir(parents=True)
    (tmp_path / "h.zarr" / "c" / "0").write_bytes(encoded("PNG"))
    assert names(tmp_path) == ["a.jpg"]
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("left out: ") and "2 .heic (needs pillow-heif)" in line and "2 .txt" in line
    for part in ("1 without a suffix", ".nef (raw photograph is not read)", ".jxl (JPEG XL is not read)", "1 .zarr"):
        assert part in line


def test_other_processes_of_a_run_say_nothing(tmp_path, capsys, monkeypatch):
    write(tmp_path, a__txt=b"")
    monkeypatch.setenv("RANK", "1")
    assert names(tmp_path) == [] and capsys.readouterr().out == ""


def test_many_kinds_are_still_one_line_and_control_characters_no_trick(tmp_path, capsys):
    for number in range(40):
        (tmp_path / f"x.{number:03}").touch()
    (tmp_path / "x.\x1b[31m\n").touch()
    (tmp_path / f"x.{'y' * 200}").touch()
    assert names(tmp_path) == []
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 1 and len(out) < 200 and "\x1b" not in out and "others" in out


def test_a_folder_of_nothing_but_links(tmp_path):
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    write(tmp_path / "elsewhere" / "deep", c__png=b"")
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "album").symlink_to("../elsewhere")
    assert names(tmp_path / "only") == ["album/deep/c.png"]


def test_the_folder_of_results_is_not_entered_by_any_name(tmp_path):
    (tmp_path / "photos" / "out").mkdir(parents=True)
    write(tmp_path / "photos" / "out", r__png=b"")
    write(tmp_path / "photos", a__png=b"")
    (tmp_path / "photos" / "link").symlink_to(tmp_path / "photos" / "out")
    (tmp_path / "name").symlink_to(tmp_path / "photos" / "out")
    assert names(tmp_path / "photos", without=tmp_path / "name") == ["a.png"]
    assert names(tmp_path / "photos", without=tmp_path / "none") == ["a.png", "out/r.png"]


def test_what_is_no_file_is_not_opened(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.png"))
        assert names(tmp_path) == []
    assert "2 .png (not a file), 1 without a suffix (not a file)" in capsys.readouterr().out


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.booleans()), max_size=12))
@settings(max_examples=25)
def test_each_folder_is_entered_once_whatever_links_there_are(tmp_path_factory, links):
    """Folders in a chain, a file in each, and links between any of them: each file once, by the name without links."""
    root = tmp_path_factory.mktemp("links")
    folders = [root.joinpath(*"abcde"[:depth]) for depth in range(5)]
    folders[-1].mkdir(parents=True)
    for folder in folders:
        (folder / "x.png").touch()
    for number, (at, to, relative) in enumerate(links):
        target = os.path.relpath(folders[to], folders[at]) if relative else folders[to]
        (folders[at] / f"0{number}").symlink_to(target)
    assert find_images(root) == sorted((folder / "x.png" for folder in folders), key=lambda path: path.parts)
