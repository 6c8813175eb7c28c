"""Which images train and which validate. Identical files never stand on both sides."""

from __future__ import annotations

from collections.abc import Sequence

from datasets.sources import Source
from utils.errors import UserError


def split(digests: Sequence[bytes], fraction: float) -> tuple[list[int], list[int]]:
    """Indices of (training, validation); equal digests stay together, the share is of distinct ones.

    A function of the contents only, not of names, order or seed. Both sides get at least one image; UserError where
    that is impossible.
    """
    distinct = sorted(set(digests))
    if len(distinct) < 2:
        raise UserError(f"{len(distinct)} distinct image(s) cannot be split into training and validation; 2 are needed")
    count = min(max(1, round(fraction * len(distinct))), len(distinct) - 1)
    sides = [], []
    for index, digest in enumerate(digests):
        sides[digest <= distinct[count - 1]].append(index)
    return sides


def refuse_shared(train: Source, validation: Source) -> None:
    """UserError naming an image that stands in both sources."""
    known = {digest: index for index, digest in enumerate(train.digests())}
    for index, digest in enumerate(validation.digests()):
        # A digest reads only the ends of a file; images with equal margins are still different images.
        if digest in known and train.read(known[digest]) == validation.read(index):
            raise UserError(
                f"data.val shares images with data.train: {validation.name(index)} is {train.name(known[digest])}"
            )
