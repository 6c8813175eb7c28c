"""Latent files: what is saved is what is loaded, by window, and what is damaged is one line."""

import base64
import json
import shutil
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from inversion import Latents, Style, StyleMap, latents
from inversion.latents import ChunkRows, create_zarr, latents_suffix
from inversion.noise import FieldNoise, MixedNoise, ShiftedNoise
from inversion.weight_maps import Boxes, Centres, HorizontalBlend, LabelImage, LabelMap
from tests.inversion.conftest import tiny_model
from utils.errors import UserError

SIZE = 60, 100
SUFFIXES = ".safetensors", ".zarr"
suffixes = pytest.mark.parametrize("suffix", SUFFIXES)
MAPS = {
    "centres": LabelMap(Centres([(1.5, 2.25), (30, 70)]), 2, SIZE, blur=3),
    "boxes": LabelMap(Boxes([(3, 4, 30, 50)]), 2, SIZE),
    "image": LabelMap(LabelImage(np.arange(20).reshape(4, 5) % 3 == 0, SIZE), 2, SIZE, blur=9),
    "blend": HorizontalBlend(20, 71),
}
NOISES = {
    "none": None,
    "field": FieldNoise(-(2**40)),
    "panorama": FieldNoise(3, 64),
    "shifted": ShiftedNoise(ShiftedNoise(FieldNoise(1), 8, 16), -8, 0),
    **{name: MixedNoise([ShiftedNoise(FieldNoise(4), 8, 8), None], weights) for name, weights in MAPS.items()},
}


def plain(model, seed=0):
    """Latents whose structure is an array in memory."""
    values = np.random.default_rng(seed).normal(size=model.structure_shape(SIZE)).astype(np.float32)
    return Latents(values, Style(torch.linspace(-1, 1, 6)), SIZE, FieldNoise(7), "tiny")


def same(model, one, other):
    """Whether latents say the same, and give the same image."""
    return one.metadata() == other.metadata() and (model.draw(one) == model.draw(other)).all()


# What is saved is what is loaded


@suffixes
def test_a_round_trip(model, tmp_path, suffix):
    saved, path = plain(model), tmp_path / "folder" / f"a{suffix}"
    saved.save(path)
    loaded = Latents.load(str(path))
    assert (loaded.size, loaded.noise, loaded.model) == (SIZE, FieldNoise(7), "tiny")
    assert torch.equal(loaded.style.global_latent, saved.style.global_latent)
    assert loaded.structure.shape == saved.structure.shape and loaded.structure.dtype == np.float32
    assert (loaded.structure[:, :, :] == saved.structure).all() and same(model, loaded, saved)
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # nothing temporary


@suffixes
@settings(max_examples=20)
@given(data=st.data())
def test_any_window(tmp_path_factory, suffix, data):
    """Of any shape, written by strips of any number of rows."""
    shape = tuple(data.draw(st.integers(1, most)) for most in (4, 30, 300))
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    path = tmp_path_factory.mktemp("windows") / f"a{suffix}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latents, "STRIP", data.draw(st.integers(1, 9000), "strip"))
        Latents(values, Style(torch.zeros(2)), (9, 9), None, "any").save(path)
    loaded = Latents.load(path).structure
    bounds = [sorted(data.draw(st.tuples(st.integers(0, n - 1), st.integers(1, n)))) for n in shape[1:]]
    window = (slice(None), *(slice(first, max(last, first + 1)) for first, last in bounds))
    assert (loaded[window] == values[window]).all() and loaded[window].dtype == np.float32


@suffixes
@pytest.mark.parametrize("noise", NOISES)
def test_every_noise_survives(model, tmp_path, suffix, noise):
    saved = replace(plain(model), noise=NOISES[noise])
    saved.save(tmp_path / f"a{suffix}")
    assert same(model, Latents.load(tmp_path / f"a{suffix}"), saved)


