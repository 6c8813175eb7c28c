"""What is measured of photographs, one after the other: fidelity, time and memory, seams, cycles, curves, and edits.

Letters: H, W pixels.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from torch import Tensor

from evaluation.discriminator_score import DiscriminatorScore
from evaluation.fidelity import LARGEST, perceived, pixelwise
from evaluation.inception import Inception
from evaluation.latents import relative_error, sample, window
from evaluation.measures import mean, ratio
from evaluation.optimization import optimize
from evaluation.report import number_text, shrunk
from evaluation.seams import SMALLEST, SeamScore
from images.reading import Image
from inversion import Latents, PatchInverter
from inversion.commands import noise_of
from losses.perceptual import LPIPS
from utils import log
from utils.device import peak_memory_mib, release_freed_memory, reset_peak_memory

REFINEMENTS = (0, 3, 10, 30, 100)  # steps
Pictures = dict[str, dict[str, np.ndarray]]  # image name -> caption -> uint8 [H, W, 3]


@dataclass(frozen=True)
class PretrainedMetrics:
    """Networks that others trained, and a discriminator: those that are asked for."""

    lpips: LPIPS | None = None
    inception: Inception | None = None
    discriminator: DiscriminatorScore | None = None


@dataclass(frozen=True)
class EvaluatedModel:
    """A checkpoint, and how it is used and measured."""

    name: str
    model: PatchInverter
    options: dict  # the `evaluate` section
    infer: dict  # the `infer` section
    seed: int
    metrics: PretrainedMetrics

    def invert(self, image: Image | np.ndarray, refined: bool = True) -> Latents:
        """The latents of an image, as the `infer` options say; `refined`: False leaves the structure as encoded."""
        options, steps = self.infer, self.infer.refine if refined else 0
        prior, style_steps, noise = options.refine_prior, options.refine_style, noise_of(options)
        return self.model.invert(image, refine=steps, prior=prior, style_steps=style_steps, noise=noise)

    @property
    def in_blocks(self) -> EvaluatedModel:
        """The same networks, with images cut into small blocks."""
        tiling = replace(self.model.tiling, block=self.options.seam_block)
        return replace(self, model=replace(self.model, tiling=tiling))


@dataclass(frozen=True)
class Inversion:
    """A photograph and what became of it."""

    photograph: np.ndarray  # uint8 [H, W, 3]
    latents: Latents
    result: np.ndarray  # uint8 [H, W, 3]


class PhotographMeasures:
    """Measures of photographs that arrive one by one. Kept are figures, and the detailed inversions for the edits."""

    def __init__(self, evaluated: EvaluatedModel, names: Sequence[str]) -> None:
        """`names`: of all photographs that are to come, even if some of them fail."""
        self.evaluated, self.model, options = evaluated, evaluated.model, evaluated.options
        self.details = spread(names, options.details)
        self.pictured = spread(self.details or names, options.pictures)
        self.optimized = spread(self.details or names, options.optimized)
        self.rows: list[dict] = []  # of all images
        self.kept: dict[str, Inversion] = {}  # the detailed ones
        self.pictures: Pictures = {}
        self.vectors: list[Tensor] = []  # of structure latents, [n, C]
        self._count = len(names)
        self._cycles, self._refined, self._random = [], [], []  # series of images: lists of points
        self._seams = SeamScore(self.model.cell, options.seam_block)
        self._has_seams = options.seam_block >= SMALLEST * self.model.cell
        if self.details and not self._has_seams:
            smallest = f"{options.seam_block} px, but {SMALLEST * self.model.cell} are needed"
            log.info(f"note: {evaluated.name}: no seams measured; evaluate.seam_block: {smallest}")

    def add(self, name: str, image: Image) -> None:
        """Invert a photograph, and measure it."""
        photograph = np.array(image.window(0, 0, image.height, image.width))
        inversion, taken = self._invert(image, photograph)
        figures = pixelwise(photograph, inversion.result)
        figures |= perceived(photograph, inversion.result, self.evaluated.metrics.lpips, self.model.device)
        self.rows.append({"name": name, "height": image.height, "width": image.width, **figures, **taken})
        key = self.evaluated.seed, len(self.vectors)
        self.vectors.append(sample(window(self.model, inversion.latents), self._count, key))
        if name in self.details:
            self.kept[name] = inversion
            self._cycles.append(list(self._repeat(inversion)))
            if self._has_seams:
                self._add_seams(image, inversion)
        if name in self.optimized:
            steps, lpips = self.evaluated.options.optimization_steps, self.evaluated.metrics.lpips
            self._refined.append(list(self._refine(image, photograph)))
            points = optimize(self.model, photograph, steps, self.evaluated.seed, lpips and lpips.distance)
            self._random.append(list(points))
        if name in self.pictured and image.height * image.width <= LARGEST:
            self.pictures[name] = self._pictures_of(name, inversion, figures["psnr"])

    def means(self) -> dict[str, float | None]:
        """The means over the images, what the inversions took, and the seam score."""
        megapixels = sum(row["height"] * row["width"] for row in self.rows) / 1e6
        return {key: mean(row[key] for row in self.rows) for key in ("psnr", "ssim", "ms_ssim", "lpips")} | {
            "seconds_per_megapixel": ratio(sum(row["seconds"] for row in self.rows), megapixels),
            "peak_memory_mib": max((row["peak_memory_mib"] for row in self.rows), default=None),
            "seam_score": self._seams.score,
        }

    def series(self) -> dict:
        """`cycles`: fidelity after each of the inversions in turn; `curves`: PSNR over seconds of optimisation.

        Means over the detailed, and over the optimised, images.
        """
        curves = {"refinement": self._refined, "random latents": self._random}
        means = {key: averaged(points, ("seconds", "psnr")) for key, points in curves.items() if points}
        cycles = averaged(self._cycles, ("psnr", "ssim"))
        return {"cycles": [{"cycle": k + 1, **point} for k, point in enumerate(cycles)], "curves": means}

    def _invert(self, image: Image, photograph: np.ndarray) -> tuple[Inversion, dict[str, float]]:
        """An inversion, and the seconds and the memory (beyond what was held before) that it took."""
        device = self.model.device
        release_freed_memory()
        reset_peak_memory(device)
        held, start = peak_memory_mib(device), time.perf_counter()
        latents = self.evaluated.invert(image)
        inversion = Inversion(photograph, latents, self.model.draw(latents))
        return inversion, {"seconds": time.perf_counter() - start, "peak_memory_mib": peak_memory_mib(device) - held}

    def _add_seams(self, image: Image, inversion: Inversion) -> None:
        # as encoded: refined latents have blocks of their own, whatever the others are
        whole, other = inversion.result, self.evaluated.in_blocks
        if self.evaluated.infer.refine:
            whole = self.model.draw(self.evaluated.invert(image, refined=False))
        in_blocks = other.model.draw(other.invert(image, refined=False))
        self._seams.add(whole, in_blocks, self.model.cells(whole.shape[:2]))

    def _repeat(self, inversion: Inversion) -> Iterator[dict[str, float]]:
        """Points of a series: inversions, each of the result before, against the photograph."""
        result = inversion.result
        yield pixelwise(inversion.photograph, result)
        for _ in range(self.evaluated.options.cycles - 1):
            result = self.model.draw(self.evaluated.invert(result))
            yield pixelwise(inversion.photograph, result)

    def _refine(self, image: Image, photograph: np.ndarray) -> Iterator[dict[str, float]]:
        """Points of a series: `seconds` of encoding, so many steps of refinement, and drawing, and `psnr`."""
        options, start = self.evaluated.infer, time.perf_counter()
        encoded = self.model.encode(image, style_steps=options.refine_style, noise=noise_of(options), refined=True)
        before = time.perf_counter() - start
        self.model.refine(encoded, image, 1)  # what a process does once does not count
        for steps in REFINEMENTS:
            start = time.perf_counter()
            latents = self.model.refine(encoded, image, steps, prior=options.refine_prior) if steps else encoded
            result = self.model.draw(latents)
            yield {"seconds": before + time.perf_counter() - start} | pixelwise(photograph, result)

    def _pictures_of(self, name: str, inversion: Inversion, psnr: float) -> dict[str, np.ndarray]:
        label, photograph, result = self.evaluated.name, inversion.photograph, inversion.result
        error = cv2.convertScaleAbs(cv2.absdiff(photograph, result), alpha=4)
        pictures = {name: photograph, f"{label}, {number_text(psnr, 2)} dB": result, f"{label}: error × 4": error}
        return {caption: shrunk(picture) for caption, picture in pictures.items()}


def measure_edits(evaluated: EvaluatedModel, kept: dict[str, Inversion]) -> tuple[dict[str, float | None], Pictures]:
    """Measures of images that are each drawn in the style of the next one, and pictures of some of them."""
    model, names, pairs, edits, pictures = evaluated.model, list(kept), [], [], {}
    pictured = spread(names, evaluated.options.pictures)
    for name, other in zip(names, names[1:] + names[:1], strict=True):
        own, source = kept[name], kept[other]
        edits.append(model.draw(own.latents.with_style(source.latents.style)))
        pairs.append((window(model, evaluated.invert(edits[-1])), window(model, own.latents)))
        if name in pictured:
            shown = {name: own.photograph, f"style of {other}": source.photograph, f"{evaluated.name}: edit": edits[-1]}
            pictures[name] = {caption: shrunk(picture) for caption, picture in shown.items()}
    error, score = relative_error(pairs), evaluated.metrics.discriminator
    measures = {"edit_consistency": None if error is None else 1 - error}
    if score:
        reconstructions, photographs = zip(*((each.result, each.photograph) for each in kept.values()), strict=True)
        sets = {"edit_score": edits, "reconstruction_score": reconstructions, "real_score": photographs}
        measures |= {key: score(images, evaluated.seed) for key, images in sets.items()}
    return measures, pictures


def averaged(series: Sequence[Sequence[dict]], keys: Sequence[str]) -> list[dict[str, float | None]]:
    """The means of series, point by point."""
    return [{key: mean(point[key] for point in points) for key in keys} for points in zip(*series, strict=True)]


def spread(names: Sequence[str], count: int) -> list[str]:
    """At most `count` of the names, evenly spread over all."""
    return [names[k] for k in np.unique(np.linspace(0, len(names) - 1, min(count, len(names))).astype(int))]
