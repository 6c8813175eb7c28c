"""A tiny run: a few images, a tiny config, a trained generator, and `train.py` in this process."""

import cv2
import numpy as np
import pytest
import torch

import train
import training
from training.context import TrainContext
from utils.checkpoint import load_latest, load_weights
from utils.config import load_config
from utils.distributed import SINGLE
from utils.errors import run_command
from utils.schema import TrainConfig

TINY = """
model:
  stages: 3
  local_dim: 4
  global_dim: 6
  structure: {layers: 1, radius: 1, row_starts: 4, horizontal_period: 12}
  texture: {widths: [6, 4, 4], mapping_layers: 1}
  discriminator: {widths: [4, 4, 6], minibatch_group: 2}
  encoder: {widths: [4, 4, 6]}
  global_encoder: {thumbnail: 16, widths: [4, 6]}
data: {workers: 0, val_fraction: 0.2}
train:
  device: cpu
  dtype: float32
  batch: 4
  patch_cells: 8
  tune_texture: true
  ema_images: 50
  optimizer: {lr: 0.003, betas: [0.5, 0.9], decay_every: 8, decay_factor: 0.5}
  log_every: 5
  image_every: 10
  validate_every: 10
losses:
  r1_every: 4
  path_length_every: 3
  inverter:
    l1: 1.0
    ms_ssim: 0.5
    lpips: 0.0
    identity: 0.0
    adversarial: 0.1
    feature_matching: 0.1
    preservation: 0.5
"""


STEPS = 10  # of a finished run


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """A folder of ten smooth pictures, each of another size."""
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for number in range(10):
        picture = random.integers(0, 256, (6, 7, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), cv2.resize(picture, (40 + number, 50 - number)))
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory, images):
    """The path of a config whose training takes seconds."""
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(TINY.replace("data: {", f"data: {{train: {images}, "))
    return path


@pytest.fixture(scope="session")
def run(tiny):
    """Runs train.py with overrides in this process and returns the exit code."""

    def run(*arguments):
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        with torch.random.fork_rng():
            code = run_command(train.main, ["--config", str(tiny), *map(str, arguments)])
        torch.set_num_threads(threads)
        return code

    return run


TRUNK = [
    "model.trunk=true", "model.local_dim=8", "model.encoder.widths=[]", "model.structure.widths=[6]",
    "model.critic.widths=[6,8]", "model.critic.texture_widths=[4,6]", "model.critic.minibatch_group=2",
    "train.patch_cells=10",
]  # fmt: skip
TRUNK_INVERTER = [
    *TRUNK, "train.stage=inverter",
    *(f"losses.inverter.{name}=0" for name in ("reciprocal", "global_latent", "distribution", "preservation")),
]  # fmt: skip


@pytest.fixture(scope="session")
def generator_run(run, tmp_path_factory):
    """The folder of a finished generator run."""
    folder = tmp_path_factory.mktemp("runs") / "generator"
    assert run(f"train.output={folder}", f"train.steps={STEPS}") == 0
    return folder


@pytest.fixture(scope="session")
def trunk_run(run, tmp_path_factory):
    """The folder of a finished inverter run of a model with a trunk."""
    folder = tmp_path_factory.mktemp("runs") / "trunk"
    assert run(*TRUNK_INVERTER, f"train.output={folder}", f"train.steps={STEPS}") == 0
    return folder


@pytest.fixture(scope="session")
def stage_arguments(generator_run, trunk_run):
    """Overrides that choose a stage."""
    inverter = f"train.inverter={trunk_run / 'inverter.safetensors'}"
    return {
        "generator": ["train.stage=generator"],
        "inverter": ["train.stage=inverter", f"train.generator={generator_run / 'generator.safetensors'}"],
        "trunk": TRUNK_INVERTER,
        "structure": [*TRUNK, "train.stage=structure", "train.patch_cells=6", "train.tune_texture=false", inverter],
    }


@pytest.fixture(scope="session")
def finished(run, stage_arguments, generator_run, trunk_run, tmp_path_factory):
    """The folder of a run of a stage of so many STEPS, trained when it is first asked for."""
    done = {"generator": generator_run, "trunk": trunk_run}

    def finished(stage):
        if stage not in done:
            folder = tmp_path_factory.mktemp("runs") / stage
            assert run(*stage_arguments[stage], f"train.output={folder}", f"train.steps={STEPS}") == 0
            done[stage] = folder
        return done[stage]

    return finished


@pytest.fixture
def loaded(tiny):
    """Builds the stage of the tiny config with overrides, from its seed, with the files that it names."""

    def loaded(*overrides):
        config = load_config(TrainConfig, tiny, overrides)
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            context = TrainContext(config.seed, config.train.batch, torch.device("cpu"), torch.float32, SINGLE)
            stage = training.build(config, context)
            stage.load_files()
        return stage

    return loaded


def last_step(folder):
    """Of the newest checkpoint in the folder of a run."""
    return load_latest(folder / "checkpoints")[0]["step"]


def final_state(folder):
    """The leaves of the newest checkpoint's stage in the folder of a run, by path."""
    state, _, skipped = load_latest(folder / "checkpoints")
    assert not skipped
    return dict(leaves(state["stage"]))


def leaves(value, path=""):
    if isinstance(value, (dict, list, tuple)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, f"{path}/{key}")
    else:
        yield path, value


def same_state(one, other):
    """Asserts that two runs ended with the same values to the last bit, in checkpoints and exported weights."""
    names = sorted(path.name for path in one.glob("*.safetensors"))
    assert names and names == sorted(path.name for path in other.glob("*.safetensors"))
    weights = [{name: load_weights(folder / name)[0] for name in names} for folder in (one, other)]
    states = [final_state(folder) | dict(leaves(held)) for folder, held in zip((one, other), weights, strict=True)]
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        same = torch.equal(value, states[1][key]) if isinstance(value, torch.Tensor) else value == states[1][key]
        assert same, key
    return states[0]
