"""A distance between sets of latents."""

import torch
from torch import Tensor

# Kernels of the maximum mean discrepancy: widths from 1/4 to 4 times the mean squared distance.
KERNELS = (0.25, 0.5, 1.0, 2.0, 4.0)


def maximum_mean_discrepancy(x: Tensor, y: Tensor) -> Tensor:
    """Squared MMD (biased: at least 0) of x [B, D] and y [N, D] under a sum of Gaussian kernels exp(-d^2 / bandwidth).

    The middle bandwidth is the mean squared distance of all pairs, taken as a constant; the others go from 1/4 to 4
    times it. Computed in float32.
    """
    points = torch.cat([x, y]).float()
    count = len(points)
    # Differences and not products: a distance of zero must be zero, with a finite gradient (that of cdist is 0 there).
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist").square()  # [B + N, B + N]
    mean = (distances.detach().sum() / (count * count - count)).clamp(min=1e-12)
    kernel = sum(torch.exp(-distances / (mean * width)) for width in KERNELS)
    same = kernel[: len(x), : len(x)].mean() + kernel[len(x) :, len(x) :].mean()
    return same - 2 * kernel[: len(x), len(x) :].mean()
