"""Streaming metrics against scikit-image, over random sizes and partitions into strips."""

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from images.metrics import C1, C2, ImageMetrics


def pair(height, width, rng, noise=20):
    """A smooth random image and a noisy copy, uint8 [H, W, 3]."""
    y, x = np.mgrid[:height, :width]
    phase = rng.uniform(0, 6, 3)
    smooth = 128 + 100 * np.sin(x[..., None] / 17 + phase) * np.cos(y[..., None] / 23 + phase)
    image = np.clip(smooth, 0, 255).astype(np.uint8)
    return image, np.clip(image + rng.normal(0, noise, image.shape), 0, 255).astype(np.uint8)


def streamed(reference, result, cuts):
    metrics = ImageMetrics(*reference.shape[:2])
    for rows in zip(np.split(reference, cuts), np.split(result, cuts), strict=True):
        metrics.update(*rows)
    return metrics.result()


def expected_ssim(reference, result):
    return structural_similarity(
        reference, result, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255, channel_axis=2
    )


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_scikit_image_for_any_partition(seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(11, 300, 2) if seed else (13, 700)  # wider than what is worked on at a time
    reference, result = pair(height, width, rng, noise=rng.choice([1, 5, 40]))
    cuts = np.sort(rng.integers(0, height + 1, rng.integers(0, 12)))  # strips of zero rows among them
    found = streamed(reference, result, cuts)
    assert abs(found["psnr"] - peak_signal_noise_ratio(reference, result, data_range=255)) < 1e-6
    assert abs(found["ssim"] - expected_ssim(reference, result)) < 1e-4


@pytest.mark.parametrize("size", [(1, 1), (4, 7), (64, 64)])
def test_equal_images(size):
    image, _ = pair(*size, np.random.default_rng(2))
    assert streamed(image, image, [1]) == {"psnr": np.inf, "ssim": 1.0}


def direct_ssim(reference, result, taps):
    """SSIM window by window, from the definition."""
    weights = np.exp(-((np.arange(taps) - taps // 2) ** 2) / (2 * 1.5**2))
    weights = (np.outer(weights, weights) / weights.sum() ** 2)[None, None, None]
    x, y = (sliding_window_view(image.astype(float), (taps, taps), axis=(0, 1)) for image in (reference, result))

    def mean(plane):
        return (plane * weights).sum((-1, -2))

    mx, my = mean(x), mean(y)
    vx, vy, vxy = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    return ((2 * mx * my + C1) * (2 * vxy + C2) / ((mx**2 + my**2 + C1) * (vx + vy + C2))).mean()


@pytest.mark.parametrize("size", [(90, 2, 1), (4, 9, 3), (10, 10, 9), (11, 12, 11)])
def test_small_images_shrink_the_window(size):
    height, width, taps = size
    reference, result = pair(height, width, np.random.default_rng(3), noise=60)
    found = streamed(reference, result, [height // 2])["ssim"]
    assert abs(found - direct_ssim(reference, result, taps)) < 1e-4
