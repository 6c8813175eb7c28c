"""Frechet distances against closed forms and a matrix root; those of generated canvases."""

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.frechet import Gaussian, fid, frechet_distance, gaussian_of, scale_invariant_fid
from evaluation.sets import generated_set
from tests.evaluation.tiny import tiny_tool


def pictures(count, size=16, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def features_of(count, dimensions, seed, scale=1.0):
    random = np.random.default_rng(seed)
    return random.normal(seed, scale, (count, dimensions)) @ random.normal(0, 1, (dimensions, dimensions))


# The distance


@settings(max_examples=25)
@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_diagonal_gaussians_have_the_closed_form(dimensions, seed):
    random = np.random.default_rng(seed)
    (m, n), (s, t) = random.normal(0, 3, (2, dimensions)), random.uniform(0, 3, (2, dimensions))
    found = frechet_distance(Gaussian(m, np.diag(s)), Gaussian(n, np.diag(t)))
    assert found == pytest.approx(((m - n) ** 2).sum() + ((s - t) ** 2).sum(), abs=1e-6)


@pytest.mark.parametrize("dimensions", [1, 2, 7, 30])
def test_it_is_the_formula_with_a_matrix_root(dimensions):
    x, y = (features_of(100, dimensions, seed) for seed in (1, 2))
    a, b = (np.atleast_2d(np.cov(each, rowvar=False)) for each in (x, y))
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b - 2 * scipy.linalg.sqrtm(a @ b).real)
    assert frechet_distance(gaussian_of(x), gaussian_of(y)) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(gaussian_of(y), gaussian_of(x)) == pytest.approx(expected, rel=1e-6)


def test_few_images_with_singular_covariances_are_measured_soundly():
    """By the eigenvalues of R B R with R = A^(1/2)."""
    x, y = features_of(9, 40, 1), features_of(5, 40, 2)
    a, b = (np.cov(each, rowvar=False) for each in (x, y))
    values, vectors = np.linalg.eigh(a)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ b @ root).clip(min=0)).sum()
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * shared
    assert frechet_distance(gaussian_of(x), gaussian_of(y)) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(gaussian_of(x), gaussian_of(x)) == pytest.approx(0, abs=1e-9 * expected)


@pytest.mark.parametrize("count", [3, 10, 11, 50])
def test_the_factor_is_one_of_the_covariance(count):
    features = features_of(count, 10, 0)
    found = gaussian_of(features)
    assert np.allclose(found.factor.T @ found.factor, np.cov(features, rowvar=False)) and len(found.factor) <= 10
    assert np.allclose(found.mean, features.mean(0))


def test_one_image_has_no_covariance():
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        gaussian_of(np.zeros((1, 4)))


# Canvases


def test_scaled_canvases_are_compared_at_the_size_of_the_real_images(checkpoint):
    """With the mean colours as features, in place of Inception's."""
    tool, seen = tiny_tool(checkpoint), []

    def colours(images):
        seen.append(images.shape)
        return images.mean((1, 2))

    real = pictures(4, 12)
    found = scale_invariant_fid(tool, colours, real, range(3), [1, 2])
    assert [row["scale"] for row in found] == [1, 2]
    assert seen == [(4, 12, 12, 3), (3, 12, 12, 3), (3, 12, 12, 3)]
    for row in found:
        images = generated_set(tool, 12, range(3), row["scale"])
        assert row["fid"] == pytest.approx(fid(colours, real, images), rel=1e-6)
    assert found[0]["fid"] != found[1]["fid"]
