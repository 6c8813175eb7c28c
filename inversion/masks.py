"""Masks and maps of labels: from image files and rectangles, asked by absolute pixel position.

A `Label` takes pixel rows [h] and columns [w] and gives whole numbers [h, w]; as a mask, 1 is inside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from datasets.image import open_image
from inversion.stylemaps import Label
from models.geometry import Region
from utils.errors import UserError

WHITE = 128  # mean of the colours from which on a pixel of a mask is inside


def style_labels(path: Path, count: int, size: tuple[int, int], max_pixels: int) -> Label:
    """Labels 0 .. count - 1 of an image's colours, from dark to bright. UserError unless it has `count` colours."""
    pixels = _pixels(path, max_pixels).astype(np.int64)
    codes = (pixels.sum(2) << 24) | (pixels[..., 0] << 16) | (pixels[..., 1] << 8) | pixels[..., 2]
    colours, labels = np.unique(codes, return_inverse=True)
    if len(colours) != count:
        raise UserError(
            f"fuse.mask {path}: {len(colours)} colours for {count} styles (fuse.styles); allowed: an image without"
            " smooth edges or compression losses, with one flat colour for each style"
        )
    return _stretched(labels.reshape(codes.shape), size)


def mask_image(path: Path, size: tuple[int, int], max_pixels: int) -> Label:
    """1 where an image is white, 0 where it is black. UserError if it is black everywhere."""
    white = _pixels(path, max_pixels).mean(2) >= WHITE
    if not white.any():
        raise UserError(f"{path}: black everywhere; a mask is white where the image is made anew")
    return _stretched(white.astype(np.int64), size)


def rectangles(boxes: Sequence[tuple[int, int, int, int]]) -> Label:
    """k + 1 inside box k, (first row, first column, row after the last, column after the last); 0 in none of them.

    Where boxes overlap, the first one counts.
    """

    def label(rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
        labels = np.zeros((len(rows), len(cols)), np.int64)
        for k, (top, left, bottom, right) in reversed(list(enumerate(boxes))):
            labels[np.ix_((rows >= top) & (rows < bottom), (cols >= left) & (cols < right))] = k + 1
        return labels

    return label


def at_cells(label: Label, canvas: Region, cell: int) -> Callable[[Region], np.ndarray]:
    """A mask of latent cells [h, w], by their centres; `cell` pixels each. Cells beyond the canvas are as its edge."""

    def mask(region: Region) -> np.ndarray:
        rows, cols = (
            np.clip(cell * np.arange(axis.first, axis.last + 1), bounds.first, bounds.last)
            for axis, bounds in ((region.rows, canvas.rows), (region.cols, canvas.cols))
        )
        return label(rows, cols) > 0

    return mask


def _pixels(path: Path, max_pixels: int) -> np.ndarray:
    image = open_image(path, max_pixels)
    return image.window(0, 0, image.height, image.width)


def _stretched(labels: np.ndarray, size: tuple[int, int]) -> Label:
    """The labels of an image, stretched to (height, width): each pixel takes the one that its centre lies in."""

    def stretched(rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
        found = ((2 * p + 1) * n // (2 * edge) for p, n, edge in zip((rows, cols), labels.shape, size, strict=True))
        return labels[np.ix_(*found)]

    return stretched
