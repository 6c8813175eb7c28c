"""Edits of photographs: how far colours move, how much of the structure stays, and whether edits are found again.

Letters: H, W pixels, N directions.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from editing import find_direction, move
from evaluation.latents import relative_error, window
from evaluation.measures import mean
from evaluation.photographs import EvaluatedModel, Inversion, spread
from evaluation.report import Pictures, webp
from models.statistics import to_features

DIRECTIONS, LEVELS = 32, 256  # of sliced distances of colours
MOVED, STRENGTHS = "pca:1", range(-3, 4)  # the direction along which edits are moved, and how far
LUMA = 0.299, 0.587, 0.114  # of ITU-R BT.601


def measure_edits(evaluated: EvaluatedModel, kept: Mapping[str, Inversion]) -> tuple[dict[str, float | None], Pictures]:
    """Measures of images that are each drawn in the style of the next one, and pictures of some of them."""
    model, names, pairs, edits, pictures, moved, stayed = evaluated.model, list(kept), [], [], {}, [], []
    pictured = spread(names, evaluated.options.pictures)
    for name, other in zip(names, names[1:] + names[:1], strict=True):
        own, source = kept[name], kept[other]
        edited = own.latents.with_style(source.latents.style)
        edits.append(model.draw(edited))
        found = window(model, evaluated.invert(edits[-1]))
        pairs.append((found, window(model, model.as_drawn(edited))[: len(found)]))
        moved.append(colour_movement(own.result, edits[-1], source.photograph))
        stayed.append(gradients_kept(own.photograph, own.result, edits[-1]))
        if name in pictured:
            captions = name, f"style of {other}", f"{evaluated.name}: edit"
            shown = own.photograph, source.photograph, edits[-1]
            pictures[name] = dict(zip(captions, map(webp, shown), strict=True))
    error, score = relative_error(pairs), evaluated.discriminator
    measures = {"edit_consistency": None if error is None else 1 - error}
    measures |= {"edit_colours": mean(moved), "edit_gradients": mean(stayed)}
    if score:
        results, photographs = [each.result for each in kept.values()], [each.photograph for each in kept.values()]
        sets = {"edit_score": edits, "reconstruction_score": results, "real_score": photographs}
        measures |= {key: score(images, evaluated.seed) for key, images in sets.items()}
    return measures, pictures


def measure_monotony(evaluated: EvaluatedModel, kept: Mapping[str, Inversion]) -> float | None:
    """The share of the steps along the first component of styles, from -3 to 3, that the results take as well.

    Their own styles are measured, along the same direction. None for a model whose styles are not measured.
    """
    model, rises = evaluated.model, []
    if not model.measured or not kept:
        return None
    direction, channels = find_direction(model, MOVED), model.generator.structure.local_dim
    for each in kept.values():
        drawn = (model.draw(move(model, each.latents, direction, strength)) for strength in STRENGTHS)
        styles = torch.stack([model.style(pixels).global_latent for pixels in drawn])
        rises.append((to_features(styles, channels) @ direction.step).diff() > 0)
    return float(torch.stack(rises).double().mean())


def colour_movement(before: np.ndarray, after: np.ndarray, target: np.ndarray) -> float | None:
    """The share of the way to the colours of another image, uint8 [H, W, 3] all: 1 - distance after / distance before.

    Distance: sliced Wasserstein over RGB (Bonneel et al., JMIV 2015). None where the colours were the same already.
    """
    first, last = (colour_distance(image, target) for image in (before, after))
    return 1 - last / first if first > 0 else None


def colour_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over fixed directions of the Wasserstein-1 distance of the projected colours of images [H, W, 3]."""
    directions = np.random.default_rng(0).normal(size=(3, DIRECTIONS))
    directions /= np.linalg.norm(directions, axis=0)
    shares = (np.arange(LEVELS) + 0.5) / LEVELS
    first, second = (np.quantile(each.reshape(-1, 3) @ directions, shares, axis=0) for each in (a, b))
    return float(np.abs(first - second).mean())


def gradients_kept(photograph: np.ndarray, result: np.ndarray, edit: np.ndarray) -> float | None:
    """Correlation of an edit's luminance gradients with the photograph's over that of the plain inversion.

    None where one of the images is flat.
    """
    true, plain, edited = map(_gradients, (photograph, result, edit))
    if min(each.std() for each in (true, plain, edited)) == 0:
        return None
    return float(np.corrcoef(edited, true)[0, 1] / np.corrcoef(plain, true)[0, 1])


def _gradients(image: np.ndarray) -> np.ndarray:
    """All differences of neighbouring pixels' luminance, of an image [H, W, 3], down and to the right."""
    luminance = image.astype(np.float32) @ np.array(LUMA, np.float32)
    return np.concatenate([np.diff(luminance, axis=axis).ravel() for axis in (0, 1)])
