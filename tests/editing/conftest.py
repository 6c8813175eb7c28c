"""The tiny model, and two photographs."""

import pytest

from inversion.noise import FieldNoise
from tests.inversion.conftest import inverters, model, photograph, tiny_model, trunk_inverter

__all__ = ["inverters", "model"]


@pytest.fixture(scope="session")
def trunk_model():
    """A tiny model with a trunk, of so many channels that some are textures: bands 1, 2 and 4."""
    return tiny_model(trunk_inverter(channels=24))


@pytest.fixture
def left(model):
    """The latents of a photograph of 64 x 83 pixels, with texture noise."""
    return model.invert(photograph(64, 83), noise=FieldNoise(3))


@pytest.fixture
def right(model):
    """The latents of a photograph of 48 x 70 pixels, without texture noise."""
    return model.invert(photograph(48, 70, seed=1))
