"""Generated images: any window of an unbounded canvas, as a function of the seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from inversion.scenes import Style, structure_of, to_device
from inversion.tiles import Tiled
from models.generator import Generator
from models.geometry import Region
from models.noise import gaussian_field

GLOBAL_CHANNEL = -1  # of the field; the local latent has the channels from 0


def generated_style(generator: Generator, seed: int) -> Tensor:
    """The global latent [D] of a seed."""
    channels = range(GLOBAL_CHANNEL, GLOBAL_CHANNEL + 1)
    return gaussian_field(torch.tensor([seed]), channels, 0, 0, 1, generator.structure.global_dim)[0, 0, 0]


@dataclass(frozen=True)
class LocalField:
    """Local latents of an unbounded canvas, by seed; inside a mask those of another seed."""

    channels: int
    seed: int
    device: torch.device
    period: int | None = None  # cells after which the columns of a panorama repeat
    mask: Callable[[Region], np.ndarray] | None = None  # region of cells -> bool [h, w]: where `mask_seed` holds
    mask_seed: int = 0

    def read(self, region: Region) -> Tensor:
        """[C, h, w], standard normal."""
        values = self._field(self.seed, region)
        if self.mask is None:
            return values
        inside = torch.from_numpy(self.mask(region)).to(self.device)
        return torch.where(inside, self._field(self.mask_seed, region), values)

    def _field(self, seed: int, region: Region) -> Tensor:
        seeds = torch.tensor([seed], device=self.device)
        place = region.rows.first, region.cols.first, *region.shape
        return gaussian_field(seeds, range(self.channels), *place, self.period)[0]


def synthesize(
    generator: Generator,
    style: Style,
    local: Callable[[Region], Tensor],  # region of local cells -> z_l [C, h, w]
    region: Region,  # of structure cells
    canvas: Region,  # all structure cells of the image
    period: int | None = None,  # cells after which a panorama repeats
) -> Tensor:
    """Structure latents [C, h, w] of a region, in float32, on the device of the local latents."""
    rule = generator.structure.rule
    around = region.receptive_field(rule)
    z_l = local(around)[None].contiguous(memory_format=torch.channels_last)
    coordinates = generator.structure.grid.of_canvas(around, canvas.receptive_field(rule), z_l.device, period)
    return structure_of(generator, style)(z_l, coordinates, (around.rows.first, around.cols.first))[0]


class GeneratedStructure:
    """The structure latents of a generated image whose cells are `cells`; they are computed when they are read."""

    def __init__(self, generator: Generator, cells: Region, local: LocalField, style: Style) -> None:
        self.generator, self.cells, self.local = generator, cells, local
        self.style = to_device(style, local.device)
        self.read = Tiled(self._synthesize).read  # region of cells -> structure latents [C, h, w], float32

    @torch.inference_mode()
    def _synthesize(self, region: Region) -> Tensor:
        return synthesize(self.generator, self.style, self.local.read, region, self.cells, self.local.period)
