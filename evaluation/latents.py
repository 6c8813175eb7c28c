"""Whether encoded structure latents are like those that the structure synthesizer draws, and come back from images.

C channels, h/w latent cells, n vectors: a vector is what one cell holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from evaluation.measures import ratio
from inversion import Latents, PatchInverter
from losses.latent import maximum_mean_discrepancy
from models.geometry import Region

KEPT = 20_000  # vectors of either kind, about, whose mean and deviation are compared
VECTORS = 1000  # of these, at most, whose discrepancy is measured


def window(model: PatchInverter, latents: Latents, cells: Region | None = None) -> Tensor:
    """The structure latents [C, h, w] of a region of cells, float32 on the CPU; None: those centred on pixels."""
    cells = cells or Region.at(0, 0, *(math.ceil(length / model.cell) for length in latents.size))
    values = latents.structure[:, *cells.slices_in(model.cells(latents.size))]
    return torch.from_numpy(np.ascontiguousarray(values))


def sample(structure: Tensor, images: int, key: Sequence[int]) -> Tensor:
    """Vectors [n, C] of the latents [C, h, w] of an image, chosen by `key`: as many of each of so many images."""
    vectors = structure.flatten(1).T
    order = np.random.default_rng(key).permutation(len(vectors))[: math.ceil(KEPT / max(images, 1))]
    return vectors[torch.from_numpy(order)]


def compare_latents(encoded: Sequence[Tensor], generated: Sequence[Tensor], seed: int) -> dict[str, float | None]:
    """The `latent_...` measures of the vectors [n, C] of images; empty where there are none of either kind."""
    if not encoded or not generated:
        return {}
    half = len(generated) // 2
    halves = [torch.cat(part) for part in (generated[:half], generated[half:])] if half else []  # of different images
    encoded, generated = torch.cat(encoded), torch.cat(generated)
    scale = generated.std(0, correction=0).clamp(min=1e-12)
    count = min(VECTORS, *map(len, (encoded, generated, *halves)))  # of few vectors the discrepancy is larger
    return {
        "latent_mean_distance": ((encoded.mean(0) - generated.mean(0)).abs() / scale).mean().item(),
        "latent_std_ratio": (encoded.std(0, correction=0) / scale).mean().item(),
        "latent_mmd": discrepancy(encoded, generated, count, seed),
        "latent_mmd_floor": discrepancy(*halves, count, seed) if halves else None,
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


def relative_error(pairs: Iterable[tuple[Tensor, Tensor]]) -> float | None:
    """Mean squared error of latents [C, h, w] over the variance of the true ones around the mean of each channel.

    `pairs`: found and true ones of each image, of which all vectors count the same. None where nothing varies.
    """
    error, square, total, number = 0.0, 0.0, 0.0, 0
    for found, true in pairs:
        found, true = found.double().flatten(1), true.double().flatten(1)
        error += (found - true).square().sum().item()
        square += true.square().sum().item()
        total, number = total + true.sum(1), number + true.shape[1]
    return ratio(error, square - total.square().sum().item() / number) if number else None


def reciprocal_error(model: PatchInverter, images: Sequence[np.ndarray], seeds: Sequence[int]) -> float | None:
    """E(TS(z)) against z: relative error over the cells whose context lies inside the generated images.

    images: uint8 [S, S, 3], those that `model.generate` gives of the seeds. None where no cell has its context inside.
    """

    def pairs() -> Iterator[tuple[Tensor, Tensor]]:
        for pixels, seed in zip(images, seeds, strict=True):
            size = pixels.shape[:2]
            inner = Region.at(0, 0, *size).valid_output(model.networks.encoder.rule)
            if min(inner.shape) > 0:
                latents = model.encode(pixels), model.generate(*size, seed)
                yield tuple(window(model, each, inner) for each in latents)

    return relative_error(pairs())
