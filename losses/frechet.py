"""Distances of sets of images by features: the Frechet distance, of Inception's the FID (Heusel et al., NeurIPS 2017),
and coverage. Those of few images are biased: only sets of equal numbers compare.
"""

import numpy as np

NEIGHBOURS = 5  # of a real image, by which coverage says what is near


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Of normal distributions with the means and (unbiased) covariances of features [N, D], N >= 2.

    |m_x - m_y|^2 + tr(A + B - 2 (A B)^(1/2)) with means m and covariances A, B (Dowson and Landau 1982). With
    A = F^T F and B = G^T G the eigenvalues of A B, but for zeros, are the squared singular values of F G^T. These are
    exact where a matrix root is not: at singular covariances, which all sets of fewer images than features have.
    """
    factors = [(each - each.mean(0)) / np.sqrt(len(each) - 1) for each in (x, y)]
    f, g = (each if len(each) <= each.shape[1] else np.linalg.qr(each, mode="r") for each in factors)
    shared = np.linalg.svd(f @ g.T, compute_uv=False).sum()
    return float(np.square(x.mean(0) - y.mean(0)).sum() + np.square(f).sum() + np.square(g).sum() - 2 * shared)


def coverage(generated: np.ndarray, real: np.ndarray, neighbours: int = NEIGHBOURS) -> float:
    """Share of real features [N, D] that a generated one [M, D] is near to (Naeem et al., ICML 2020, equation 8).

    Near: no further than the `neighbours`-th nearest other real one, of which there must be as many.
    """
    among = np.sort(_distances(real, real), 1)[:, neighbours]  # the first one is itself
    return float((_distances(real, generated).min(1) <= among).mean())


def _distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Squared distances [N, M] of [N, D] and [M, D]."""
    squares = np.square(x).sum(1)[:, None] + np.square(y).sum(1) - 2 * x @ y.T
    return squares.clip(min=0)
