"""Networks ready for use: what every command that inverts, draws or edits images does with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from datasets.image import Image, open_image
from inversion.blocks import block_edge, blocks, cells_per_block, count_blocks, pixels_per_cell
from inversion.canvas import Closing, PngWriter, StripAssembler, to_eight_bit
from inversion.generation import GeneratedStructure, LocalField, generated_style
from inversion.grain import Grain, noise_of, wanted
from inversion.latents import Description, LatentStore
from inversion.passes import Decoder, Encoder
from inversion.scenes import Scene, Style
from models.generator import Generator, Noise
from models.geometry import Region
from models.weights import load_inverter
from utils.device import select_device, select_dtype, use_exact_float32
from utils.errors import UserError
from utils.files import atomic_path
from utils.log import say


@dataclass(frozen=True)
class Tool:
    """The networks of a checkpoint, and the `infer` options that they are used with."""

    decoder: Decoder
    encoder: Encoder | None  # a generator's checkpoint has none
    weights: str  # fingerprint of the checkpoint
    options: dict
    checkpoint: Path

    @staticmethod
    def load(checkpoint: Path, options: dict, encoders: bool) -> Tool:
        """Load the networks and check the options before anything is computed. `encoders`: they must be there."""
        device = select_device(options.device)
        dtype = select_dtype(options.dtype, device)
        use_exact_float32()
        networks = load_inverter(checkpoint, encoders)
        encoder = Encoder(networks, device, dtype) if networks.encoder else None
        tool = Tool(Decoder(networks.generator, device, dtype), encoder, networks.fingerprint, options, checkpoint)
        tool.edge((1, 1))
        return tool

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.decoder.device

    @property
    def generator(self) -> Generator:
        """Structure and texture synthesizer."""
        return self.decoder.generator

    @property
    def cell(self) -> int:
        """Pixels along the edge of a latent cell."""
        return pixels_per_cell(self.generator.texture)

    def edge(self, size: tuple[int, int]) -> int:
        """Edge of the blocks, in pixels, for an image of (height, width)."""
        encoder = self.encoder.networks.encoder if self.encoder else None
        options, texture = self.options, self.generator.texture
        budget = options.memory_mib // options.batch
        return block_edge(options.block, budget, size, texture, self.decoder.dtype, encoder)

    def cell_blocks(self, size: tuple[int, int]) -> Iterator[Region]:
        """The blocks of latent cells in which the latents of an image of (height, width) are written."""
        return blocks(self.decoder.cells(*size), cells_per_block(self.generator.texture, self.edge(size)))

    def open_photograph(self, path: Path) -> Image:
        """An image file. ImageError if it cannot be used."""
        image = open_image(path, self.options.max_pixels)
        if image.transparent:
            say(f"note: {path}: what is transparent counts as mid-grey")
        return image

    def require_encoder(self) -> None:
        """UserError if the checkpoint has no encoder."""
        if self.encoder is None:
            raise UserError(f"{self.checkpoint}: holds no encoder, so it cannot invert photographs")

    def encode_global(self, image: Image) -> Tensor:
        """The global latent [D] of an image. UserError if the checkpoint has no encoder."""
        return self._encoder.encode_global(image)

    def encode(self, image: Image, path: Path, tick: Callable[[], object]) -> LatentStore:
        """Encode an image into a latent file; `tick` is called after each block."""
        size = image.height, image.width
        parts = self._encoder.encode(image, self.decoder.cells(*size), self.edge(size))
        seed = self.options.seed or 0
        return self.store(
            path, parts, size, self.encode_global(image), seed, wanted(self.options.noise, seed), tick
        )

    def store(
        self,
        path: Path,
        parts: Iterable[tuple[Region, Tensor]],  # blocks of cells and their z_s [C, h, w]
        size: tuple[int, int],  # height, width of the image
        z_g: Tensor,  # [D]
        seed: int,  # of its noise, where noise is asked for
        grain: Grain,  # that it is drawn with
        tick: Callable[[], object],
    ) -> LatentStore:
        """Write all latents of an image into a latent file, block by block."""
        cells = self.decoder.cells(*size)
        description = Description(*size, (cells.rows.first, cells.cols.first), seed, self.weights, grain)
        shape = (self.generator.structure.local_dim, *cells.shape)
        with atomic_path(path) as temporary:
            store = LatentStore.create(temporary, description, shape, z_g)
            for region, z_s in parts:
                store.write(region, z_s)
                tick()
        return LatentStore.open(path)

    def open_latents(self, path: Path) -> LatentStore:
        """A latent file. UserError unless these weights encoded it, whole."""
        store = LatentStore.open(path)
        if store.description.weights != self.weights:
            raise UserError(
                f"{path}: encoded by the weights {store.description.weights}, but the checkpoint has {self.weights}"
            )
        size = store.description.height, store.description.width
        if store.cells != self.decoder.cells(*size):
            raise UserError(f"{path}: its latents do not cover an image of {size[0]} x {size[1]}")
        try:
            self.noise(store.description.grain, size)
        except ValueError as error:
            raise UserError(f"{path}: not a latent file of this program ({error})") from error
        return store

    def grain(self, store: LatentStore) -> Grain:
        """The noise of a latent file's image: that which `infer.noise` asks for, else that which the file names."""
        seed = store.description.seed if self.options.seed is None else self.options.seed
        return store.description.grain if self.options.noise is None else wanted(self.options.noise, seed)

    def noise(self, grain: Grain, size: tuple[int, int]) -> Noise | None:
        """The noise that a grain of an image of (height, width) stands for."""
        return noise_of(grain, size, self.generator.texture, self.device)

    def scene(self, store: LatentStore) -> Scene:
        """The image of a latent file."""
        size = store.description.height, store.description.width
        return Scene(size, store.read, store.z_g, self.noise(self.grain(store), size))

    def generated(
        self,
        size: tuple[int, int],  # height, width, pixels
        seed: int,
        grain: Grain,
        style: Style | None = None,  # None: that of the seed
        **local: object,  # further arguments of `LocalField`
    ) -> Scene:
        """The generated image of a seed."""
        style = generated_style(self.generator, seed) if style is None else style
        field = LocalField(self.generator.structure.local_dim, seed, self.device, **local)
        structure = GeneratedStructure(self.generator, self.decoder.cells(*size), field, style)
        return Scene(size, structure.read, style, self.noise(grain, size))

    def draw(
        self, scene: Scene, add: Callable, tick: Callable[[], object], window: Region | None = None
    ) -> None:
        """Draw a scene, or a window of it, in blocks, row by row.

        `add` takes the region of a block, in the window's own rows and columns, and its pixels [h, w, 3] float32;
        `tick` is called after each.
        """
        window = Region.at(0, 0, *scene.size) if window is None else window
        for region, pixels in self.decoder.decode(scene, window, self.edge(window.shape), self.options.batch):
            add(region.moved(-window.rows.first, -window.cols.first), pixels)
            tick()

    def draw_png(self, scene: Scene, path: Path) -> None:
        """Draw a scene into a PNG, with a progress bar."""
        strips = StripAssembler(scene.size[1], "uint8")

        def add(region: Region, pixels: np.ndarray) -> None:
            strip = strips.add(region, to_eight_bit(pixels))
            if strip is not None:
                writer.write(strip)

        with (
            atomic_path(path) as temporary,
            Closing(PngWriter(temporary, *scene.size)) as (writer,),
            progress(path.stem, self.count_blocks(scene.size)) as bar,
        ):
            self.draw(scene, add, bar.update)
        say(f"wrote {path}")

    def count_blocks(self, size: tuple[int, int]) -> int:
        """How many blocks an image of (height, width) is drawn in."""
        return count_blocks(Region.at(0, 0, *size), self.edge(size))

    def count_cell_blocks(self, size: tuple[int, int]) -> int:
        """How many blocks the latents of an image of (height, width) are written in."""
        return count_blocks(self.decoder.cells(*size), cells_per_block(self.generator.texture, self.edge(size)))

    @property
    def _encoder(self) -> Encoder:
        self.require_encoder()
        return self.encoder


def progress(name: str, total: int, unit: str = "block") -> tqdm:
    """A progress bar, for work that takes a while."""
    return tqdm(total=total, desc=name, unit=unit, leave=False, disable=total < 8 or None)  # None: but on a terminal
