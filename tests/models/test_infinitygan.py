"""Public InfinityGAN weights: every value finds its place, shapes tell the architecture, other files are refused."""

import os
import pickle
import re
import zipfile
from math import nan
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from models import build_discriminator, build_generator
from models.infinitygan import Constants, discriminator_state, generator_model, generator_state, read_checkpoint
from tests.models.public_infinitygan import (
    SMALL,
    outer,
    public_checkpoint,
    public_discriminator,
    public_generator,
)
from utils.checkpoint import load_pretrained
from utils.config import load_config
from utils.errors import UserError
from utils.schema import TrainConfig

CONFIGS = Path(__file__).parents[2] / "configs"
EIGHT_CELLS = Constants(ts_input_size=8)
STRUCTURE = "structure_synthesizer.implicit_model.conv_stack.0.conv."
TEXTURE = "texture_synthesizer."


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def assert_one_line(error, start):
    text = str(error.value)
    assert str(start).rstrip() in text and "\n" not in text and len(text) < len(str(start)) + 300


def values(state, unused=r"kernel|const_z|noises"):
    """All values of a state dict, sorted."""
    kept = [value.flatten() for name, value in state.items() if not re.search(unused, name)]
    return torch.cat(kept).sort().values


@pytest.mark.parametrize("stages", [3, 4, 6])
def test_every_value_of_a_generator_finds_a_place(stages):
    public = public_generator(**SMALL | {"widths": (6, 4, 5, 3, 3, 2)[:stages]})
    ours = generator_state(public)
    network = build_generator(generator_model(public))
    network.load_state_dict(ours)
    assert torch.equal(values(public), values(ours))
    for i, layer in enumerate(network.texture.layers):
        assert torch.equal(layer.conv.weight, public[f"{TEXTURE}convs.{i}.conv.weight"][0])
        assert torch.equal(layer.noise_strength, public[f"{TEXTURE}convs.{i}.noise.weight"][0])
        assert torch.equal(layer.bias, public[f"{TEXTURE}convs.{i}.activate.bias"])
    for i, layer in enumerate(network.texture.mapping.layers, start=1):
        assert torch.equal(layer.weight, public[f"{TEXTURE}mapping.{i}.weight"])
        assert torch.equal(layer.bias, public[f"{TEXTURE}mapping.{i}.bias"])
    for k, rgb in enumerate(stage.to_rgb for stage in network.texture.synthesis):
        assert torch.equal(rgb.bias, public[f"{TEXTURE}to_rgbs.{k}.bias"].flatten())
        assert torch.equal(rgb.conv.modulation.bias, public[f"{TEXTURE}to_rgbs.{k}.conv.modulation.bias"])
    assert torch.equal(network.structure.layers[0].conv.weight, public[STRUCTURE + "conv.weight"][0])
    assert torch.equal(network.structure.layers[0].bias, public[STRUCTURE + "activate.bias"])


def test_every_value_of_a_discriminator_finds_a_place():
    public = public_discriminator()
    ours = discriminator_state(public)
    with torch.device("meta"):
        network = build_discriminator({"discriminator": {"widths": [4, 4, 6], "minibatch_group": 2}}, 29)
    assert {key: value.shape for key, value in ours.items()} == {k: v.shape for k, v in network.state_dict().items()}
    assert torch.equal(values(public), values(ours)) and same(ours, discriminator_state(public, 29))
    pairs = {
        "from_rgb.bias": "convs.0.1.bias",
        "blocks.0.conv1.weight": "convs.1.conv1.0.weight",
        "blocks.1.conv2.bias": "convs.2.conv2.2.bias",
        "blocks.1.skip.weight": "convs.2.skip.1.weight",
        "score.0.bias": "final_linear.0.bias",
        "coordinates.1.weight": "coord_linear.1.weight",
    }
    assert all(torch.equal(ours[one], public[other]) for one, other in pairs.items())


def test_the_published_widths_give_the_default_model():
    shapes = {"widths": (4, 4, 4, 4), "layers": 4, "radius": 3, "mapping_layers": 8}
    public = public_generator(**SMALL | shapes)
    model, default = generator_model(public), load_config(TrainConfig).model
    assert model.structure == default.structure and model.texture == default.texture | {"widths": [4, 4, 4, 4]}
    assert model.encoder == default.encoder and model.global_encoder == default.global_encoder
    assert model.discriminator == default.discriminator | {"minibatch_group": 16}
    assert (len(public), len(public_discriminator((4,) * 6, 3))) == (105, 47)


