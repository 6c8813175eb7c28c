"""The linear trunk that encoder and texture synthesizer share: a lapped orthogonal transform of the colours.

A cell of m x m pixels has 3 m^2 coefficients, each the product of its window of 2m x 2m pixels with a basis function:
separable ones of the lapped orthogonal transform (LOT; Malvar and Staelin, IEEE TASSP 1989), for each of three colour
axes. The basis is orthonormal, over neighbouring cells too, and its functions end in zero at their rim. In the order of
the trunk the first three coefficients are the mean colours of a cell, and the others fall by how much they vary over
the training images; the channels of a model are the first K. A coefficient is divided by the root of its deviation.

Both directions are shifted convolutions (2 x 2 cells) of pixels that are turned into channels.

Letters: B batch, K channels of the model, C coefficients, m pixels along the edge of a cell, h/w cells, H/W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.geometry import Chain, TransposedWindow, Window

COLOURS = 3  # colour axes, and the channels that hold the mean colours of a cell
CORRELATION = 0.95  # of neighbouring pixels, for which the transform is best
FLOOR = 1e-4  # of deviations: a channel that never varies


def analysis(cell: int) -> Window:
    """The rule of pixels -> cells: cell i reads the pixels m i - m to m i + m - 1."""
    return Window(-cell, cell - 1, cell)


def synthesis(cell: int) -> TransposedWindow:
    """The rule of cells -> pixels."""
    return TransposedWindow(-cell, cell - 1, cell)


def imposing(cell: int) -> Chain:
    """The rule of `Trunk.impose`, from image to image."""
    return Chain((analysis(cell), synthesis(cell)))


@cache
def lapped_basis(m: int) -> np.ndarray:
    """[m, 2m]: the basis functions of one axis, by falling variance of a smooth signal; float64.

    Q = Z P with P = 1/2 [[De - Do, (De - Do) J], [De - Do, -(De - Do) J]], the even and odd rows De, Do of the DCT-II
    and the flip J; Z turns either half to the eigenvectors of P R P^T, with R the covariance of the signal.
    """
    n = np.arange(m)
    dct = np.sqrt(2 / m) * np.cos(np.pi * (2 * n + 1) * n[:, None] / (2 * m))
    dct[0] /= np.sqrt(2)
    half = dct[0::2] - dct[1::2]
    folded = 0.5 * np.block([[half, half[:, ::-1]], [half, -half[:, ::-1]]])
    smooth = CORRELATION ** np.abs(np.subtract.outer(np.arange(2 * m), np.arange(2 * m)))
    inner, turn = folded @ smooth @ folded.T, np.zeros((m, m))
    for part in (slice(0, m // 2), slice(m // 2, m)):
        turn[part, part] = np.linalg.eigh(inner[part, part])[1][:, ::-1].T
    basis = turn @ folded
    basis = basis[np.argsort(-np.diag(basis @ smooth @ basis.T))]
    # signs are those of cosines, so that bases of other sizes agree, and what is bright is positive
    taps = np.arange(2 * m) + 0.5
    cosines = np.sin(np.pi * taps / (2 * m)) * np.cos(np.pi * np.outer(n, taps - m / 2) / m)
    return basis * np.where((basis * cosines).sum(1, keepdims=True) < 0, -1, 1)


class Trunk(nn.Module):
    """Image <-> the K channels of its structure latents, linearly and without weights that are learned."""

    def __init__(self, channels: int, cell: int) -> None:
        """ValueError where a cell has fewer coefficients than channels, or there are no three of them."""
        super().__init__()
        if not COLOURS <= channels <= COLOURS * cell**2:
            raise ValueError(f"{channels} channels; cells of {cell} x {cell} pixels have 3 to {COLOURS * cell**2}")
        self.channels, self.cell, self.every = channels, cell, COLOURS * cell**2
        self.register_buffer("axes", torch.eye(COLOURS))  # colour axis x RGB
        # of each coefficient, those that are no channels too: (axis m + row frequency) m + column's, root of deviation
        self.register_buffer("order", torch.arange(self.every))
        self.register_buffer("scale", torch.ones(self.every))

    def fit(self, images: Iterable[Tensor]) -> None:
        """Set colour axes, channels and their scale by images [3, H, W] in [-1, 1], of which each counts the same.

        Images smaller than 2m pixels are left out; ValueError where no other one is there.
        """
        m, covariance, square, count = self.cell, 0.0, 0.0, 0
        images = [image[None] for image in images if min(image.shape[-2:]) >= 2 * m]
        if not images:
            raise ValueError(f"no image of at least {2 * m} x {2 * m} pixels")
        for image in images:
            covariance = covariance + torch.cov(image.flatten(2)[0].double())
        axes = torch.linalg.eigh(covariance)[1].T.flip(0)
        axes = axes * torch.where(axes[:, :1] + axes[:, 1:2] < 0, -1.0, 1.0)  # the sign of an eigenvector is arbitrary
        self.axes.copy_(axes)
        of_all = torch.arange(self.every)
        self.order.copy_(of_all)
        self.scale.fill_(1)
        for image in images:
            height, width = (length // m * m for length in image.shape[-2:])
            z = self.analyse(image[..., :height, :width].to(self.axes), self.every)
            square = square + z.var((0, 2, 3)).double()
            count += 1
        deviation = (square / count).sqrt().cpu().clamp(min=FLOOR)
        means = torch.arange(COLOURS) * m**2  # of each axis, the function of the lowest frequency
        rest = of_all[~torch.isin(of_all, means)]
        rest = rest[deviation[rest].argsort(descending=True, stable=True)]
        self.order.copy_(torch.cat([means, rest]))
        self.scale.copy_(deviation[self.order.cpu()].sqrt())

    def kernel(self, channels: int) -> Tensor:
        """The first C basis functions as a convolution of 2 x 2 cells, whose pixels are channels: [C, 3 m^2, 2, 2]."""
        m = self.cell
        basis = self._functions(self.order[:channels], torch.from_numpy(lapped_basis(m)))  # [C, 3, 2m, 2m]
        parts = basis.reshape(-1, COLOURS, 2, m, 2, m).permute(0, 1, 3, 5, 2, 4)
        return parts.reshape(-1, COLOURS * m**2, 2, 2)

    def _functions(self, order: Tensor, rows: Tensor) -> Tensor:
        """Basis functions [C, 3, 2n, 2n] of these coefficients, by the functions [.., 2n] of an axis."""
        m, rows = self.cell, rows.to(self.axes)
        axes, down, right = self.axes[order // m**2], rows[order // m % m], rows[order % m]
        return axes[:, :, None, None] * down[:, None, :, None] * right[:, None, None, :]

    def analyse(self, image: Tensor, channels: int | None = None) -> Tensor:
        """Pixels [B, 3, m (h + 1), m (w + 1)] from m before a cell's position on -> channels [B, C, h, w].

        The first C = `channels` coefficients, up to 3 m^2, which are all; None: K.
        """
        channels = self.channels if channels is None else channels
        pixels = F.pixel_unshuffle(image, self.cell)
        return F.conv2d(pixels, self.kernel(channels)) / self.scale[:channels, None, None]

    def synthesise(self, z: Tensor) -> Tensor:
        """Channels [B, C, h + 1, w + 1] -> pixels [B, 3, m h, m w] from the position of the first cell on."""
        channels = z.shape[1]
        kernel = self.kernel(channels).transpose(0, 1).flip(2, 3)
        return F.pixel_shuffle(F.conv2d(z * self.scale[:channels, None, None], kernel), self.cell)

    def shrink(self, z: Tensor, scale: int) -> Tensor:
        """A small picture of channels [B, C, h + 1, w + 1], the first C: [B, 3, n h, n w] with n = m / scale.

        The lowest n frequencies of each axis, by the basis of n; of a single one the mean of two cells.
        """
        m, n, order = self.cell, self.cell // scale, self.order[: z.shape[1]]
        low = torch.nonzero((order // m % m < n) & (order % m < n))[:, 0]
        rows = torch.from_numpy(lapped_basis(n)) if n > 1 else torch.full((1, 2), 0.5)
        basis = self._functions(order[low], rows)  # [C', 3, 2n, 2n]
        kernel = basis.reshape(-1, COLOURS, 2, n, 2, n).permute(1, 3, 5, 0, 2, 4).reshape(COLOURS * n**2, -1, 2, 2)
        values = z[:, low] * (self.scale[low] * (n / m if n > 1 else 1 / m))[:, None, None]
        return F.pixel_shuffle(F.conv2d(values, kernel.flip(2, 3)), n)

    def impose(self, image: Tensor, z: Tensor) -> Tensor:
        """The nearest image whose first C coefficients are z.

        Pixels [B, 3, m (h + 2), m (w + 2)] around channels z [B, C, h + 1, w + 1] -> [B, 3, m h, m w] in their middle.
        """
        m = self.cell
        return image[..., m:-m, m:-m] + self.synthesise(z - self.analyse(image, z.shape[1]))
