"""What a discriminator makes of images. Letters: P pixels along the edges of its patches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from evaluation.fidelity import as_tensor
from evaluation.measures import mean
from evaluation.sets import places
from models import build_discriminator
from models.geometry import Interval, texture
from models.weights import read_weights
from utils.errors import UserError

CROPS = 4  # of each image


class DiscriminatorScore:
    """The discriminator of a generator run, and the patches that it judges."""

    def __init__(self, path: str | Path, device: torch.device) -> None:
        """UserError if the file holds no discriminator."""
        weights = read_weights(path)
        if not weights.has("discriminator"):
            raise UserError(f"{path}: holds no discriminator; generator runs write one, discriminator.safetensors")
        self.patch = patch_of(weights.tensors["discriminator.score.0.weight"].shape[1], weights.model)
        self.network = weights.fill("discriminator", build_discriminator(weights.model, self.patch)).to(device)
        self.group, self.device = weights.model["discriminator"]["minibatch_group"], device  # crops judged together

    @torch.inference_mode()
    def __call__(self, images: Sequence[np.ndarray], seed: int) -> float | None:
        """Mean score of crops of uint8 images [H, W, 3], at places drawn by `seed`; None where all are too small.

        Those that are judged together, as in training, are of different images as far as there are.
        """
        patch, crops = self.patch, []
        for index, image in enumerate(images):
            found = places(*image.shape[:2], patch, CROPS, (seed, index))
            crops.append([image[top : top + patch, left : left + patch] for top, left in found])
        ordered = [crop for turn in zip(*filter(None, crops), strict=True) for crop in turn]  # all first ones, then ...
        batches = as_tensor(np.stack(ordered), self.device).split(self.group) if ordered else ()
        return mean(score for batch in batches for score in self.network(batch)[0].tolist())


def patch_of(features: int, model: dict) -> int:
    """Pixels of the patches that a discriminator was built for, by the inputs of its head and its `model` section.

    Halving forgets some pixels, so several sizes are possible: the smallest one that whole latent cells draw.
    """
    widths, rule = model["discriminator"]["widths"], texture(model["stages"])
    halvings, edge = len(widths) - 1, math.isqrt(features // widths[-1])
    sizes = (rule.valid_output(Interval(0, cells)).size for cells in range(2 ** (halvings + 8)))
    return next((size for size in sizes if size >> halvings == edge), edge << halvings)
