"""How visible the borders are of the blocks that an image is inverted in.

H, W are pixels; line p of an axis lies between its pixels p - 1 and p.
"""

from __future__ import annotations

import numpy as np

from models.geometry import Interval, Region, partition

BESIDE = 2  # latent cells on each side of a border that it is compared with
SMALLEST = 4  # latent cells along the edge of a block, between whose borders something is left to compare with


class SeamScore:
    """The gradient at the borders of blocks over that near them, beside the same of reconstructions without borders.

    Gradient: the mean absolute difference of neighbouring pixels across a line. At the borders it is compared with the
    lines of the same phase in a latent cell that are up to two cells away, and then with the same of the reconstruction
    in one pass, so that what the image shows there, and the pattern of up-sampling, cancel: 1 is no seam. All images
    are summed up before anything is divided.
    """

    def __init__(
        self,
        cell: int,  # pixels along the edge of a latent cell
        block: int,  # pixels along the edge of a block
    ) -> None:
        self.cell, self.block = cell, block
        # sums and counts of differences, by image (in one pass, in blocks), place (beside, at a border) and phase
        self._sums = np.zeros((2, 2, cell))
        self._counts = np.zeros((2, cell), np.int64)

    def add(self, whole: np.ndarray, result: np.ndarray, cells: Region) -> None:
        """Take an image, uint8 [H, W, 3], inverted in one pass and in blocks; its latent cells, encoded from the first
        one on.
        """
        gradients = [line_gradients(image) for image in (whole, result)]
        for axis, interval in enumerate((cells.rows, cells.cols)):
            for at, lines in self.places(interval, whole.shape[axis]):
                phases = lines % self.cell
                np.add.at(self._counts[at], phases, whole.shape[1 - axis])
                for sums, gradient in zip(self._sums, gradients, strict=True):
                    np.add.at(sums[at], phases, gradient[axis][lines - 1])

    def places(self, cells: Interval, length: int) -> list[tuple[int, np.ndarray]]:
        """Lines of an axis beside borders (0) and at borders (1); borders too near to the image's own are left out.

        A border of encoded blocks has a cell on each side: the texture synthesizer spreads a difference about as far.
        """
        encoded = partition(cells, self.block // self.cell)[1:]
        borders = [(self.cell * part.first - self.cell // 2, self.cell) for part in encoded]
        borders += [(line, 0) for line in range(self.block, length, self.block)]  # of drawn blocks
        taken = {line for centre, reach in borders for line in range(centre - reach, centre + reach + 1)}
        places = []
        for centre, reach in borders:
            far = reach + BESIDE * self.cell
            if centre - far > 0 and centre + far < length:
                beside = [line for line in range(centre - far, centre + far + 1) if line not in taken]
                places.append((0, np.array(beside, int)))
                places.append((1, np.arange(centre - reach, centre + reach + 1)))
        return places

    @property
    def score(self) -> float | None:
        """1 where borders are no different. None without any, or where the images are flat."""
        whole, result = (self._excess(sums) for sums in self._sums)
        return result / whole if whole and result is not None else None

    def _excess(self, sums: np.ndarray) -> float | None:
        """Sum at the borders, over what the lines of the same phases beside them let expect there."""
        known = self._counts.min(axis=0) > 0
        expected = (sums[0, known] / self._counts[0, known] * self._counts[1, known]).sum()
        return float(sums[1, known].sum() / expected) if expected > 0 else None


def line_gradients(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of absolute differences across the lines 1 .. H - 1 and 1 .. W - 1 of uint8 [H, W, 3], channel means."""
    image = image.astype(np.int16)
    down, across = (np.abs(np.diff(image, axis=axis)).sum((1 - axis, 2), dtype=np.int64) / 3 for axis in (0, 1))
    return down, across
