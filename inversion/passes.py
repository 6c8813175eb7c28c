"""The encode pass and the decode pass: an image's latents, and the image that latents draw, block by block.

A block asks geometry for the context that it needs, so it equals the same part of the whole. Nothing here knows more of
the image than the window at hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from datasets.image import Image, thumbnail
from inversion.blocks import batched, blocks, cells_per_block, pixels_per_cell
from inversion.scenes import Fusion, Scene, texture_of, to_device
from models.generator import Generator, Noise, TextureSynthesizer
from models.geometry import Region
from models.weights import Inverter


@dataclass(frozen=True)
class Encoder:
    """The encode pass of an inverter."""

    networks: Inverter
    device: torch.device
    dtype: torch.dtype  # of the convolutions; latents are float32

    def __post_init__(self) -> None:
        for network in (self.networks.encoder, self.networks.global_encoder):
            network.to(self.device, memory_format=torch.channels_last)

    @torch.inference_mode()
    def encode_global(self, image: Image) -> Tensor:
        """The global latent [D], float32, of the whole image's thumbnail."""
        pixels = thumbnail(image, self.networks.model["global_encoder"]["thumbnail"])
        return self.networks.global_encoder(_tensor(pixels, self.device))[0].cpu()

    @torch.inference_mode()
    def encode(self, image: Image, cells: Region, edge: int) -> Iterator[tuple[Region, Tensor]]:
        """The structure latents of a region of cells, in blocks of `edge` pixels: (region, z_s [C, h, w])."""
        for region in blocks(cells, cells_per_block(self.networks.generator.texture, edge)):
            window = region.input(self.networks.encoder.rule)
            pixels = image.window_float(window.rows.first, window.cols.first, *window.shape)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
                z_s = self.networks.encoder(_tensor(pixels, self.device))
            yield region, z_s[0].cpu()


@dataclass(frozen=True)
class Decoder:
    """The decode pass of a generator."""

    generator: Generator
    device: torch.device
    dtype: torch.dtype  # of the convolutions; colours are float32

    def __post_init__(self) -> None:
        self.generator.to(self.device, memory_format=torch.channels_last)

    def cells(self, height: int, width: int) -> Region:
        """The latent cells that an image of this size is drawn from."""
        return Region.at(0, 0, height, width).input(self.generator.texture.rule)

    @torch.inference_mode()
    def decode(
        self,
        scene: Scene,
        image: Region,  # pixels to draw; the whole image or a window of it
        edge: int,  # of a block, pixels
        batch: int = 1,  # blocks of one shape that are drawn at once
    ) -> Iterator[tuple[Region, np.ndarray]]:
        """These pixels in blocks, row by row: (region, pixels [h, w, 3] float32, nominally in [-1, 1])."""
        texture = self.generator.texture
        synthesize = texture_of(self.generator, to_device(scene.style, self.device), self.dtype)
        plan = ((region, region.input(texture.rule)) for region in blocks(image, edge))
        for _, alike in groupby(plan, key=_shapes):
            for group in batched(alike, 1 if isinstance(scene.style, Fusion) else batch):
                cells = [cells for _, cells in group]
                z_s = torch.stack([scene.read(region) for region in cells]).to(self.device)
                noise = _noise_of_blocks(scene.noise, cells, texture)
                drawn = synthesize(z_s, noise, (cells[0].rows.first, cells[0].cols.first))
                for (region, around), pixels in zip(group, drawn, strict=True):
                    rows, cols = region.slices_in(around.output(texture.rule))
                    yield region, pixels[:, rows, cols].permute(1, 2, 0).cpu().numpy()


def _shapes(item: tuple[Region, Region]) -> tuple[tuple[int, int], tuple[int, int]]:
    region, cells = item
    return region.shape, cells.shape


def _noise_of_blocks(noise: Noise | None, cells: Sequence[Region], texture: TextureSynthesizer) -> Noise | None:
    """The noise of several blocks at once, called with the position of the first one."""
    if noise is None or len(cells) == 1:
        return noise
    shifts = [(c.rows.first - cells[0].rows.first, c.cols.first - cells[0].cols.first) for c in cells]

    def stacked(layer: int, top: int, left: int, height: int, width: int) -> Tensor:
        scale = pixels_per_cell(texture) // texture.spacing(layer)  # features of this layer along a cell
        return torch.cat([noise(layer, top + scale * y, left + scale * x, height, width) for y, x in shifts])

    return stacked


def _tensor(pixels: np.ndarray, device: torch.device) -> Tensor:
    """[H, W, 3] as [1, 3, H, W] on the device; that is channels_last without a copy."""
    return torch.from_numpy(pixels).to(device).permute(2, 0, 1)[None]
