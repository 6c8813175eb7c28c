"""Structure latents of generated images: any window of an unbounded canvas, as a function of the seed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.generator import Generator
from models.geometry import Region
from models.noise import gaussian_field

GLOBAL_CHANNEL = -1  # of the field; the local latent has the channels from 0


@dataclass(frozen=True)
class GeneratedLatents:
    """The latents of one generated image whose structure cells are `cells`; windows are computed when they are read."""

    generator: Generator
    cells: Region
    seed: int
    device: torch.device

    @property
    def z_g(self) -> Tensor:
        """The global latent [D]."""
        channels = range(GLOBAL_CHANNEL, GLOBAL_CHANNEL + 1)
        return gaussian_field(self._seeds(), channels, 0, 0, 1, self.generator.structure.global_dim)[0, 0, 0]

    @torch.inference_mode()
    def read(self, region: Region) -> Tensor:
        """Structure latents [C, h, w] of a region of cells, in float32."""
        structure = self.generator.structure
        local = region.input(structure.rule)
        channels = range(structure.local_dim)
        z_l = gaussian_field(self._seeds(), channels, local.rows.first, local.cols.first, *local.shape)
        coordinates = structure.grid.of_canvas(local, self.cells.input(structure.rule), self.device)
        z_l = z_l.contiguous(memory_format=torch.channels_last)
        return structure(z_l, self.z_g[None], coordinates)[0]

    def _seeds(self) -> Tensor:
        return torch.tensor([self.seed], device=self.device)
