"""Latent files: what is saved is what is loaded, by window, and what is damaged is one line."""

import json
import os
import re
import resource
import shutil
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
from inversion.latents import DIGESTS, PIECE, SEAL, ChunkRows, Pieces, create_zarr, digest, latents_suffix, sealed
from inversion.noise import FieldNoise, MixedNoise, ShiftedNoise
from inversion.weight_maps import Boxes, Centres, HorizontalBlend, LabelImage, LabelMap, ShiftedMap
from utils.errors import UserError

SIZE = 60, 100
SUFFIXES = ".safetensors", ".zarr"
suffixes = pytest.mark.parametrize("suffix", SUFFIXES)
MAPS = {
    "centres": LabelMap(Centres([(1.5, 2.25), (30, 70)]), 2, SIZE, blur=3),
    "boxes": LabelMap(Boxes([(3, 4, 30, 50)]), 2, SIZE),
    "image": LabelMap(LabelImage(np.arange(20).reshape(4, 5) % 3 == 0, SIZE), 2, SIZE, blur=9),
    "blend": ShiftedMap(HorizontalBlend(20, 71), 8, -16),
}
NOISES = {
    "none": None,
    "field": FieldNoise(-(2**40)),
    "panorama": FieldNoise(3, 64),
    "shifted": ShiftedNoise(ShiftedNoise(FieldNoise(1), 8, 16), -8, 0),
    **{name: MixedNoise([ShiftedNoise(FieldNoise(4), 8, 8), None], weights) for name, weights in MAPS.items()},
}
BOTH = Style(torch.zeros(6)), Style(torch.ones(6))
STYLES = {
    "one": Style(torch.linspace(-1, 1, 6)),
    "fast": StyleMap(BOTH, MAPS["image"], exact=False),
    **{name: StyleMap(BOTH, weights) for name, weights in MAPS.items()},
}
METADATA = Latents(np.empty((1, 1, 1)), STYLES["image"], SIZE, NOISES["centres"], "tiny").metadata()


def plain(model):
    """Latents whose structure is an array in memory."""
    values = np.random.default_rng(0).normal(size=model.structure_shape(SIZE)).astype(np.float32)
    return Latents(values, STYLES["one"], SIZE, FieldNoise(7), "tiny")


def same(model, one, other):
    """Whether latents say the same, and give the same image."""
    return one.metadata() == other.metadata() and (model.draw(one) == model.draw(other)).all()


# What is saved is what is loaded


@suffixes
def test_a_round_trip(model, tmp_path, suffix):
    """Of every style and every noise."""
    for noise, style in zip(NOISES, [*STYLES, *STYLES], strict=False):
        saved, path = replace(plain(model), noise=NOISES[noise], style=STYLES[style]), tmp_path / style / f"a{suffix}"
        saved.save(path)
        loaded = Latents.load(str(path))
        assert loaded.size == SIZE and loaded.structure.dtype == np.float32
        assert (loaded.structure[:, 3:9999, 2:9999] == saved.structure[:, 3:, 2:]).all()
        assert (loaded.structure[:, :, :] == saved.structure).all() and same(model, loaded, saved)
        assert [file.name for file in path.parent.iterdir()] == [path.name]  # nothing temporary


@suffixes
def test_grey_latents_are_drawn_without_colours(model, tmp_path, suffix):
    grey = replace(plain(model), grey=True)
    grey.save(tmp_path / f"a{suffix}")
    loaded, image = Latents.load(tmp_path / f"a{suffix}"), model.draw(grey, dtype=np.float32)
    assert loaded.grey and same(model, grey, loaded)
    coloured = model.draw(plain(model), dtype=np.float32)
    np.testing.assert_allclose(image, np.repeat(coloured.mean(2, keepdims=True), 3, axis=2), atol=1e-5)
    part = model.draw(grey, (5, 7, 40, 60), dtype=np.float32)
    np.testing.assert_allclose(part, image[5:40, 7:60], atol=1e-5)
    assert grey.with_style(BOTH[0], 0).grey and not grey.with_style(BOTH[0]).grey


