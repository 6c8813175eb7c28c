"""The critic of structure latents: whether a grid of cells, and each part of it, is a photograph's in this style.

Letters: B batch, K channels, S style vector, D condition, h/w cells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.discriminator import ResidualBlock, minibatch_deviation
from models.layers import EqualizedConv2d, EqualizedLinear
from models.statistics import StatisticsMapping


class LatentCritic(nn.Module):
    """Latents, style and vertical position -> a score of the whole, and scores of neighbourhoods of 5 x 5 cells.

    The score of the whole is a projection discriminator's (Miyato and Koyama, ICLR 2018).
    """

    def __init__(
        self,
        channels: int,  # K
        cells: int,  # along the edge of a grid
        widths: Sequence[int],  # channels at full, 1/2, 1/4 ... resolution
        minibatch_group: int,  # samples
    ) -> None:
        """ValueError where the grid cannot be halved so often."""
        super().__init__()
        edge = cells // 2 ** (len(widths) - 1)
        if edge < 1:
            raise ValueError(f"a grid of {cells} cells cannot be halved {len(widths) - 1} times")
        first, last = widths[0], widths[-1]
        self.minibatch_group = minibatch_group
        self.condition = StatisticsMapping(channels, last, layers=2, lr_multiplier=1.0)
        self.embed = nn.Sequential(
            EqualizedConv2d(channels + 1, first, 1),
            EqualizedConv2d(first, first, 3, padding=1),
            EqualizedConv2d(first, first, 3, padding=1),
        )
        self.local = EqualizedConv2d(first, 1, 1, activation=False)
        self.blocks = nn.Sequential(*(ResidualBlock(i, o) for i, o in zip(widths[:-1], widths[1:], strict=True)))
        self.final_conv = EqualizedConv2d(last + 1, last, 3, padding=1)
        self.final = EqualizedLinear(last * edge**2, last, activation=True)
        self.score = EqualizedLinear(last, 1)

    def forward(self, z: Tensor, style: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        """z [B, K, h, w], style [B, S], row [B] in [-1, 1] -> scores [B], and [B, h, w]."""
        place = row.to(z.dtype)[:, None, None, None].expand(-1, 1, *z.shape[2:])
        x = self.embed(torch.cat([z, place], 1))
        local = self.local(x)[:, 0]
        x = minibatch_deviation(self.blocks(x), min(self.minibatch_group, len(x)))
        x = self.final(self.final_conv(x).flatten(1))  # [B, D]
        agreement = (x * self.condition(style)).sum(1) / math.sqrt(x.shape[1])
        return (self.score(x)[:, 0] + agreement).float(), local.float()
