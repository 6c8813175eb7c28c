"""The critic of structure latents: whether a grid of cells, and each part of it, is a photograph's in this style.

A network of few layers does not see what is small beside the rest, such as noise in a sky, so it is given every value a
second time with the large ones compressed; and not how the cells meet, so it is shown what the trunk draws of them.

Letters: B batch, K channels, S style vector, D condition, h/w cells, m pixels along the edge of a cell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.discriminator import ResidualBlock, minibatch_deviation
from models.layers import EqualizedConv2d, EqualizedLinear
from models.statistics import StatisticsMapping
from models.trunk import COLOURS, Trunk

SMALL_LATENT, SMALL_PIXEL = 0.1, 0.03  # below them values are told apart as well as they are


class LatentCritic(nn.Module):
    """Latents, style and vertical position -> scores of the whole, of neighbourhoods of 5 x 5 cells, and of texture.

    The score of the whole is a projection discriminator's (Miyato and Koyama, ICLR 2018).
    """

    def __init__(
        self,
        channels: int,  # K
        cells: int,  # along the edge of a grid
        widths: Sequence[int],  # channels at full, 1/2, 1/4 ... resolution
        texture_widths: Sequence[int],  # channels at 1/2, 1/4 ... of the resolution of pixels
        minibatch_group: int,  # samples
        style: bool,  # whether it knows the style
    ) -> None:
        """ValueError where the grid cannot be halved so often."""
        super().__init__()
        edge = cells // 2 ** (len(widths) - 1)
        if edge < 1:
            raise ValueError(f"a grid of {cells} cells cannot be halved {len(widths) - 1} times")
        first, last = widths[0], widths[-1]
        self.minibatch_group = minibatch_group
        self.style = style
        self.condition = StatisticsMapping(channels, last, layers=2, lr_multiplier=1.0)
        self.embed = nn.Sequential(
            EqualizedConv2d(2 * channels + 1, first, 1),
            EqualizedConv2d(first, first, 3, padding=1),
            EqualizedConv2d(first, first, 3, padding=1),
        )
        self.local = EqualizedConv2d(first, 1, 1, activation=False)
        self.blocks = nn.Sequential(*(ResidualBlock(i, o) for i, o in zip(widths[:-1], widths[1:], strict=True)))
        self.final_conv = EqualizedConv2d(last + 1, last, 3, padding=1)
        self.final = EqualizedLinear(last * edge**2, last, activation=True)
        self.score = EqualizedLinear(last, 1)
        first, last = texture_widths[0], texture_widths[-1]
        self.texture = nn.Sequential(
            nn.PixelUnshuffle(2),
            EqualizedConv2d(4 * 2 * COLOURS, first, 3, padding=1),
            *(ResidualBlock(i, o) for i, o in zip(texture_widths[:-1], texture_widths[1:], strict=True)),
            EqualizedConv2d(last, last, 3, padding=1),
            EqualizedConv2d(last, 1, 1, activation=False),
        )

    def forward(self, z: Tensor, style: Tensor, row: Tensor, trunk: Trunk) -> tuple[Tensor, Tensor, Tensor]:
        """z [B, K, h, w], style [B, S], row [B] in [-1, 1] -> scores [B], [B, h, w], and [B / 2, h', w'].

        The last ones are of patches of pixels of every second sample.
        """
        place = row.to(z.dtype)[:, None, None, None].expand(-1, 1, *z.shape[2:])
        x = self.embed(torch.cat([z, place, _compressed(z, SMALL_LATENT)], 1))
        local = self.local(x)[:, 0]
        x = minibatch_deviation(self.blocks(x), min(self.minibatch_group, len(x)))
        x = self.final(self.final_conv(x).flatten(1))  # [B, D]
        agreement = (x * self.condition(style)).sum(1) / math.sqrt(x.shape[1]) if self.style else 0
        texture = self.texture(_picture(z[::2], trunk))[:, 0]  # pixels are many
        return (self.score(x)[:, 0] + agreement).float(), local.float(), texture.float()


def _picture(z: Tensor, trunk: Trunk) -> Tensor:
    """Pixels [B, 6, m (h - 1), m (w - 1)] of latents [B, K, h, w], and what they are without the colours of cells."""
    with torch.autocast(z.device.type, enabled=False):  # bfloat16 would hide what is small
        z = z.float()
        image = trunk.synthesise(z)
        detail = trunk.synthesise(torch.cat([torch.zeros_like(z[:, :COLOURS]), z[:, COLOURS:]], 1))
        picture = torch.cat([image, _compressed(detail, SMALL_PIXEL)], 1)
    return picture.contiguous(memory_format=torch.channels_last)


def _compressed(x: Tensor, small: float) -> Tensor:
    """Nearly linear below `small`, logarithmic above."""
    return torch.asinh(x / small) / 3
