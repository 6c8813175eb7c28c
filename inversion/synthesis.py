"""Generated structure: any window of an unbounded canvas, as a function of the seed.

It is computed by tiles of a fixed grid: whatever windows are asked for, each cell has the same bits. A convolution
rounds otherwise in windows of other shapes, and the texture synthesizer amplifies that.

Letters: C channels, D style, h/w latent cells.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from inversion.styles import Style, StyleMap, Windowed
from models.generator import Generator
from models.geometry import Interval, Region, blocks
from models.mixing import mix_structure
from models.noise import gaussian_field
from models.structure import StyledStructure

Mask = Callable[[Region], np.ndarray]  # region of cells -> bool [h, w]
GLOBAL_CHANNEL = -1  # of the field; the local latent has the channels from 0
TILE = 48  # cells along the edge of a tile
LARGEST_STEP = 0.25  # on the way from one training image's style to another's
KEPT = 32  # tiles: blocks that overlap ask for the same ones again


def style_of_seed(generator: Generator, seed: int) -> Style:
    """The style of a seed: a standard normal global latent; with a trunk between those of two training images."""
    structure, channels = generator.structure, range(GLOBAL_CHANNEL, GLOBAL_CHANNEL + 1)
    measured = isinstance(structure, StyledStructure)
    values = gaussian_field(torch.tensor([seed]), channels, 0, 0, 1, 3 if measured else structure.global_dim)[0, 0, 0]
    if not measured:
        return Style(values)
    first, second, share = torch.special.ndtr(values.double()).tolist()  # uniform
    styles, count = structure.styles.cpu(), len(structure.styles)
    pair = (styles[min(int(count * place), count - 1)] for place in (first, second))
    return Style(torch.lerp(*pair, LARGEST_STEP * share), measured=True)


@dataclass(frozen=True)
class LocalField:
    """Local latents of an unbounded canvas, by seed; inside masks those of other seeds."""

    channels: int
    seed: int
    device: torch.device
    period: int | None = None  # cells after which the columns of a panorama repeat
    resampled: tuple[tuple[Mask, int], ...] = ()  # where the latents are of another seed, one after the other

    def read(self, region: Region) -> Tensor:
        """[C, h, w], standard normal."""
        values = self._field(self.seed, region)
        for mask, seed in self.resampled:
            inside = torch.from_numpy(mask(region)).to(self.device)
            values = torch.where(inside, self._field(seed, region), values)
        return values

    def _field(self, seed: int, region: Region) -> Tensor:
        seeds = torch.tensor([seed], device=self.device)
        place = region.rows.first, region.cols.first, *region.shape
        return gaussian_field(seeds, range(self.channels), *place, self.period)[0]


def synthesize(
    generator: Generator,
    style: Style | StyleMap,
    local: Callable[[Region], Tensor],  # region of local cells -> z_l [C, h, w]
    region: Region,  # of structure cells
    canvas: Region,  # all structure cells of the image
    period: int | None = None,  # cells after which a panorama repeats
    of_layers: Sequence[Style] = (),  # of a measured style: one for each layer; else all have `style`
) -> Tensor:
    """Structure latents [C, h, w] of a region, in float32, on the device of the local latents."""
    structure = generator.structure
    around = region.receptive_field(structure.rule)
    z_l = local(around)[None].contiguous(memory_format=torch.channels_last)
    coordinates = structure.grid.of_canvas(around, canvas.receptive_field(structure.rule), z_l.device, period)
    if isinstance(style, StyleMap) and isinstance(structure, StyledStructure):
        shares = style.weights(region, 2**generator.texture.stages).to(z_l.device)
        parts = (
            structure(z_l, each.global_latent.to(z_l.device)[None], coordinates)[0] * share
            for each, share in zip(style.styles, shares, strict=True)
            if bool((share > 0).any())
        )
        return sum(parts)
    if isinstance(style, StyleMap):
        z_g, spacing = style.global_latent.to(z_l.device), 2**generator.texture.stages
        network = mix_structure(structure, z_g, style.weights, spacing, style.exact)
        return network(z_l, coordinates, (around.rows.first, around.cols.first))[0]
    inner = ([each.global_latent.to(z_l.device)[None] for each in of_layers],) if of_layers else ()
    return structure(z_l, style.global_latent.to(z_l.device)[None], coordinates, *inner)[0]


def grid(region: Region) -> Iterator[Region]:
    """The tiles of the absolute grid that touch a region, whole, row by row."""
    rows, cols = (
        Interval(axis.first // TILE * TILE, axis.last // TILE * TILE + TILE - 1) for axis in (region.rows, region.cols)
    )
    return blocks(Region(rows, cols), (TILE, TILE))


class TiledStructure(Windowed):
    """An array-like [C, h, w] whose values a function computes, which is only ever asked for whole tiles."""

    def __init__(self, compute: Callable[[Region], Tensor], channels: int, cells: Region) -> None:
        """`compute`: region of absolute cells -> [C, h, w]; `cells`: those that the array holds."""
        super().__init__(channels, cells)
        self._compute = compute
        self._tiles: OrderedDict[Region, Tensor] = OrderedDict()  # those used last come last

    def make(self, region: Region) -> np.ndarray:
        """As `read`, on the CPU."""
        return self.read(region).cpu().numpy()

    @torch.inference_mode()
    def read(self, region: Region) -> Tensor:
        """The values [C, h, w] of any region of absolute cells, on the device of the computation."""
        result = None
        for tile in grid(region):
            if tile not in self._tiles:
                self._tiles[tile] = self._compute(tile)
                if len(self._tiles) > KEPT:
                    self._tiles.popitem(last=False)
            self._tiles.move_to_end(tile)
            values = self._tiles[tile]
            if result is None:
                result = torch.empty(len(values), *region.shape, dtype=values.dtype, device=values.device)
            common = region.common(tile)
            result[:, *common.slices_in(region)] = values[:, *common.slices_in(tile)]
        return result


class GeneratedStructure(TiledStructure):
    """The structure latents of a generated image, whose style and local latents can be exchanged."""

    def __init__(
        self,
        generator: Generator,
        style: Style | StyleMap,
        local: LocalField,
        cells: Region,
        of_layers: Sequence[Style] = (),  # as `synthesize`
    ) -> None:
        def compute(region: Region) -> Tensor:
            return synthesize(generator, style, local.read, region, cells, local.period, of_layers)

        super().__init__(compute, generator.structure.local_dim, cells)
        self._generator, self.style, self.local, self.of_layers = generator, style, local, of_layers

    def with_style(self, style: Style | StyleMap, of_layers: Sequence[Style] = ()) -> GeneratedStructure:
        """The same local latents, in another style, or another one for each layer."""
        return GeneratedStructure(self._generator, style, self.local, self.cells, of_layers)

    def with_local(self, local: LocalField) -> GeneratedStructure:
        """Other local latents, in the same styles."""
        return GeneratedStructure(self._generator, self.style, local, self.cells, self.of_layers)

    def on_canvas(self, cells: Region) -> GeneratedStructure:
        """The same on a canvas of other cells, of the same rows."""
        return GeneratedStructure(self._generator, self.style, self.local, cells, self.of_layers)
