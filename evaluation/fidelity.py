"""How near a reconstruction is to its photograph. Letters: H, W pixels."""

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
    photograph: np.ndarray,  # uint8 [H, W, 3]
    result: np.ndarray,
    lpips: LPIPS | None,
    device: torch.device,  # where lpips is
) -> dict[str, float | None]:
    """`ms_ssim` and `lpips`; None of images beyond 4 megapixels, and of what is not asked for.

    MS-SSIM has as many of its five scales as the image holds, and none under 11 pixels.
    """
    if photograph.shape[0] * photograph.shape[1] > LARGEST:
        return {"ms_ssim": None, "lpips": None}
    images = [as_tensor(pixels).to(device) for pixels in (photograph, result)]
    wide_enough = min(photograph.shape[:2]) >= MS_SSIM_TAPS
    return {
        "ms_ssim": ms_ssim(*images).item() if wide_enough else None,
        "lpips": lpips.distance(*images).item() if lpips else None,
    }


def as_tensor(pixels: np.ndarray) -> Tensor:
    """A uint8 image [H, W, 3] as [1, 3, H, W] float32 in [-1, 1]."""
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1
