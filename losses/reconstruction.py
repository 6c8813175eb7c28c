"""Losses between tensors of equal shape, all computed in float32; images are [B, C, H, W] in [-1, 1]."""

import torch
from torch import Tensor
from torch.nn import functional as F

# Wang, Simoncelli and Bovik 2003: importance of each scale, fine to coarse.
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
MS_SSIM_TAPS = 11
MS_SSIM_SIGMA = 1.5
C1, C2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2  # of a data range of 2
# A negative similarity has no fractional power, and zero has one of infinite slope.
MS_SSIM_FLOOR = 1e-6


def l1(x: Tensor, y: Tensor) -> Tensor:
    """Mean absolute difference."""
    return F.l1_loss(x.float(), y.float())


def l2(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared difference."""
    return F.mse_loss(x.float(), y.float())


def ms_ssim_loss(x: Tensor, y: Tensor) -> Tensor:
    """1 - MS-SSIM."""
    # Variances are small differences of large numbers: autocast would ruin them.
    with torch.autocast(x.device.type, enabled=False):
        return 1 - ms_ssim(x.float(), y.float())


def ms_ssim(x: Tensor, y: Tensor) -> Tensor:
    """MS-SSIM (Wang et al. 2003) with an 11-tap Gaussian of sigma 1.5, no padding: a scalar, the batch's mean, <= 1.

    Uses as many scales, at most five, as the image allows (the coarsest one must hold a whole window); their weights
    are then divided by their sum. ValueError for an edge under 11 pixels.
    """
    height, width = x.shape[-2:]
    if min(height, width) < MS_SSIM_TAPS:
        raise ValueError(f"MS-SSIM needs at least {MS_SSIM_TAPS} x {MS_SSIM_TAPS} pixels, got {height} x {width}")
    scales = sum(min(height, width) >> scale >= MS_SSIM_TAPS for scale in range(len(MS_SSIM_WEIGHTS)))
    weights = x.new_tensor(MS_SSIM_WEIGHTS[:scales])
    weights = weights / weights.sum()
    similarity = x.new_ones(x.shape[:2])  # [B, C]
    for scale in range(scales):
        full, contrast = _ssim(x, y)
        value = full if scale == scales - 1 else contrast  # luminance counts at the coarsest scale alone
        similarity = similarity * value.clamp(min=MS_SSIM_FLOOR) ** weights[scale]
        if scale < scales - 1:
            x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    return similarity.mean()


def _ssim(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """SSIM and its contrast-structure factor, averaged over the positions of whole windows: each [B, C]."""
    mean_x, mean_y, mean_power, mean_product = _blur(torch.stack([x, y, x * x + y * y, x * y])).unbind()
    product, power = mean_x * mean_y, mean_x**2 + mean_y**2
    contrast = (2 * (mean_product - product) + C2) / (mean_power - power + C2)
    luminance = (2 * product + C1) / (power + C1)
    return (luminance * contrast).mean((2, 3)), contrast.mean((2, 3))


def _blur(x: Tensor) -> Tensor:
    """Gaussian window over the last two axes, whole windows only: [..., H, W] -> [..., H - 10, W - 10]."""
    taps = torch.arange(MS_SSIM_TAPS, device=x.device, dtype=x.dtype) - MS_SSIM_TAPS // 2
    kernel = torch.exp(-(taps**2) / (2 * MS_SSIM_SIGMA**2))
    kernel = kernel / kernel.sum()
    planes = x.reshape(-1, 1, *x.shape[-2:])
    planes = F.conv2d(F.conv2d(planes, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
    return planes.view(*x.shape[:-2], *planes.shape[-2:])
