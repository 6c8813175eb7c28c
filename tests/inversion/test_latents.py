"""The latent store: safetensors files and zarr folders that are written and read by window."""

import shutil
from dataclasses import replace

import pytest
import torch
import zarr
from safetensors import safe_open
from safetensors.torch import load_file

from inversion.blocks import blocks
from inversion.latents import Description, LatentStore, latent_suffix
from models.geometry import Interval, Region
from utils.errors import UserError

DESCRIPTION = Description(height=100, width=60, origin=(-2, -3), seed=7, weights="abc")


@pytest.fixture(params=[".safetensors", ".zarr"])
def store(request, tmp_path):
    values = torch.arange(2 * 5 * 4, dtype=torch.float32).reshape(2, 5, 4)
    path = tmp_path / f"a{request.param}"
    store = LatentStore.create(path, DESCRIPTION, (2, 5, 4), torch.tensor([1.0, 2.0, 3.0]), (2, 3))
    for region in blocks(Region.at(-2, -3, 5, 4), (2, 3)):
        rows, cols = region.slices_in(store.cells)
        store.write(region, values[:, rows, cols])
    return store, values


def test_other_programs_read_it(store):
    store, values = store
    if store.path.suffix == ".safetensors":
        tensors = load_file(store.path)
        with safe_open(store.path, "pt") as file:
            metadata = file.metadata()
    else:
        group = zarr.open_group(store.path, mode="r")
        tensors = {name: torch.from_numpy(group[name][:]) for name in ("structure", "global")}
        metadata = dict(group.attrs)
    assert (tensors["structure"] == values).all()
    assert tensors["global"].tolist() == [1, 2, 3]
    assert metadata == DESCRIPTION.metadata() and metadata["image_size"] == "100 60"


def test_opened_again(store):
    store, values = store
    again = LatentStore.open(store.path)
    assert again.description == DESCRIPTION
    assert again.cells == Region.at(-2, -3, 5, 4)
    assert again.z_g.tolist() == [1, 2, 3]
    assert (again.read(Region(Interval(-1, 1), Interval(-2, -1))) == values[:, 1:4, 1:3]).all()
    with pytest.raises(ValueError, match="not inside"):
        again.read(Region.at(-3, -3, 2, 2))


def write_in(path, change):
    path.write_bytes(change(path.read_bytes()))


DAMAGES = {
    "missing": lambda path: shutil.rmtree(path) if path.is_dir() else path.unlink(),
    "text": lambda path: write_in(inner(path), lambda content: b"this is no latent file"),
    "short": lambda path: write_in(inner(path, "structure/c/0/1/1"), lambda content: content[:-5]),
    "long": lambda path: write_in(inner(path, "structure/c/0/1/1"), lambda content: content + b"12345"),
    "foreign": lambda path: write_in(inner(path), lambda content: content.replace(b"image_size", b"image_sign")),
    "list": lambda path: write_in(inner(path), lambda content: b"[]"),
}
PARTS = ["zarr.json", "structure/zarr.json", "structure/c/0/0/1", "global/zarr.json", "global/c/0", "structure"]


def inner(path, name="zarr.json"):
    """A file of a folder; a file itself."""
    return path / name if path.is_dir() else path


def assert_one_line(path):
    with pytest.raises(UserError, match=str(path)) as error:
        LatentStore.open(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_stores(store, damage):
    DAMAGES[damage](store[0].path)
    assert_one_line(store[0].path)


@pytest.mark.parametrize("store", [".zarr"], indirect=True)
@pytest.mark.parametrize("part", PARTS)
def test_a_folder_that_lacks_a_part(store, part):
    path = store[0].path / part
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert_one_line(store[0].path)


@pytest.mark.parametrize("store", [".zarr"], indirect=True)
def test_going_on_with_a_folder(store):
    """Only if it is the same image, in the same blocks."""
    store, _ = store
    (store.path / "structure" / "c" / "0" / "1" / "0").unlink()
    again = LatentStore.continued(store.path, DESCRIPTION, (2, 5, 4), (2, 3))
    missing = [region for region in blocks(store.cells, (2, 3)) if not again.has(region)]
    assert missing == [Region.at(0, -3, 2, 3)]
    for changed in (
        (replace(DESCRIPTION, seed=8), (2, 5, 4), (2, 3)), (DESCRIPTION, (2, 5, 5), (2, 3)),
        (DESCRIPTION, (2, 5, 4), (3, 3)),
    ):  # fmt: skip
        assert LatentStore.continued(store.path, *changed) is None
    assert LatentStore.continued(store.path.with_name("none.zarr"), DESCRIPTION, (2, 5, 4), (2, 3)) is None


def test_files_and_folders(tmp_path):
    for path in (tmp_path, tmp_path / "a.safetensors"):
        path.mkdir(exist_ok=True)
        assert_one_line(path)
    (tmp_path / "a.zarr").write_text("a file")
    assert_one_line(tmp_path / "a.zarr")


@pytest.mark.parametrize(
    ("kind", "cells", "suffix"),
    [
        ("auto", 2**10, ".safetensors"), ("auto", 2**10 + 1, ".zarr"), ("zarr", 1, ".zarr"),
        ("safetensors", 2**12, ".safetensors"), ("none", 1, ".safetensors"),
    ],
)  # fmt: skip
def test_large_latents_are_folders(kind, cells, suffix):
    assert latent_suffix(kind, (256, 2**10, cells)) == suffix
