"""Sets of images for distances between distributions: patches of photographs, and generated images.

Letters: N images, S pixels along their edges.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from images.reading import Image, ImageError, open_image
from inversion.grain import field
from inversion.outputs import Pixels
from inversion.tool import Tool, progress
from models.geometry import Region


def real_set(paths: Iterable[Path], size: int, seed: int, max_pixels: int, each: int = 1) -> np.ndarray:
    """Patches of photographs, uint8 [N, S, S, 3]: `each` of every file, at places drawn by `seed`.

    Those of one file stand beside each other, so halves of the set have at most one file in common. Files that are
    damaged, or smaller than S (`size`) along an edge, or of more than `max_pixels` pixels, are left out; N may be 0.
    """
    patches = []
    for index, path in enumerate(paths):
        patches += _crops(path, size, (seed, index), max_pixels, each)
    return _stacked(patches, size)


def generated_set(tool: Tool, size: int, seeds: Sequence[int], scale: int = 1) -> np.ndarray:
    """The images of seeds, with the texture noise of training, uint8 [N, S, S, 3].

    They are drawn on canvases of `scale` x S pixels and then shrunk by area to S (`size`).
    """
    images, edge = [], scale * size
    with progress(f"generate {edge} x {edge}", len(seeds), "image") as bar:
        for seed in seeds:
            images.append(shrunk(generated_image(tool, edge, seed), size))
            bar.update()
    return _stacked(images, size)


def generated_image(tool: Tool, edge: int, seed: int) -> np.ndarray:
    """The image of a seed, uint8 [edge, edge, 3]: that of generate.py."""
    scene = tool.generated((edge, edge), seed, field(seed))
    plan, region = tool.plan(scene.size), Region.at(0, 0, *scene.size)
    pixels = Pixels.open(region, None, plan.pixels, tool.options.save_float)
    tool.draw(scene, pixels, plan, lambda _: None)
    return pixels.eight_bit(region)


def shrunk(image: np.ndarray, size: int) -> np.ndarray:
    """A uint8 image [n S, n S, 3] as [S, S, 3], each pixel the mean of n x n."""
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)


def _crops(path: Path, size: int, key: tuple[int, int], max_pixels: int, each: int) -> Iterator[np.ndarray]:
    """The patches [S, S, 3] of a file; none where it cannot give one."""
    try:
        yield from _patches(open_image(path, max_pixels, by_window=True), size, key, each)
    except ImageError:
        return


def _patches(image: Image, size: int, key: tuple[int, int], each: int) -> Iterator[np.ndarray]:
    room = image.height - size + 1, image.width - size + 1
    if min(room) > 0:
        for top, left in np.random.default_rng(key).integers(0, room, (each, 2)).tolist():
            yield image.window(top, left, size, size)


def _stacked(images: Sequence[np.ndarray], size: int) -> np.ndarray:
    return np.stack(images) if images else np.empty((0, size, size, 3), np.uint8)
