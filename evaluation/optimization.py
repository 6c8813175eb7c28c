"""Inversion by optimisation from random latents, as InfinityGAN (Lin et al., ICLR 2022) inverts: the rival of encoders.

The published settings: Adam for 3,000 steps on the local and the global latent of the structure synthesizer (learning
rate 0.01), on a style for each layer of the texture synthesizer, from the mean style, and on a map of noise for each
layer (0.1). A penalty keeps the noise from drawing the image itself, and after each step it is brought back to mean 0
and deviation 1. The rates rise over the first twentieth and fall over the last quarter of the steps. The priors of
latents, their perturbation and the augmentation are left out: they serve outpainting and cost fidelity.

Letters: C channels, D style, L layers, h/w latent cells, H/W pixels.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from inversion.canvas import to_eight_bit
from inversion.generation import GLOBAL_CHANNEL, LocalField, generated_style
from inversion.tool import Tool
from losses.reconstruction import L2
from models.generator import Generator
from models.geometry import Region, regions_from
from models.noise import NoiseField, gaussian_field

LR_STRUCTURE = 0.01  # of local and global latents
LR_TEXTURE = 0.1  # of styles and noise
RISE, FALL = 0.05, 0.25  # shares of the steps over which the rates rise and fall
NOISE_WEIGHT = 100.0  # of the penalty of noise; pixels have 1, as the perceptual term
NOISE_SMALLEST = 8  # pixels along an edge, at which no further scale of the noise is penalised
STYLES = 10_000  # draws whose mean is the first style
MARK_RATIO = math.sqrt(2)  # of the steps at which the result is measured

Perceptual = Callable[[Tensor, Tensor], Tensor]  # (reconstruction, target), [1, 3, H, W] in [-1, 1] -> scalar


@dataclass(frozen=True)
class Point:
    """A point of the curve of an optimisation."""

    step: int  # updates before it
    seconds: float
    psnr: float  # dB, of the result rounded and clipped to 8 bits; infinite for equal images


def optimize(
    tool: Tool, image: np.ndarray, steps: int = 3000, seed: int = 0, perceptual: Perceptual | None = None
) -> Iterator[Point]:
    """Invert an image, uint8 [H, W, 3], of any size; yields points at steps 0, 1, 2, 3, 4, 6, 8, 11, ... and the last.

    Minimises the mean squared difference in [-1, 1], plus `perceptual` with the same weight (as published) where it is
    given. The whole image is drawn at once, so memory grows with it. What comes before the first step does not count as
    time, nor does what the reader of the points does in between. Not to be run in torch.inference_mode.
    """
    marks, seconds = marked_steps(steps), 0.0
    target = torch.from_numpy(image).to(tool.device).permute(2, 0, 1)[None]
    search = Search(tool, target, seed, perceptual)
    start = time.perf_counter()
    for step in range(steps + 1):
        drawn = search.step(learning_rate(step / steps)) if step < steps else search.draw()
        if step in marks:
            psnr = peak_signal_to_noise(drawn, target)
            seconds += time.perf_counter() - start
            yield Point(step, seconds, psnr)
            start = time.perf_counter()


def marked_steps(steps: int) -> set[int]:
    """Steps from 0 to `steps`, at intervals that grow with them."""
    powers = (round(MARK_RATIO**exponent) for exponent in range(2 * steps.bit_length()))
    return {0, steps} | {step for step in powers if step < steps}


def learning_rate(progress: float) -> float:
    """The share of the full learning rate when `progress` (0 to 1) of the steps are done: line up, cosine down."""
    return min(1.0, progress / RISE) * (0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - progress) / FALL)))


def peak_signal_to_noise(drawn: Tensor, target: Tensor) -> float:
    """PSNR in dB of an image in [-1, 1], at 8 bits, against one of uint8, both of one shape."""
    error = (to_eight_bit(drawn).double() - target.double()).square().mean().item()
    return 10 * math.log10(255**2 / error) if error else math.inf


class Search:
    """The latents of an image while they are optimised."""

    def __init__(
        self,
        tool: Tool,
        target: Tensor,  # uint8 [1, 3, H, W]
        seed: int,
        perceptual: Perceptual | None,
    ) -> None:
        self.generator, self.dtype, self.device = tool.generator.requires_grad_(False), tool.decoder.dtype, tool.device
        self.target, self.perceptual, self.loss = target.float() / 127.5 - 1, perceptual, L2()
        self.pixels = Region.at(0, 0, *target.shape[-2:])
        self.cells = self.pixels.receptive_field(self.generator.texture.rule)
        around = self.cells.receptive_field(self.generator.structure.rule)
        self.coordinates = self.generator.structure.grid.of_canvas(around, around, self.device)
        stages = regions_from(self.cells, self.generator.texture.stages)
        self.drawn = [region for stage in stages for region in stage.outputs]  # by each layer of noise
        self.latents = Latents.random(self.generator, around, self.drawn, seed, self.device)
        groups = (self.latents.of_structure, LR_STRUCTURE), (self.latents.of_texture, LR_TEXTURE)
        self.optimizer = torch.optim.Adam({"params": values, "lr": lr, "full_lr": lr} for values, lr in groups)

    def step(self, rate: float) -> Tensor:
        """One update, with the learning rates times `rate`; returns the image [1, 3, H, W] from before it."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["full_lr"]
        with torch.enable_grad():
            image = self._image()
            loss = self.loss(image, self.target) + NOISE_WEIGHT * autocorrelation(self.latents.noise)
            if self.perceptual is not None:
                loss = loss + self.perceptual(image, self.target)
            self.optimizer.zero_grad()
            loss.backward()
        self.optimizer.step()
        for noise in self.latents.noise:
            renormalize(noise)
        return image.detach()

    @torch.no_grad()
    def draw(self) -> Tensor:
        """The image [1, 3, H, W] of the latents as they are, nominally in [-1, 1]."""
        return self._image()

    def _image(self) -> Tensor:
        z = self.latents
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            z_s = self.generator.structure(z.local, z.global_, self.coordinates)
            image = self.generator.texture(z_s, z.styles, lambda layer, *_: z.noise[layer])
        rows, cols = self.pixels.slices_in(self.drawn[-1])
        return image[..., rows, cols].float()


