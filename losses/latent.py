"""Losses in the latent spaces.

B samples, D channels or length, h and w latent cells. All are computed in float32.
"""

import torch
from torch import Tensor

from losses.reconstruction import L2

MMD_KERNELS = 5  # of widths from 1/4 to 4 times the mean squared distance
MMD_FACTOR = 2.0


class Reciprocal(L2):
    """Mean squared difference of E(TS(z_s)) from z_s, both [B, D, h, w]: cells whose context is inside the image."""

    inputs = ("encoded_structure", "true_structure")


class GlobalLatent(L2):
    """Mean squared difference of E_g(generated image) from the z_g that it was generated with, both [B, D]."""

    inputs = ("encoded_global", "true_global")


class Distribution:
    """Maximum mean discrepancy between encoded global latents [B, D] and draws from their prior [N, D]."""

    inputs = ("global_latent", "global_prior")

    def __call__(self, latent: Tensor, prior: Tensor) -> Tensor:
        return maximum_mean_discrepancy(latent.float(), prior.float())


def maximum_mean_discrepancy(x: Tensor, y: Tensor) -> Tensor:
    """Squared MMD (biased: at least 0) of x [B, D] and y [N, D] under a sum of Gaussian kernels exp(-d^2 / bandwidth).

    The middle bandwidth is the mean squared distance of all pairs, taken as a constant; the others go from 1/4 to 4
    times it.
    """
    points = torch.cat([x, y])
    count = len(points)
    # Differences and not products: a distance of zero must be zero, with a finite gradient (that of cdist is 0 there).
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist").square()  # [B + N, B + N]
    mean = (distances.detach().sum() / (count * count - count)).clamp(min=1e-12)
    powers = [MMD_FACTOR ** (k - MMD_KERNELS // 2) for k in range(MMD_KERNELS)]
    kernel = sum(torch.exp(-distances / (mean * power)) for power in powers)
    same = kernel[: len(x), : len(x)].mean() + kernel[len(x) :, len(x) :].mean()
    return same - 2 * kernel[: len(x), len(x) :].mean()
