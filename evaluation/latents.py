"""Whether encoded structure latents are like those that the structure synthesizer draws, and come back from images.

C channels, h/w latent cells, n vectors: a vector is what one cell holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

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


def sample(model: PatchInverter, latents: Latents, images: int, key: Sequence[int]) -> Tensor:
    """Structure vectors [n, C] of an image, chosen by `key`: as many of each of so many images."""
    values = window(model, latents)[: model.generator.structure.local_dim]
    return _chosen(values.flatten(1).T, math.ceil(KEPT / max(images, 1)), key)


def compare_latents(encoded: Sequence[Tensor], generated: Sequence[Tensor], seed: int) -> dict[str, float | None]:
    """The `latent_...` measures of the vectors [n, C] of images; empty where there are none of either kind."""
    if not encoded or not generated:
        return {}
    half = len(generated) // 2
    halves = [torch.cat(part) for part in (generated[:half], generated[half:])] if half else []  # of different images
    pair = encoded, generated = torch.cat(encoded), torch.cat(generated)
    scale = generated.std(0, correction=0).clamp(min=1e-12)
    count = min(VECTORS, *map(len, (*pair, *halves)))  # of few vectors the discrepancy is larger

    def discrepancy(sets: Sequence[Tensor]) -> float | None:
        if count < 2 or not sets:  # of one vector there is no distance to choose the kernels by
            return None
        random = np.random.default_rng(seed)
        return maximum_mean_discrepancy(*(_chosen(each, count, random) for each in sets)).item()

    return {
        "latent_mean_distance": ((encoded.mean(0) - generated.mean(0)).abs() / scale).mean().item(),
        "latent_std_ratio": (encoded.std(0, correction=0) / scale).mean().item(),
        "latent_mmd": discrepancy(pair),
        "latent_mmd_floor": discrepancy(halves),
    }


def relative_error(pairs: Iterable[tuple[Tensor, Tensor]]) -> float | None:
    """Mean squared error of latents [C, h, w] over the variance of the true ones around the mean of each channel.

    `pairs`: found and true ones of each image, of which all vectors count the same. None where nothing varies.
    """
    error, square, total, number = 0.0, 0.0, torch.zeros(()), 0
    for found, true in pairs:
        found, true = found.double().flatten(1), true.double().flatten(1)
        error += (found - true).square().sum().item()
        square += true.square().sum().item()
        total, number = total + true.sum(1), number + true.shape[1]
    variance = square - total.square().sum().item() / max(number, 1)
    return error / variance if variance > 0 else None


def reciprocal_error(model: PatchInverter, images: np.ndarray, seeds: Sequence[int]) -> float | None:
    """E(TS(z)) against z: relative error over the cells whose context lies inside the generated images.

    images: uint8 [N, S, S, 3], those that `model.generate` gives of the seeds. None where no cell has its context
    inside.
    """
    size = images.shape[1:3]
    inner = Region.at(0, 0, *size).valid_output(model.networks.encoder.rule)
    found = zip(images, seeds, strict=True) if min(inner.shape) > 0 else ()
    pairs = ((model.encode(pixels), model.generate(*size, seed)) for pixels, seed in found)
    return relative_error(tuple(window(model, each, inner) for each in pair) for pair in pairs)


def _chosen(vectors: Tensor, count: int, key: np.random.Generator | Sequence[int]) -> Tensor:
    """At most so many of the vectors [n, C]."""
    return vectors[torch.from_numpy(np.random.default_rng(key).permutation(len(vectors))[:count])]
