"""Training that goes on from weights: an imported public model, or files that an earlier run exported."""

import pytest
import torch

import training
from models.weights import load_generator, read_weights
from scripts import import_infinitygan
from tests.models.public_infinitygan import public_checkpoint
from training.context import TrainContext
from utils.checkpoint import load_weights, save_weights
from utils.config import load_config
from utils.distributed import ProcessGroup
from utils.errors import UserError
from utils.schema import TrainConfig

PUBLIC_KEEPS = 0.5 ** (4 / 5000)  # share that the average keeps in a step of four images


@pytest.fixture(scope="session")
def imported(tmp_path_factory):
    """A folder with public.safetensors, public-training.safetensors and public.yaml."""
    folder = tmp_path_factory.mktemp("imported")
    torch.save(public_checkpoint(), folder / "best_fid.pth.tar")
    arguments = [str(folder / "best_fid.pth.tar"), str(folder / "public.safetensors"), "--ts-input-size=8"]
    assert import_infinitygan.main(arguments) == 0
    return folder


@pytest.fixture
def arguments(imported, images):
    """Arguments of train.py after the imported config, for a run of seconds."""
    small = ["model.discriminator.minibatch_group=2", "model.global_encoder={thumbnail: 16, widths: [4, 6]}"]
    small += ["model.encoder.widths=[4,4,6]", "train.batch=4", "losses.path_length_every=2", "losses.r1_every=2"]
    machine = [f"data.train={images}", "data.workers=0", "data.val_fraction=0.2", "train.device=cpu"]
    return [f"--config={imported / 'public.yaml'}", *small, *machine, "train.dtype=float32"]


def built(config):
    """The stage of a config, before it has loaded any file."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        context = TrainContext(0, config.train.batch, torch.device("cpu"), torch.float32, ProcessGroup(0, 1))
        return training.build(config, context)


def same(network, state):
    own = network.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[key], state[key]) for key in own)


def test_a_public_model_starts_with_its_weights(imported, arguments):
    stage = built(load_config(TrainConfig, imported / "public.yaml", arguments[1:]))
    stage.load_files()
    held = read_weights(imported / "public-training.safetensors").tensors
    for name, network in (
        ("generator", stage.generator), ("average", stage.average.copy), ("discriminator", stage.discriminator)
    ):  # fmt: skip
        own = {key: value for key, value in held.items() if key.startswith(f"{name}.")}
        assert same(network, {key.removeprefix(f"{name}."): value for key, value in own.items()})
    assert stage.path_mean.shape == () and stage.path_mean == 1.5
    assert stage.generator.training and not any(value.requires_grad for value in stage.average.copy.parameters())


def test_the_average_goes_on_too(imported, arguments, run, tmp_path):
    """It is an average already: it does not start anew from the first weights."""
    assert run(*arguments, f"train.output={tmp_path}", "train.steps=1") == 0
    name = "texture.synthesis.0.to_rgb.bias"
    state = torch.load(tmp_path / "checkpoints/step-00000001.pt", weights_only=True)
    before = read_weights(imported / "public-training.safetensors").tensors[f"average.{name}"]
    now = state["stage"]["networks"]["generator"][name]
    assert torch.allclose(state["stage"]["average"][name], PUBLIC_KEEPS * before + (1 - PUBLIC_KEEPS) * now)


def test_it_trains_and_resumes(arguments, run, tmp_path, capsys, final_state):
    """A checkpoint of the run wins over the weights that the run went on from."""
    assert run(*arguments, f"train.output={tmp_path / 'straight'}", "train.steps=5") == 0
    for steps in (2, 5):
        assert run(*arguments, f"train.output={tmp_path / 'twice'}", f"train.steps={steps}") == 0
    assert "resuming from" in capsys.readouterr().out
    one, other = final_state(tmp_path / "straight"), final_state(tmp_path / "twice")
    assert one.keys() == other.keys() and len(one) > 50
    for key, value in one.items():
        assert torch.equal(value, other[key]) if isinstance(value, torch.Tensor) else value == other[key], key
    assert load_generator(tmp_path / "twice" / "generator.safetensors")[1].stages == 3


def test_an_imported_generator_is_inverted(imported, arguments, run, tmp_path):
    losses = ["losses.inverter.lpips=0", "losses.inverter.identity=0"]
    inverter = ["train.stage=inverter", f"train.generator={imported / 'public.safetensors'}", *losses]
    assert run(*arguments, *inverter, f"train.output={tmp_path}", "train.steps=1") == 0
    inverted, _ = load_generator(tmp_path / "inverter.safetensors")
    assert same(inverted, load_generator(imported / "public.safetensors")[0].state_dict())


def test_an_exported_run_starts_another(tiny, generator_run, run, tmp_path):
    files = [f"train.{name}={generator_run / f'{name}.safetensors'}" for name in ("generator", "discriminator")]
    stage = built(load_config(TrainConfig, tiny, files))
    stage.load_files()
    generator = load_generator(generator_run / "generator.safetensors")[0].state_dict()
    assert same(stage.generator, generator) and same(stage.average.copy, generator) and stage.path_mean == 0
    held = load_weights(generator_run / "discriminator.safetensors")[0]
    assert same(stage.discriminator, {key.removeprefix("discriminator."): value for key, value in held.items()})
    assert run(*files, f"train.output={tmp_path}", "train.steps=2") == 0


def test_without_a_file_it_starts_anew(tiny):
    stage = built(load_config(TrainConfig, tiny))
    before = {key: value.clone() for key, value in stage.generator.state_dict().items()}
    stage.load_files()
    assert same(stage.generator, before) and same(stage.average.copy, before)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["train.generator={tmp}/missing"], "{tmp}/missing"),
        (["train.generator={tmp}/file"], "{tmp}/file"),
        (["train.generator={run}/discriminator.safetensors"], "holds no generator, only discriminator"),
        (["train.generator={public}/public.safetensors"], "model.global_dim: "),
        (["train.discriminator={run}/generator.safetensors"], "holds no discriminator, only generator"),
        (["train.discriminator={public}/best_fid.pth.tar"], "not a safetensors file"),
        (
            ["train.discriminator={run}/discriminator.safetensors", "model.discriminator.widths=[4,5,6]"],
            "another architecture: discriminator.",
        ),
        (["train.generator={run}/generator.safetensors", "model.structure.row_starts=5"], "'row_starts': 5"),
    ],
)
def test_a_file_of_no_use_is_one_line(run, generator_run, imported, tmp_path, capsys, overrides, words):
    (tmp_path / "file").write_text("no weights")
    names = {"{tmp}": tmp_path, "{run}": generator_run, "{public}": imported}
    for name, value in names.items():
        overrides, words = [text.replace(name, str(value)) for text in overrides], words.replace(name, str(value))
    assert run(f"train.output={tmp_path / 'run'}", "train.steps=1", *overrides) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and words in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("value", [torch.ones(2), torch.tensor(float("nan"))])
def test_a_path_mean_of_no_use_is_named(imported, arguments, tmp_path, value):
    tensors, metadata = load_weights(imported / "public-training.safetensors")
    metadata.pop("fingerprint")
    path = tmp_path / "a.safetensors"
    save_weights(path, tensors | {"path_mean": value}, metadata)
    stage = built(load_config(TrainConfig, imported / "public.yaml", [*arguments[1:], f"train.generator={path}"]))
    with pytest.raises(UserError, match="path_mean is not a single finite number"):
        stage.load_files()
