"""The files that commands work on, and the names of their results."""

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from images.listing import find_images
from inversion.commands import IMAGES, find_files, find_latents, seeds_of, unique_names
from utils.errors import UserError


def named(paths, *folders):
    return list(unique_names([Path(path) for path in paths], *map(Path, folders)).values())


def found(*paths):
    return {str(path): name for path, name in find_files("--input", paths, find_images, IMAGES).items()}


def test_names_below_a_folder():
    assert named(["in/a.jpg", "in/b/c.png", "in/d"], "in") == ["a", "b/c", "d"]
    assert named(["in/x.jpg", "in/x.png", "in/y.png"], "in") == ["x.jpg", "x.png", "y"]
    assert named(["in/Trip 1.5.24", "in/Trip 1.5.23"], "in") == ["Trip 1.5.24", "Trip 1.5.23"]


def test_names_of_files_from_several_folders():
    paths = ["p/1/x.jpg", "p/2/x.jpg", "p/2/y.jpg"]
    assert named(paths, *(Path(path).parent for path in paths)) == ["1/x", "2/x", "y"]
    paths = ["p/1/x.jpg", "p/2/x.jpg", "p/2/x.png"]
    assert named(paths, *(Path(path).parent for path in paths)) == ["1/x", "2/x", "x.png"]


def test_no_folder_is_that_of_an_image_s_tiles():
    assert named(["a.jpg", "a_files/0.jpg"], ".") == ["a-2", "a_files/0"]


def test_file_systems_that_ignore_case_or_forms_of_accents():
    accents = [unicodedata.normalize(form, "é.jpg") for form in ("NFC", "NFD")]
    for paths in (["A.jpg", "a.png"], ["A.jpg", "a.jpg"], accents, ["ß.jpg", "SS.jpg"]):
        folded = {unicodedata.normalize("NFC", name).casefold() for name in named(paths, ".")}
        assert len(folded) == 2


pieces = st.sampled_from(["a", "A", "a.jpg", "a.jpg.png", "é", "e\u0301", "\udce9", "\\xe9", "a-2", "a.JPG", "b" * 250])


@given(st.lists(st.lists(pieces, min_size=1, max_size=3), min_size=1, max_size=8, unique_by=tuple))
def test_no_two_files_share_a_result_anywhere(parts):
    """Names differ for every file system, fit into it with a suffix, and are UTF-8."""
    paths = [Path("/r", *each) for each in parts]
    for folders in ([Path("/r")], [path.parent for path in paths]):
        names = unique_names(paths, *folders)
        assert list(names) == paths
        assert len({unicodedata.normalize("NFC", name).casefold() for name in names.values()}) == len(paths)
        for name in names.values():
            assert all(len(part.encode()) < 225 for part in name.split("/")) and not name.startswith(("/", ".."))


def test_inputs_of_all_kinds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("album/more/c.png", "album/a.png", "b.jpg", "name=1.jpg"):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).touch()
    assert found(Path("b.jpg"), Path("album"), Path("name=1.jpg")) == {
        "b.jpg": "b", "album/a.png": "a", "album/more/c.png": "more/c", "name=1.jpg": "name=1"
    }  # fmt: skip
    Path("link").symlink_to("album")
    again = [Path("album"), tmp_path / "album/a.png", Path("./album/../album"), Path("link"), Path("album/more")]
    assert list(found(*again)) == ["album/a.png", "album/more/c.png"]


@pytest.mark.parametrize(("path", "said"), [("none.jpg", "no such file or folder"), ("empty", "no JPEG, PNG")])
def test_one_of_several_inputs_is_not_there(tmp_path, path, said):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.png").touch()
    with pytest.raises(UserError, match=f"^--input .*{path}: {said}"):
        found(tmp_path / "a.png", tmp_path / path)


def test_latents_are_found_through_links(tmp_path):
    (tmp_path / "in").mkdir()
    for path in ("in/a.safetensors", "in/c.zarr", "else/b.zarr/c.safetensors", "else/d.safetensors"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    (tmp_path / "in/link").symlink_to("../else")
    names = [path.relative_to(tmp_path / "in").as_posix() for path in find_latents(tmp_path / "in")]
    assert names == ["a.safetensors", "link/b.zarr", "link/d.safetensors"]


def test_seeds_that_no_option_could_name():
    class Options(dict):
        __getattr__ = dict.__getitem__

    assert seeds_of("generate", Options(seed=2**32 - 2, count=2)) == range(2**32 - 2, 2**32)
    assert seeds_of("generate", Options(seed=0, count=2, seeds=[7, 3])) == [7, 3]
    with pytest.raises(UserError, match=r"^generate\.count: 2 from seed 4294967295 on; seeds end at 4294967295$"):
        seeds_of("generate", Options(seed=2**32 - 1, count=2))
