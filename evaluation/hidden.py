"""Known parts of photographs that are hidden and made anew: a square by filling, a frame by outpainting.

Letters: H, W pixels, S pixels along the edges of windows, N windows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from editing import Content, fill, outpaint
from evaluation.fidelity import pixelwise
from evaluation.measures import mean
from evaluation.photographs import EvaluatedModel, Inversion
from evaluation.sets import places
from inversion.weight_maps import Boxes
from losses.frechet import frechet_distance
from models.scenes import SceneFeatures
from utils.log import progress

SIZE = 64  # S, and the edge of the squares
LEAST = 2 * SIZE  # pixels along the edges of photographs that are large enough
FRAME = 8  # a frame has one of so many parts of an edge on each side
SOURCES = {"": "photograph", "_generator": "generator"}  # ends of the names of measures

Box = tuple[int, int, int, int]  # top, left, bottom, right, the last two excluded


def measure_hidden(evaluated: EvaluatedModel, inversions: Mapping[str, Inversion]) -> dict[str, float | None]:
    """The measures `fill_...` and `outpaint_...` of photographs, those that are too small left out.

    New content of the photograph itself, and of the generator (`_generator`), side by side; the first only with a
    trunk.
    """
    model, photographs = evaluated.model, [each.photograph for each in inversions.values()]
    photographs = [each for each in photographs if min(each.shape[:2]) >= LEAST]
    if not photographs:
        return {}
    features, numbered = SceneFeatures(model.device), list(enumerate(photographs))
    wanted = features(np.concatenate([elsewhere(each, SIZE, number) for number, each in numbered]))
    squares = [square(each, SIZE, number) for number, each in numbered]
    inner = [inside_frame(each, model.cell) for each in photographs]
    found = {}
    for name, boxes, make in (("fill", squares, fill_square), ("outpaint", inner, paint_frame)):
        originals = [beside(each, box, SIZE) for each, box in zip(photographs, boxes, strict=True)]
        found[f"{name}_frechet_floor"] = frechet_distance(features(np.concatenate(originals)), wanted)
        for ending, source in SOURCES.items():
            if source == "generator" or model.measured:
                pairs = progress(list(zip(photographs, boxes, strict=True)), f"{name}, {source}", "image")
                results = [make(evaluated, *pair, source) for pair in pairs]
                for key, value in compare(features, wanted, photographs, results, boxes, name == "fill").items():
                    found[f"{name}_{key}{ending}"] = value
    return found


def fill_square(evaluated: EvaluatedModel, photograph: np.ndarray, box: Box, source: str) -> np.ndarray:
    """A photograph, uint8 [H, W, 3], whose content inside a box is made anew."""
    latents = evaluated.invert(photograph)
    return evaluated.model.draw(fill(evaluated.model, latents, Boxes([box]), content=Content(source)))


def paint_frame(evaluated: EvaluatedModel, photograph: np.ndarray, box: Box, source: str) -> np.ndarray:
    """A photograph, uint8 [H, W, 3], whose content outside a box, which begins with a latent cell, is made anew."""
    top, left, bottom, right = box
    latents, size = evaluated.invert(np.ascontiguousarray(photograph[top:bottom, left:right])), photograph.shape[:2]
    return evaluated.model.draw(outpaint(evaluated.model, latents, size, (top, left), content=Content(source)))


def compare(
    features: Callable[[np.ndarray], np.ndarray],
    wanted: np.ndarray,  # features of real windows
    photographs: Sequence[np.ndarray],
    results: Sequence[np.ndarray],
    boxes: Sequence[Box],
    inside: bool,  # whether what is inside the boxes is new, or what is outside
) -> dict[str, float | None]:
    """Frechet distance of windows across the borders, PSNR of what is new, and how steep borders are (1: as before)."""
    windows = [beside(result, box, SIZE) for result, box in zip(results, boxes, strict=True)]
    steep = [sum(map(steepness, images, boxes)) for images in (results, photographs)]
    psnr = []
    for photograph, result, (top, left, bottom, right) in zip(photographs, results, boxes, strict=True):
        new = np.full(photograph.shape[:2], not inside)
        new[top:bottom, left:right] = inside
        psnr.append(pixelwise(photograph[new][None], result[new][None])["psnr"])
    return {
        "frechet": frechet_distance(features(np.concatenate(windows)), wanted),
        "psnr": mean(psnr),
        "gradients": steep[0] / steep[1] if steep[1] > 0 else None,
    }


def square(photograph: np.ndarray, size: int, number: int) -> Box:
    """A square in a photograph [H, W, 3], at a place that follows from its number, half its size from the border.

    ValueError where that has no room.
    """
    height, width = photograph.shape[:2]
    found = places(height - size, width - size, size, 1, (0, number))
    if not found:
        raise ValueError(f"a photograph of {height} x {width}; allowed: {2 * size} pixels or more each way")
    top, left = (place + size // 2 for place in found[0])
    return top, left, top + size, left + size


def inside_frame(photograph: np.ndarray, cell: int) -> Box:
    """What a frame leaves of a photograph [H, W, 3]; it begins with a latent cell."""
    height, width = photograph.shape[:2]
    top, left = height // FRAME // cell * cell, width // FRAME // cell * cell
    return top, left, height - height // FRAME, width - width // FRAME


def beside(image: np.ndarray, box: Box, size: int) -> np.ndarray:
    """The windows [4, S, S, 3] of an image that are centred on the edges of a box, moved inside where they end."""
    top, left, bottom, right = box
    middle, centre = (top + bottom) // 2, (left + right) // 2
    corners = np.array([(top, centre), (bottom, centre), (middle, left), (middle, right)]) - size // 2
    corners = corners.clip(0, np.array(image.shape[:2]) - size)
    return np.stack([image[y : y + size, x : x + size] for y, x in corners])


def elsewhere(photograph: np.ndarray, size: int, number: int) -> np.ndarray:
    """As many windows at random places."""
    found = places(*photograph.shape[:2], size, 4, (1, number))
    return np.stack([photograph[y : y + size, x : x + size] for y, x in found])


def steepness(image: np.ndarray, box: Box) -> float:
    """How much luminance differs across the edges of a box, on average."""
    top, left, bottom, right = box
    luminance = image.astype(np.float64).mean(2)
    down, across = (np.abs(np.diff(luminance, axis=axis)) for axis in (0, 1))
    rows, cols = [top - 1, bottom - 1], [left - 1, right - 1]
    return float(down[rows, left:right].mean() + across[top:bottom, cols].mean())