@suffixes
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("weights", MAPS)
def test_every_map_of_styles_survives(model, tmp_path, suffix, weights, exact):
    styles = [Style(torch.full((6,), value)) for value in (-1.0, 1.0)]
    saved = replace(plain(model), style=StyleMap(styles, MAPS[weights], exact))
    saved.save(tmp_path / f"a{suffix}")
    loaded = Latents.load(tmp_path / f"a{suffix}")
    assert torch.equal(loaded.style.global_latents, saved.style.global_latents) and loaded.style.exact is exact
    assert same(model, loaded, saved)


@suffixes
def test_generated_latents_and_those_of_a_file_are_saved_as_any(model, tmp_path, suffix):
    """Also over the file that they are read from."""
    world, path = model.generate(40, 64, seed=3, panorama=True), tmp_path / f"a{suffix}"
    world.save(path)
    assert same(model, Latents.load(path), world)
    changed = replace(Latents.load(path), noise=None)
    changed.save(path)
    assert same(model, Latents.load(path), replace(world, noise=None))


@suffixes
def test_other_programs_read_it(model, tmp_path, suffix):
    saved, path = plain(model), tmp_path / f"a{suffix}"
    saved.save(path)
    if suffix == ".zarr":
        group = zarr.open_group(path, mode="r")
        tensors, metadata = {name: group[name][:] for name in ("structure", "global")}, dict(group.attrs)
    else:
        tensors = load_file(path)
        with safe_open(path, "np") as file:
            metadata = file.metadata()
    assert (tensors["structure"] == saved.structure).all() and metadata["image_size"] == "60 100"
    assert tensors["global"].tolist() == saved.style.global_latent.tolist()


def test_other_suffixes_are_refused(model, tmp_path):
    with pytest.raises(UserError, match=r"a\.png: latents are saved as \.safetensors or \.zarr"):
        plain(model).save(tmp_path / "a.png")
    assert not any(tmp_path.iterdir())


@suffixes
def test_a_place_that_cannot_be_written_is_one_line(model, tmp_path, suffix):
    (tmp_path / "file").write_text("a file")
    with pytest.raises(UserError, match="cannot write"):
        plain(model).save(tmp_path / "file" / f"a{suffix}")


