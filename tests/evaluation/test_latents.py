"""Measures of structure latents, beside plain formulas and cases whose result is known."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation import latents
from evaluation.latents import (
    RelativeError,
    Vectors,
    compare_latents,
    discrepancy,
    generated_vectors,
    middle,
    reciprocal_error,
    stored_vectors,
)
from evaluation.sets import generated_set
from losses.latent import maximum_mean_discrepancy
from models.geometry import Region
from tests.evaluation.tiny import tiny_tool


@pytest.fixture(scope="module")
def tool(checkpoint):
    return tiny_tool(checkpoint)


def draws(count, seed=0, shift=0.0, scale=1.0, images=20):
    """Vectors [count, 4] of each of some images."""
    generator = torch.Generator().manual_seed(seed)
    return [shift + scale * torch.randn(count, 4, generator=generator) for _ in range(images)]


def vectors(*arguments, **keywords):
    images = draws(*arguments, **keywords)
    return Vectors(images, len(images), 0)


@given(st.integers(1, 40), st.integers(1, 60), st.integers(1, 4))
@settings(max_examples=10)
def test_moments_are_those_of_all_vectors(count, images, channels):
    parts = [2 + torch.randn(count, channels) for _ in range(images)]
    found, whole = Vectors(iter(parts), images, 0), torch.cat(parts).double()
    assert torch.allclose(found.mean, whole.mean(0)) and torch.allclose(found.deviation, whole.std(0, correction=0))
    assert len(found.kept) == images * min(count, -(-2000 // images))


def test_as_many_vectors_of_each_image_are_kept():
    found = Vectors([torch.full((900, 1), float(k)) for k in range(4)], 4, 0)
    assert torch.equal(torch.unique(found.kept, return_counts=True)[1], torch.full((4,), 500))
    first, second = found.halves()
    assert set(first.flatten().tolist()) == {0.0, 1.0} and set(second.flatten().tolist()) == {2.0, 3.0}


def test_latents_of_one_distribution_are_at_the_floor():
    found = compare_latents(vectors(200), vectors(200, seed=1), 0)
    assert found["latent_mean_distance"] < 0.05 and abs(found["latent_std_ratio"] - 1) < 0.05
    assert 0 < found["latent_mmd"] < 2 * found["latent_mmd_floor"] < 0.05


def test_shift_and_spread_are_told():
    found = compare_latents(vectors(200, seed=1, shift=3.0, scale=4.0), vectors(200, scale=2.0), 0)
    assert found["latent_mean_distance"] == pytest.approx(1.5, rel=0.1)
    assert found["latent_std_ratio"] == pytest.approx(2, rel=0.1)
    assert found["latent_mmd"] > 10 * found["latent_mmd_floor"]


def test_the_floor_is_of_as_many_vectors_as_the_discrepancy():
    """Of few vectors the discrepancy is larger, whatever their distribution."""
    few = compare_latents(vectors(3, images=2), vectors(200, seed=1), 0)
    many = compare_latents(vectors(200), vectors(200, seed=1), 0)
    assert few["latent_mmd_floor"] > 5 * many["latent_mmd_floor"]


def test_without_vectors_nothing_is_measured():
    none = Vectors([], 0, 0)
    assert compare_latents(none, vectors(9), 0) == compare_latents(vectors(9), none, 0) == {}
    assert compare_latents(vectors(9), vectors(9, images=1), 0)["latent_mmd_floor"] is None


def test_discrepancy_is_that_of_the_loss():
    x, y = torch.cat(draws(1, images=7)), torch.cat(draws(1, seed=1, images=7))
    assert discrepancy(x, y, 7, 0) == pytest.approx(maximum_mean_discrepancy(x, y).item(), abs=1e-6)
    assert discrepancy(x, y, 5, 0) == discrepancy(x, y, 5, 0) != discrepancy(x, y, 5, 1)
    assert discrepancy(x, y, 1, 0) is None


@given(st.integers(1, 3000), st.integers(1, 3000))
@settings(max_examples=20)
def test_the_middle_of_an_image(height, width):
    region = middle((height, width), 8)
    inside = Region.at(0, 0, -(-height // 8), -(-width // 8))
    assert region.common(inside) == region and max(region.shape) <= 64
    for axis, whole in ((region.rows, inside.rows), (region.cols, inside.cols)):
        assert axis.size == min(whole.size, 64) and abs(axis.first - (whole.last - axis.last)) <= 1


def test_vectors_of_images(tool):
    (found,) = generated_vectors(tool, 45, [3])
    cells = tool.generated((45, 45), 3, None).read(Region.at(0, 0, 6, 6))
    assert torch.equal(found, cells.reshape(5, 36).T)
    store = SimpleNamespace(description=SimpleNamespace(height=40, width=17), read=lambda region: cells[:, :5, :3])
    assert torch.equal(next(stored_vectors([store], 8)), cells[:, :5, :3].reshape(5, 15).T)


def test_relative_error():
    error, true, found = RelativeError(), torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    for pair in zip(found, true, strict=True):
        error.add(*pair)
    variance = true.var((0, 2, 3), correction=0).mean()
    assert error.value == pytest.approx(((found - true).square().mean() / variance).item(), rel=1e-5)


@pytest.mark.parametrize(("guess", "expected"), [(lambda z: z, 0), (lambda z: z.mean((1, 2), keepdim=True), 1)])
def test_relative_error_of_known_guesses(guess, expected):
    error, true = RelativeError(), torch.randn(3, 9, 9)
    error.add(guess(true).expand(true.shape), true)
    assert error.value == pytest.approx(expected, abs=1e-6)


def test_relative_error_of_nothing():
    assert RelativeError().value is None
    error = RelativeError()
    error.add(torch.ones(2, 3, 3), torch.zeros(2, 3, 3))
    assert error.value is None


def test_the_reciprocal_error_of_an_encoder_that_inverts(tool, monkeypatch):
    """Of one that knows the latents 0; with noise of their deviation beside them 1. Random networks invert nothing."""
    seeds = [1, 2, 3]
    images = generated_set(tool, 80, seeds)
    assert reciprocal_error(tool, images, seeds) > 0.5
    scale, place = 0.0, iter(seeds * 2)

    def encode(tool, pixels, cells):
        true = tool.generated((80, 80), next(place), None).read(cells)
        yield cells, true + scale * true.std((1, 2), keepdim=True) * torch.randn(true.shape)

    monkeypatch.setattr(latents, "encode", encode)
    assert reciprocal_error(tool, images, seeds) == 0
    scale = 1.0
    assert reciprocal_error(tool, images, seeds) == pytest.approx(1, rel=0.3)


def test_blocks_encode_as_the_whole(checkpoint):
    images = generated_set(tiny_tool(checkpoint), 80, [4])
    found = [reciprocal_error(tiny_tool(checkpoint, f"infer.block={block}"), images, [4]) for block in ("whole", 16)]
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_no_cell_sees_only_a_small_image(tool):
    assert reciprocal_error(tool, np.zeros((1, 16, 16, 3), np.uint8), [0]) is None
    assert reciprocal_error(tool, np.zeros((0, 80, 80, 3), np.uint8), []) is None
