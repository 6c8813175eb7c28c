"""Frechet distances against the formula with a matrix root."""

import numpy as np
import pytest
import scipy.linalg

from losses.frechet import coverage, frechet_distance


def features_of(count, dimensions, seed):
    random = np.random.default_rng(seed)
    return random.normal(seed, 1, (count, dimensions)) @ random.normal(0, 1, (dimensions, dimensions))


@pytest.mark.parametrize(("counts", "dimensions"), [((100, 100), 7), ((9, 5), 40)])
def test_it_is_the_formula_with_a_matrix_root(counts, dimensions):
    """Also of few images, whose covariances are singular: by the eigenvalues of R B R with R = A^(1/2)."""
    x, y = (features_of(count, dimensions, seed) for count, seed in zip(counts, (1, 2), strict=True))
    a, b = (np.cov(each, rowvar=False) for each in (x, y))
    values, vectors = np.linalg.eigh(a)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ b @ root).clip(min=0)).sum()
    if min(counts) > dimensions:
        assert shared == pytest.approx(np.trace(scipy.linalg.sqrtm(a @ b).real))
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * shared
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9 * expected)


def test_coverage_by_its_definition():
    random = np.random.default_rng(3)
    real, generated = random.normal(size=(40, 6)), random.normal(size=(30, 6)) + 0.8
    expected = 0
    for x in real:
        nearest = sorted(np.linalg.norm(x - other) for other in real)[3]  # the first one is x itself
        expected += min(np.linalg.norm(x - y) for y in generated) <= nearest
    assert coverage(generated, real, neighbours=3) == pytest.approx(expected / 40)
    assert coverage(real, real) == 1.0 and coverage(real + 100, real) == 0.0
