"""MS-SSIM beside pytorch-msssim."""

import numpy as np
import pytest
import torch
from pytorch_msssim import ms_ssim

from evaluation.fidelity import perceived

CPU = torch.device("cpu")


def pair(height, width, deviation=20):
    """A smooth picture and a noisy copy, uint8 [H, W, 3]."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    smooth = 128 + 90 * np.sin(x[..., None] / 17 + random.uniform(0, 6, 3)) * np.cos(y[..., None] / 23)
    noisy = smooth + random.normal(0, deviation, smooth.shape)
    return tuple(np.clip(each, 0, 255).astype(np.uint8) for each in (smooth, noisy))


@pytest.mark.parametrize(("size", "deviation"), [((176, 192), 5), ((256, 176), 60)])
def test_ms_ssim_agrees_with_another_implementation(size, deviation):
    pictures = pair(*size, deviation)
    tensors = [torch.from_numpy(each).permute(2, 0, 1)[None].float() for each in pictures]
    found = perceived(*pictures, None, CPU)
    assert abs(found["ms_ssim"] - ms_ssim(*tensors, data_range=255).item()) < 1e-3
    assert 0.1 < found["ms_ssim"] < 0.999 and found["lpips"] is None


def test_small_and_large_images_have_none():
    assert perceived(*pair(10, 300), None, CPU)["ms_ssim"] is None
    assert perceived(*pair(11, 300), None, CPU)["ms_ssim"] is not None
    large = np.zeros((2**11 + 1, 2**11, 3), np.uint8)
    assert perceived(large, large, None, CPU) == {"ms_ssim": None, "lpips": None}
