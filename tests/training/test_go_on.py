"""Training that goes on from weights: files that an earlier run exported, or with averages, as imported models have."""

import pytest
import torch

from models import build_discriminator, build_generator
from models.weights import export, load_inverter, read_weights
from tests.training.conftest import final_state, same_state
from utils.config import load_config
from utils.errors import UserError
from utils.schema import TrainConfig

KEPT = 0.5 ** (4 / 50)  # share that an average keeps in a step of four images, where its half-life is 50


def random_state(build, name):
    with torch.random.fork_rng():
        torch.manual_seed(len(name))
        return build().state_dict()


@pytest.fixture(scope="module")
def imported(tiny, tmp_path_factory):
    """A file of a generator, its average, and the mean of path lengths; the states that are in it."""
    model = load_config(TrainConfig, tiny).model
    states = {name: random_state(lambda: build_generator(model), name) for name in ("generator", "average")}
    states["discriminator"] = random_state(lambda: build_discriminator(model, 29), "discriminator")
    path = tmp_path_factory.mktemp("imported") / "imported.safetensors"
    export(path, model, states, 0, {"path_mean": torch.tensor(1.5)})
    return path, states


def same(network, state):
    own = network.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[key], state[key]) for key in own)


def test_a_model_with_averages_starts_with_all_of_them(loaded, imported):
    path, states = imported
    stage = loaded(f"train.generator={path}", f"train.discriminator={path}")
    assert same(stage.generator, states["generator"]) and same(stage.average, states["average"])
    assert same(stage.discriminator, states["discriminator"])
    assert stage.path_mean.value.shape == () and stage.path_mean.value == 1.5
    assert stage.generator.training and not any(value.requires_grad for value in stage.average.parameters())


def test_the_average_goes_on_and_resumes(imported, run, tmp_path):
    """It does not start anew from the first weights; and a checkpoint of the run wins over the file."""
    path, states = imported
    arguments = [f"train.generator={path}", "train.save_every=1"]
    assert run(*arguments, f"train.output={tmp_path / 'twice'}", "train.steps=1") == 0
    now = final_state(tmp_path / "twice")
    for name, before in states["average"].items():
        expected = KEPT * before + (1 - KEPT) * now[f"/generator/{name}"]
        assert torch.allclose(now[f"/average/{name}"], expected, atol=1e-6), name
    assert run(*arguments, f"train.output={tmp_path / 'twice'}", "train.steps=3") == 0
    assert run(*arguments, f"train.output={tmp_path / 'straight'}", "train.steps=3") == 0
    assert len(same_state(tmp_path / "straight", tmp_path / "twice")) > 50


def test_an_exported_run_starts_another(loaded, generator_run):
    files = [f"train.{name}={generator_run / f'{name}.safetensors'}" for name in ("generator", "discriminator")]
    stage = loaded(*files)
    generator = load_inverter(generator_run / "generator.safetensors", encoders=False).generator.state_dict()
    assert same(stage.generator, generator) and same(stage.average, generator) and stage.path_mean.value == 0
    held = read_weights(generator_run / "discriminator.safetensors").tensors
    assert same(stage.discriminator, {key.removeprefix("discriminator."): value for key, value in held.items()})


def test_a_path_mean_of_no_use_is_named(tiny, loaded, imported, tmp_path):
    path = tmp_path / "a.safetensors"
    export(path, load_config(TrainConfig, tiny).model, imported[1], 0, {"path_mean": torch.ones(2)})
    with pytest.raises(UserError, match="path_mean .* finite"):
        loaded(f"train.generator={path}")
