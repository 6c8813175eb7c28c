"""Where which style applies: maps over an unbounded plane, read by window.

A map is a `models.mixing.StyleWeights`. Positions beyond the canvas take the weights of its nearest pixel, so that the
context of a block at the border has a style, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from models.geometry import Interval, Region

Label = Callable[[np.ndarray, np.ndarray], np.ndarray]  # pixel rows [h], columns [w] -> index of a style [h, w]


def nearest_centre(centres: Sequence[tuple[float, float]]) -> Label:
    """Labels by the nearest of these positions (row, column), in pixels; the first one of equally near ones."""

    def offset(positions: np.ndarray, centre: float) -> np.ndarray:
        # whole pixels, cut towards zero as InfinityGAN does; float32 first, so that 0.55 * 100 is the pixel 55
        return np.trunc((positions - centre).astype(np.float32), dtype=np.float64)

    def label(rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
        nearest = np.full((len(rows), len(cols)), np.inf)
        labels = np.zeros(nearest.shape, np.int64)
        for k, (top, left) in enumerate(centres):
            distance = offset(rows, top)[:, None] ** 2 + offset(cols, left)[None] ** 2
            labels[distance < nearest] = k
            np.minimum(nearest, distance, out=nearest)
        return labels

    return label


@dataclass(frozen=True)
class SoftMap:
    """Weights that are the mean of a one-hot label map over a square of 2 * blur + 1 pixels around each pixel."""

    label: Label
    count: int  # of the styles
    canvas: Region  # pixels
    blur: int  # pixels

    def __call__(self, region: Region, spacing: int) -> Tensor:
        """Weights [N, h, w] at the centres of features that are `spacing` pixels apart."""
        rows, cols = (
            np.clip(spacing * np.arange(axis.first, axis.last + 1), bounds.first, bounds.last)
            for axis, bounds in zip((region.rows, region.cols), (self.canvas.rows, self.canvas.cols), strict=True)
        )
        around = [
            np.clip(np.arange(axis[0] - self.blur, axis[-1] + self.blur + 1), bounds.first, bounds.last)
            for axis, bounds in zip((rows, cols), (self.canvas.rows, self.canvas.cols), strict=True)
        ]
        labels = self.label(*around)
        at = np.ix_(rows - rows[0], cols - cols[0])
        return torch.from_numpy(np.stack([self._mean(labels == n)[at] for n in range(self.count)]))

    def _mean(self, mask: np.ndarray) -> np.ndarray:
        """Mean of a mask over each whole square, float32: sums of integers, so no window rounds otherwise."""
        edge = 2 * self.blur + 1
        sums = cv2.boxFilter(mask.astype(np.uint8), cv2.CV_32S, (edge, edge), normalize=False)
        height, width = mask.shape
        inner = sums[self.blur : height - self.blur, self.blur : width - self.blur]
        return inner.astype(np.float32) / edge**2


@dataclass(frozen=True)
class Passage:
    """Two styles side by side: the first up to `gap.first`, the second from `gap.last` on, a smooth step between."""

    gap: Interval  # columns, pixels

    def __call__(self, region: Region, spacing: int) -> Tensor:
        """Weights [2, h, w] at the centres of features that are `spacing` pixels apart."""
        cols = spacing * torch.arange(region.cols.first, region.cols.last + 1, dtype=torch.float64)
        share = ((cols - self.gap.first) / (self.gap.last - self.gap.first)).clamp(0, 1)
        step = (share * share * (3 - 2 * share)).float()
        return torch.stack([1 - step, step])[:, None].expand(-1, region.rows.size, -1)
