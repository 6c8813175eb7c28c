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

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from evaluation.fidelity import as_tensor, pixelwise
from images.writing import to_eight_bit
from inversion import PatchInverter
from inversion.synthesis import LocalField, style_of_seed
from models.generator import Generator
from models.geometry import Region
from models.noise import NoiseField

LR_STRUCTURE = 0.01  # of local and global latents
LR_TEXTURE = 0.1  # of styles and noise
RISE, FALL = 0.05, 0.25  # shares of the steps over which the rates rise and fall
NOISE_WEIGHT = 100.0  # of the penalty of noise; pixels have 1, as the perceptual term
NOISE_SMALLEST = 8  # pixels along an edge, at which no further scale of the noise is penalised
STYLES = 10_000  # draws whose mean is the first style
MARK_RATIO = math.sqrt(2)  # of the steps at which the result is measured

Perceptual = Callable[[Tensor, Tensor], Tensor]  # (reconstruction, target), [1, 3, H, W] in [-1, 1] -> scalar


def optimize(
    model: PatchInverter, image: np.ndarray, steps: int = 3000, seed: int = 0, perceptual: Perceptual | None = None
) -> Iterator[dict[str, float]]:
    """Invert an image, uint8 [H, W, 3], of any size; yields points at steps 0, 1, 2, 3, 4, 6, 8, 11, ... and the last.

    A point: `step` (updates before it), `seconds`, and `psnr` in dB, of the result rounded and clipped to 8 bits.
    Minimises the mean squared difference in [-1, 1], plus `perceptual` with the same weight (as published) where it is
    given. The whole image is drawn at once, so memory grows with it. What comes before the first step does not count as
    time, nor does what the reader of the points does in between. Not to be run in torch.inference_mode.
    """
    marks, seconds = marked_steps(steps), 0.0
    search = Search(model, image, seed, perceptual)
    start = time.perf_counter()
    for step in range(steps + 1):
        drawn = search.step(learning_rate(step / steps)) if step < steps else search.draw()
        if step in marks:
            result = to_eight_bit(drawn)[0].permute(1, 2, 0).cpu().numpy()
            seconds += time.perf_counter() - start
            yield {"step": step, "seconds": seconds, "psnr": pixelwise(image, result)["psnr"]}
            start = time.perf_counter()


def marked_steps(steps: int) -> set[int]:
    """Steps from 0 to `steps`, at intervals that grow with them."""
    powers = (round(MARK_RATIO**exponent) for exponent in range(2 * steps.bit_length()))
    return {0, steps} | {step for step in powers if step < steps}


def learning_rate(progress: float) -> float:
    """The share of the full learning rate when `progress` (0 to 1) of the steps are done: line up, cosine down."""
    return min(1.0, progress / RISE) * (0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - progress) / FALL)))


class Search:
    """The latents of an image while they are optimised."""

    def __init__(self, model: PatchInverter, image: np.ndarray, seed: int, perceptual: Perceptual | None) -> None:
        """`image`: uint8 [H, W, 3]."""
        self.model, self.perceptual, device = model, perceptual, model.device
        self.generator = model.generator.requires_grad_(False)
        self.target, structure = as_tensor(image).to(device), self.generator.structure
        self.cells = model.cells(image.shape[:2])
        around = self.cells.receptive_field(structure.rule)
        self.coordinates = structure.grid.of_canvas(around, around, device)
        self.local = LocalField(structure.local_dim, seed, device).read(around)[None]  # [1, C, h, w]
        self.global_ = style_of_seed(self.generator, seed).global_latent[None].to(device)  # [1, D]
        self.styles = mean_style(self.generator, seed, device)[None]  # [1, L + 1, D]
        self.noise = NoiseMaps(NoiseField(seed, device))
        self.draw()  # the maps of noise get the sizes that the layers ask for
        groups = ([self.local, self.global_], LR_STRUCTURE), ([self.styles, *self.noise.maps.values()], LR_TEXTURE)
        for latents, _ in groups:
            for values in latents:
                values.requires_grad_()
        self.optimizer = torch.optim.Adam({"params": latents, "lr": lr, "full_lr": lr} for latents, lr in groups)

    def step(self, rate: float) -> Tensor:
        """One update, with the learning rates times `rate`; returns the image [1, 3, H, W] from before it."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["full_lr"]
        maps = list(self.noise.maps.values())
        with torch.enable_grad():
            image = self._image()
            loss = F.mse_loss(image, self.target) + NOISE_WEIGHT * autocorrelation(maps)
            if self.perceptual is not None:
                loss = loss + self.perceptual(image, self.target)
            self.optimizer.zero_grad()
            loss.backward()
        self.optimizer.step()
        for noise in maps:
            renormalize(noise)
        return image.detach()

    @torch.no_grad()
    def draw(self) -> Tensor:
        """The image [1, 3, H, W] of the latents as they are, nominally in [-1, 1]."""
        return self._image()

    def _image(self) -> Tensor:
        texture, origin = self.generator.texture, (self.cells.rows.first, self.cells.cols.first)
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.model.dtype == torch.bfloat16):
            z_s = self.generator.structure(self.local, self.global_, self.coordinates)
            image = texture(z_s, self.styles, self.noise, origin)
        pixels = Region.at(0, 0, *self.target.shape[2:])
        return image[..., *pixels.slices_in(self.cells.valid_output(texture.rule))].float()


class NoiseMaps:
    """Noise to optimise: the map of each layer is that of a field, as it is asked for the first time."""

    def __init__(self, field: NoiseField) -> None:
        self.field, self.maps = field, {}

    def __call__(self, layer: int, *place: int) -> Tensor:
        """The map [1, 1, H, W] of a layer."""
        if layer not in self.maps:
            self.maps[layer] = self.field(layer, *place)
        return self.maps[layer]


def mean_style(generator: Generator, seed: int, device: torch.device) -> Tensor:
    """The mean of the styles of many global latents, for every layer: [L + 1, D]."""
    draws = torch.randn(STYLES, generator.structure.global_dim, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        style = generator.texture.mapping(draws.to(device)).mean(0)
    return style.repeat(generator.texture.style_count, 1)


def autocorrelation(maps: Sequence[Tensor]) -> Tensor:
    """Squared correlation of noise [1, 1, H, W] with itself one row or column further (StyleGAN2, appendix D).

    The sum over the maps, both axes, and all scales, at which a map is halved by means of 2 x 2 until an edge has 8.
    """
    total = 0.0
    for noise in maps:
        while True:
            total = total + sum((noise * noise.roll(1, axis)).mean().square() for axis in (2, 3))
            if min(noise.shape[2:]) <= NOISE_SMALLEST:
                break
            noise = F.avg_pool2d(noise, 2)
    return total


@torch.no_grad()
def renormalize(noise: Tensor) -> None:
    """Bring noise to mean 0 and deviation 1, in place; a single value stays as it is."""
    if noise.numel() > 1:
        noise.sub_(noise.mean()).div_(noise.std().clamp(min=1e-4))
