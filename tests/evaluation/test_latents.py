"""Measures of structure latents, beside plain formulas and cases whose result is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from evaluation.latents import compare_latents, reciprocal_error, relative_error, sample, window
from evaluation.sets import generated_set
from losses.latent import maximum_mean_discrepancy
from models.geometry import Region
from tests.evaluation.tiny import tiny_model


@pytest.fixture(scope="module")
def model(checkpoint):
    return tiny_model(checkpoint)


def draws(count, seed=0, shift=0.0, scale=1.0, images=20):
    """Vectors [count, 4] of each of some images."""
    generator = torch.Generator().manual_seed(seed)
    return [shift + scale * torch.randn(count, 4, generator=generator) for _ in range(images)]


def test_shift_and_spread_are_told():
    same = compare_latents(draws(200), draws(200, seed=1), 0)
    assert same["latent_mean_distance"] < 0.05 and abs(same["latent_std_ratio"] - 1) < 0.05
    assert 0 < same["latent_mmd"] < 2 * same["latent_mmd_floor"] < 0.05
    other = compare_latents(draws(200, seed=1, shift=3.0, scale=4.0), draws(200, scale=2.0), 0)
    assert other["latent_mean_distance"] == pytest.approx(1.5, rel=0.1)
    assert other["latent_std_ratio"] == pytest.approx(2, rel=0.1)
    assert other["latent_mmd"] > 10 * other["latent_mmd_floor"]
    few = compare_latents(draws(3, images=2), draws(200, seed=1), 0)  # of few vectors the discrepancy is larger
    assert few["latent_mmd_floor"] > 5 * same["latent_mmd_floor"]


def test_without_vectors_nothing_is_measured():
    assert compare_latents([], draws(9), 0) == compare_latents(draws(9), [], 0) == {}
    assert compare_latents(draws(9), draws(9, images=1), 0)["latent_mmd_floor"] is None


def test_discrepancy_is_that_of_the_loss():
    x, y = draws(7, images=1), draws(7, seed=1, images=1)
    expected = maximum_mean_discrepancy(*x, *y).item()
    assert compare_latents(x, y, 0)["latent_mmd"] == pytest.approx(expected, abs=1e-6)
    assert compare_latents([x[0][:1]], y, 0)["latent_mmd"] is None


def test_as_many_vectors_of_each_image_are_taken(model):
    latents = model.generate(640, 640, 3)
    every = window(model, latents).flatten(1).T  # 80 x 80 cells
    found = sample(model, latents, 4, (0, 1))
    assert found.shape == (5000, every.shape[1]) and len(torch.unique(found, dim=0)) == 5000
    assert torch.equal(torch.unique(torch.cat([every, found]), dim=0), torch.unique(every, dim=0))
    assert torch.equal(found, sample(model, latents, 4, (0, 1)))
    assert not torch.equal(found, sample(model, latents, 4, (0, 2)))
    assert len(sample(model, latents, 1, (0, 1))) == len(every)


def test_windows_of_latents(model):
    latents = model.generate(45, 30, 3)
    top, left = -model.cells(latents.size).rows.first, -model.cells(latents.size).cols.first
    whole = latents.structure[:, :, :]
    assert np.array_equal(window(model, latents), whole[:, top : top + 6, left : left + 4])
    part = window(model, replace(latents, structure=whole), Region.at(1, -1, 2, 3))
    assert np.array_equal(part, whole[:, top + 1 : top + 3, left - 1 : left + 2])


def test_relative_error():
    true, found = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    variance = true.var((0, 2, 3), correction=0).mean()
    expected = ((found - true).square().mean() / variance).item()
    assert relative_error(zip(found, true, strict=True)) == pytest.approx(expected, rel=1e-5)
    assert relative_error([(true[0], true[0])]) == 0
    assert relative_error([(true[0].mean((1, 2), keepdim=True).expand(3, 4, 5), true[0])]) == pytest.approx(1)
    assert relative_error([]) is relative_error([(torch.ones(2, 3, 3), torch.zeros(2, 3, 3))]) is None


def test_the_reciprocal_error(checkpoint, model):
    """By the latents themselves; blocks encode as the whole."""
    images, context = generated_set(model, 80, [4]), model.networks.encoder.rule
    inner = Region.at(0, 0, 80, 80).valid_output(context)
    pair = [window(model, each, inner) for each in (model.encode(images[0]), model.generate(80, 80, 4))]
    found = reciprocal_error(model, images, [4])
    assert found == pytest.approx(relative_error([pair])) and found > 0.5  # random networks invert nothing
    assert reciprocal_error(tiny_model(checkpoint, block=16), images, [4]) == pytest.approx(found, rel=1e-4)
    assert reciprocal_error(model, np.zeros((1, 16, 16, 3), np.uint8), [0]) is None  # no cell sees only the image
    assert reciprocal_error(model, images[:0], []) is None
