"""Pixel losses between a reconstruction and its target, both [B, C, H, W] in [-1, 1]; all are computed in float32."""

import torch
from torch import Tensor
from torch.nn import functional as F

MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of each scale, fine to coarse (Wang et al. 2003)
MS_SSIM_TAPS = 11
MS_SSIM_SIGMA = 1.5
MS_SSIM_FLOOR = 1e-6  # a negative similarity has no fractional power, and zero has one of infinite slope


class L1:
    """Mean absolute difference."""

    inputs = ("reconstruction", "target")

    def __call__(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        return F.l1_loss(reconstruction.float(), target.float())


class L2:
    """Mean squared difference."""

    inputs = ("reconstruction", "target")

    def __call__(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(reconstruction.float(), target.float())


class Preservation(L1):
    """The same of images redrawn by a tuned texture synthesizer and what it generated before."""

    inputs = ("redrawn", "generated")


class MSSSIM:
    """1 - MS-SSIM (Wang et al. 2003) with an 11-tap Gaussian of sigma 1.5 and without padding.

    Uses as many scales, at most five, as the image allows (the coarsest one must hold a whole window); their weights
    are then divided by their sum. Raises ValueError for an edge under 11 pixels.
    """

    inputs = ("reconstruction", "target")

    def __call__(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        # Variances are small differences of large numbers: autocast would ruin them.
        with torch.autocast(reconstruction.device.type, enabled=False):
            return 1 - ms_ssim(reconstruction.float(), target.float())


def ms_ssim(x: Tensor, y: Tensor, data_range: float = 2.0) -> Tensor:
    """Mean multi-scale structural similarity of two float32 batches [B, C, H, W]: a scalar, at most 1."""
    scales = scale_count(*x.shape[-2:])
    weights = x.new_tensor(MS_SSIM_WEIGHTS[:scales])
    weights = weights / weights.sum()
    similarity = x.new_ones(x.shape[:2])  # [B, C]
    for scale in range(scales):
        full, contrast = _ssim(x, y, data_range)
        value = full if scale == scales - 1 else contrast  # luminance counts at the coarsest scale alone
        similarity = similarity * value.clamp(min=MS_SSIM_FLOOR) ** weights[scale]
        if scale < scales - 1:
            x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    return similarity.mean()


def scale_count(height: int, width: int) -> int:
    """Number of scales (1 to 5) whose images still hold an 11 x 11 window; ValueError where not even the first does."""
    edge = min(height, width)
    if edge < MS_SSIM_TAPS:
        raise ValueError(f"MS-SSIM needs at least {MS_SSIM_TAPS} x {MS_SSIM_TAPS} pixels, got {height} x {width}")
    return sum(edge >> scale >= MS_SSIM_TAPS for scale in range(len(MS_SSIM_WEIGHTS)))


def _ssim(x: Tensor, y: Tensor, data_range: float) -> tuple[Tensor, Tensor]:
    """SSIM and its contrast-structure factor, averaged over the positions of whole windows: each [B, C]."""
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mean_x, mean_y, mean_power, mean_product = _blur(torch.stack([x, y, x * x + y * y, x * y])).unbind()
    product, power = mean_x * mean_y, mean_x**2 + mean_y**2
    contrast = (2 * (mean_product - product) + c2) / (mean_power - power + c2)
    luminance = (2 * product + c1) / (power + c1)
    return (luminance * contrast).mean((2, 3)), contrast.mean((2, 3))


def _blur(x: Tensor) -> Tensor:
    """Gaussian window over the last two axes, whole windows only: [..., H, W] -> [..., H - 10, W - 10]."""
    taps = torch.arange(MS_SSIM_TAPS, device=x.device, dtype=x.dtype) - MS_SSIM_TAPS // 2
    kernel = torch.exp(-(taps**2) / (2 * MS_SSIM_SIGMA**2))
    kernel = kernel / kernel.sum()
    planes = x.reshape(-1, 1, *x.shape[-2:])
    planes = F.conv2d(F.conv2d(planes, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
    return planes.view(*x.shape[:-2], *planes.shape[-2:])
