"""Adversarial losses: the generator stage's terms, and those that the inverter takes from a discriminator.

Letters: B batch, C channels, h/w latent cells, H/W pixels, L layers, D style.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

PATH_MEAN_STEP = 0.01  # of the running mean of path lengths


def generator_logistic(fake_scores: Tensor) -> Tensor:
    """Non-saturating logistic loss of the generator (Goodfellow et al., NeurIPS 2014)."""
    return F.softplus(-fake_scores).mean()


def discriminator_logistic(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """Logistic loss of the discriminator."""
    return F.softplus(-real_scores).mean() + F.softplus(fake_scores).mean()


def r1_penalty(scores: Tensor, images: Tensor) -> Tensor:
    """Mean squared gradient norm of the scores [B] at real images [B, 3, H, W] (Mescheder et al., ICML 2018)."""
    (gradient,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
    return gradient.float().square().sum(dim=(1, 2, 3)).mean()


def path_lengths(images: Tensor, styles: Tensor, direction: Tensor) -> Tensor:
    """Lengths [B] of the images' gradients by the styles [B, L + 1, D], along random normal images.

    StyleGAN2 (section 3.2); as in InfinityGAN the mean over layers and dimensions is taken, not their sum.
    """
    height, width = images.shape[-2:]
    projected = (images * direction).sum() / math.sqrt(height * width)
    (gradient,) = torch.autograd.grad(projected, styles, create_graph=True)
    return gradient.float().square().mean(dim=(1, 2)).add(1e-12).sqrt()


def path_penalty(lengths: Tensor, mean: Tensor, batch_mean: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean squared distance of path lengths [B] from their running mean, and that mean after this batch.

    `batch_mean`: of the lengths of all processes, if these are not all.
    """
    batch_mean = lengths.detach().mean() if batch_mean is None else batch_mean
    mean = mean + PATH_MEAN_STEP * (batch_mean - mean)
    return (lengths - mean).square().mean(), mean


def diversity(z_l: Tensor, z_s: Tensor) -> Tensor:
    """Mode seeking (Mao et al., CVPR 2019) over pairs of consecutive samples that share all but their local latents.

    The angular distance of the local latents over that of the structure latents: the more the structures of a pair
    differ, the smaller. (InfinityGAN divides similarities, which rewards equal structures.)
    """
    return (angular_distance(z_l) / (angular_distance(z_s) + 1e-2)).mean()


def angular_distance(x: Tensor) -> Tensor:
    """Angle [B / 2] between the samples 2k and 2k + 1, as a share of pi."""
    pairs = x.float().flatten(1).unflatten(0, (-1, 2))  # [B / 2, 2, ...]
    cosine = F.cosine_similarity(pairs[:, 0], pairs[:, 1], dim=1)
    return torch.acos(cosine.clamp(-1 + 1e-6, 1 - 1e-6)) / math.pi  # the gradient of acos is infinite at +-1


def coordinate(guess: Tensor, label: Tensor) -> Tensor:
    """L1 distance of the discriminator's vertical coordinate, component 0 of [B, 3], from the true one [B]."""
    return (guess[:, 0] - label).abs().mean()


def feature_matching(fake: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """L1 distance between the discriminator's features of reconstruction and target, mean over its blocks."""
    return torch.stack([F.l1_loss(a.float(), b.float().detach()) for a, b in zip(fake, real, strict=True)]).mean()
