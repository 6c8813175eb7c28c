"""Networks ready for use: what every command that inverts, draws or edits images does with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from images.reading import Image, open_image
from images.writing import SUFFIXES, EightBit, picture_kind, write_picture
from inversion.blocks import Plan, blocks, count_blocks, pixels_per_cell, plan
from inversion.generation import GeneratedStructure, LocalField, generated_style
from inversion.grain import Grain, noise_of, wanted
from inversion.latents import FOLDER, Description, LatentStore, appearing, latent_suffix
from inversion.outputs import Pixels, bytes_in_memory, in_memory
from inversion.passes import Decoder, Encoder
from inversion.pipeline import Behind
from inversion.refinement import Refiner, fit_style
from inversion.scenes import Read, Scene, Style
from inversion.sweeps import Sweeps, Tick
from inversion.sweeps import bytes_in_memory as refinement_bytes
from inversion.sweeps import in_memory as refined_in_memory
from models.generator import Generator, Noise
from models.geometry import Region
from models.weights import load_inverter
from utils import log
from utils.device import release_freed_memory, select_device, select_dtype, tune_allocator, use_exact_float32
from utils.distributed import SINGLE, ProcessGroup
from utils.errors import UserError
from utils.files import refusals, scratch_folder


@dataclass(frozen=True)
class Tool:
    """The networks of a checkpoint, and the `infer` options that they are used with."""

    decoder: Decoder
    encoder: Encoder | None  # a generator's checkpoint has none
    weights: str  # fingerprint of the checkpoint
    options: dict
    checkpoint: Path

    @staticmethod
    def load(checkpoint: Path, options: dict, encoders: bool, device: torch.device | None = None) -> Tool:
        """Load the networks and check the options before anything is computed. `encoders`: they must be there.

        `device`: None is that of the options.
        """
        device = device or select_device(options.device)
        dtype = select_dtype(options.dtype, device)
        use_exact_float32()
        tune_allocator()
        networks = load_inverter(checkpoint, encoders)
        encoder = Encoder(networks, device, dtype) if networks.encoder else None
        tool = Tool(Decoder(networks.generator, device, dtype), encoder, networks.fingerprint, options, checkpoint)
        tool.plan((1, 1))
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

    def plan(self, size: tuple[int, int], held: int = 0) -> Plan:
        """The blocks of an image of (height, width) pixels, of which `held` bytes are in memory already."""
        encoder = self.encoder.networks.encoder if self.encoder else None
        held += bytes_in_memory(size, self.options.save_float)
        held += refinement_bytes(self._latent_shape(size), size, self.options.refine)
        return plan(self.options, size, self.generator.texture, self.decoder.dtype, encoder, held)

    def cell_blocks(self, size: tuple[int, int]) -> Iterator[Region]:
        """The blocks of latent cells in which the latents of an image of (height, width) are stored."""
        return blocks(self.decoder.cells(*size), self.plan(size).cells)

    def latent_path(self, folder: Path, name: str, size: tuple[int, int]) -> Path:
        """Where the latents of an image of (height, width) are stored: a file, or a folder if they are large."""
        return folder / f"{name}{latent_suffix(self.options.latents, self._latent_shape(size))}"

    def open_photograph(self, path: Path, main: bool = True) -> Image:
        """An image file. ImageError if it cannot be used."""
        image = open_image(path, self.options.max_pixels, by_window=True)
        if image.transparent:
            log.info(f"note: {path}: what is transparent counts as mid-grey", main)
        return image

    def require_encoder(self) -> None:
        """UserError if the checkpoint has no encoder."""
        if self.encoder is None:
            raise UserError(f"{self.checkpoint}: holds no encoder, so it cannot invert photographs")

    def encode_global(self, image: Image) -> Tensor:
        """The global latent [D] of an image, refined as the options say. UserError if the checkpoint has no encoder."""
        z_g = self._encoder.encode_global(image)
        if not self.options.refine_style:
            return z_g

        def encoded(region: Region) -> Tensor:
            ((_, z_s),) = self._encoder.encode(image, [region])
            return z_s.clone()  # autograd takes no tensors of inference mode

        return fit_style(self.decoder, image, z_g, self._image_noise(image), encoded, self.options.refine_style)

    def encode(self, image: Image, path: Path) -> LatentStore:
        """Encode an image into a latent file or folder, refined as the options say, with a progress bar."""
        size = image.height, image.width
        plan = self.plan(size, image.held)
        with appearing(path) as temporary, progress(f"{path.stem}: encode", self.count(plan, size)[0]) as bar:
            store = self.store_of(image, temporary, plan)
            self.encode_into(store, image, plan, bar.update)
            with scratch_folder(path) as folder:
                for part in self.refinement(store, image, plan, folder, bar.update):
                    part()
        return LatentStore.open(path)

    def store_of(self, image: Image, path: Path, plan: Plan) -> LatentStore:
        """The store of an image's latents as an earlier run left it in a folder, else a new one, without structure."""
        size, seed = (image.height, image.width), self.options.seed or 0
        description = self._description(size, seed, wanted(self.options.noise, seed))
        if path.suffix == FOLDER:
            found = LatentStore.continued(path, description, self._latent_shape(size), plan.cells)
            if found:
                return found
        z_g = self.encode_global(image)
        release_freed_memory()
        with refusals(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            return LatentStore.create(path, description, self._latent_shape(size), z_g, plan.cells)

    def encode_into(self, store: LatentStore, image: Image, plan: Plan, tick: Tick, world: ProcessGroup = SINGLE) -> None:
        """Encode the blocks of an image that its store lacks, or this worker's share; `tick` takes 1 for each."""
        regions = world.share(blocks(store.cells, plan.cells))
        missing = (region for region in regions if not _done(store.has(region), tick))
        with Behind() as behind:
            for region, z_s in self._encoder.encode(image, missing):
                behind.do(store.write, region, z_s)
                tick(1)
        release_freed_memory()

    def refinement(
        self, store: LatentStore, image: Image, plan: Plan, folder: Path, tick: Tick, world: ProcessGroup = SINGLE
    ) -> Iterator[Callable[[], None]]:
        """The refinement of the latents of an image that the options ask for, in parts that all workers do together.

        `folder`: where the state is kept if the latents lie in a folder too, so can be gone on with, or if it is long.
        """
        size, steps = (image.height, image.width), self.options.refine
        if not steps:
            return iter(())
        noise, weight = self._image_noise(image), self.options.refine_prior
        refiner = partial(Refiner, self.decoder, image, store.z_g, noise, store.read, weight)
        # refined latents that a killed run left must not be taken for encoded ones
        kept = store.path.suffix == FOLDER or not refined_in_memory(size, steps)
        return Sweeps(refiner, store, steps, plan.cells, folder if kept else None, world, tick).parts()

    def _image_noise(self, image: Image) -> Noise | None:
        """The noise that a photograph is drawn with."""
        return self.noise(wanted(self.options.noise, self.options.seed or 0), (image.height, image.width))

    def store(
        self,
        path: Path,
        read: Read,  # region of latent cells -> z_s [C, h, w]
        size: tuple[int, int],  # height, width of the image
        z_g: Tensor,  # [D]
        seed: int,  # of its noise, where noise is asked for
        grain: Grain,  # that it is drawn with
    ) -> LatentStore:
        """Write all latents of an image into a latent file or folder, block by block, with a progress bar."""
        cells, block = self.decoder.cells(*size), self.plan(size).cells
        description = self._description(size, seed, grain)
        with appearing(path) as temporary, progress(f"{path.stem}: latents", count_blocks(cells, block)) as bar:
            store = LatentStore.create(temporary, description, self._latent_shape(size), z_g, block)
            for region in blocks(cells, block):
                store.write(region, read(region))
                bar.update()
        return LatentStore.open(path)

    def _description(self, size: tuple[int, int], seed: int, grain: Grain) -> Description:
        cells = self.decoder.cells(*size)
        return Description(*size, (cells.rows.first, cells.cols.first), seed, self.weights, grain)

    def _latent_shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        return self.generator.structure.local_dim, *self.decoder.cells(*size).shape

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
        return Scene(size, store.read, store.z_g, self.noise(self.grain(store), size), stored=True)

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
        self,
        scene: Scene,
        pixels: Pixels,  # of the scene, or of a window of it
        plan: Plan,
        tick: Tick,
        world: ProcessGroup = SINGLE,
    ) -> None:
        """Draw the blocks that the pixels lack, or this worker's share of them."""
        groups = self.decoder.groups(scene, blocks(pixels.region, plan.pixels), plan.batch)
        # whole groups: several blocks at once may round otherwise than fewer of them
        missing = (group for group in world.share(groups) if not _done(pixels.count_done(group), tick))
        with Behind() as behind:
            for region, block in self.decoder.decode(scene, missing, eight_bit=not self.options.save_float):
                behind.do(pixels.write, region, block)
                tick(1)

    def draw_picture(self, scene: Scene, path: Path) -> None:
        """Draw a scene into a picture, with a progress bar; the suffix of the path becomes that of its format."""
        kind = picture_kind(self.options.format, scene.size)
        path, plan = path.with_suffix(SUFFIXES[kind]), self.plan(scene.size)
        with scratch_folder(path) as folder, progress(path.stem, self.count(plan, scene.size)[1]) as bar:
            folder = None if in_memory(scene.size) else folder
            pixels = Pixels.open(Region.at(0, 0, *scene.size), folder, plan.pixels, self.options.save_float)
            self.draw(scene, pixels, plan, bar.update)
            write_picture(path, EightBit(pixels), kind)
        log.info(f"wrote {path}")

    def count(self, plan: Plan, size: tuple[int, int]) -> tuple[int, int]:
        """How many blocks of latents, once more for each step of refinement, and of pixels (height, width) have."""
        cells, pixels = self.decoder.cells(*size), Region.at(0, 0, *size)
        return (1 + self.options.refine) * count_blocks(cells, plan.cells), count_blocks(pixels, plan.pixels)

    @property
    def _encoder(self) -> Encoder:
        self.require_encoder()
        return self.encoder


def _done(count: int, tick: Tick) -> bool:
    """Whether something was done before: then the progress takes note of it."""
    if count:
        tick(int(count))
    return bool(count)


def progress(name: str, total: int, unit: str = "block", main: bool = True) -> tqdm:
    """A progress bar, for work that takes a while; `main` is false for other ranks, which show nothing."""
    # None: but on a terminal
    return tqdm(total=total, desc=name, unit=unit, leave=False, disable=total < 8 or not main or None)
