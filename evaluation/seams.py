"""How visible the borders are of the blocks that images are inverted in.

H, W are pixels; line p of an axis lies between its pixels p - 1 and p.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from models.geometry import Interval, Region, partition

BESIDE = 2  # latent cells on each side of a border that it is compared with
SMALLEST = 4  # latent cells along the edge of a block, between whose borders something is left to compare with


def seam_score(images: Iterable[tuple[np.ndarray, np.ndarray, Region]], cell: int, block: int) -> float | None:
    """The gradient at the borders of blocks over that near them, beside the same of reconstructions without borders.

    `images`: each inverted in one pass and in blocks, uint8 [H, W, 3], and its latent cells; `cell` and `block`: pixels
    along their edges. Gradient: the mean absolute difference of neighbouring pixels across a line. At the borders it is
    compared with the lines of the same phase in a latent cell that are up to two cells away, and then with the same of
    the reconstruction in one pass, so that what the image shows there, and the pattern of up-sampling, cancel: 1 is no
    seam. All images are summed up before anything is divided. None without any borders, or where the images are flat.
    """
    # sums and counts of differences, by image (in one pass, in blocks), place (beside, at a border) and phase
    sums, counts = np.zeros((2, 2, cell)), np.zeros((2, cell))
    for *pair, cells in images:
        for axis, interval in enumerate((cells.rows, cells.cols)):
            # of the lines 1, 2, ...: sums of channel means
            steps = (np.abs(np.diff(image.astype(np.int16), axis=axis)) for image in pair)
            gradients = [each.sum((1 - axis, 2), dtype=np.int64) / 3 for each in steps]
            for at, lines in places(interval, pair[0].shape[axis], cell, block):
                np.add.at(counts[at], lines % cell, pair[0].shape[1 - axis])
                for total, gradient in zip(sums, gradients, strict=True):
                    np.add.at(total[at], lines % cell, gradient[lines - 1])
    known = counts.min(0) > 0
    # what the lines of the same phases beside them let expect at the borders
    expected = (sums[:, 0, known] / counts[0, known] * counts[1, known]).sum(1)
    found = sums[:, 1, known].sum(1)
    whole, result = found / np.where(expected > 0, expected, np.nan)
    return float(result / whole) if whole > 0 and not np.isnan(result) else None


def places(cells: Interval, length: int, cell: int, block: int) -> list[tuple[int, np.ndarray]]:
    """Lines of an axis beside borders (0) and at borders (1); borders too near to the image's own are left out.

    A border of encoded blocks has a cell on each side: the texture synthesizer spreads a difference about as far.
    """
    encoded = partition(cells, block // cell)[1:]
    borders = [(cell * part.first - cell // 2, cell) for part in encoded]
    borders += [(line, 0) for line in range(block, length, block)]  # of drawn blocks
    taken = {line for centre, reach in borders for line in range(centre - reach, centre + reach + 1)}
    found = []
    for centre, reach in borders:
        far = reach + BESIDE * cell
        if centre - far > 0 and centre + far < length:
            beside = [line for line in range(centre - far, centre + far + 1) if line not in taken]
            found += [(0, np.array(beside, int)), (1, np.arange(centre - reach, centre + reach + 1))]
    return found
