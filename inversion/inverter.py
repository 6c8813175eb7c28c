"""The program's interface: networks that invert photographs of any size, and draw what their latents, or a seed, say.

    model = PatchInverter.from_pretrained()
    latents = model.invert("photo.jpg")
    image = model.draw(latents.with_style(model.style("other.jpg"), strength=0.7))
    world = model.generate(height=512, width=2048, seed=3)

An image is a path, a PIL image, an array [H, W, 3] (or [H, W]) of uint8 or uint16, or an opened `images.reading.Image`,
which may be read by window. Arrays that are written need no more than `dtype` and windows that are assigned.

Letters: C channels, D global latent, h/w latent cells, H/W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from images.reading import Image, open_image
from images.thumbnail import thumbnail
from inversion import blockwise
from inversion.latents import Latents, own_share, wrong_structure
from inversion.noise import FieldNoise, NoiseSpec
from inversion.refinement import Refiner, Step, fit_style, steps_in_memory
from inversion.styles import ArrayLike, RestyledStructure, Style, StyleMap, Windowed, measure_style, with_channels
from inversion.synthesis import GeneratedStructure, LocalField, TiledStructure, style_of_seed
from inversion.tiling import Tiling
from models.geometry import Region, Rule, blocks
from models.mixing import mix_texture
from models.noise import Noise
from models.structure import StyledStructure
from models.trunk import COLOURS, synthesis
from models.weights import SHIPPED, Inverter, load_inverter
from utils import log
from utils.checkpoint import fingerprint
from utils.device import (
    limit_threads,
    release_freed_memory,
    select_device,
    select_dtype,
    tune_allocator,
    use_exact_float32,
)
from utils.errors import UserError

MOST_PIXELS = 2**28  # of images that have to be decoded whole
PREVIEWED = 64  # cells along the edge of a block of a preview

Source = str | Path | np.ndarray | PIL.Image.Image | Image


class PatchInverter:
    """The networks of a checkpoint on a device, and how images are cut into blocks for them."""

    def __init__(
        self,
        networks: Inverter,
        device: torch.device,
        dtype: torch.dtype,  # of the convolutions; latents and colours are float32
        block: int | str = "auto",  # pixels along a block's edge | whole | auto: follows memory_mib
        memory_mib: int = 1024,  # beyond the networks, that blocks keep within
    ) -> None:
        for network in (networks.generator, networks.encoder, networks.global_encoder):
            if network is not None:
                network.to(device, memory_format=torch.channels_last)
        self.networks, self.device, self.dtype = networks, device, dtype
        self.generator = networks.generator  # structure and texture synthesizer
        self.fingerprint = networks.fingerprint  # of the weights; latents carry it
        with torch.no_grad():
            self._encoder = networks.encoder and networks.encoder.bake(dtype)
        self.tiling = Tiling(networks.generator.texture, networks.encoder, dtype, block, memory_mib)
        self.tiling.plan((1, 1))
        self.cell = self.tiling.cell  # pixels along the edge of a latent cell
        self.measured = isinstance(networks.generator.structure, StyledStructure)  # whether styles are statistics

    @staticmethod
    def from_pretrained(
        path: str | Path | None = None,  # weights that train.py exported; None: the shipped checkpoint
        *,
        device: str | torch.device = "auto",  # auto | cpu | cuda | cuda:N | mps
        dtype: str = "auto",  # auto | float32 | bfloat16
        memory_mib: int = 1024,  # beyond the networks, that blocks keep within
        block: int | str = "auto",  # pixels along a block's edge | whole | auto: follows memory_mib
    ) -> PatchInverter:
        """Load a checkpoint of an inverter, or of a generator alone, which can draw but not invert.

        Computes float32 in float32 on CUDA, too, lets the C library keep freed memory, and has PyTorch compute in no
        more threads than a container's quota has cores. UserError for a file that is none, a device that is not there,
        or a block smaller than a latent cell.
        """
        device = device if isinstance(device, torch.device) else select_device(device)
        use_exact_float32()
        tune_allocator()
        limit_threads()
        networks = load_inverter(SHIPPED if path is None else path, encoders=False)
        return PatchInverter(networks, device, select_dtype(dtype, device), block, memory_mib)

    def cells(self, size: tuple[int, int]) -> Region:
        """The latent cells that an image of (height, width) is drawn from; the first one draws pixels before it."""
        return Region.at(0, 0, *size).receptive_field(self.generator.texture.rule)

    @property
    def style_space(self) -> str:
        """What identifies the styles of a model: the fingerprint of the trunk that they are measured by, or of all.

        So those that are measured stay valid when the synthesizers are trained on.
        """
        return fingerprint(self.generator.texture.trunk.state_dict()) if self.measured else self.fingerprint

    @property
    def reach(self) -> int:
        """How many pixels away from the centre of a latent cell a pixel may be that is drawn from it."""
        found = 0
        for place in range(self.cell):
            cells = Region.at(place, place, 1, 1).receptive_field(self.generator.texture.rule).rows
            found = max(found, place - self.cell * cells.first, self.cell * cells.last - place)
        return found

    def structure_shape(self, size: tuple[int, int], channels: int | None = None) -> tuple[int, int, int]:
        """[C, h, w] of the structure latents of an image of (height, width); C: `channels`, None: the model's.

        UserError where there are not so many.
        """
        self.check_options(channels, 0, 0)
        return channels or self.generator.structure.local_dim, *self.cells(size).shape

    def check_options(self, channels: int | None, refine: int, style_steps: int) -> None:
        """UserError for a number of channels, and steps of refinement, that this checkpoint does not have."""
        least, most = self._channels
        if channels is not None and not least <= channels <= most:
            raise UserError(f"infer.channels: {channels}; allowed: {least} to {most} of this checkpoint, or null")
        if refine and channels not in (None, self.generator.structure.local_dim):
            raise UserError(f"infer.refine: takes the model's channels, and not {channels}")
        if style_steps and self.measured:
            raise UserError("infer.refine_style: the style of this checkpoint is measured, and not optimised")

    @property
    def _channels(self) -> tuple[int, int]:
        """The fewest and the most channels that structure latents have."""
        own, trunk = self.generator.structure.local_dim, self.generator.texture.trunk
        return (own, own) if trunk is None else (COLOURS, trunk.every)

    def invert(
        self,
        image: Source,
        *,
        refine: int = 0,  # steps that optimise the structure latents after encoding
        prior: float = 0.0,  # weight that draws them to the generator's own latents meanwhile; 0.001 to 0.1
        style_steps: int = 0,  # steps that optimise the global latent before
        noise: NoiseSpec | None = None,  # that it will be drawn with; None is closest to a photograph
        channels: int | None = None,  # as `encode`
    ) -> Latents:
        """The latents of a photograph, in memory. UserError for an image that cannot be read."""
        self.check_options(channels, refine, style_steps)
        image = self.open(image)
        latents = self.encode(image, style_steps=style_steps, noise=noise, refined=refine > 0, channels=channels)
        return self.refine(latents, image, refine, prior=prior)

    def encode(
        self,
        image: Source,
        *,
        style_steps: int = 0,
        noise: NoiseSpec | None = None,
        refined: bool = False,  # whether the latents are to be refined: in blocks that follow from the network alone
        out: blockwise.Writable | None = None,  # [C, h, w] float32, for latents that memory does not hold
        blocks: Iterable[Region] | None = None,  # of cells, that are to do; None: all
        channels: int | None = None,  # that are kept, with a trunk up to all coefficients; None: the model's
        wait: Callable[[], None] = lambda: None,  # returns when others that share the blocks have written theirs
    ) -> Latents:
        """The latents that the encoders give. UserError if the checkpoint has no encoder, or for an unusable image."""
        image = self.open(image)
        self.require_encoder()
        size = image.height, image.width
        self.check_options(channels, 0, style_steps)
        style = None if self.measured else self._style_of(image, style_steps, noise)
        release_freed_memory()
        out = np.empty(self.structure_shape(size, channels), np.float32) if out is None else out
        blocks = self.cell_blocks(size, image.held, refined) if blocks is None else blocks
        blockwise.encode(self._encoder, image, blocks, out, self.cells(size), self.device, channels)
        release_freed_memory()
        wait()
        if style is None:
            enough = channels is None or channels >= self.generator.structure.local_dim
            style = self._measure(out, size) if enough else self._style_of(image)
        return Latents(out, style, size, noise, self.fingerprint, grey=image.grey)

    def refine(
        self,
        latents: Latents,
        image: Source,
        steps: int | Iterable[Step],
        *,
        prior: float = 0.0,
        average: Callable[[list[Tensor]], None] = list,  # takes the mean over the processes that share the blocks
    ) -> Latents:
        """Latents that draw the photograph better, by steps of optimisation from those that `encode` gave.

        `steps`: how many, in memory (0: none), or what each one does (`inversion.refinement.Step`). Where the
        steps lead away from the photograph, a note says so, and the latents stay as they were.
        UserError for latents of another size, of other weights, or in several styles.
        """
        image = self.open(image)
        self.check(latents)
        if latents.size != (image.height, image.width) or isinstance(latents.style, StyleMap) or latents.own:
            raise UserError(f"{image.name}: refined are latents of the image itself, in one style")
        self.check_options(latents.structure.shape[0], steps != 0, 0)
        if isinstance(steps, int):
            todo = list(self.cell_blocks(latents.size, refined=True))
            steps = steps_in_memory(latents.structure.shape, todo, steps)
        refiner, first = None, None
        for step in steps:
            refiner = refiner or Refiner(
                self.generator, self.dtype, self.device, image, latents.style.global_latent,
                self._noise(latents.noise), latents.structure, prior,
            )  # fmt: skip
            error = refiner.step(step.before, step.after, step.todo)
            first = error if step.before is None and step.whole else first
        if refiner is None:
            return latents
        first = refiner.error(latents.structure, step.blocks) if first is None else first
        errors = torch.tensor([first, refiner.error(step.after.latents, step.blocks)], dtype=torch.float64)
        average([errors])
        if not errors[1] <= errors[0]:
            change = "squared error {:.4g} at first, {:.4g} at last".format(*errors.tolist())
            log.error(f"note: {image.name}: refinement went away from the photograph ({change}); it stays as encoded")
            return latents
        return replace(latents, structure=step.after.latents)

    @torch.inference_mode()
    def draw(
        self,
        latents: Latents,
        region: tuple[int, int, int, int] | None = None,  # top, left, bottom, right (the last two excluded); None: all
        *,
        out: blockwise.Writable | None = None,  # [H, W, 3] of the region, uint8 or float32, for what memory cannot hold
        blocks: Iterable[Region] | None = None,  # of pixels, that are to do; None: all of the region
        dtype: type = np.uint8,  # of the result: uint8, or float32 in [-1, 1], neither rounded nor clipped
    ) -> np.ndarray | blockwise.Writable:
        """The image [H, W, 3] of latents, or a region of it, at its cost only. UserError for latents of other weights,
        or a region that is not inside the image.
        """
        self.check(latents)
        dtype = np.dtype(dtype if out is None else out.dtype)
        if dtype not in (np.uint8, np.float32):
            raise UserError(f"dtype: {dtype}; pixels are drawn as uint8 or float32")
        window = Region.at(0, 0, *latents.size) if region is None else region_of(region, latents.size)
        out = np.empty((*window.shape, 3), dtype) if out is None else out
        texture, style = self.generator.texture, latents.style
        if isinstance(style, StyleMap) and style.measured:
            style = style.base  # of the details that no channel holds: what masks do not reach keeps its bits
        w = texture.mapping(style.global_latent.to(self.device).reshape(-1, self.generator.structure.global_dim))
        if isinstance(style, StyleMap):
            synthesize = mix_texture(texture, w, style.weights, self.dtype, style.exact)
        else:
            synthesize = texture.bake(w[0], self.dtype)
        blocks = self.pixel_blocks(window) if blocks is None else blocks
        self._draw(latents, synthesize, texture.rule, out, window, blocks, noise=self._noise(latents.noise))
        return out

    @torch.inference_mode()
    def preview(
        self,
        latents: Latents,
        scale: int,  # 2, 4 ... up to a latent cell: how many times smaller
        *,
        out: blockwise.Writable | None = None,  # [H, W, 3] of `preview_size`, uint8
        blocks: Iterable[Region] | None = None,  # of its pixels, that are to do; None: all
    ) -> np.ndarray | blockwise.Writable:
        """A small picture of latents, from their first channels alone and at its own cost: uint8 [H', W', 3].

        UserError for a model without a trunk, or another scale.
        """
        self.check(latents)
        window = Region.at(0, 0, *self.preview_size(latents.size, scale))
        out = np.empty((*window.shape, 3), np.uint8) if out is None else out
        blocks = self.preview_blocks(window, scale) if blocks is None else blocks
        trunk, pixels = self.generator.texture.trunk, self.cell // scale

        def synthesize(z_s: Tensor, noise: None, block: Region) -> Tensor:
            inside = (slice(axis.first % pixels, axis.first % pixels + axis.size) for axis in (block.rows, block.cols))
            return trunk.shrink(z_s, scale)[..., *inside]

        self._draw(latents, synthesize, synthesis(pixels), out, window, blocks, spacing=scale)
        return out

    def _draw(
        self,
        latents: Latents,
        synthesize: Callable[..., Tensor],
        rule: Rule,
        out: blockwise.Writable,
        window: Region,
        blocks: Iterable[Region],
        noise: Noise | None = None,
        spacing: int = 1,  # pixels of the image between those that are drawn
    ) -> None:
        """As `blockwise.draw`; grey images lose their colours as far as they are in their own style.

        They become the mean of the colours, which is never further from a grey photograph than these are.
        """

        def greyed(z_s: Tensor, noise: Noise | None, block: Region) -> Tensor:
            image = synthesize(z_s, noise, block)
            mean, share = image.mean(1, keepdim=True).expand_as(image), own_share(latents, block, spacing)
            return mean if share is None else torch.lerp(image, mean, share.to(image.device))

        blockwise.draw(
            greyed if latents.grey else synthesize, rule, self.as_drawn(latents).structure, self.cells(latents.size),
            noise, blocks, out, window, self.device, not isinstance(latents.structure, TiledStructure),
        )  # fmt: skip

    def preview_size(self, size: tuple[int, int], scale: int) -> tuple[int, int]:
        """(height, width) of a preview of an image of (height, width). UserError as `preview`."""
        if not self.measured:
            raise UserError("scale: previews need a checkpoint with a trunk")
        if scale < 1 or scale & (scale - 1) or scale > self.cell:
            raise UserError(f"scale: 1/{scale}; allowed: 1, 1/2, 1/4 ... 1/{self.cell}, a pixel for each latent cell")
        return tuple(-(-length // scale) for length in size)

    def preview_blocks(self, window: Region, scale: int) -> Iterable[Region]:
        """The blocks of pixels of a preview."""
        return blocks(window, (PREVIEWED * self.cell // scale,) * 2)

    def as_drawn(self, latents: Latents) -> Latents:
        """The same image by a structure of the model's channels that has the style itself, made when it is read."""
        structure, every = latents.structure, self.generator.structure.local_dim
        cells, trunk = self.cells(latents.size), self.generator.texture.trunk
        if latents.own is not None:
            structure = RestyledStructure(structure, latents.own, latents.style, cells, trunk)
        if structure.shape[0] < every:
            structure = with_channels(structure, every, cells)
        if structure is latents.structure:
            return latents
        return replace(latents, structure=structure, own=None, grey=latents.grey and latents.own is None)

    def generate(
        self,
        height: int,  # pixels
        width: int,  # pixels; of a panorama a multiple of a latent cell
        seed: int = 0,  # of local latents, style and noise
        *,
        style: Style | StyleMap | None = None,  # None: that of the seed
        panorama: bool = False,  # whether the right edge goes on at the left one
        noise: bool = True,  # the texture noise that the generator was trained with
    ) -> Latents:
        """The latents of a generated image, computed when they are read: drawing costs no more than its blocks.

        UserError for an image without pixels, or a panorama of another width.
        """
        if min(height, width) < 1:
            raise UserError(f"an image of {height} x {width} pixels; at least 1 x 1")
        if panorama and width % self.cell:
            raise UserError(f"width: {width}; a panorama takes a multiple of {self.cell} pixels, a latent cell")
        style = self.style(seed) if style is None else style
        period = width // self.cell if panorama else None
        local = LocalField(self.generator.structure.local_dim, seed, self.device, period)
        structure = GeneratedStructure(self.generator, style, local, self.cells((height, width)))
        spec = FieldNoise(seed, width if panorama else None) if noise else None
        return Latents(structure, style, (height, width), spec, self.fingerprint)

    def style(self, source: Source | Latents | int) -> Style | StyleMap:
        """The style of a photograph, of latents, or of a seed. UserError for what cannot be read."""
        if isinstance(source, Latents):
            return source.style
        if isinstance(source, (int, np.integer)):
            return style_of_seed(self.generator, int(source))
        return self._style_of(self.open(source))

    def open(self, image: Source) -> Image:
        """An image, opened: by window, where it is huge. Notes say what is odd about a file.

        UserError (ImageError) if it cannot be read.
        """
        opened = open_image(image, MOST_PIXELS, by_window=True, memory_mib=self.tiling.memory_mib)
        if opened is not image:
            opened.tell()
        return opened

    def check(self, latents: Latents, name: str = "latents") -> None:
        """UserError unless these are latents of these weights, of the right shape and type, and cover their image."""
        if latents.model != self.fingerprint:
            raise UserError(
                f"{name}: encoded by the weights {latents.model}, but the checkpoint has {self.fingerprint}"
            )
        values, dim = latents.style.global_latent, self.generator.structure.global_dim
        if values.dim() != (2 if isinstance(latents.style, StyleMap) else 1) or not values.isfinite().all():
            raise UserError(f"{name}: a style of {list(values.shape)}; allowed: finite [D], without a batch axis")
        if values.shape[-1] != dim:
            raise UserError(f"{name}: a style of {values.shape[-1]} values, but the checkpoint has {dim}")
        if latents.style.measured != self.measured:
            raise UserError(f"{name}: its style is of another kind than the checkpoint's")
        if wrong := wrong_structure(latents.structure):
            raise UserError(f"{name}: {wrong}")
        (channels, *shape), (least, most) = latents.structure.shape, self._channels
        if tuple(shape) != self.cells(latents.size).shape or not least <= channels <= most:
            raise UserError(f"{name}: the latents do not cover an image of {latents.size[0]} x {latents.size[1]}")

    def require_encoder(self) -> None:
        """UserError if the checkpoint has no encoder."""
        if self.networks.encoder is None:
            raise UserError(f"{self.networks.path}: holds no encoder, so it cannot invert photographs")

    def cell_blocks(self, size: tuple[int, int], held: int = 0, refined: bool = False) -> Iterable[Region]:
        """The blocks of latent cells of an image of (height, width); `held`: bytes that it takes in memory."""
        return blocks(self.cells(size), self.tiling.plan(size, held, refined).cells)

    def pixel_blocks(self, window: Region, held: int = 0) -> Iterable[Region]:
        """The blocks of pixels of a part of an image."""
        return blocks(window, self.tiling.plan(window.shape, held).pixels)

    @torch.no_grad()
    def _style_of(self, image: Image, steps: int = 0, noise: NoiseSpec | None = None) -> Style:
        """The style of an image: measured; or what the global encoder sees in its thumbnail, improved by steps."""
        self.require_encoder()
        if self.measured:
            return self._measure(EncodedStructure(self, image), (image.height, image.width))
        pixels = torch.from_numpy(thumbnail(image, self.networks.model["global_encoder"]["thumbnail"]))
        z_g = self.networks.global_encoder(blockwise.as_batch(pixels, self.device))[0].cpu()
        if not steps:
            return Style(z_g)
        encoded = EncodedStructure(self, image)
        texture, noise = self.generator.texture, self._noise(noise)
        return Style(fit_style(texture, self.dtype, self.device, image, z_g, noise, encoded.read, steps))

    def _measure(self, structure: ArrayLike, size: tuple[int, int]) -> Style:
        """The statistics of the cells that are centred on pixels of an image of (height, width)."""
        inside = Region.at(0, 0, *(-(-length // self.cell) for length in size))
        return measure_style(structure, self.cells(size), inside, self.generator.structure.local_dim)

    def _noise(self, noise: NoiseSpec | None) -> Noise | None:
        return noise and noise.build(self.generator.texture, self.device)


class EncodedStructure(Windowed):
    """The structure latents of an image as an array-like [C, h, w] that is encoded where it is read."""

    def __init__(self, model: PatchInverter, image: Image) -> None:
        cells = model.cells((image.height, image.width))
        super().__init__(model.generator.structure.local_dim, cells)
        self.model, self.image = model, image

    def make(self, region: Region) -> np.ndarray:
        """The values [C, h, w] of a region of the image."""
        size = self.image.height, self.image.width
        return self._encode(region, blocks(region, self.model.tiling.plan(size, self.image.held).cells))

    def read(self, region: Region) -> Tensor:
        """The values [C, h, w] of a region of cells, inside the image or not, in one block."""
        return torch.from_numpy(self._encode(region, [region]))

    def _encode(self, region: Region, todo: Iterable[Region]) -> np.ndarray:
        out = np.empty((self.shape[0], *region.shape), np.float32)
        blockwise.encode(self.model._encoder, self.image, todo, out, region, self.model.device)
        return out


def region_of(box: Sequence[int], size: tuple[int, int]) -> Region:
    """The region of a box (top, left, bottom, right). UserError where it is not inside an image of (height, width)."""
    top, left, bottom, right = box
    if not (0 <= top < bottom <= size[0] and 0 <= left < right <= size[1]):
        raise UserError(f"region: {list(box)}, but the image has {size[0]} x {size[1]} pixels")
    return Region.at(top, left, bottom - top, right - left)
