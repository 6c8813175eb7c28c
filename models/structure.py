"""The structure synthesizer: local latent, global latent and coordinates -> structure latent.

It is the implicit half of InfinityGAN's generator (Lin et al., ICLR 2022). Letters: B batch, C channels, D style, h/w
latent cells. Nothing pads, and every position is absolute, so that any block equals the same part of the whole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.geometry import Region, structure
from models.layers import ModulatedConv2d, activate
from models.statistics import StatisticsMapping, style_length

STYLES = 512  # styles of training images that seeds choose from


@dataclass(frozen=True)
class CoordinateGrid:
    """The constants of the structure synthesizer's coordinates."""

    vertical_slope: float  # of the tanh, per row
    horizontal_period: int  # columns
    row_starts: int  # rows at which a training patch may start

    def channels(self, rows: Tensor, cols: Tensor, jitter: Tensor | None = None) -> Tensor:
        """Coordinates [B, 3, h, w] of rows [B, h] below the canvas centre and columns [B, w]: tanh, cos, sin.

        `jitter` [B, 3], in cells, displaces each channel of each sample on its own.
        """
        jitter = torch.zeros(len(rows), 3, device=rows.device) if jitter is None else jitter
        vertical = torch.tanh(self.vertical_slope * (rows + jitter[:, :1]))
        angle = [math.pi * (2.0 * (cols + jitter[:, k : k + 1]) / (self.horizontal_period - 1) - 1.0) for k in (1, 2)]
        h, w = rows.shape[1], cols.shape[1]
        planes = (
            vertical[:, :, None].expand(-1, h, w),
            torch.cos(angle[0])[:, None].expand(-1, h, w),
            torch.sin(angle[1])[:, None].expand(-1, h, w),
        )
        return torch.stack(planes, dim=1)

    def of_canvas(
        self, region: Region, canvas: Region, device: torch.device | str = "cpu", period: int | None = None
    ) -> Tensor:
        """Coordinates [1, 3, h, w] of `region` on a canvas of local latents; the vertical one is 0 at its middle.

        `period`: columns after which a panorama begins again, in place of the grid's own.
        """
        rows = torch.arange(region.rows.first, region.rows.last + 1, device=device)
        cols = torch.arange(region.cols.first, region.cols.last + 1, device=device) - canvas.cols.first
        middle = (canvas.rows.first + canvas.rows.last) / 2
        if period is not None:
            cols = cols % period * ((self.horizontal_period - 1) / period)
        return self.channels((rows - middle)[None], cols[None].float())

    def of_patches(self, row_start: Tensor, col_start: Tensor, cells: int, jitter: Tensor) -> Tensor:
        """Coordinates [B, 3, cells, cells] of training patches that start at these rows and columns [B] of the canvas.

        The canvas has `row_starts` rows more than a patch; columns wrap around at the period.
        """
        steps = torch.arange(cells, device=row_start.device)
        rows = row_start[:, None] + steps - (cells + self.row_starts - 1) / 2
        cols = (col_start[:, None] + steps) % self.horizontal_period
        return self.channels(rows, cols.float(), jitter)

    def label(self, row_start: Tensor) -> Tensor:
        """Vertical position in [-1, 1] of patches that start at these rows: what the discriminator is to guess."""
        return 2.0 * row_start.float() / max(self.row_starts - 1, 1) - 1.0


class StructureLayer(nn.Module):
    """Coordinates beside the feature, modulated convolution, leaky ReLU."""

    def __init__(self, inputs: int, outputs: int, radius: int, dilation: int, style_dim: int) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(inputs + 3, outputs, 2 * radius + 1, style_dim, dilation=dilation)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor, style: Tensor, coordinates: Tensor) -> Tensor:
        """x [B, C, h, w], style [B, D], coordinates [B or 1, 3, H, W] around it -> [B, C, h', w']."""
        return self.finish(self.conv(beside(x, coordinates), style))

    def finish(self, x: Tensor) -> Tensor:
        """Everything after the convolution."""
        return activate(x, self.bias)


