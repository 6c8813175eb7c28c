"""Masks and maps of labels: from image files and rectangles, asked by absolute pixel position.

A `Label` takes pixel rows [h] and columns [w] and gives whole numbers [h, w]; as a mask, 1 is inside.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import PIL.Image

from images.reading import open_image
from inversion.stylemaps import Label
from models.geometry import Region
from utils.errors import UserError

STRIP = 256  # rows
WHITE = 128  # mean of the colours from which on a pixel of a mask is inside


def read_labels(path: Path, count: int, max_pixels: int) -> np.ndarray:
    """Labels 0 .. count - 1, uint8 [H, W], of an image's colours, from dark to bright. UserError for other counts."""
    codes = [_codes(rows) for rows in _strips(path, max_pixels)]
    colours = np.unique(np.concatenate([np.unique(strip) for strip in codes]))
    if len(colours) != count:
        raise UserError(
            f"fuse.mask {path}: colours: {len(colours)}, styles (fuse.styles): {count}; allowed: an image with one flat"
            " colour for each style, without smooth edges or compression losses"
        )
    return np.concatenate([np.searchsorted(colours, strip).astype(np.uint8) for strip in codes])


def read_mask(path: Path, max_pixels: int) -> np.ndarray:
    """Bool [H, W]: where an image is white. UserError if that is nowhere."""
    white = np.concatenate([rows.mean(2) >= WHITE for rows in _strips(path, max_pixels)])
    if not white.any():
        raise UserError(f"{path}: white nowhere; a mask is white (mean colour {WHITE} of 255 or more) where it applies")
    return white


def encode_mask(mask: np.ndarray) -> bytes:
    """A mask, bool [H, W], as a PNG of one bit a pixel."""
    file = io.BytesIO()
    PIL.Image.fromarray(mask).save(file, "PNG", optimize=True)
    return file.getvalue()


def decode_mask(data: bytes) -> np.ndarray:
    """What `encode_mask` encoded. OSError if it is no PNG."""
    with PIL.Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        return np.asarray(image.convert("1"))


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


def stretched(labels: np.ndarray, size: tuple[int, int]) -> Label:
    """The labels of an image, stretched to (height, width): each pixel takes the one that its centre lies in."""

    def label(rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
        found = ((2 * p + 1) * n // (2 * edge) for p, n, edge in zip((rows, cols), labels.shape, size, strict=True))
        return labels[np.ix_(*found)].astype(np.int64)

    return label


def _strips(path: Path, max_pixels: int) -> Iterator[np.ndarray]:
    """The rows of an image, a few at a time: uint8 [n, W, 3]."""
    image = open_image(path, max_pixels)
    for top in range(0, image.height, STRIP):
        yield image.window(top, 0, min(STRIP, image.height - top), image.width)


def _codes(rows: np.ndarray) -> np.ndarray:
    """A number for each colour, int32, that grows with its brightness."""
    red, green, blue = np.moveaxis(rows.astype(np.int32), 2, 0)
    return (red + green + blue) << 16 | red << 8 | green  # blue follows from the sum