@pytest.mark.parametrize("patch", [197, 389])
def test_larger_patches_have_the_encoders_of_the_landscape_configs(patch):
    expected = load_config(TrainConfig, CONFIGS / f"landscape/generator-{patch}.yaml").model
    model = generator_model(public_generator(**SMALL | {"widths": [4] * expected.stages}))
    assert model.encoder == expected.encoder
    assert model.discriminator.widths == expected.discriminator.widths


def test_constants_give_the_coordinates():
    public = public_generator(**SMALL)
    model = generator_model(public, Constants(13, 8, 0.5, 2.0))
    assert model.structure == {
        "layers": 2, "radius": 1, "vertical_slope": 4 / 20, "horizontal_period": 34, "row_starts": 8
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [("ts_input_size", 4), ("vert_sample_size", 0), ("hori_occupy_ratio", nan), ("hori_occupy_ratio", 1.5)]
    + [("vert_cut_pt", -1.0), ("vert_cut_pt", float("inf"))],
)  # fmt: skip
def test_constants_of_no_use(name, value):
    with pytest.raises(UserError, match=f"^{name}: {value} given; allowed: "):
        Constants(**{name: value})


@pytest.fixture
def read(tmp_path):
    """Saves a public checkpoint with some keys changed (None: left out), and reads it."""

    def read(constants=EIGHT_CELLS, legacy=False, **changed):
        path = tmp_path / "best_fid.pth.tar"
        torch.save(public_checkpoint(**changed), path, _use_new_zipfile_serialization=not legacy)
        return read_checkpoint(path, constants)

    return read


@pytest.mark.parametrize("legacy", [False, True])
def test_a_whole_checkpoint(read, legacy):
    checkpoint = read(legacy=legacy)
    assert (checkpoint.iteration, checkpoint.best_fid, checkpoint.path_mean) == (1234, 11.25, 1.5)
    assert same(checkpoint.average, generator_state(public_generator(**SMALL, seed=2)))
    assert same(checkpoint.generator, generator_state(public_generator(**SMALL, seed=1)))
    assert same(checkpoint.discriminator, discriminator_state(public_discriminator()))
    assert checkpoint.model.discriminator.widths == [4, 4, 6] and checkpoint.model.stages == 3


def test_what_may_be_missing(read):
    checkpoint = read(g=None, d=None, iter=None, best_fid=None, mean_path_lengths=None)
    assert checkpoint.generator is None and checkpoint.discriminator is None
    assert (checkpoint.iteration, checkpoint.best_fid, checkpoint.path_mean) == (0, None, 0.0)


@pytest.mark.parametrize(
    "changed",
    [
        {"mean_path_lengths": None, "mean_path_length": torch.tensor(1.5)},
        {"mean_path_lengths": None, "mean_path_length": 1.5},
        {"mean_path_lengths": [torch.tensor([1.5], dtype=torch.float64)]},
        {"best_fid": np.float64(11.25), "iter": np.int64(1234)},
        {"best_fid": np.float32(11.25)},
        {"best_fid": torch.tensor(11.25)},
    ],
    ids=str,
)
def test_numbers_in_any_form(read, changed):
    checkpoint = read(**changed)
    assert (checkpoint.iteration, checkpoint.best_fid, checkpoint.path_mean) == (1234, 11.25, 1.5)
    assert type(checkpoint.best_fid) is float and type(checkpoint.iteration) is int


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_numbers_become_float32(read, dtype):
    half = {name: value.to(dtype) for name, value in public_checkpoint()["g_ema"].items()}
    average = read(g_ema=half).average
    assert {value.dtype for value in average.values()} == {torch.float32}
    assert torch.equal(average["texture.synthesis.0.to_rgb.bias"], half[TEXTURE + "to_rgbs.0.bias"].flatten().float())


def test_temporary_variables_and_parameters_are_no_obstacle(read):
    state = public_generator(**SMALL, seed=2)
    odd = {name: torch.nn.Parameter(value) for name, value in state.items()} | {"a.tmp_var.b": torch.ones(3)}
    assert same(read(g_ema=odd).average, read().average)


def edited(name, change):
    """A generator's state dict with one tensor replaced, or left out where `change` gives None."""
    state = public_generator(**SMALL, seed=2)
    state[name] = change(state.get(name))
    return {key: value for key, value in state.items() if value is not None}


