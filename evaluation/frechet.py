"""Frechet distance of features, of Inception's the FID (Heusel et al., NeurIPS 2017).

That of few images is biased upwards: only sets of equal numbers compare. Letters: N images, D features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Gaussian:
    """A normal distribution of features, whose covariance is factor^T factor."""

    mean: np.ndarray  # [D]
    factor: np.ndarray  # [K, D]


def gaussian_of(features: np.ndarray) -> Gaussian:
    """The normal distribution of the mean and the (unbiased) covariance of features [N, D]. ValueError if N < 2."""
    count, dimensions = features.shape
    if count < 2:
        raise ValueError(f"a covariance takes at least 2 images, got {count}")
    mean = features.mean(0)
    factor = (features - mean) / np.sqrt(count - 1)
    return Gaussian(mean, factor if count <= dimensions else np.linalg.qr(factor, mode="r"))


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """|m_a - m_b|^2 + tr(A + B - 2 (A B)^(1/2)), with means m and covariances A, B (Dowson and Landau 1982).

    With A = F^T F and B = G^T G the eigenvalues of A B, but for zeros, are the squared singular values of F G^T. These
    are exact where a matrix root is not: at singular covariances, which all sets of fewer images than features have.
    """
    shared = np.linalg.svd(a.factor @ b.factor.T, compute_uv=False).sum()
    return float(np.square(a.mean - b.mean).sum() + np.square(a.factor).sum() + np.square(b.factor).sum() - 2 * shared)
