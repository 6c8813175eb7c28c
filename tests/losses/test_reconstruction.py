"""Pixel losses: values against plain formulas and scikit-image, sizes, precision."""

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from losses.reconstruction import l1, l2, ms_ssim, ms_ssim_loss


def images(height, width, noise=0.3):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, height, width, generator=generator) * 2 - 1
    return x, (x + noise * torch.randn(x.shape, generator=generator)).clamp(-1, 1)


def test_l1_and_l2_are_means():
    x, y = images(7, 9)
    assert torch.isclose(l1(x, y), (x - y).abs().mean()) and torch.isclose(l2(x, y), ((x - y) ** 2).mean())


@pytest.mark.parametrize("height, width", [(11, 11), (17, 21)])
def test_one_scale_is_ssim(height, width):
    x, y = images(height, width, noise=0.1)
    options = {"data_range": 2, "channel_axis": 0, "gaussian_weights": True, "use_sample_covariance": False}
    expected = [structural_similarity(a.numpy(), b.numpy(), sigma=1.5, **options) for a, b in zip(x, y, strict=True)]
    assert abs(ms_ssim(x, y).item() - np.mean(expected)) < 1e-5
    with pytest.raises(ValueError, match="11 x 11"):
        ms_ssim_loss(*images(10, 40))


def test_ms_ssim_grows_with_the_noise_and_is_differentiable():
    x, mild = images(64, 64, noise=0.1)
    strong = images(64, 64, noise=0.6)[1].requires_grad_()
    loss = ms_ssim_loss(strong, x)
    loss.backward()
    assert abs(ms_ssim_loss(x, x)) < 1e-6 < ms_ssim_loss(mild, x) < loss
    assert strong.grad.isfinite().all() and strong.grad.abs().max() > 0
    opposite = x.clone().requires_grad_()
    ms_ssim_loss(opposite, -x).backward()
    assert opposite.grad.isfinite().all()


def test_ms_ssim_ignores_autocast_and_low_precision():
    x, y = images(64, 64)
    expected = ms_ssim_loss(x, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ms_ssim_loss(x, y) == expected
    assert ms_ssim_loss(x.bfloat16(), y.bfloat16()).dtype == torch.float32
