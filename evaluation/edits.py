"""What stays of an image that is edited or inverted again and again, and what a discriminator makes of it.

Letters: B crops, P pixels along their edges.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from evaluation.fidelity import pixelwise
from evaluation.inversions import PICTURES, Inversions, Invert, existing, invert_images
from evaluation.latents import RelativeError, middle
from evaluation.measures import mean
from images.reading import Image
from inversion.tool import Tool
from models import build_discriminator
from models.discriminator import Discriminator
from models.geometry import Interval, texture
from models.weights import read_weights
from utils.errors import UserError

CROPS = 4  # of each image


def draw_edits(tool: Tool, inversions: Inversions, names: Sequence[str], folder: Path) -> dict[str, Path]:
    """Draw each image in the style (global latent) of the next one of the list; the pictures by name."""
    stores = [tool.open_latents(inversions.latents(name)) for name in names]
    with redirect_stdout(io.StringIO()):
        for name, store, other in zip(names, stores, stores[1:] + stores[:1], strict=True):
            tool.draw_picture(replace(tool.scene(store), style=other.z_g), folder / f"{name}.png")
    return {name: existing(folder, name, PICTURES) for name in names}


def edit_consistency(tool: Tool, inversions: Inversions, edited: Inversions) -> float | None:
    """1 - relative error of the structure latents of edits, encoded again, against those that they were drawn from."""
    error = RelativeError()
    for name in edited.rows:
        own, again = (tool.open_latents(each.latents(name)) for each in (inversions, edited))
        cells = middle((own.description.height, own.description.width), tool.cell)
        error.add(again.read(cells), own.read(cells))
    return None if error.value is None else 1 - error.value


def invert_in_cycles(
    invert: Invert,
    photographs: Mapping[str, Path],
    first: Inversions,  # of these photographs
    count: int,
    folder: Path,
    read: Callable[[Path], Image],
) -> list[dict[str, float | None]]:
    """`psnr` and `ssim` against the photographs of inversions, each of the result before, means over the images.

    Returns [{"cycle": 1, "psnr": ..., "ssim": ...}, ...]: images that fail in a cycle are missing from then on.
    """
    cycles, inversions = [_cycle(1, [first.rows[name] for name in photographs])], first
    names = list(photographs)
    for cycle in range(2, count + 1):
        results = {name: inversions.reconstruction(name) for name in names}
        if not results:
            break
        inversions = invert_images(invert, results, folder / str(cycle))
        names = list(inversions.rows)
        pairs = ((read(photographs[name]), read(inversions.reconstruction(name))) for name in names)
        cycles.append(_cycle(cycle, [pixelwise(*pair) for pair in pairs]))
    return cycles


def _cycle(number: int, figures: Sequence[Mapping[str, float]]) -> dict[str, float | None]:
    return {"cycle": number} | {key: mean(each[key] for each in figures) for key in ("psnr", "ssim")}


@dataclass(frozen=True)
class Critic:
    """A discriminator, and the patches that it judges."""

    network: Discriminator
    patch: int  # pixels
    group: int  # crops that are judged together, as in training
    device: torch.device

    @staticmethod
    def load(path: Path, device: torch.device) -> Critic:
        """The discriminator of a generator run. UserError if the file holds none."""
        weights = read_weights(path)
        if not weights.has("discriminator"):
            raise UserError(f"{path}: holds no discriminator; generator runs write one, discriminator.safetensors")
        patch = patch_of(weights.tensors["discriminator.score.0.weight"].shape[1], weights.model)
        network = weights.fill("discriminator", build_discriminator(weights.model, patch)).to(device)
        return Critic(network, patch, weights.model["discriminator"]["minibatch_group"], device)

    @torch.inference_mode()
    def score(self, images: Iterable[Image], seed: int) -> float | None:
        """Mean score of crops of 8-bit images, at places drawn by `seed`; None where all images are too small."""
        scores: list[float] = []
        for batch in self._batches(images, seed):
            scores += self.network(batch.to(self.device))[0].tolist()
        return mean(scores)

    def _batches(self, images: Iterable[Image], seed: int) -> Iterator[Tensor]:
        """Crops [B, 3, P, P] in [-1, 1]; those that are judged together are of different images as far as there are."""
        crops = [self._crops(image, [seed, index]) for index, image in enumerate(images)]
        crops = [each for each in crops if each is not None]
        if crops:
            ordered = torch.stack(crops, dim=1).flatten(0, 1)  # all first crops, then all second ones ...
            for batch in ordered.split(self.group):
                yield batch.float() / 127.5 - 1

    def _crops(self, image: Image, key: Sequence[int]) -> Tensor | None:
        """[CROPS, 3, P, P] uint8; None of an image that is smaller than a patch."""
        room = image.height - self.patch + 1, image.width - self.patch + 1
        if min(room) < 1:
            return None
        places = np.random.default_rng(key).integers(0, room, (CROPS, 2)).tolist()
        windows = [image.window(top, left, self.patch, self.patch) for top, left in places]
        return torch.from_numpy(np.stack(windows)).permute(0, 3, 1, 2)


def patch_of(features: int, model: dict) -> int:
    """Pixels of the patches that a discriminator was built for, by the inputs of its head and its `model` section.

    Halving forgets some pixels, so several sizes are possible: the smallest one that whole latent cells draw.
    """
    widths, rule = model["discriminator"]["widths"], texture(model["stages"])
    halvings, edge = len(widths) - 1, math.isqrt(features // widths[-1])
    sizes = (rule.valid_output(Interval(0, cells)).size for cells in range(2 ** (halvings + 8)))
    return next((size for size in sizes if size >> halvings == edge), edge << halvings)
