"""Which images train and which validate. Identical files never stand on both sides."""

from __future__ import annotations

from collections.abc import Sequence

from datasets.sources import Source
from utils.errors import UserError


def split(digests: Sequence[bytes], fraction: float) -> tuple[list[int], list[int]]:
    """Indices of (training, validation); equal digests stay together.

    The side of an image follows from its own content: some `fraction` of all contents validates, and no image changes
    sides when others come or go. Where none is among these, the one next to them validates (as long as that is so);
    with a fraction of 0 none does. UserError where a side would stay empty.
    """
    distinct = set(digests)
    held = {digest for digest in distinct if int.from_bytes(digest[:8], "big") < fraction * 2**64}
    if fraction and not held:
        held = set(sorted(distinct)[:1])
    if held == distinct:
        raise UserError(
            f"{len(distinct)} distinct image(s), and all would validate at a share of {fraction:g}; more images, a"
            " smaller share or none (data.val=none; of prepare_data.py --val-fraction 0) leave some to train on"
        )
    sides = [], []
    for index, digest in enumerate(digests):
        sides[digest in held].append(index)
    return sides


def refuse_shared(train: Source, validation: Source) -> None:
    """UserError naming an image that stands in both sources."""
    known = {digest: index for index, digest in enumerate(train.digests)}
    for index, digest in enumerate(validation.digests):
        # A digest reads only the ends of a file; images with equal margins are still different images.
        if digest in known and train.read(known[digest]) == validation.read(index):
            raise UserError(
                f"data.val shares images with data.train: {validation.name(index)} is {train.name(known[digest])}"
            )
