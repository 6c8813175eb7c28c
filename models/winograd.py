"""3x3 convolutions by Winograd's minimal filtering F(2x2, 3x3): 4 multiplications for each output in place of 9.

Each tile of 2 x 2 outputs comes from 4 x 4 inputs d and the kernel g as A^T [(G g G^T) * (B^T d B)] A, summed over the
input channels (Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016, section 4.1). The products
are 16 convolutions of 1 x 1, which libraries compute near their peak; all else are sums. The result is that of the
direct convolution up to rounding, of which there is some five times as much: too much for bfloat16.

Letters: B batch, I input channels, O output channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

WIDE = 256  # channels from which it is faster than the direct convolution on CPUs
PART = 4096  # outputs that are computed at once: their features stay in the processor's caches

G = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])


def is_faster(weight: Tensor, dtype: torch.dtype) -> bool:
    """Whether it is the faster way to convolve by a weight [O, I, K, K] in a number format, and exact enough."""
    wide = weight.shape[-1] == 3 and min(weight.shape[:2]) >= WIDE
    return wide and dtype == torch.float32 and weight.device.type == "cpu"


class WinogradConv2d:
    """The convolution by a weight [O, I, 3, 3], and a bias [O]: x [B, I, H, W] -> [B, O, H - 2, W - 2]."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        matrix = G.to(weight)
        transformed = torch.einsum("ak,oikl,bl->aboi", matrix, weight, matrix)[..., None, None]
        self.planes = [[plane.contiguous(memory_format=torch.channels_last) for plane in row] for row in transformed]
        self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        height, width = (edge - 2 for edge in x.shape[-2:])
        if min(height, width) < 2:  # less than a tile
            return self(F.pad(x, (0, 1, 0, 1)))[..., :height, :width]
        outputs = len(self.planes[0][0])
        y = torch.empty((len(x), outputs, height, width), memory_format=torch.channels_last)
        for left, cols in _parts(width, width):
            for top, rows in _parts(height, PART // cols):
                _tiles(x[..., top : top + rows + 2, left : left + cols + 2], self.planes, y, top, left)
        return y if self.bias is None else y.add_(self.bias[:, None, None])


def _parts(length: int, longest: int) -> Iterator[tuple[int, int]]:
    """(start, size) of parts of even sizes that cover a length; the last one of an odd length overlaps."""
    step, even = max(longest // 2 * 2, 2), length // 2 * 2
    for start in range(0, even, step):
        yield start, min(step, even - start)
    if length % 2:
        yield length - 2, 2


def _tiles(x: Tensor, planes: Sequence[Sequence[Tensor]], y: Tensor, top: int, left: int) -> None:
    """Fill the tiles of y from (top, left) on that come from x [B, I, 2 m + 2, 2 n + 2]; `planes` are 4 x 4 kernels."""
    rows, cols = (edge - 2 for edge in x.shape[-2:])
    sums = []  # of each row of the transform, over its columns: for the left and for the right outputs
    for row, kernels in zip(_transformed(x, -2), planes, strict=True):
        products = [F.conv2d(d, kernel) for d, kernel in zip(_transformed(row, -1), kernels, strict=True)]
        sums.append(_summed(*products))
    for side, parts in enumerate(zip(*sums, strict=True)):
        for k, values in enumerate(_summed(*parts)):
            y[..., top + k : top + rows : 2, left + side : left + cols : 2] = values


def _transformed(x: Tensor, dim: int) -> Iterator[Tensor]:
    """B^T d along a dimension, of tiles of four that overlap by two: one at a time, four times half as long."""
    count = x.shape[dim] // 2 - 1
    d = [x.narrow(dim, k, 2 * count).unflatten(dim, (count, 2)).select(dim, 0) for k in range(3)]
    d.append(x.narrow(dim, 2, 2 * count).unflatten(dim, (count, 2)).select(dim, 1))
    yield d[0] - d[2]
    yield d[1] + d[2]
    yield d[2] - d[1]
    yield d[1] - d[3]


def _summed(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """A^T of four values: two outputs. The values are overwritten."""
    first = b + c
    return first.add_(a), b.sub_(c).sub_(d)
