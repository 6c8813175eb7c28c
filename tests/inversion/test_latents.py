"""The latent store: safetensors that are written and read by window."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from inversion.latents import Description, LatentStore
from models.geometry import Interval, Region
from utils.errors import UserError

DESCRIPTION = Description(height=100, width=60, origin=(-2, -3), seed=7, weights="abc")


@pytest.fixture
def store(tmp_path):
    values = torch.arange(2 * 5 * 4, dtype=torch.float32).reshape(2, 5, 4)
    store = LatentStore.create(tmp_path / "a.safetensors", DESCRIPTION, (2, 5, 4), torch.tensor([1.0, 2.0, 3.0]))
    store.write(Region.at(-2, -3, 2, 4), values[:, :2])
    store.write(Region.at(0, -3, 3, 1), values[:, 2:, :1])
    store.write(Region.at(0, -2, 3, 3), values[:, 2:, 1:])
    return store, values


def test_other_programs_read_it(store):
    store, values = store
    tensors = load_file(store.path)
    assert (tensors["structure"] == values).all()
    assert tensors["global"].tolist() == [1, 2, 3]
    with safe_open(store.path, "pt") as file:
        assert file.metadata()["image_size"] == "100 60"


def test_opened_again(store):
    store, values = store
    again = LatentStore.open(store.path)
    assert again.description == DESCRIPTION
    assert again.cells == Region.at(-2, -3, 5, 4)
    assert again.z_g.tolist() == [1, 2, 3]
    assert (again.read(Region(Interval(-1, 1), Interval(-2, -1))) == values[:, 1:4, 1:3]).all()
    with pytest.raises(ValueError, match="not inside"):
        again.read(Region.at(-3, -3, 2, 2))


@pytest.mark.parametrize("damage", ["missing", "text", "short", "long", "foreign", "folder"])
def test_damaged_files(store, damage, tmp_path):
    path = store[0].path
    content = path.read_bytes()
    if damage == "missing":
        path = tmp_path / "none.safetensors"
    elif damage == "folder":
        path = tmp_path
    else:
        path.write_bytes({
            "text": b"this is no latent file",
            "short": content[:-5],
            "long": content + b"12345",
            "foreign": content.replace(b"image_size", b"image_sign"),
        }[damage])  # fmt: skip
    with pytest.raises(UserError, match=str(path)) as error:
        LatentStore.open(path)
    assert "\n" not in str(error.value)