@dataclass(frozen=True)
class Latents:
    """What an image is optimised by; all of it takes gradients."""

    local: Tensor  # [1, C, h, w]
    global_: Tensor  # [1, D]
    styles: Tensor  # [1, L + 1, D]
    noise: list[Tensor]  # of each layer, [1, 1, H', W']

    @staticmethod
    def random(generator: Generator, around: Region, drawn: list[Region], seed: int, device: torch.device) -> Latents:
        """Those of a seed: local ones of the cells `around`, noise of the features that each layer draws."""
        local = LocalField(generator.structure.local_dim, seed, device).read(around)[None]
        field = NoiseField(seed, device)
        noise = [field(k, each.rows.first, each.cols.first, *each.shape) for k, each in enumerate(drawn)]
        latents = Latents(
            local.contiguous(memory_format=torch.channels_last),
            generated_style(generator, seed)[None].to(device),
            mean_style(generator, seed, device)[None],
            noise,
        )
        for values in (*latents.of_structure, *latents.of_texture):
            values.requires_grad_()
        return latents

    @property
    def of_structure(self) -> list[Tensor]:
        """The latents of the structure synthesizer."""
        return [self.local, self.global_]

    @property
    def of_texture(self) -> list[Tensor]:
        """The latents of the texture synthesizer."""
        return [self.styles, *self.noise]


def mean_style(generator: Generator, seed: int, device: torch.device) -> Tensor:
    """The mean of the styles of many global latents, for every layer: [L + 1, D]."""
    channels, dim = range(GLOBAL_CHANNEL, GLOBAL_CHANNEL + 1), generator.structure.global_dim
    draws = gaussian_field(torch.tensor([seed], device=device), channels, 0, 0, STYLES, dim)[0, 0]
    with torch.no_grad():
        style = generator.texture.mapping(draws).mean(0)
    return style.repeat(generator.texture.style_count, 1)


def autocorrelation(maps: Sequence[Tensor]) -> Tensor:
    """Squared correlation of noise [1, 1, H, W] with itself one row or column further (StyleGAN2, appendix D).

    The sum over the maps, both axes, and all scales, at which a map is halved by means of 2 x 2 until an edge has 8.
    """
    scales = [scale for noise in maps for scale in _scales(noise)]
    return sum((noise * noise.roll(1, axis)).mean().square() for noise in scales for axis in (2, 3))


@torch.no_grad()
def renormalize(noise: Tensor) -> None:
    """Bring noise to mean 0 and deviation 1, in place; a single value stays as it is."""
    if noise.numel() > 1:
        noise.sub_(noise.mean()).div_(noise.std().clamp(min=1e-4))


def _scales(noise: Tensor) -> Iterator[Tensor]:
    yield noise
    while min(noise.shape[2:]) > NOISE_SMALLEST:
        noise = F.avg_pool2d(noise, 2)
        yield noise
