"""Inversions of photographs, and what is measured of them: fidelity, time and memory, seams, cycles, curves.

Letters: H, W pixels.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from evaluation.discriminator_score import DiscriminatorScore
from evaluation.fidelity import perceived, pixelwise
from evaluation.inception import Inception
from evaluation.latents import relative_error, window
from evaluation.linear import redraw
from evaluation.optimization import optimize
from evaluation.report import Pictures, number_text, webp
from evaluation.seams import SMALLEST, seam_score
from images.reading import Image
from images.writing import error_times_four
from inversion import Latents, PatchInverter
from inversion.jobs import noise_of
from losses.perceptual import LPIPS
from models.geometry import Region
from models.trunk import Trunk
from utils.device import peak_memory_mib, release_freed_memory, reset_peak_memory

REFINEMENTS = (0, 3, 10, 30, 100)  # steps
Points = list[dict[str, float]]  # of a series


@dataclass(frozen=True)
class EvaluatedModel:
    """A checkpoint, how it is used, and what measures it: options, and the networks of others that they ask for."""

    name: str
    model: PatchInverter
    options: dict  # the `evaluate` section
    infer: dict  # the `infer` section
    seed: int
    lpips: LPIPS | None = None
    inception: Inception | None = None
    discriminator: DiscriminatorScore | None = None

    def invert(self, image: Image | np.ndarray, refined: bool = True) -> Latents:
        """The latents of an image, as the `infer` options say; `refined`: False leaves the structure as encoded."""
        options, steps = self.infer, self.infer.refine if refined else 0
        prior, style_steps, noise = options.refine_prior, options.refine_style, noise_of(options)
        return self.model.invert(
            image, refine=steps, prior=prior, style_steps=style_steps, noise=noise, channels=options.channels
        )

    def redraw(self, image: Image | np.ndarray, refined: bool = True) -> np.ndarray:
        """An inversion of an image, uint8 [H, W, 3]."""
        return self.model.draw(self.invert(image, refined))


@dataclass(frozen=True)
class Inversion:
    """A photograph and what became of it."""

    image: Image
    latents: Latents
    result: np.ndarray  # uint8 [H, W, 3]

    @property
    def photograph(self) -> np.ndarray:
        """uint8 [H, W, 3]."""
        return self.image.window(0, 0, self.image.height, self.image.width)


def measure_inversion(
    evaluated: EvaluatedModel, image: Image, linear: Trunk | None
) -> tuple[Inversion, dict[str, float | None]]:
    """An inversion, its fidelity beside a linear transform's, and the seconds and the memory that it took.

    Memory is that beyond what was held before.
    """
    model, device = evaluated.model, evaluated.model.device
    release_freed_memory()
    reset_peak_memory(device)
    held, start = peak_memory_mib(device), time.perf_counter()
    latents = evaluated.invert(image)
    inversion = Inversion(image, latents, model.draw(latents))
    taken = {"seconds": time.perf_counter() - start, "peak_memory_mib": peak_memory_mib(device) - held}
    pair = inversion.photograph, inversion.result
    channels = latents.structure.shape[0]
    taken["values_per_pixel"] = channels / model.cell**2
    taken["psnr_linear"] = linear and pixelwise(pair[0], redraw(linear, pair[0], channels))["psnr"]
    return inversion, pixelwise(*pair) | perceived(*pair, evaluated.lpips, device) | taken


def measure_seams(evaluated: EvaluatedModel, inversions: Iterable[Inversion]) -> float | None:
    """The seam score of images as encoded: refined latents have blocks of their own, whatever the others are.

    None where blocks of `evaluate.seam_block` are too small to have anything to compare with.
    """
    model, block = evaluated.model, evaluated.options.seam_block
    if block < SMALLEST * model.cell:
        return None
    models = evaluated, replace(evaluated, model=PatchInverter(model.networks, model.device, model.dtype, block))
    pairs = (([each.redraw(x.image, refined=False) for each in models], x.latents.size) for x in inversions)
    return seam_score(((*pair, model.cells(size)) for pair, size in pairs), model.cell, block)


def measure_reciprocal(evaluated: EvaluatedModel, inversions: Iterable[Inversion]) -> float | None:
    """E(TS(z)) against the z of photographs: relative error over the cells whose context lies inside the images."""
    model, pairs = evaluated.model, []
    for each in inversions:
        inner = Region.at(0, 0, *each.latents.size).valid_output(model.networks.encoder.rule)
        if min(inner.shape) > 0:
            found = model.encode(each.result, channels=evaluated.infer.channels)
            pairs.append((window(model, found, inner), window(model, each.latents, inner)))
    return relative_error(pairs)


def measure_cycles(evaluated: EvaluatedModel, inversion: Inversion) -> Points:
    """Fidelity to the photograph of inversions, each of the result of the one before."""
    photograph, result = inversion.photograph, inversion.result
    points = [pixelwise(photograph, result)]
    for _ in range(evaluated.options.cycles - 1):
        result = evaluated.redraw(result)
        points.append(pixelwise(photograph, result))
    return points


def measure_curves(evaluated: EvaluatedModel, inversion: Inversion) -> dict[str, Points]:
    """`seconds` and `psnr` of refinements (of encoding, so many steps, and drawing), and from random latents."""
    model, options, image, points = evaluated.model, evaluated.infer, inversion.image, []
    start = time.perf_counter()
    encoded = model.encode(image, style_steps=options.refine_style, noise=noise_of(options), refined=True)
    before = time.perf_counter() - start
    model.refine(encoded, image, 1)  # what a process does once does not count
    for steps in REFINEMENTS:
        start = time.perf_counter()
        result = model.draw(model.refine(encoded, image, steps, prior=options.refine_prior))
        seconds = before + time.perf_counter() - start
        points.append({"seconds": seconds} | pixelwise(inversion.photograph, result))
    perceptual, steps = evaluated.lpips and evaluated.lpips.distance, evaluated.options.optimization_steps
    return {
        "refinement": points,
        "random latents": optimize(model, inversion.photograph, steps, evaluated.seed, perceptual),
    }


def pictures_of(evaluated: EvaluatedModel, kept: Mapping[str, Inversion]) -> Pictures:
    """Some of the photographs, their inversions, and the errors."""
    pictures = {}
    for name in spread(list(kept), evaluated.options.pictures):
        pair = kept[name].photograph, kept[name].result
        psnr = number_text(pixelwise(*pair)["psnr"], 2)
        captions = name, f"{evaluated.name}, {psnr} dB", f"{evaluated.name}: error × 4"
        pictures[name] = dict(zip(captions, map(webp, (*pair, error_times_four(*pair))), strict=True))
    return pictures


def spread(names: Sequence[str], count: int) -> list[str]:
    """At most `count` of the names, evenly spread over all."""
    return [names[k] for k in np.unique(np.linspace(0, len(names) - 1, min(count, len(names))).astype(int))]