WRONG = {
    "missing": (STRUCTURE + "activate.bias", lambda x: None, "is missing"),
    "missing texture": (TEXTURE + "convs.3.conv.weight", lambda x: None, "convs.3.conv.weight is missing"),
    "missing kernel": (TEXTURE + "convs.2.conv.blur.kernel", lambda x: None, "convs.2.conv.blur.kernel is missing"),
    "extra": (TEXTURE + "convs.6.conv.weight", lambda x: torch.ones(1), "convs.6.conv.weight' is not expected"),
    "leading zero": (TEXTURE + "mapping.02.bias", lambda x: torch.ones(6), "mapping.02.bias' is not expected"),
    "foreign": ("conv1.weight", lambda x: torch.ones(1), "g_ema: 'conv1.weight' is not expected"),
    "rank": (STRUCTURE + "conv.weight", lambda x: x[0], r"conv.weight has \(4, 7, 3, 3\): too few axes"),
    "rank of a bias": (TEXTURE + "to_rgbs.1.bias", lambda x: x[0], r"bias has \(3, 1, 1\), not \(1, 3, 1, 1\)"),
    "scalar": (TEXTURE + "convs.0.conv.weight", lambda x: torch.tensor(1.0), r"has \(\): too few axes"),
    "even kernel": (STRUCTURE + "conv.weight", lambda x: x[..., :2, :2], r"not \(1, 4, 7, 3, 3\)"),
    "style": (TEXTURE + "convs.1.conv.modulation.weight", lambda x: x[:, :5], r"has \(6, 5\), not \(6, 6\)"),
    "pair": (TEXTURE + "convs.3.conv.weight", lambda x: x[:, :3], "convs.2 and convs.3 have 4 and 3 channels; the two"),
    "nothing": (STRUCTURE + "conv.weight", lambda x: x[:, :0], "model.local_dim: 0 given"),
    "nan": (TEXTURE + "mapping.1.bias", lambda x: x * nan, "mapping.1.bias holds values that are not finite"),
    "too large": (TEXTURE + "mapping.1.bias", lambda x: x.double() * 1e300, "not finite"),
    "integers": (TEXTURE + "mapping.1.bias", lambda x: x.long(), r"is a Tensor \(torch.int64\), not a plain tensor"),
    "sparse": (TEXTURE + "mapping.1.weight", lambda x: x.to_sparse(), "not a plain tensor"),
    "meta": (TEXTURE + "mapping.1.weight", lambda x: x.to("meta"), "not a plain tensor"),
    "quantized": (TEXTURE + "mapping.1.weight", lambda x: torch.quantize_per_tensor(x, 1, 0, torch.qint8), "plain"),
    "list": (TEXTURE + "mapping.1.weight", lambda x: x.tolist(), "is a list, not a plain tensor"),
    "numpy": (TEXTURE + "mapping.1.weight", lambda x: np.float64(1), "is a float, not a plain tensor"),
    "state in a state": ("module", lambda x: {"a": {}}, "'module' is a dict, not a plain tensor"),
    "number as a key": (7, lambda x: torch.ones(1), "a key of type int is a Tensor"),
    "nested key": ((((("a",),),),), lambda x: torch.ones(1), "a key of type tuple is a Tensor"),
    "kernel": (TEXTURE + "to_rgbs.1.upsample.kernel", lambda x: x * 1.1, "upsample.kernel is another blur"),
    "kernel size": (TEXTURE + "convs.0.conv.blur.kernel", lambda x: outer(0.5, 1, 1, 0.5), "is another blur"),
    "kernel nan": (TEXTURE + "convs.0.conv.blur.kernel", lambda x: x * nan, "is another blur"),
    "unfolds": (TEXTURE + "mapping.1.bias", lambda x: torch.ones(1).expand(2**40), "would unfold to more than"),
}  # fmt: skip


