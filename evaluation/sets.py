"""Sets of images for distances between distributions: patches of photographs, and generated images.

Letters: N images, S pixels along their edges.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from images.reading import ImageError, open_image
from inversion import PatchInverter
from utils.log import progress

RealSets = tuple[np.ndarray, np.ndarray]  # patches of photographs, uint8 [N, S, S, 3], of which no file is in both


def real_sets(paths: Sequence[Path], size: int, count: int, seed: int, max_pixels: int) -> RealSets:
    """Patches of photographs in two sets, uint8 [N, S, S, 3], which have no file in common: files take turns.

    Of each file as many are taken, at places drawn by `seed`, as give at least `count` (N) in each set if none of them
    fails. Files that are damaged, smaller than S (`size`) along an edge, or of more than `max_pixels` are left out.
    """
    each, sets = -(-count // max(len(paths) // 2, 1)), ([], [])
    for index, path in enumerate(paths if count else ()):
        try:
            image = open_image(path, max_pixels, by_window=True)
            found = places(image.height, image.width, size, each, (seed, index))
            min(sets, key=len).extend([image.window(*place, size, size) for place in found])
        except ImageError:
            continue
    return tuple(np.array(each, np.uint8).reshape(-1, size, size, 3) for each in sets)


def places(height: int, width: int, size: int, count: int, key: Sequence[int]) -> list[list[int]]:
    """[top, left] of windows of S x S (`size`) in an image, drawn by `key`; none in one that is too small."""
    room = height - size + 1, width - size + 1
    return np.random.default_rng(key).integers(0, room, (count, 2)).tolist() if min(room) > 0 else []


def generated_set(model: PatchInverter, size: int, seeds: Sequence[int], scale: int = 1) -> np.ndarray:
    """The images of seeds, with the texture noise of training, uint8 [N, S, S, 3].

    They are drawn on canvases of `scale` x S pixels and then shrunk by area to S (`size`).
    """
    edge = scale * size
    seeds = progress(seeds, f"generate {edge} x {edge}", "image")
    canvases = (model.draw(model.generate(edge, edge, seed)) for seed in seeds)
    images = [cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA) for canvas in canvases]
    return np.array(images, np.uint8).reshape(-1, size, size, 3)
