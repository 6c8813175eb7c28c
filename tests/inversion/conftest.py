"""Tiny inverters with random weights, and pictures to invert."""

import pytest
import torch

from models import build_encoders, build_generator
from models.weights import Inverter
from utils.config import load_config
from utils.schema import TrainConfig


def tiny_inverter(stages=3, convolution="shifted"):
    """An inverter of narrow networks, whose images are of the magnitude of trained ones."""
    overrides = [
        f"model.stages={stages}", "model.local_dim=5", "model.global_dim=6",
        "model.structure.layers=2", "model.structure.radius=1",
        f"model.texture.widths={[6, 4, 4, 3, 3][:stages]}", "model.texture.mapping_layers=1",
        f"model.encoder.widths={[4, 6, 5, 4, 4][:stages]}", f"model.encoder.convolution={convolution}",
        "model.global_encoder.thumbnail=16", "model.global_encoder.widths=[4, 4]",
    ]  # fmt: skip
    model = load_config(TrainConfig, None, overrides).model
    with torch.random.fork_rng():
        torch.manual_seed(3)
        generator, encoders = build_generator(model), build_encoders(model)
        for layer in generator.texture.layers:
            torch.nn.init.constant_(layer.noise_strength, 0.3)
        for stage in generator.texture.synthesis:
            stage.to_rgb.conv.weight.data *= 0.2
    return Inverter(generator, *encoders, model, fingerprint="tiny")


@pytest.fixture(scope="session")
def inverters():
    """`tiny_inverter`, each made once."""
    made = {}

    def get(stages=3, convolution="shifted"):
        key = stages, convolution
        if key not in made:
            made[key] = tiny_inverter(*key)
        return made[key]

    return get
