"""The seam score: where lines are counted, what it sees, and what it does not mind."""

import numpy as np

from evaluation.seams import places, seam_score
from models.geometry import Interval, Region

CELL, BLOCK = 8, 32
SIZE = 150, 131


def image(pixels):
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def noise(seed=0, size=SIZE):
    return 128 + np.random.default_rng(seed).normal(0, 6, (*size, 3))


def cells(size=SIZE):
    return Region.at(-2, -2, size[0] // CELL + 5, size[1] // CELL + 5)


def score(photograph, result, block=BLOCK):
    return seam_score([(image(photograph), image(result), cells(photograph.shape[:2]))], CELL, block)


def checked(size, width):
    """Light and dark bands, `width` pixels wide, that begin where blocks of latents do."""
    rows, cols = ((np.arange(length) + 20) // width % 2 for length in size)
    return 24.0 * (rows[:, None] ^ cols)[..., None]


def test_what_is_no_seam_scores_one():
    """Not even edges that the photograph shows there itself, or a step at every second cell, from up-sampling."""
    assert score(noise(), noise()) == 1
    assert abs(score(noise(0), 128 + (noise(1) - 128) / 3) - 1) < 0.02
    edges = checked(SIZE, BLOCK)
    assert abs(score(noise(0) + edges, noise(1) + edges) - 1) < 0.02
    rows, cols = ((np.arange(length) + 4) // CELL % 2 for length in SIZE)
    assert abs(score(noise(0), noise(1) + 24.0 * (rows[:, None] ^ cols)[..., None]) - 1) < 0.02


def test_blocks_that_differ_are_seen():
    """Blocks of latents begin at the cells -2, 2, 6 ...: their borders are the lines 12, 44, 76; of pixels 32, 64."""
    assert score(noise(0), noise(1) + checked(SIZE, BLOCK)) > 1.1
    rows, cols = (np.arange(length) // BLOCK % 2 for length in SIZE)
    assert score(noise(0), noise(1) + 24.0 * (rows[:, None] ^ cols)[..., None]) > 1.02


def test_places():
    found = places(Interval(-2, 21), 150, 8, 64)
    at = [lines for where, lines in found if where]
    assert [(lines[0], lines[-1]) for lines in at] == [(36, 52), (100, 116), (64, 64), (128, 128)]
    beside = [lines for where, lines in found if not where]
    assert (beside[0] == [*range(20, 36), *range(53, 64), *range(65, 69)]).all()
    assert (beside[3] == [*range(117, 128), *range(129, 145)]).all()
    assert all(0 < line < 150 for lines in beside + at for line in lines)


def test_without_borders_or_gradients_there_is_no_score():
    flat = np.full((*SIZE, 3), 9.0)
    assert score(flat, noise()) is None and score(noise(), flat) is None
    for size in ((5, 7), (30, 200), (1, 1)):
        assert score(noise(0, size), noise(1, size), 4096) is None
