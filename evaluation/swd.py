"""Sliced Wasserstein distance between two sets of images, scale by scale (Karras et al., ICLR 2018, section 5).

Each level of a Laplacian pyramid holds the details of one scale. The distance of a level is that between two clouds of
descriptors, the 7 x 7 neighbourhoods of random pixels: at S pixels that of the finest details, at 16 pixels that of
the coarse layout. Finite sets of the same distribution are some way apart, the more the smaller they are: a distance
means something beside that of two real sets of as many images.

Letters: N images, S pixels along their edges, P descriptors, D values of each.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

SMALLEST = 16  # pixels along the edges of the coarsest level
PATCH = 7
PATCHES = 128  # descriptors per image and level
REPEATS, DIRECTIONS = 4, 128  # random projections are drawn, and averaged, so many times
UNIT = 1e3  # distances are given times this, as in the paper


def pyramid_distances(first: np.ndarray, second: np.ndarray, seed: int = 0) -> dict[int, float]:
    """Sliced Wasserstein distances x 1000 of two sets of uint8 images [N, S, S, 3], from fine to coarse.

    {S: distance, S / 2: distance, ...} down to 16 pixels; neither set may be empty. Equal sets have distance 0.
    """
    levels = zip(descriptors(first, seed), descriptors(second, seed), strict=True)
    return {size: UNIT * sliced_wasserstein(a, b, seed) for (size, a), (_, b) in levels}


def descriptors(images: np.ndarray, seed: int = 0) -> Iterator[tuple[int, np.ndarray]]:
    """(size of the level, descriptors [N * 128, 147] float32) of uint8 images [N, S, S, 3], from fine to coarse.

    Each colour has mean 0 and deviation 1 over all descriptors of a level, so that brightness and contrast of a whole
    set do not count; a colour without deviation is 0.
    """
    for planes in laplacian_pyramid(images):
        count, size = planes.shape[:2]
        windows = np.lib.stride_tricks.sliding_window_view(planes, (PATCH, PATCH), axis=(1, 2))  # [N, s', s', 3, 7, 7]
        random, numbers = np.random.default_rng([seed, size]), np.arange(count)[:, None]
        rows, cols = random.integers(0, windows.shape[1], (count, PATCHES, 2)).transpose(2, 0, 1)
        patches = windows[numbers, rows, cols].transpose(0, 1, 3, 4, 2).reshape(-1, PATCH, PATCH, 3)
        mean, deviation = (take(patches, (0, 1, 2), dtype=np.float64) for take in (np.mean, np.std))
        patches = (patches - mean) / np.where(deviation == 0, 1, deviation)
        yield size, patches.astype(np.float32).reshape(len(patches), -1)


def laplacian_pyramid(images: np.ndarray) -> Iterator[np.ndarray]:
    """The levels [N, s, s, 3] float32 of images [N, S, S, 3]: details of S, S / 2, ... pixels, and the rest at last.

    A level is an image less its half, enlarged again (Burt and Adelson 1983). Odd sizes are halved upwards.
    """
    images = images.astype(np.float32)
    while (images.shape[1] + 1) // 2 >= SMALLEST:
        halves = np.stack([cv2.pyrDown(image) for image in images])
        yield images - np.stack([cv2.pyrUp(half, dstsize=images.shape[1:3]) for half in halves])
        images = halves
    yield images


def sliced_wasserstein(first: np.ndarray, second: np.ndarray, seed: int = 0) -> float:
    """Mean 1-Wasserstein distance of two clouds [P, D] over random directions, 4 x 128 of them.

    On a line it is the mean difference of the sorted values.
    """
    random, found = np.random.default_rng(seed), []
    for _ in range(REPEATS):
        directions = random.standard_normal((DIRECTIONS, first.shape[1]), np.float32)
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        a, b = (np.sort(directions @ cloud.T) for cloud in (first, second))  # [128, P]
        found.append(np.abs(a - b).mean(dtype=np.float64))
    return float(np.mean(found))