def beside(x: Tensor, coordinates: Tensor) -> Tensor:
    """The feature [B, C, h, w] and the middle of the coordinates [B or 1, 3, H, W], as [B, C + 3, h, w]."""
    margin = (coordinates.shape[-1] - x.shape[-1]) // 2
    height, width = x.shape[-2:]
    around = coordinates[..., margin : margin + height, margin : margin + width].to(x.dtype)
    return torch.cat([x, around.expand(len(x), -1, -1, -1)], dim=1)


def _layers(channels: Sequence[int], radius: int, dilations: Sequence[int], style_dim: int) -> nn.ModuleList:
    sizes = zip(channels[:-1], channels[1:], dilations, strict=True)
    return nn.ModuleList(StructureLayer(i, o, radius, dilation, style_dim) for i, o, dilation in sizes)


class StructureSynthesizer(nn.Module):
    """Local latent z_l, global latent z_g and coordinates -> structure latent z_s. The style is z_g itself."""

    def __init__(
        self,
        local_dim: int,  # C
        global_dim: int,  # D
        widths: Sequence[int],  # channels that each layer but the last one gives
        radius: int,  # cells that a convolution reaches
        dilations: Sequence[int],  # of each layer
        grid: CoordinateGrid,
    ) -> None:
        super().__init__()
        self.layers = _layers([local_dim, *widths, local_dim], radius, dilations, global_dim)
        self.rule = structure(radius, dilations)
        self.grid = grid
        self.local_dim, self.global_dim = local_dim, global_dim

    def forward(self, z_l: Tensor, z_g: Tensor, coordinates: Tensor) -> Tensor:
        """z_l [B, C, h, w], z_g [B, D], coordinates [B or 1, 3, h, w] -> z_s [B, C, h', w']."""
        x = z_l
        for layer in self.layers:
            x = layer(x, z_g, coordinates)  # [B, C, h - 2 radius, w - 2 radius]
        return x


class StyledStructure(nn.Module):
    """Local latent z_l, style vector [S] (`models.statistics`) and coordinates -> structure latent z_s.

    Every layer adds to the latents, which then get mean and deviation of the style.
    """

    def __init__(
        self,
        local_dim: int,  # C
        global_dim: int,  # D, of the style w
        widths: Sequence[int],  # channels of each layer
        radius: int,  # cells that a convolution reaches
        dilations: Sequence[int],  # of each layer
        grid: CoordinateGrid,
        mapping_layers: int,
        mapping_lr_multiplier: float,
    ) -> None:
        super().__init__()
        self.mapping = StatisticsMapping(local_dim, global_dim, mapping_layers, mapping_lr_multiplier)
        self.layers = _layers([local_dim, *widths], radius, dilations, global_dim)
        heads = (ModulatedConv2d(width, local_dim, 1, global_dim, demodulate=False) for width in widths)
        self.heads = nn.ModuleList(heads)
        self.rule = structure(radius, dilations)
        self.grid = grid
        self.local_dim, self.global_dim = local_dim, style_length(local_dim)
        self.register_buffer("styles", torch.zeros(STYLES, self.global_dim))  # of training images

    def forward(
        self,
        z_l: Tensor,  # [B, C, h, w]
        style: Tensor,  # [B, S]
        coordinates: Tensor,  # [B or 1, 3, h, w]
        of_layers: Sequence[Tensor] = (),  # a style [B, S] for each layer; else `style`, whose mean and deviation stay
    ) -> Tensor:
        """The structure latent z_s [B, C, h', w']."""
        x, parts = z_l, []
        own = [self.mapping(each) for each in of_layers] or [self.mapping(style)] * len(self.layers)
        for layer, head, w in zip(self.layers, self.heads, own, strict=True):
            x = layer(x, w, coordinates)
            parts.append(head(x, w))
        height, width = x.shape[-2:]
        gain, drawn = len(parts) ** -0.5, 0.0
        for part in parts:
            top, left = (part.shape[-2] - height) // 2, (part.shape[-1] - width) // 2
            drawn = drawn + gain * part[..., top : top + height, left : left + width].float()
        mean, deviation = style[:, : 2 * self.local_dim, None, None].split(self.local_dim, 1)
        return mean + deviation * drawn
