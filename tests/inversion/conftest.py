"""Tiny inverters with random weights, and pictures to invert."""

import numpy as np
import PIL.Image
import pytest
import torch

from inversion import PatchInverter
from models import build_encoders, build_generator
from models.statistics import measure
from models.weights import SHIPPED, Inverter
from utils.config import load_config
from utils.schema import TrainConfig

CPU = torch.device("cpu")


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
    return Inverter(generator, *encoders, model, fingerprint="tiny", path=SHIPPED.with_name("tiny.safetensors"))


def tiny_model(networks, block="auto", dtype=torch.float32):
    """The program's interface on the networks of an inverter."""
    return PatchInverter(networks, CPU, dtype, block)


def photograph(height, width, seed=0):
    """An array [H, W, 3] uint8 of smooth colours and a little noise."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (5, 5, 3), np.uint8)
    smooth = np.asarray(PIL.Image.fromarray(small).resize((width, height), PIL.Image.Resampling.BICUBIC))
    return np.clip(smooth + random.integers(-20, 20, smooth.shape), 0, 255).astype(np.uint8)


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


def trunk_inverter(widths=(), channels=10):
    """An inverter with a trunk; `widths`: of the encoder's scales, if it has any beside it."""
    overrides = [
        "model.stages=3", "model.trunk=true", f"model.local_dim={channels}", "model.global_dim=6",
        "model.structure.layers=2", "model.structure.radius=1", "model.structure.widths=[6,7]",
        "model.structure.dilations=[2,1]", "model.texture.widths=[6,4,4]", "model.texture.mapping_layers=1",
        f"model.encoder.widths={list(widths)}",
    ]  # fmt: skip
    model = load_config(TrainConfig, None, overrides).model
    with torch.random.fork_rng():
        torch.manual_seed(4)
        generator, encoders = build_generator(model), build_encoders(model)
        images = [torch.from_numpy(photograph(64, 72, k)).permute(2, 0, 1) / 127.5 - 1 for k in range(12)]
        trunk = encoders[0].trunk
        trunk.fit(images)
        styles = torch.cat([measure(trunk.analyse(image[None]).flatten(2)) for image in images]).float()
        generator.texture.trunk.load_state_dict(trunk.state_dict())
        for network in (generator.texture, generator.structure):
            network.mapping.fit(styles)
        generator.structure.styles.copy_(styles[torch.arange(len(generator.structure.styles)) % len(styles)])
        for layer in generator.texture.layers:
            torch.nn.init.constant_(layer.noise_strength, 0.3)
        for stage in generator.texture.synthesis:
            torch.nn.init.normal_(stage.to_rgb.conv.weight, std=0.2)
        for scale in encoders[0].scales:
            torch.nn.init.normal_(scale.project.weight, std=0.2)
    path = SHIPPED.with_name("trunk.safetensors")
    return Inverter(generator, *encoders, model, fingerprint="trunk", path=path)


@pytest.fixture(scope="session")
def trunk_model():
    """A `PatchInverter` with a trunk."""
    return tiny_model(trunk_inverter())


@pytest.fixture(scope="session")
def model(inverters):
    """A `PatchInverter` of three stages."""
    return tiny_model(inverters())