@suffixes
@settings(max_examples=10)
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
def test_generated_latents_and_those_of_a_file_are_saved_as_any(model, tmp_path, suffix):
    """Also over the file that they are read from."""
    world, path = model.generate(40, 64, seed=3, panorama=True), tmp_path / f"a{suffix}"
    world.save(path)
    assert same(model, Latents.load(path), world)
    changed = replace(Latents.load(path), noise=None)
    changed.save(path)
    assert same(model, Latents.load(path), replace(world, noise=None))


def test_what_cannot_be_saved_is_one_line(model, tmp_path):
    (tmp_path / "file").write_text("a file")
    for path in ("a.png", "file/a.zarr", "file/a.safetensors"):
        with pytest.raises(UserError, match=f"{path}"):
            plain(model).save(tmp_path / path)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_large_latents_are_folders():
    large, small = (256, 2**10, 2**10 + 1), (256, 2**10, 2**10)
    assert [latents_suffix("auto", shape) for shape in (small, large)] == [".safetensors", ".zarr"]
    assert [latents_suffix(kind, large) for kind in ("safetensors", "zarr")] == [".safetensors", ".zarr"]


@pytest.mark.parametrize(("height", "chunk", "strip"), [(40, 7, 3), (13, 4, 50), (9, 1, 2)])
def test_rows_of_chunks_give_what_the_array_holds(tmp_path, height, chunk, strip):
    values = np.random.default_rng(0).integers(0, 256, (height, 6, 3), np.uint8)
    array = create_zarr(tmp_path / "a", values.shape, (chunk, 4, 3), "uint8")
    array[:] = values
    rows = ChunkRows(array)
    for top in [*range(0, height, strip), 0]:
        part = slice(top, min(top + strip, height)), slice(2, None)
        assert (rows[part] == values[part]).all() and (rows[part[0]] == values[part[0]]).all()


# What is damaged is one line


def refused(path):
    with pytest.raises(UserError, match=f"^{re.escape(str(path))}: [^\n]*$"):
        Latents.load(path)


def draws(model, path):
    """Whether latents that may be damaged are drawn; else they are refused in one line."""
    try:
        found = Latents.load(path)
        model.check(found, str(path))
        model.draw(found, (0, 0, *np.minimum(found.size, 50)))
    except UserError as error:
        assert "\n" not in str(error)
        return False
    return True


@pytest.fixture(scope="module")
def copy(model, tmp_path_factory):
    """A new copy of latents with a map of styles and mixed noise, as a file or a folder."""
    stored = tmp_path_factory.mktemp("stored")
    for suffix in SUFFIXES:
        replace(plain(model), style=STYLES["image"], noise=NOISES["centres"]).save(stored / f"a{suffix}")

    def make(suffix):
        source, path = stored / f"a{suffix}", tmp_path_factory.mktemp("copy") / f"a{suffix}"
        return shutil.copytree(source, path) if source.is_dir() else shutil.copy(source, path)

    return make


@given(share=st.floats(0, 1, exclude_max=True))
def test_a_file_that_ends_early_or_goes_on(copy, share):
    path = copy(".safetensors")
    content = path.read_bytes()
    for other in (content[: int(share * len(content))], content[: int(share * 3000)], content + bytes(99)):
        path.write_bytes(other)
        refused(path)


@settings(max_examples=40)
@given(data=st.data())
def test_any_file_of_a_folder_may_be_damaged(model, copy, data):
    path = copy(".zarr")
    files = sorted(file for file in path.rglob("*") if file.is_file())
    file = data.draw(st.sampled_from(files), "file")
    content = file.read_bytes()
    at, bits = data.draw(st.integers(0, len(content) - 1), "place"), data.draw(st.integers(1, 255), "bits")
    other = content[:at] + bytes([content[at] ^ bits]) + content[at + 1 :]
    damaged = data.draw(st.sampled_from([None, content[:at], content + b"12", other]), "damage")
    file.unlink() if damaged is None else file.write_bytes(damaged)
    assert not draws(model, path) or file.name == "zarr.json"  # of which spaces may be others