@pytest.mark.parametrize(
    ("kind", "cells", "suffix"),
    [("auto", 2**10, ".safetensors"), ("auto", 2**10 + 1, ".zarr"), ("zarr", 1, ".zarr"),
     ("safetensors", 2**12, ".safetensors")],
)  # fmt: skip
def test_large_latents_are_folders(kind, cells, suffix):
    assert latents_suffix(kind, (256, 2**10, cells)) == suffix


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 7), st.integers(1, 50))
def test_rows_of_chunks_give_what_the_array_holds(tmp_path_factory, height, width, chunk, strip):
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    array = create_zarr(tmp_path_factory.mktemp("rows") / "a", values.shape, (chunk, 4, 3), "uint8")
    array[:] = values
    rows = ChunkRows(array)
    for top in [*range(0, height, strip), 0]:
        assert (rows[top : min(top + strip, height)] == values[top : top + strip]).all()
        part = slice(top, min(top + strip, height)), slice(width // 2, None)
        assert (rows[part] == values[part]).all()


# Styles of latents


def test_styles_are_mixed_by_strength():
    one, other = Style(torch.tensor([0.0, 1.0])), Style(torch.tensor([2.0, 5.0]))
    assert one.mixed(other, 0) is one and one.mixed(other, 1) is other
    assert one.mixed(other, 0.5).global_latent.tolist() == [1, 3]
    assert one.mixed(other, 1.5).global_latent.tolist() == [3, 7]


def test_maps_of_styles_are_mixed_at_each_position():
    one, other, third = (Style(torch.tensor([value])) for value in (0.0, 2.0, 6.0))
    both = StyleMap([one, other], HorizontalBlend(0, 9))
    assert both.mixed(third, 0) is both and both.mixed(third, 1) is third
    assert third.mixed(both, 0) is third and third.mixed(both, 1) is both
    assert both.mixed(third, 0.5).global_latents.tolist() == [[3], [4]]
    assert third.mixed(both, 0.5).global_latents.tolist() == [[3], [4]]
    assert both.mixed(both, 1) is both
    with pytest.raises(ValueError, match="two maps"):
        both.mixed(both, 0.5)


@pytest.mark.parametrize("count", [1, 3])
def test_a_map_has_as_many_styles_as_weights(count):
    with pytest.raises(ValueError, match="2"):
        StyleMap([Style(torch.zeros(1))] * count, HorizontalBlend(0, 9))


# What is damaged is one line


def check_line(path, error):
    assert str(error).startswith(str(path)) and "\n" not in str(error)


def refused(path):
    with pytest.raises(UserError) as error:
        Latents.load(path)
    check_line(path, error.value)


@pytest.fixture(scope="module")
def check_damaged(inverters):
    """Latents that may be damaged are refused in one line, at the latest when they are drawn, or are drawn."""
    model = tiny_model(inverters())
    return lambda path: draws_or_refuses(model, path)


def draws_or_refuses(model, path):
    try:
        found = Latents.load(path)
        model.check(found, str(path))
        model.draw(found, (0, 0, *np.minimum(found.size, 50)), dtype=np.float32)
    except UserError as error:
        assert "\n" not in str(error)
        return True
    return False


def header_of(content):
    return 8 + int.from_bytes(content[:8], "little")


@pytest.fixture(scope="module")
def stored(inverters, tmp_path_factory):
    """Latents with a map of styles and mixed noise, as a file and as a folder."""
    model, folder = tiny_model(inverters()), tmp_path_factory.mktemp("stored")
    styles = StyleMap([Style(torch.zeros(6)), Style(torch.ones(6))], MAPS["image"])
    for suffix in SUFFIXES:
        replace(plain(model), style=styles, noise=NOISES["centres"]).save(folder / f"a{suffix}")
    return folder


@pytest.fixture(scope="module")
def copy(stored, tmp_path_factory):
    """A new copy of the stored latents."""

    def make(suffix):
        source, path = stored / f"a{suffix}", tmp_path_factory.mktemp("copy") / f"a{suffix}"
        return shutil.copytree(source, path) if source.is_dir() else shutil.copy(source, path)

    return make


@settings(max_examples=40)
@given(share=st.floats(0, 1, exclude_max=True), header=st.booleans())
def test_a_file_that_ends_early_or_goes_on(copy, share, header):
    path = copy(".safetensors")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * (header_of(content) if header else len(content)))])
    refused(path)
    path.write_bytes(content + content[: 1 + int(99 * share)])
    refused(path)


