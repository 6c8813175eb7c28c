"""PSNR and SSIM of images that arrive as strips of rows, so that neither image is ever whole in memory.

H, W are the image's height and width; all rows are uint8 [n, W, 3].
"""

import math

import cv2
import numpy as np

# Wang et al. 2004: Gaussian window, stabilising constants, 8-bit data range.
TAPS = 11
SIGMA = 1.5
DATA_RANGE = 255.0
C1 = (0.01 * DATA_RANGE) ** 2
C2 = (0.03 * DATA_RANGE) ** 2
# Work is cut into tiles of this many window positions: their float32 maps stay in a processor's cache.
TILE_ROWS = 32
TILE_COLUMNS = 256


class ImageMetrics:
    """Streaming PSNR and SSIM; the strips come from top to bottom and may have any number of rows, zero included.

    SSIM is the mean, over the channels and the positions where the 11-tap Gaussian window (sigma 1.5) is whole, with
    population covariances. Where an edge is under 11 pixels, the window is cut to the largest odd number of taps that
    fits both edges (with the same sigma, its weights summing to 1), so every size down to 1 x 1 has a value.
    """

    def __init__(self, height: int, width: int):
        self.height = height
        self.width = width
        edge = min(TAPS, height, width)
        taps = edge - 1 + edge % 2
        window = np.exp(-((np.arange(taps) - taps // 2) ** 2) / (2 * SIGMA**2))
        self._kernel = (window / window.sum()).astype(np.float32)
        self._squared_error = 0
        self._ssim_sum = 0.0
        self._held = np.empty((2, 0, width, 3), np.uint8)  # the rows that the next strip's windows still need

    def update(self, reference_rows: np.ndarray, result_rows: np.ndarray) -> None:
        """Take the next rows of both images."""
        for top in range(0, len(reference_rows), TILE_ROWS):
            self._add(np.stack([reference_rows[top : top + TILE_ROWS], result_rows[top : top + TILE_ROWS]]))

    def result(self) -> dict[str, float]:
        """`psnr` in dB (infinite for equal images) and `ssim`, after the last row has arrived."""
        samples = self.height * self.width * 3
        error = self._squared_error / samples
        psnr = 10 * math.log10(DATA_RANGE**2 / error) if error else math.inf
        cut = len(self._kernel) - 1
        return {"psnr": psnr, "ssim": self._ssim_sum / ((self.height - cut) * (self.width - cut) * 3)}

    def _add(self, rows: np.ndarray) -> None:
        """Take a few rows of both images, uint8 [2, n, W, 3]."""
        difference = rows[0].astype(np.int32) - rows[1]
        self._squared_error += int((difference * difference).sum(dtype=np.int64))
        cut = len(self._kernel) - 1
        rows = np.concatenate([self._held, rows], axis=1)
        if rows.shape[1] > cut:
            for left in range(0, self.width - cut, TILE_COLUMNS):
                self._ssim_sum += ssim_sum(*rows[:, :, left : left + TILE_COLUMNS + cut], self._kernel)
        self._held = rows[:, rows.shape[1] - min(cut, rows.shape[1]) :].copy()


def ssim_sum(reference: np.ndarray, result: np.ndarray, kernel: np.ndarray) -> float:
    """Sum of SSIM over all whole windows and channels of two uint8 tiles [n, m, 3]."""
    half = len(kernel) // 2

    def blur(plane: np.ndarray) -> np.ndarray:
        blurred = cv2.sepFilter2D(plane, cv2.CV_32F, kernel, kernel)
        return blurred[half : len(plane) - half, half : plane.shape[1] - half]

    # Variances do not change with the origin, and around mid-grey float32 rounds them least.
    x, y = reference.astype(np.float32) - 128, result.astype(np.float32) - 128
    mean_x, mean_y = blur(x), blur(y)
    power = blur(x * x + y * y) - (mean_x * mean_x + mean_y * mean_y)
    product = blur(x * y) - mean_x * mean_y
    mean_x, mean_y = mean_x + 128, mean_y + 128
    luminance = (2 * mean_x * mean_y + C1) / (mean_x * mean_x + mean_y * mean_y + C1)
    return float((luminance * (2 * product + C2) / (power + C2)).sum(dtype=np.float64))
