"""How near a reconstruction is to its photograph, beside the PSNR and SSIM that infer.py measures."""

from __future__ import annotations

import torch
from torch import Tensor

from images.metrics import ImageMetrics
from images.reading import Image
from images.writing import strips
from losses.perceptual import LPIPS
from losses.reconstruction import MS_SSIM_TAPS, ms_ssim

LARGEST = 2**22  # pixels; these measures take the whole image at once


@torch.inference_mode()
def perceived(
    photograph: Image,
    reconstruction: Image,
    lpips: LPIPS | None,
    device: torch.device,  # where lpips is
) -> dict[str, float | None]:
    """`ms_ssim` and `lpips` of 8-bit images of one size; None of too large ones, and what is not asked for.

    MS-SSIM has as many of its five scales as the image holds, and none under 11 pixels.
    """
    if photograph.height * photograph.width > LARGEST:
        return {"ms_ssim": None, "lpips": None}
    images = [whole(image).to(device) for image in (photograph, reconstruction)]
    wide_enough = min(photograph.height, photograph.width) >= MS_SSIM_TAPS
    return {
        "ms_ssim": ms_ssim(*images).item() if wide_enough else None,
        "lpips": lpips.distance(*images).item() if lpips else None,
    }


def whole(image: Image) -> Tensor:
    """An image at 8 bits as [1, 3, H, W] float32 in [-1, 1]."""
    pixels = torch.from_numpy(image.window(0, 0, image.height, image.width).copy())
    return pixels.permute(2, 0, 1)[None].float() / 127.5 - 1


def pixelwise(photograph: Image, result: Image) -> dict[str, float]:
    """`psnr` and `ssim` of 8-bit images of one size, by strips."""
    metrics = ImageMetrics(photograph.height, photograph.width)
    for strip in strips((photograph.height, photograph.width)):
        place = strip.rows.first, 0, *strip.shape
        metrics.update(photograph.window(*place), result.window(*place))
    return metrics.result()
