"""The encode pass and the decode pass: an image's latents, and the image that latents draw, block by block.

A block asks geometry for the context that it needs, so it equals the same part of the whole. Nothing here knows more of
the image than the window at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from datasets.image import Image, thumbnail
from inversion.blocks import blocks, pixels_per_cell
from models.generator import Generator
from models.geometry import Region
from models.noise import NoiseField
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
        for region in blocks(cells, self.cells_per_block(edge)):
            window = region.input(self.networks.encoder.rule)
            pixels = image.window_float(window.rows.first, window.cols.first, *window.shape)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
                z_s = self.networks.encoder(_tensor(pixels, self.device))
            yield region, z_s[0].cpu()

    def cells_per_block(self, edge: int) -> int:
        """Latent cells along the edge of a block of `edge` pixels."""
        return max(edge // pixels_per_cell(self.networks.generator.texture), 1)


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
        read: Callable[[Region], Tensor],  # region of cells -> z_s [C, h, w]
        z_g: Tensor,  # [D]
        image: Region,  # pixels to draw; the whole image or a window of it
        edge: int,  # of a block, pixels
        noise: NoiseField | None,
    ) -> Iterator[tuple[Region, np.ndarray]]:
        """These pixels in blocks, row by row: (region, pixels [h, w, 3] float32, nominally in [-1, 1])."""
        texture = self.generator.texture
        folded = texture.fold(texture.mapping(z_g.to(self.device)[None])[0], self.dtype)
        for region in blocks(image, edge):
            cells = region.input(texture.rule)
            drawn = folded(read(cells)[None].to(self.device), noise, (cells.rows.first, cells.cols.first))
            rows, cols = region.slices_in(cells.output(texture.rule))
            yield region, drawn[0, :, rows, cols].permute(1, 2, 0).cpu().numpy()


def _tensor(pixels: np.ndarray, device: torch.device) -> Tensor:
    """[H, W, 3] as [1, 3, H, W] on the device; that is channels_last without a copy."""
    return torch.from_numpy(pixels).to(device).permute(2, 0, 1)[None]
