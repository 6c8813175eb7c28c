"""How near a reconstruction is to its photograph. Letters: N images, H, W pixels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from images.metrics import ImageMetrics
from losses.perceptual import LPIPS
from losses.reconstruction import MS_SSIM_TAPS, ms_ssim

LARGEST = 2**22  # pixels; MS-SSIM and LPIPS hold features of the whole image


def pixelwise(photograph: np.ndarray, result: np.ndarray) -> dict[str, float]:
    """`psnr` (dB, infinite for equal images) and `ssim` of uint8 images [H, W, 3]."""
    metrics = ImageMetrics(*photograph.shape[:2])
    metrics.update(photograph, result)
    return metrics.result()


@torch.inference_mode()
def perceived(
    photograph: np.ndarray, result: np.ndarray, lpips: LPIPS | None, device: torch.device
) -> dict[str, float | None]:
    """`ms_ssim` and `lpips` of uint8 images [H, W, 3]; None beyond 4 megapixels, without LPIPS, and of less than 11
    pixels along an edge: MS-SSIM has as many of its five scales as the image holds. `device`: that of `lpips`.
    """
    if photograph.shape[0] * photograph.shape[1] > LARGEST:
        return {"ms_ssim": None, "lpips": None}
    pair = as_tensor(np.stack([photograph, result]), device).split(1)
    wide_enough = min(photograph.shape[:2]) >= MS_SSIM_TAPS
    return {
        "ms_ssim": ms_ssim(*pair).item() if wide_enough else None,
        "lpips": lpips.distance(*pair).item() if lpips else None,
    }


def as_tensor(images: np.ndarray, device: torch.device) -> Tensor:
    """uint8 images [N, H, W, 3] as [N, 3, H, W] float32 in [-1, 1]."""
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
