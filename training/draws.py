"""Random values as a function of position: (seed, purpose, step, index of the sample in the whole batch).

Nothing is consumed, so a resumed run, or one shared out over more processes, draws the same values.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from models.generator import Generator
from models.geometry import Interval
from models.noise import NoiseField, gaussian_field


class Stream(IntEnum):
    """What values are drawn for; each has its own."""

    LATENTS = 0
    PATHS = 1
    DIRECTION = 2
    RECONSTRUCTION = 3
    RECIPROCAL = 4
    PRIOR = 5
    PICTURES = 6


@dataclass(frozen=True)
class StepRandom:
    """The draws of one process at one step for one purpose."""

    seed: int
    purpose: Stream
    step: int
    batch: int  # samples of this process
    rank: int
    size: int  # processes
    device: torch.device

    def uniform(self, *shape: int) -> np.ndarray:
        """Uniform values [B, *shape] in [0, 1), this process's part of the whole batch's; the same at every call."""
        bits = np.random.Philox(key=[self.seed, self.purpose], counter=[0, 0, 0, self.step])
        values = np.random.Generator(bits).random((self.size * self.batch, *shape))
        return values[self.rank * self.batch : (self.rank + 1) * self.batch]

    def seeds(self) -> Tensor:
        """A seed [B] of 62 bits for each sample."""
        bits = np.random.Philox(key=[self.seed, self.purpose], counter=[0, 0, 1, self.step])
        values = np.random.Generator(bits).integers(0, 2**62, self.size * self.batch)
        return torch.from_numpy(values[self.rank * self.batch : (self.rank + 1) * self.batch]).to(self.device)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal values [B, *shape]."""
        count = int(np.prod(shape))
        return gaussian_field(self.seeds(), range(-1, 0), 0, 0, 1, count).reshape(self.batch, *shape)


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


def draw_latents(draws: StepRandom, generator: Generator, cells: int, mixing: float = 0.0) -> PatchLatents:
    """Latents for patches of `cells` structure cells. Samples 2k and 2k + 1 differ in local latents and noise only."""
    structure, texture = generator.structure, generator.texture
    local_cells = structure.rule.receptive_field(Interval(0, cells - 1)).size

    seeds = draws.seeds()
    shared = seeds[::2].repeat_interleave(2)[: len(seeds)]  # one per pair
    pair = draws.uniform(7)[::2].repeat(2, axis=0)[: len(seeds)]  # [B, 7]
    grid = structure.grid
    row_start = torch.from_numpy((pair[:, 0] * grid.row_starts).astype(np.int64)).to(draws.device)
    col_start = torch.from_numpy((pair[:, 1] * grid.horizontal_period).astype(np.int64)).to(draws.device)
    jitter = torch.from_numpy(pair[:, 2:5] - 0.5).float().to(draws.device)
    last = texture.style_count
    mix_from = np.where(pair[:, 5] < mixing, 1 + np.floor(pair[:, 6] * (last - 1)), last)

    return PatchLatents(
        z_l=gaussian_field(seeds, range(structure.local_dim), 0, 0, local_cells, local_cells),
        z_g=gaussian_field(shared, range(-1, 0), 0, 0, 1, structure.global_dim)[:, 0, 0],
        z_mix=gaussian_field(shared, range(-2, -1), 0, 0, 1, structure.global_dim)[:, 0, 0],
        mix_from=torch.from_numpy(mix_from).to(draws.device),
        coordinates=grid.of_patches(row_start, col_start, local_cells, jitter),
        row=grid.label(row_start),
        noise=NoiseField(seeds ^ 1 << 62, draws.device),
    )
