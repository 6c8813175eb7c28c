"""What generated patches are made from.

Letters: B batch, C channels, D global latent, L style layers, P pixels of a patch, h/w latent cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor

from models.generator import Generator
from models.geometry import Interval
from models.noise import NoiseField, gaussian_field
from training.context import Stream, TrainContext


@dataclass(frozen=True)
class PatchLatents:
    """Everything that a batch of generated patches is made from."""

    z_l: Tensor  # [B, C, h, w]
    z_g: Tensor  # [B, D]
    z_mix: Tensor  # [B, D], of the second style where styles are mixed
    mix_from: Tensor  # [B], layer from which the second style applies
    coordinates: Tensor  # [B, 3, h, w]
    row: Tensor  # [B], vertical position in [-1, 1]
    noise: NoiseField

    def styles(self, generator: Generator) -> Tensor:
        """The styles [B, L + 1, D], mixed."""
        layer = torch.arange(generator.texture.style_count, device=self.z_g.device)
        first, second = (generator.texture.mapping(z)[:, None] for z in (self.z_g, self.z_mix))
        return torch.where((layer < self.mix_from[:, None])[..., None], first, second)

    def generate(self, generator: Generator, styles: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The patches [B, 3, P, P], by given styles or those of z_g, and their structure latents [B, C, h, w]."""
        return generator(self.z_l, self.z_g, self.coordinates, self.noise, styles)


def draw_latents(
    context: TrainContext,
    purpose: Stream,
    step: int,
    generator: Generator,
    cells: int,  # edge of a patch
    mixing: float = 0.0,  # share of samples that mix two styles
    batch: int | None = None,  # None: that of the context
) -> PatchLatents:
    """The latents of a step. Samples 2k and 2k + 1 differ in local latents and noise only."""
    structure, grid, last = generator.structure, generator.structure.grid, generator.texture.style_count
    local_cells = structure.rule.receptive_field(Interval(0, cells - 1)).size
    seeds = context.seeds(purpose, step, batch)
    shared = seeds[::2].repeat_interleave(2)[: len(seeds)]  # one per pair
    pair = context.uniform(purpose, step, 7, batch)[::2].repeat(2, axis=0)[: len(seeds)]  # [B, 7]
    mix_from = np.where(pair[:, 5] < mixing, 1 + np.floor(pair[:, 6] * (last - 1)), last)

    def placed(values: np.ndarray, kind: torch.dtype) -> Tensor:
        return torch.from_numpy(values).to(context.device, kind)

    row_start = placed(pair[:, 0] * grid.row_starts, torch.int64)
    col_start = placed(pair[:, 1] * grid.horizontal_period, torch.int64)
    return PatchLatents(
        z_l=gaussian_field(seeds, range(structure.local_dim), 0, 0, local_cells, local_cells),
        z_g=normal(shared, structure.global_dim),
        z_mix=normal(shared, structure.global_dim, channel=-2),
        mix_from=placed(mix_from, torch.int64),
        coordinates=grid.of_patches(row_start, col_start, local_cells, placed(pair[:, 2:5] - 0.5, torch.float32)),
        row=grid.label(row_start),
        noise=NoiseField(seeds ^ 1 << 62, context.device),
    )


def normal(seeds: Tensor, *shape: int, channel: int = -1) -> Tensor:
    """Standard normal values [B, *shape], of each seed its own; other ones of another `channel`."""
    return gaussian_field(seeds, range(channel, channel + 1), 0, 0, 1, prod(shape)).reshape(len(seeds), *shape)