def resealed(arrays, metadata):
    """Metadata of changed latents, as somebody would make them who means harm: with digests that match."""
    structure, styles = arrays["structure"], {name: arrays[name] for name in ("global", "own") if name in arrays}
    metadata = {key: text for key, text in metadata.items() if key not in (PIECE, DIGESTS, SEAL)}
    return sealed(metadata, styles, Pieces(structure.shape, structure.shape), [digest(structure)])


@pytest.fixture(scope="module")
def changed(copy):
    """The stored file with other tensors or metadata, sealed again."""

    def make(tensors=(), **metadata):
        path = copy(".safetensors")
        with safe_open(path, "np") as file:
            arrays, metadata = load_file(path) | dict(tensors), file.metadata() | metadata
        save_file(arrays, path.with_name("b.safetensors"), resealed(arrays, metadata))
        return path.with_name("b.safetensors")

    return make


def test_many_maps_of_many_labels(changed, monkeypatch):
    """Each of which is allowed, and takes a few bytes."""
    monkeypatch.setattr(latents, "MOST_LABELS", 45)
    weights = json.loads(METADATA["style_map"])
    assert Latents.load(changed(style_map=json.dumps(weights))).style.weights.count == 2
    layers = {"kind": "layered", "below": weights, "above": None, "mask": weights}
    style = np.zeros((3, 6), np.float32)
    path = changed({"global": style}, style_map=json.dumps(layers))
    assert len(Latents.load(path).style.styles) == 3
    monkeypatch.setattr(latents, "MOST_LABELS", 39)
    refused(path)


def seal(arrays, metadata, **others):
    return arrays, resealed(arrays, metadata | others)


def few_digests(arrays, metadata):
    structure = Pieces(arrays["structure"].shape, (len(arrays["structure"]), 1, 1))
    plain = {key: text for key, text in metadata.items() if key not in (PIECE, DIGESTS, SEAL)}
    return sealed(plain, {"global": arrays["global"]}, structure, metadata[DIGESTS].split())


WRONG_FILES = {  # what others make of a latent file, and what is said of it
    "half": (lambda arrays, meta: ({key: arrays[key].astype("f2") for key in arrays}, meta), "'structure' is F16"),
    "batch": (lambda arrays, meta: (arrays | {"structure": arrays["structure"][None]}, meta), "without a batch axis"),
    "style batch": (lambda arrays, meta: seal(arrays | {"global": arrays["global"][None]}, meta), "allowed: [N, D]"),
    "style nan": (lambda arrays, meta: seal(arrays | {"global": arrays["global"] * np.nan}, meta), "not finite"),
    "huge style": (lambda arrays, meta: seal(arrays | {"global": np.zeros((2**12, 2**11), "f4")}, meta), "at most"),
    "no metadata": (lambda arrays, meta: (arrays, None), "it has no metadata; latents are changed with"),
    "less metadata": (lambda arrays, meta: (arrays, {"noise": "null"}), "its metadata lack format, image_size"),
    "older": (lambda arrays, meta: (arrays, {"format": "patch-inverter-latents-3", "noise": ""}), "invert the"),
    "changed": (lambda arrays, meta: (arrays, meta | {"grey": "True"}), "it does not match its SHA-256"),
    "flat": (lambda arrays, meta: seal(arrays | {"structure": arrays["structure"][0]}, meta), "allowed: [C, h, w]"),
    "empty": (lambda arrays, meta: seal(arrays | {"structure": np.zeros((5, 0, 9), "f4")}, meta), ""),
    "too many styles": (lambda arrays, meta: seal(arrays | {"global": np.zeros((3, 6), "f4")}, meta), ""),
    "fewer digests": (lambda arrays, meta: (arrays, few_digests(arrays, meta)), "digests of "),
    "newer": (lambda arrays, meta: seal(arrays, meta, format="patch-inverter-latents-9"), "its format is"),
    "size": (lambda arrays, meta: seal(arrays, meta, image_size="60 101.5"), ""),
    "no size": (lambda arrays, meta: seal(arrays, meta, image_size="0 9"), ""),
    "noise": (lambda arrays, meta: seal(arrays, meta, noise="["), ""),
    "deep map": (lambda arrays, meta: seal(arrays, meta, style_map="[" * 10**5), ""),
    "renamed": (lambda arrays, meta: ({"z": arrays["structure"]}, meta), "it has no tensor 'structure'"),
    "no style": (lambda arrays, meta: ({"structure": arrays["structure"]}, meta), "it has no tensor 'global'"),
}


