"""Whether encoded structure latents are like those that the structure synthesizer draws, and come back from images.

C channels, h/w latent cells, n vectors: a vector is what one cell holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from evaluation.measures import ratio
from images.reading import Image
from inversion.blocks import blocks
from inversion.latents import LatentStore
from inversion.scenes import Read
from inversion.tool import Tool
from losses.latent import maximum_mean_discrepancy
from models.geometry import Interval, Region

WIDEST = 64  # cells along each axis, in the middle of an image, that are looked at
VECTORS = 1000  # of each kind, at most, whose discrepancy is measured


def middle(size: tuple[int, int], cell: int) -> Region:
    """The cells of an image of (height, width) that are centred on its pixels, at most 64 x 64 in the middle."""

    def axis(length: int) -> Interval:
        count = math.ceil(length / cell)
        first = max(count - WIDEST, 0) // 2
        return Interval(first, first + min(count, WIDEST) - 1)

    return Region(axis(size[0]), axis(size[1]))


def vectors_of(read: Read, size: tuple[int, int], cell: int) -> Tensor:
    """The vectors [n, C] of the middle of an image of (height, width), float32 on the CPU."""
    return read(middle(size, cell)).flatten(1).T.float().cpu()


def stored_vectors(stores: Iterable[LatentStore], cell: int) -> Iterator[Tensor]:
    """Vectors [n, C] of each inverted image."""
    for store in stores:
        yield vectors_of(store.read, (store.description.height, store.description.width), cell)


def generated_vectors(tool: Tool, size: int, seeds: Iterable[int]) -> Iterator[Tensor]:
    """Vectors [n, C] of the images of seeds, `size` pixels along their edges."""
    for seed in seeds:
        scene = tool.generated((size, size), seed, None)
        yield vectors_of(scene.read, scene.size, tool.cell)


class Vectors:
    """Mean and deviation of each channel over all vectors, and some 2,000 of the vectors, as many of each image."""

    def __init__(self, images: Iterable[Tensor], count: int, seed: int) -> None:
        """`images`: vectors [n, C] of each of `count` images; `seed` chooses the ones that are kept."""
        each = math.ceil(2 * VECTORS / max(count, 1))  # for two halves
        self._number, self._sum, self._square = 0, 0.0, 0.0
        kept = []
        for index, vectors in enumerate(images):
            self._number += len(vectors)
            self._sum = self._sum + vectors.double().sum(0)
            self._square = self._square + vectors.double().square().sum(0)
            order = np.random.default_rng([seed, index]).permutation(len(vectors))[:each]
            kept.append(vectors[torch.from_numpy(order)])
        self.kept = torch.cat(kept) if kept else torch.empty(0, 0)  # [n, C], image by image
        self.images = len(kept)

    @property
    def mean(self) -> Tensor:
        """[C], float64."""
        return self._sum / self._number

    @property
    def deviation(self) -> Tensor:
        """[C], float64."""
        return (self._square / self._number - self.mean.square()).clamp(min=0).sqrt()

    def halves(self) -> tuple[Tensor, Tensor]:
        """The kept vectors of the first and of the second half of the images, as many of both."""
        half = len(self.kept) // 2
        return self.kept[:half], self.kept[half : 2 * half]


def compare_latents(encoded: Vectors, generated: Vectors, seed: int) -> dict[str, float | None]:
    """The `latent_...` measures; empty where either has no vectors."""
    if not encoded.images or not generated.images:
        return {}
    scale = generated.deviation.clamp(min=1e-12)
    halves = generated.halves()
    count = min(len(encoded.kept), len(halves[0]), VECTORS)  # of few vectors the discrepancy is larger
    return {
        "latent_mean_distance": ((encoded.mean - generated.mean).abs() / scale).mean().item(),
        "latent_std_ratio": (encoded.deviation / scale).mean().item(),
        "latent_mmd": discrepancy(encoded.kept, generated.kept, count, seed),
        "latent_mmd_floor": discrepancy(*halves, count, seed) if generated.images > 1 else None,
    }


def discrepancy(x: Tensor, y: Tensor, count: int, seed: int) -> float | None:
    """Maximum mean discrepancy of `count` vectors of [n, C] and as many of [m, C], drawn by `seed`.

    None under two vectors: there is no distance to choose the kernels by.
    """
    if count < 2:
        return None
    random = np.random.default_rng(seed)
    x, y = (part[torch.from_numpy(random.permutation(len(part))[:count])] for part in (x, y))
    return maximum_mean_discrepancy(x, y).item()


@dataclass
class RelativeError:
    """Squared differences of latents from true ones, over the variance of the true ones, summed over images."""

    error: float = 0.0
    number: int = 0
    total: Tensor | float = 0.0  # of the true ones [C], float64
    square: float = 0.0

    def add(self, found: Tensor, true: Tensor) -> None:
        """Take the latents [C, h, w] of an image."""
        found, true = found.double().flatten(1).cpu(), true.double().flatten(1).cpu()
        self.error += (found - true).square().sum().item()
        self.number += true.shape[1]
        self.total = self.total + true.sum(1)
        self.square += true.square().sum().item()

    @property
    def value(self) -> float | None:
        """Mean squared error over the variance around the mean of each channel; None where there is none."""
        if not self.number:
            return None
        return ratio(self.error, self.square - self.total.square().sum().item() / self.number)


def reciprocal_error(tool: Tool, images: Sequence[np.ndarray], seeds: Sequence[int]) -> float | None:
    """E(TS(z)) against z: relative error over the cells whose context lies inside the generated images.

    images: uint8 [S, S, 3], those that `tool.generated` draws of the seeds. None where no cell has its context inside.
    """
    error, rule = RelativeError(), tool.encoder.networks.encoder.rule
    for pixels, seed in zip(images, seeds, strict=True):
        size = pixels.shape[:2]
        inner = Region.at(0, 0, *size).valid_output(rule)
        if min(inner.shape) < 1:
            return None
        true = tool.generated(size, seed, None)
        for region, found in encode(tool, pixels, inner):
            error.add(found, true.read(region))
    return error.value


def encode(tool: Tool, pixels: np.ndarray, cells: Region) -> Iterator[tuple[Region, Tensor]]:
    """The structure latents [C, h, w] of regions of an image's cells; pixels: uint8 [H, W, 3]."""
    image = Image(pixels)
    return tool.encoder.encode(image, blocks(cells, tool.plan(pixels.shape[:2]).cells))
