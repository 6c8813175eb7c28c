"""Frechet Inception distance (Heusel et al., NeurIPS 2017), and that of scaled canvases (InfinityGAN, ICLR 2022).

The distance of few images is biased upwards: only sets of equal numbers compare.

Letters: N images, S pixels along their edges, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.inception import Inception
from evaluation.sets import generated_set
from inversion.tool import Tool


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


def fid(inception: Inception, first: np.ndarray, second: np.ndarray) -> float:
    """Frechet Inception distance of two sets of uint8 images [N, S, S, 3], at least 2 of each."""
    return frechet_distance(*(gaussian_of(inception(images)) for images in (first, second)))


def scale_invariant_fid(
    tool: Tool, inception: Inception, real: np.ndarray, seeds: Sequence[int], scales: Sequence[int]
) -> list[dict[str, float]]:
    """FID of generated canvases, [{"scale": s, "fid": ...}, ...] (ScaleInv FID; Lin et al., ICLR 2022, section 4.1).

    `real`: uint8 [N, S, S, 3]. The canvases of `seeds` have s x S pixels along their edges and are shrunk to S. Scale 1
    is the ordinary FID.
    """
    wanted = gaussian_of(inception(real))

    def distance(scale: int) -> float:
        return frechet_distance(wanted, gaussian_of(inception(generated_set(tool, real.shape[1], seeds, scale))))

    return [{"scale": scale, "fid": distance(scale)} for scale in scales]
