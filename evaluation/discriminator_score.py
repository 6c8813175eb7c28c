"""What a discriminator makes of images. Letters: B crops, P pixels along their edges."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from evaluation.measures import mean
from models import build_discriminator
from models.discriminator import Discriminator
from models.geometry import Interval, texture
from models.weights import read_weights
from utils.errors import UserError

CROPS = 4  # of each image


@dataclass(frozen=True)
class DiscriminatorScore:
    """A discriminator, and the patches that it judges."""

    network: Discriminator
    patch: int  # pixels
    group: int  # crops that are judged together, as in training
    device: torch.device

    @staticmethod
    def load(path: str | Path, device: torch.device) -> DiscriminatorScore:
        """The discriminator of a generator run. UserError if the file holds none."""
        weights = read_weights(path)
        head = weights.tensors.get("discriminator.score.0.weight")
        if head is None:
            raise UserError(f"{path}: holds no discriminator; generator runs write one, discriminator.safetensors")
        patch = patch_of(head.shape[1], weights.model)
        network = weights.fill("discriminator", build_discriminator(weights.model, patch)).to(device)
        return DiscriminatorScore(network, patch, weights.model["discriminator"]["minibatch_group"], device)

    @torch.inference_mode()
    def __call__(self, images: Iterable[np.ndarray], seed: int) -> float | None:
        """Mean score of crops of uint8 images [H, W, 3], at places drawn by `seed`; None where all are too small.

        Those that are judged together are of different images as far as there are.
        """
        crops = [self._crops(image, [seed, index]) for index, image in enumerate(images) if self._holds_patch(image)]
        if not crops:
            return None
        ordered = torch.from_numpy(np.stack(crops, axis=1)).flatten(0, 1)  # all first crops, then all second ones ...
        batches = (batch.permute(0, 3, 1, 2).float() / 127.5 - 1 for batch in ordered.split(self.group))
        return mean(score for batch in batches for score in self.network(batch.to(self.device))[0].tolist())

    def _holds_patch(self, image: np.ndarray) -> bool:
        return min(image.shape[:2]) >= self.patch

    def _crops(self, image: np.ndarray, key: list[int]) -> np.ndarray:
        """[CROPS, P, P, 3] uint8."""
        room = image.shape[0] - self.patch + 1, image.shape[1] - self.patch + 1
        places = np.random.default_rng(key).integers(0, room, (CROPS, 2)).tolist()
        return np.stack([image[top : top + self.patch, left : left + self.patch] for top, left in places])


def patch_of(features: int, model: dict) -> int:
    """Pixels of the patches that a discriminator was built for, by the inputs of its head and its `model` section.

    Halving forgets some pixels, so several sizes are possible: the smallest one that whole latent cells draw.
    """
    widths, rule = model["discriminator"]["widths"], texture(model["stages"])
    halvings, edge = len(widths) - 1, math.isqrt(features // widths[-1])
    sizes = (rule.valid_output(Interval(0, cells)).size for cells in range(2 ** (halvings + 8)))
    return next((size for size in sizes if size >> halvings == edge), edge << halvings)