@settings(max_examples=150)
@given(share=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_any_byte_of_a_header_may_be_another(check_damaged, copy, share, byte):
    path = copy(".safetensors")
    content = bytearray(path.read_bytes())
    content[int(share * header_of(content))] = byte
    path.write_bytes(content)
    check_damaged(path)


@settings(max_examples=100)
@given(data=st.data())
def test_any_file_of_a_folder_may_be_damaged(check_damaged, copy, data):
    path = copy(".zarr")
    files = sorted(file for file in path.rglob("*") if file.is_file())
    file = data.draw(st.sampled_from(files), "file")
    content, place = file.read_bytes(), data.draw(st.floats(0, 1, exclude_max=True), "place")
    kind, at = data.draw(st.sampled_from(["gone", "short", "long", "other"]), "damage"), int(place * len(content))
    if kind == "gone":
        file.unlink()
    else:
        other = content[:at] + bytes([content[at] ^ data.draw(st.integers(1, 255), "bits")]) + content[at + 1 :]
        file.write_bytes({"short": content[:at], "long": content + b"12", "other": other}[kind])
    damaged = check_damaged(path)
    assert damaged or file.name == "zarr.json"  # the values have checksums


@pytest.mark.parametrize("part", ["zarr.json", "structure", "structure/zarr.json", "structure/c/0/0/0", "global"])
def test_a_folder_that_lacks_a_part(copy, part):
    path = copy(".zarr") / part
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    refused(path.parents[len(part.split("/")) - 1])


LEAVES = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(
    [2**70, -(2**70), 1e400, -1e400, 0.5, "", "x", "3", [], {}, [1, 2], {"field": 1, "period": None}]
)  # fmt: skip


def leaves(values, path=()):
    """The paths of all values within values."""
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    return [path, *(found for key, value in items for found in leaves(value, (*path, key)))]


def exchanged(values, path, leaf):
    if not path:
        return leaf
    changed = dict(values) if isinstance(values, dict) else list(values)
    changed[path[0]] = exchanged(values[path[0]], path[1:], leaf)
    return changed


@settings(max_examples=200)
@given(data=st.data())
def test_any_value_of_the_metadata_may_be_another(check_damaged, stored, data):
    path = stored / "a.safetensors"
    with safe_open(path, "np") as file:
        metadata = file.metadata()
    key = data.draw(st.sampled_from(["noise", "style"]), "key")
    values = json.loads(metadata[key])
    changed = exchanged(values, data.draw(st.sampled_from(leaves(values)), "path"), data.draw(LEAVES, "value"))
    save_file(load_file(path), stored / "changed.safetensors", metadata | {key: json.dumps(changed)})
    check_damaged(stored / "changed.safetensors")


def test_labels_of_too_many_pixels(copy):
    path, size = copy(".safetensors"), (2**15).to_bytes(4, "big") * 2
    with safe_open(path, "np") as file:
        metadata = file.metadata()
    style = json.loads(metadata["style"])
    image = bytearray(base64.b64decode(style["map"]["labels"]["image"]))
    image[16:24] = size
    image[29:33] = zlib.crc32(image[12:29]).to_bytes(4, "big")
    style["map"]["labels"]["image"] = base64.b64encode(image).decode()
    save_file(load_file(path), path.with_name("b.safetensors"), metadata | {"style": json.dumps(style)})
    refused(path.with_name("b.safetensors"))


@pytest.mark.parametrize(
    "change",
    [{"format": "patch-inverter-latents-9"}, {"image_size": "60"}, {"image_size": "60 101.5"}, {"image_size": "0 9"},
     {"noise": "["}, {"style": "null"}, {"style": "[" * 10**5}],
)  # fmt: skip
@suffixes
def test_metadata_of_other_programs(copy, suffix, change):
    path = copy(suffix)
    if suffix == ".zarr":
        zarr.open_group(path, mode="r+").attrs.update(change)
    else:
        with safe_open(path, "np") as file:
            save_file(load_file(path), path.with_name("b.safetensors"), file.metadata() | change)
        path = path.with_name("b.safetensors")
    refused(path)


@pytest.mark.parametrize(
    "change",
    [{"structure": np.zeros((5, 9, 9), np.float16)}, {"structure": np.zeros((5, 9), np.float32)},
     {"structure": np.zeros((5, 0, 9), np.float32)}, {"global": np.zeros((2, 6))}, {"global": np.zeros(6, np.float32)},
     {"global": np.zeros((3, 6), np.float32)}],
)  # fmt: skip
def test_tensors_of_other_shapes_and_types(copy, change):
    path = copy(".safetensors")
    with safe_open(path, "np") as file:
        save_file(load_file(path) | change, path.with_name("b.safetensors"), file.metadata())
    refused(path.with_name("b.safetensors"))


@suffixes
def test_what_is_no_latent_file(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    refused(path)
    path.write_text("this is no latent file")
    refused(path)
    path.unlink()
    path.mkdir()
    refused(path)
    if suffix == ".zarr":
        create_zarr(path, (5, 9, 9), (5, 9, 9))
    else:
        path = tmp_path / "b.safetensors"
        save_file({"weights": np.zeros(3)}, path)
    refused(path)
    refused(tmp_path)


def test_what_is_damaged_later_is_one_line(model, copy):
    for suffix in SUFFIXES:
        path = copy(suffix)
        loaded = Latents.load(path)
        shutil.rmtree(path / "structure") if suffix == ".zarr" else path.write_bytes(path.read_bytes()[:-9])
        with pytest.raises(UserError) as error:
            model.draw(loaded)
        check_line(path, error.value)