@pytest.mark.parametrize("wrong", WRONG_FILES)
def test_what_does_not_fit_is_named(copy, wrong):
    path, (make, said) = copy(".safetensors"), WRONG_FILES[wrong]
    with safe_open(path, "np") as file:
        arrays, metadata = make(load_file(path), file.metadata())
    save_file({name: np.ascontiguousarray(values) for name, values in arrays.items()}, path, metadata)
    with pytest.raises(UserError, match=f"^{re.escape(str(path))}: not a whole latent file .*{re.escape(said)}"):
        Latents.load(path)


def test_a_folder_of_other_metadata(copy):
    path = copy(".zarr")
    zarr.open_group(path, mode="r+").attrs.update({"style_map": "null"})
    refused(path)


@suffixes
@pytest.mark.parametrize("wrong", ["nan", "overflow", "batch", "integers", "style"])
def test_what_could_not_be_drawn_is_not_saved(model, tmp_path, suffix, wrong):
    good = plain(model)
    values = good.structure.astype(np.float64)
    values[1, 2, 3] = {"nan": np.nan, "overflow": 1e300}.get(wrong, 1)
    values = {"batch": values[None], "integers": good.structure.astype(int)}.get(wrong, values)
    style = Style(good.style.global_latent * (np.inf if wrong == "style" else 1))
    with pytest.raises(UserError, match=rf"a{suffix}: not saved: "):
        replace(good, structure=values, style=style).save(tmp_path / f"a{suffix}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float64])
def test_tensors_of_any_floating_point_type(model, tmp_path, kind):
    """They are drawn and saved as arrays are, and so are styles."""
    values = torch.from_numpy(plain(model).structure).to(kind).requires_grad_()
    edited = replace(plain(model), structure=values, style=Style(STYLES["one"].global_latent.to(kind)))
    edited.save(tmp_path / "a.safetensors")
    loaded = Latents.load(tmp_path / "a.safetensors")
    assert np.array_equal(loaded.structure[:, :, :], values.detach().float().numpy())
    assert (model.draw(edited) == model.draw(loaded)).all()
    assert Style(STYLES["one"].global_latent.numpy()).global_latent.equal(STYLES["one"].global_latent)


@suffixes
def test_what_is_no_latent_file(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    refused(path)
    path.write_text("this is no latent file")
    refused(path)
    path.unlink()
    for make in (path.mkdir, lambda: create_zarr(path, (5, 9, 9), (5, 9, 9))):
        make()
        refused(path)
    save_file({"weights": np.zeros(3)}, tmp_path / "b.safetensors")
    refused(tmp_path / "b.safetensors")


# What was changed is told, and nothing is drawn that was not checked


@settings(max_examples=60)
@given(data=st.data())
def test_no_bit_of_a_file_changes_the_picture(model, copy, data):
    """Neither in the header, of which spaces may be others, nor behind it."""
    path = copy(".safetensors")
    content = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    place = data.draw(st.integers(0, header - 1) | st.integers(0, len(content) - 1), "place")
    content[place] ^= 1 << data.draw(st.integers(0, 7), "bit")
    path.write_bytes(content)
    if draws(model, path):
        assert same(model, Latents.load(path), Latents.load(copy(".safetensors")))


@pytest.fixture
def strips(monkeypatch, tmp_path):
    """Latents that are stored in several pieces, and where."""
    monkeypatch.setattr(latents, "STRIP", 2000)
    values = np.random.default_rng(0).normal(size=(5, 40, 300)).astype(np.float32)

    def save(suffix):
        Latents(values, Style(torch.zeros(2)), (9, 9), None, "any").save(tmp_path / f"a{suffix}")
        return tmp_path / f"a{suffix}", values

    return save


def damage(path, place=-5):
    """Other values at a place of a file, and the checksum of zarr as it must be."""
    if path.is_dir():
        array = zarr.open_array(path / "structure", mode="r+")
        array[0, place, place] += 1
    else:
        content = bytearray(path.read_bytes())
        content[place] ^= 1
        path.write_bytes(content)


@suffixes
def test_a_window_checks_what_it_touches_and_all_of_that(strips, suffix):
    path, values = strips(suffix)
    damage(path)
    structure = Latents.load(path).structure
    assert (structure[:, :9, :100] == values[:, :9, :100]).all()
    for window in ((slice(4, 5), slice(35, 40), slice(290, 300)), (slice(None),), (slice(0, 1), slice(35, None))):
        with pytest.raises(UserError, match=f"^{re.escape(str(path))}: damaged .*SHA-256"):
            structure[window]


@suffixes
def test_what_was_checked_is_checked_again_where_the_file_changed(strips, suffix):
    path, values = strips(suffix)
    structure = Latents.load(path).structure
    assert (structure[:, :, :] == values).all()
    damage(path)
    with pytest.raises(UserError, match="SHA-256"):
        structure[:, :, :]


@pytest.mark.parametrize("change", ["swapped", "zeroed", "link"])
def test_chunks_are_those_that_were_written(strips, change):
    path, values = strips(".zarr")
    chunks = sorted((path / "structure/c/0").glob("*/0"))
    if change == "swapped":
        first, last = chunks[0].read_bytes(), chunks[-1].read_bytes()
        chunks[0].write_bytes(last), chunks[-1].write_bytes(first)
    elif change == "zeroed":
        zarr.open_array(path / "structure", mode="r+")[:, :1, :256] = 0
    else:
        chunks[0].unlink(), chunks[0].symlink_to("/dev/zero")
    with pytest.raises(UserError, match=r"a\.zarr: (damaged|not a whole)"):
        Latents.load(path).structure[:, :1, :]


@suffixes
def test_values_that_are_not_finite_are_not_drawn(model, copy, changed, suffix):
    """Of somebody who sealed them."""
    path = copy(suffix)
    if suffix == ".zarr":
        zarr.open_array(path / "structure", mode="r+")[2, 3, 4] = np.nan
        arrays = {name: zarr.open_array(path / name)[...] for name in ("structure", "global")}
        zarr.open_group(path, mode="r+").attrs.update(resealed(arrays, dict(zarr.open_group(path, mode="r").attrs)))
    else:
        path = changed({"structure": np.full(load_file(path)["structure"].shape, np.inf, "f4")})
    with pytest.raises(UserError, match="values that are not finite"):
        model.draw(Latents.load(path))


FORGED = {  # what a few bytes of a folder claim
    "shape": ("structure", lambda text: text["shape"].__setitem__(1, 10**9)),
    "chunks": ("structure", lambda text: text["chunk_grid"]["configuration"].update(chunk_shape=[5, 10**9, 10**9])),
    "style": ("global", lambda text: text.update(shape=[10**8])),
    "style in chunks": ("global", lambda text: text["chunk_grid"]["configuration"].update(chunk_shape=[1, 1])),
    "a codec": ("structure", lambda text: text["codecs"].append({"name": "gzip", "configuration": {"level": 1}})),
    "text": ("structure", lambda text: text.update(shape="9 9 9")),
    "deep": ("", None),
    "long": ("structure", None),
    "pipe": ("", None),
}


@pytest.mark.parametrize("forged", FORGED)
def test_a_folder_of_a_few_bytes_takes_no_memory(copy, monkeypatch, forged):
    path, (name, change) = copy(".zarr"), FORGED[forged]
    file = path / name / "zarr.json"
    monkeypatch.setattr(latents, "LARGEST_JSON", 10**6)
    if change:
        text = json.loads(file.read_text())
        change(text)
        file.write_text(json.dumps(text))
    elif forged == "pipe":
        file.unlink(), os.mkfifo(file)
    else:
        file.write_text("[" * 10**5 if forged == "deep" else file.read_text() + " " * 10**6)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def test_a_pipe_is_no_latent_file(tmp_path):
    os.mkfifo(tmp_path / "a.safetensors")
    refused(tmp_path / "a.safetensors")
