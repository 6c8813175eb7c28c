"""MS-SSIM beside pytorch-msssim."""

import numpy as np
import torch
from pytorch_msssim import ms_ssim

from evaluation.fidelity import perceived
from tests.evaluation.tiny import noise

CPU = torch.device("cpu")


def test_ms_ssim_agrees_with_another_implementation():
    y, x = np.mgrid[:176, :192]
    smooth = np.stack([128 + 90 * np.sin(x / 17 + k) * np.cos(y / 23) for k in range(3)], 2)
    noisy = smooth + np.random.default_rng(0).normal(0, 20, smooth.shape)
    pictures = [np.clip(each, 0, 255).astype(np.uint8) for each in (smooth, noisy)]
    tensors = [torch.from_numpy(each).permute(2, 0, 1)[None].float() for each in pictures]
    found = perceived(*pictures, None, CPU)
    assert abs(found["ms_ssim"] - ms_ssim(*tensors, data_range=255).item()) < 1e-3
    assert 0.1 < found["ms_ssim"] < 0.999 and found["lpips"] is None


def test_small_and_large_images_have_none():
    assert perceived(noise(10, 300), noise(10, 300, 1), None, CPU)["ms_ssim"] is None
    assert perceived(noise(11, 300), noise(11, 300, 1), None, CPU)["ms_ssim"] is not None
    large = np.zeros((2**11 + 1, 2**11, 3), np.uint8)
    assert perceived(large, large, None, CPU) == {"ms_ssim": None, "lpips": None}
