"""Images shrunk to squares, by area, with memory that does not grow with the image."""

from __future__ import annotations

import numpy as np

from images.reading import Image

CHUNK = 256, 2048  # rows and columns that a thumbnail reads at once
SUMS = 2**22  # of each colour that it keeps, 12 bytes each


def area_matrix(size_in: int, size_out: int) -> np.ndarray:
    """Weights [size_out, size_in] float32 of resampling by area: shares of the inputs in an output; rows sum to 1."""
    return _shares(size_in, size_out, np.arange(size_out)[:, None], np.arange(size_in)[None])


def thumbnail(image: Image, size: int) -> np.ndarray:
    """The whole image as [size, size, 3] float32 in [-1, 1], resampled by area.

    Memory does not grow with the image. Its rows are read from above, once for each group of SUMS / size columns.
    """
    result = np.zeros((size, size, 3), np.float32)  # columns first
    group = max(CHUNK[1], SUMS // size)
    for left in range(0, image.width, group):
        rows = _shrunk_columns(image, size, left, min(group, image.width - left))
        _add_shares(result, rows.swapaxes(0, 1), image.width, left)
    return np.ascontiguousarray(result.swapaxes(0, 1))


def _shrunk_columns(image: Image, size: int, left: int, width: int) -> np.ndarray:
    """`width` columns of an image from `left` on, resampled to [size, width, 3]."""
    total = np.zeros((size, width, 3), np.float32)
    for top in range(0, image.height, CHUNK[0]):
        for start in range(0, width, CHUNK[1]):
            part = total[:, start : start + CHUNK[1]]
            rows = image.window_float(top, left + start, min(CHUNK[0], image.height - top), part.shape[1])
            _add_shares(part, rows, image.height, top)
    return total


def _add_shares(total: np.ndarray, values: np.ndarray, size_in: int, start: int) -> None:
    """Add to all outputs `total` [size_out, ...] the shares of some inputs, `values` [n, ...] from `start` on.

    The sum runs in one order and in this thread, so that the bits do not depend on the number of threads as BLAS's do.
    """
    size_out, end = len(total), start + len(values)
    outputs = np.arange(start * size_out // size_in, (end * size_out - 1) // size_in + 1)
    first = np.maximum(outputs * size_in // size_out, start)
    inputs = first + np.arange(min(size_in // size_out + 2, len(values)))[:, None]
    shares = np.where(inputs < end, _shares(size_in, size_out, outputs, inputs), np.float32(0))
    part = np.zeros((len(outputs), *values.shape[1:]), np.float32)
    for share, place in zip(shares, np.minimum(inputs, end - 1) - start, strict=True):
        part += share[:, None, None] * values[place]
    total[outputs[0] : outputs[-1] + 1] += part


def _shares(size_in: int, size_out: int, outputs: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """Shares float32 of inputs in outputs, both by their numbers. Arrays of shapes that fit one another.

    Lengths are counted in 1 / size_out of an input, so the weights are exact for any ratio, enlarging too.
    """
    overlap = np.minimum((outputs + 1) * size_in, (inputs + 1) * size_out)
    overlap -= np.maximum(outputs * size_in, inputs * size_out)
    return (np.maximum(overlap, 0) / size_in).astype(np.float32)
