"""Inversion by optimisation from random latents, as InfinityGAN (Lin et al., ICLR 2022) inverts: the rival of encoders.

The published settings: Adam for 3,000 steps on the local and the global latent of the structure synthesizer, and on a
style (from the mean style) and a map of noise for each layer of the texture synthesizer. The priors of latents, their
perturbation and the augmentation are left out: they serve outpainting and cost fidelity.

Letters: C channels, D style, L layers, h/w latent cells, H/W pixels.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from evaluation.fidelity import as_tensor, pixelwise
from images.writing import to_eight_bit
from inversion import PatchInverter
from inversion.synthesis import LocalField, style_of_seed
from models.geometry import Region, regions_from
from models.noise import NoiseField, noise_in

LR_STRUCTURE = 0.01  # of local and global latents
LR_TEXTURE = 0.1  # of styles and noise
RISE, FALL = 0.05, 0.25  # shares of the steps over which the rates rise and fall
NOISE_WEIGHT = 100.0  # of the penalty of noise; pixels have 1, as the perceptual term
NOISE_SMALLEST = 8  # pixels along an edge, at which no further scale of the noise is penalised
STYLES = 10_000  # draws whose mean is the first style

Perceptual = Callable[[Tensor, Tensor], Tensor]  # (reconstruction, target), [1, 3, H, W] in [-1, 1] -> scalar


def optimize(
    model: PatchInverter, image: np.ndarray, steps: int = 3000, seed: int = 0, perceptual: Perceptual | None = None
) -> list[dict[str, float]]:
    """Invert an image, uint8 [H, W, 3], of any size; points at steps 0, 1, 2, 3, 4, 6, 8, 11, ... and the last.

    A point: `step` (updates before it), `seconds`, and `psnr` in dB, of the result rounded and clipped to 8 bits.
    Minimises the mean squared difference in [-1, 1], plus `perceptual` with the same weight (as published) where it is
    given. The whole image is drawn at once, so memory grows with it. What comes before the first step does not count as
    time, nor does measuring. Not to be run in torch.inference_mode.
    """
    marks = {0, steps, *(round(2 ** (exponent / 2)) for exponent in range(2 * steps.bit_length()))}
    search, points, seconds = Search(model, image, steps, seed, perceptual), [], 0.0
    start = time.perf_counter()
    for step in range(steps + 1):
        drawn = search.step() if step < steps else search.draw()
        if step in marks:
            result = to_eight_bit(drawn.detach())[0].permute(1, 2, 0).cpu().numpy()
            seconds += time.perf_counter() - start
            points.append({"step": step, "seconds": seconds, "psnr": pixelwise(image, result)["psnr"]})
            start = time.perf_counter()
    return points


def learning_rate(progress: float) -> float:
    """The share of the full learning rate when `progress` (0 to 1) of the steps are done: line up, cosine down."""
    return min(1.0, progress / RISE) * (0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - progress) / FALL)))


class Search:
    """The latents of an image while they are optimised."""

    def __init__(
        self, model: PatchInverter, image: np.ndarray, steps: int, seed: int, perceptual: Perceptual | None
    ) -> None:
        """`image`: uint8 [H, W, 3]; `steps`: that are to come."""
        self.model, self.perceptual, device = model, perceptual, model.device
        self.generator = model.generator.requires_grad_(False)
        structure, texture = self.generator.structure, self.generator.texture
        self.target, self.cells = as_tensor(image[None], device), model.cells(image.shape[:2])
        around, field = self.cells.receptive_field(structure.rule), NoiseField(seed, device)
        self.coordinates = structure.grid.of_canvas(around, around, device)
        self.local = LocalField(structure.local_dim, seed, device).read(around)[None]  # [1, C, h, w]
        self.global_ = style_of_seed(self.generator, seed).global_latent[None].to(device)  # [1, D]
        random = torch.Generator().manual_seed(seed)
        draws = structure.styles if model.measured else torch.randn(STYLES, structure.global_dim, generator=random)
        self.styles = texture.mapping(draws.to(device)).mean(0).repeat(1, texture.style_count, 1)  # [1, L + 1, D]
        drawn = [region for stage in regions_from(self.cells, texture.stages) for region in stage.outputs]
        self.maps = [noise_in(field, layer, region) for layer, region in enumerate(drawn)]  # [1, 1, H, W] each
        groups = ([self.local, self.global_], LR_STRUCTURE), ([self.styles, *self.maps], LR_TEXTURE)
        for values in (values for latents, _ in groups for values in latents):
            values.requires_grad_()
        self.optimizer = torch.optim.Adam({"params": latents, "lr": lr} for latents, lr in groups)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: learning_rate(step / steps))

    def step(self) -> Tensor:
        """One update; returns the image [1, 3, H, W] from before it. A penalty keeps the noise from drawing the image
        itself; it is brought back to mean 0 and deviation 1.
        """
        image = self.draw()
        loss = F.mse_loss(image, self.target) + NOISE_WEIGHT * autocorrelation(self.maps)
        if self.perceptual is not None:
            loss = loss + self.perceptual(image, self.target)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        with torch.no_grad():
            for noise in self.maps:
                if noise.numel() > 1:  # a single value has no deviation
                    noise.sub_(noise.mean()).div_(noise.std().clamp(min=1e-4))
        return image

    def draw(self) -> Tensor:
        """The image [1, 3, H, W] of the latents as they are, nominally in [-1, 1]."""
        texture, origin = self.generator.texture, (self.cells.rows.first, self.cells.cols.first)
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.model.dtype == torch.bfloat16):
            z_s = self.generator.structure(self.local, self.global_, self.coordinates)
            image = texture(z_s, self.styles, lambda layer, *_: self.maps[layer], origin)
        pixels = Region.at(0, 0, *self.target.shape[2:])
        return image[..., *pixels.slices_in(self.cells.valid_output(texture.rule))].float()


def autocorrelation(maps: Iterable[Tensor]) -> Tensor:
    """Squared correlation of noise [1, 1, H, W] with itself one row or column further (StyleGAN2, appendix D).

    The sum over the maps, both axes, and all scales, at which a map is halved by means of 2 x 2 until an edge has 8.
    """
    total = 0.0
    for noise in maps:
        scales = [noise]
        while min(scales[-1].shape[2:]) > NOISE_SMALLEST:
            scales.append(F.avg_pool2d(scales[-1], 2))
        for each in scales:
            total = total + sum((each * each.roll(1, axis)).mean().square() for axis in (2, 3))
    return total