@pytest.mark.parametrize("name", ["g_ema", "g"])
@pytest.mark.parametrize("kind", WRONG)
def test_a_state_that_does_not_fit_is_one_line(read, tmp_path, kind, name):
    key, change, words = WRONG[kind]
    # what the shapes of g_ema told is what g must have
    with pytest.raises(UserError, match=words if name == "g_ema" else ": g: ") as error:
        read(**{name: edited(key, change)})
    assert_one_line(error, tmp_path / f"best_fid.pth.tar: {name}: ")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"g_ema": None}, "not an InfinityGAN checkpoint: no generator under 'g_ema'; the file holds 'iter', "),
        ({"g_ema": [1]}, "g_ema: a list, not a dict of tensors"),
        ({"g_ema": torch.ones(2)}, "g_ema: a Tensor, not a dict of tensors"),
        ({"g_ema": {}}, "g_ema: .* is missing"),
        ({"g_ema": public_discriminator()}, "g_ema: .* is missing"),
        ({"g_ema": public_generator(**SMALL | {"widths": (4, 4)})}, "model.stages: 2 given; allowed: .* from 3 to 8"),
        ({"g": public_generator(**SMALL | {"widths": (6, 4, 6)})}, r": g: .* has .*, not "),
        ({"d": public_generator(**SMALL)}, ": d: convs.0.0.weight is missing"),
        ({"d": public_discriminator(edge=3)}, r": d \(patches of 29 px\): final_linear.0.weight has \(6, 54\), "),
        ({"d": public_discriminator((4,) * 7)}, "a patch of 29 px cannot be halved 6 times"),
        ({"d": {name: x for name, x in public_discriminator().items() if "convs.1.skip" not in name}}, "is missing"),
        ({"d": public_discriminator() | {"convs.1.skip.0.kernel": outer(0.25, 0.25, 0.25, 0.25)}}, "another blur"),
        ({"iter": -1}, ": iter: allowed: a whole number from 0"),
        ({"iter": 2.5}, ": iter: allowed: a whole number"),
        ({"iter": True}, ": iter: allowed"),
        ({"iter": 10**30}, ": iter: allowed"),
        ({"best_fid": "low"}, ": best_fid: allowed: a number"),
        ({"best_fid": 10**400}, ": best_fid: allowed: a number"),
        ({"mean_path_lengths": [1.0, 2.0]}, ": mean_path_lengths: allowed"),
        ({"mean_path_lengths": torch.ones(2)}, ": mean_path_lengths: allowed"),
        ({"mean_path_lengths": nan}, ": mean_path_lengths: allowed"),
        ({"best_fid": np.ones(2)}, "asks for numpy.*_reconstruct"),
        ({"best_fid": np.datetime64("2020-01-01")}, "refused: not a file of weights"),
        ({"best_fid": np.str_("a")}, "refused: not a file of weights"),
        ({"best_fid": {1: object()}}, "refused: "),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
def test_a_checkpoint_that_does_not_fit_is_one_line(read, tmp_path, changed, words):
    with pytest.raises(UserError, match=words) as error:
        read(**changed)
    assert_one_line(error, tmp_path / "best_fid.pth.tar: ")


def test_cells_that_the_discriminator_was_not_made_for(read):
    with pytest.raises(UserError, match=r": d \(patches of 53 px\): final_linear.0.weight has \(6, 294\), not "):
        read(constants=Constants())


class Command:
    """A pickle that makes a file named `ran` in the working folder of whoever unpickles it."""

    def __reduce__(self):
        return os.system, ("touch ran",)


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


FOREIGN = {
    "missing": lambda path: None,
    "folder": lambda path: path.mkdir(),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no weights\n" * 9),
    "command": lambda path: torch.save(public_checkpoint(note=Command()), path),
    "pickle": lambda path: path.write_bytes(pickle.dumps(Command())),
    "list": lambda path: torch.save([1, 2], path),
    "bare weights": lambda path: torch.save(public_generator(**SMALL), path),
    "other zip": lambda path: zipfile.ZipFile(path, "w").writestr("a", "b"),
    "flipped": lambda path: (torch.save(public_checkpoint(), path), flipped(path)),
    "truncated": lambda path: (torch.save(public_checkpoint(), path), os.truncate(path, path.stat().st_size // 2)),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_file_is_one_line(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "best_fid.pth.tar"
    FOREIGN[kind](path)
    with pytest.raises(UserError) as error:
        read_checkpoint(path, EIGHT_CELLS)
    assert_one_line(error, path)
    assert not (tmp_path / "ran").exists()


def test_safetensors_hold_no_checkpoint(tmp_path):
    save_file(dict(public_generator(**SMALL)), tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="not an InfinityGAN checkpoint"):
        read_checkpoint(tmp_path / "a.safetensors")


NUMBERS = [np.float64(-1.5), np.float32(2), np.float16(0.5), np.int64(-3), np.uint8(200), np.bool_(True)]


@pytest.mark.parametrize("module", [b"numpy._core.multiarray", b"numpy.core.multiarray"])
@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number.dtype.name)
def test_numbers_of_numpy_1_and_2_become_python_numbers(tmp_path, number, module):
    path = tmp_path / "a.pth"
    torch.save({"a": number}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"numpy._core.multiarray", module))
    value = load_pretrained(path)["a"]
    assert value == number.item() and type(value) is type(number.item())


@pytest.mark.parametrize("kind", ["O", "V8", "f8,f8", "U9", "M8[s]", "c16", "g"])
def test_other_kinds_of_numpy_are_refused(tmp_path, kind):
    torch.save({"a": np.dtype(kind)}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="refused: not a file of weights"):
        load_pretrained(tmp_path / "a.pth")
