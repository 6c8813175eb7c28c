"""The encode pass and the decode pass: an image's latents, and the image that latents draw, block by block.

A block asks geometry for the context that it needs, so it equals the same part of the whole. Nothing here knows more of
the image than the window at hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from images.reading import Image
from images.thumbnail import thumbnail
from images.writing import to_eight_bit
from inversion.blocks import batched, pixels_per_cell
from inversion.pipeline import ahead
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
        return self.networks.global_encoder(_as_image(torch.from_numpy(pixels), self.device))[0].cpu()

    @torch.inference_mode()
    def encode(self, image: Image, regions: Iterable[Region]) -> Iterator[tuple[Region, Tensor]]:
        """The structure latents of regions of cells, each (region, z_s [C, h, w]), float32 on the CPU."""

        def read(region: Region) -> tuple[Region, Tensor]:
            window = region.receptive_field(self.networks.encoder.rule)
            pixels = image.window_float(window.rows.first, window.cols.first, *window.shape)
            return region, _pinned(torch.from_numpy(pixels), self.device)

        def encoded() -> Iterator[tuple[Region, Tensor]]:
            encode = self.networks.encoder.bake(self.dtype)
            for region, pixels in ahead(map(read, regions)):
                yield region, encode(_as_image(pixels, self.device))[0]

        yield from _fetched(encoded())


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
        return Region.at(0, 0, height, width).receptive_field(self.generator.texture.rule)

    @torch.inference_mode()
    def decode(
        self,
        scene: Scene,
        groups: Iterable[list[Region]],  # of pixels; those of one group are drawn at once, see `groups`
        eight_bit: bool = True,
    ) -> Iterator[tuple[Region, np.ndarray]]:
        """The pixels of all regions, one after the other: (region, pixels [h, w, 3] uint8).

        Without `eight_bit` they are float32, nominally in [-1, 1].
        """
        texture = self.generator.texture
        synthesize = texture_of(self.generator, to_device(scene.style, self.device), self.dtype)

        def read(group: list[Region]) -> tuple[list[Region], Tensor]:
            z_s = torch.stack([scene.read(region.receptive_field(texture.rule)) for region in group])
            return group, _pinned(z_s, self.device)

        def drawn() -> Iterator[tuple[Region, Tensor]]:
            # reading generated structure is computation, which a second thread would only disturb
            for group, z_s in ahead(map(read, groups)) if scene.stored else map(read, groups):
                noise = _noise_of_blocks(scene.noise, group, texture)
                image = synthesize(z_s.to(self.device, non_blocking=True), noise, group[0]).permute(0, 2, 3, 1)
                yield from zip(group, to_eight_bit(image) if eight_bit else image, strict=True)

        for region, pixels in _fetched(drawn()):
            yield region, pixels.numpy()

    def groups(self, scene: Scene, regions: Iterable[Region], batch: int) -> Iterator[list[Region]]:
        """Which of these regions, in their order, are drawn at once."""
        batch = 1 if isinstance(scene.style, Fusion) else batch
        for _, alike in groupby(regions, self._shapes):
            yield from batched(alike, batch)

    def _shapes(self, region: Region) -> tuple[tuple[int, int], ...]:
        """What blocks have in common that can be drawn at once: their shape, and its place among the cells."""
        cells, cell = region.receptive_field(self.generator.texture.rule), pixels_per_cell(self.generator.texture)
        place = region.rows.first - cell * cells.rows.first, region.cols.first - cell * cells.cols.first
        return region.shape, cells.shape, place


def _noise_of_blocks(noise: Noise | None, group: Sequence[Region], texture: TextureSynthesizer) -> Noise | None:
    """The noise of several blocks at once, called with the position of the first one."""
    if noise is None or len(group) == 1:
        return noise
    shifts = [(r.rows.first - group[0].rows.first, r.cols.first - group[0].cols.first) for r in group]

    def stacked(layer: int, top: int, left: int, height: int, width: int) -> Tensor:
        spacing = texture.spacing(layer)
        return torch.cat([noise(layer, top + y // spacing, left + x // spacing, height, width) for y, x in shifts])

    return stacked


def _pinned(values: Tensor, device: torch.device) -> Tensor:
    """The values where a copy to the device need not wait."""
    return values.pin_memory() if device.type == "cuda" and values.device.type == "cpu" else values


def _as_image(pixels: Tensor, device: torch.device) -> Tensor:
    """[H, W, 3] as [1, 3, H, W] on the device; that is channels_last without a copy."""
    return pixels.to(device, non_blocking=True).permute(2, 0, 1)[None]


def _fetched(items: Iterator[tuple[Region, Tensor]]) -> Iterator[tuple[Region, Tensor]]:
    """The tensors on the CPU. On CUDA each is copied while the next one is computed."""
    waiting = None
    for region, values in items:
        if values.device.type != "cuda":
            yield region, values
            continue
        host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        host.copy_(values, non_blocking=True)
        done = torch.cuda.Event()
        done.record(torch.cuda.current_stream(values.device))
        if waiting:
            waiting[2].synchronize()
            yield waiting[:2]
        waiting = region, host, done
    if waiting:
        waiting[2].synchronize()
        yield waiting[:2]
