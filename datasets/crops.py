"""Crops of images: a function of (seed, step, index) and of nothing else.

Every random number comes from a counter-based generator addressed by the position of the sample, so neither the number
of workers nor an interruption changes what a step sees.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from multiprocessing.sharedctypes import RawArray
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from datasets.sources import Source
from images.reading import Image, ImageError
from images.resizing import with_shorter_side
from images.thumbnail import thumbnail
from utils.errors import UserError

ORDER, CROP = 0, 1  # streams of random numbers
IDLE, READING, DAMAGED, NOTED = 0, 1, 2, 3  # states of a record; the last one: idle, what is odd was told
FEW = 5  # damaged images that end no run, unless they are more than half, or none are allowed

logger = logging.getLogger(__name__)


class Window(NamedTuple):
    """Edges in pixels of what a stage of training sees of an image: a patch in its context."""

    patch: int
    before: int  # context above and left of the patch
    after: int  # context below and right of it

    @property
    def size(self) -> int:
        """Edge of the whole window."""
        return self.before + self.patch + self.after


class CropDataset(Dataset):
    """Random crops of the images of a source, addressed by (step, index within the global batch).

    An item is a dict of float32 tensors (images in [-1, 1]):
      window     [3, S, S], S = window.size: a patch drawn uniformly inside of the image and its context,
                 reflected where it leaves the image; an image smaller than the patch is reflected, too
      thumbnail  [3, T, T] of the whole image
      row        vertical position of the patch: -1 top to 1 bottom of the image, 0 where it has no room to move
      id         int64 number of the record in the source
    A damaged record is named once and replaced by the next sound one; UserError when too many are damaged: more than a
    few, and than `max_bad_fraction` of all.
    """

    def __init__(
        self,
        source: Source,
        records: list[int],          # numbers of the source's images to use
        window: Window,
        *,
        thumbnail: int,              # edge of the thumbnail
        seed: int,
        flip: bool = False,          # mirror half of the images
        resize: int | None = None,   # shorter side after resizing; None keeps native sizes
        max_pixels: int = 2**28,     # larger images count as damaged
        max_bad_fraction: float = 0.01,
        global_batch: int = 1,       # samples of one step, all processes together
        identity: str = "",          # of all images together, to tell whether they are others than before
    ):
        self.source, self.records, self.window, self.thumbnail = source, records, window, thumbnail
        self.seed, self.flip, self.resize = seed, flip, resize
        self.max_pixels, self.max_bad_fraction, self.global_batch = max_pixels, max_bad_fraction, global_batch
        self.identity = identity
        self._states = RawArray("B", max(1, len(records)))  # shared with the workers, wherever that is possible
        self._epoch: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.records)

    def with_batch(self, global_batch: int) -> CropDataset:
        """The same data for steps of `global_batch` samples; damage is counted together."""
        other = copy.copy(self)
        other.global_batch = global_batch
        return other

    def __getitem__(self, address: tuple[int, int]) -> dict[str, Tensor]:
        step, index = address
        epoch, place = divmod(step * self.global_batch + index, len(self))
        position, image = self._open_near(int(self._permutation(epoch)[place]))
        random = self._random(CROP, index, step)
        top, left = (_draw(random, length - self.window.patch) for length in (image.height, image.width))
        return self._item(position, image, top, left, mirrored=self.flip and random.random() < 0.5)

    def centre_crops(self, count: int, batch: int) -> list[dict[str, Tensor]]:
        """Centre crops of `count` images (all, if there are fewer), evenly spread over the records, in batches."""
        items = [
            self._item(position, image, (image.height - self.window.patch) // 2, (image.width - self.window.patch) // 2)
            for position, image in self._spread(count)
        ]
        return [default_collate(items[first : first + batch]) for first in range(0, len(items), batch)]

    def middles(self, count: int, edge: int) -> Iterator[Tensor]:
        """`count` images (all, if there are fewer), evenly spread over the records: [3, H, W] in [-1, 1].

        Of larger ones `edge` x `edge` pixels in the middle.
        """
        for _, image in self._spread(count):
            height, width = min(image.height, edge), min(image.width, edge)
            top, left = (image.height - height) // 2, (image.width - width) // 2
            yield _tensor(image.window_float(top, left, height, width), False)

    def being_read(self) -> list[str]:
        """Names of the images that some worker is reading, or was reading when it died."""
        return [self.source.name(self.records[place]) for place, state in enumerate(self._states) if state == READING]

    @property
    def damaged(self) -> int:
        """Number of damaged records met so far, by all workers together."""
        return sum(state == DAMAGED for state in self._states)

    def _random(self, stream: int, *counter: int) -> np.random.Generator:
        key = np.array([self.seed % 2**64, stream], np.uint64)
        # The low words of the counter are left to the generator, which counts them up.
        return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, 0, *counter], np.uint64)))

    def _permutation(self, epoch: int) -> np.ndarray:
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = epoch, self._random(ORDER, 0, epoch).permutation(len(self))
        return self._epoch[1]

    def _spread(self, count: int) -> Iterator[tuple[int, Image]]:
        """`count` sound records (all, if there are fewer), evenly spread, and their images."""
        count = min(count, len(self))
        return (self._open_near(index * len(self) // count) for index in range(count))

    def _open_near(self, start: int) -> tuple[int, Image]:
        """The first sound record from position `start` on, and its image."""
        for offset in range(len(self)):
            position = (start + offset) % len(self)
            if self._states[position] == DAMAGED:
                continue
            noted = self._states[position] == NOTED
            self._states[position] = READING
            try:
                image = self._open(self.records[position])
            except ImageError as error:
                self._count_damage(position, error)
            except MemoryError as error:
                name = self.source.name(self.records[position])
                raise UserError(f"{name}: out of memory; fewer data.workers take less") from error
            else:
                self._states[position] = NOTED if image.notes else IDLE
                if image.notes and not noted:
                    logger.warning("note: %s: %s", image.name, "; ".join(image.notes))
                return position, image
        raise UserError("no image could be read")

    def _open(self, record: int) -> Image:
        image = self.source.open(record, self.max_pixels)
        return with_shorter_side(image, self.resize, self.max_pixels) if self.resize else image

    def _count_damage(self, position: int, error: ImageError) -> None:
        self._states[position] = DAMAGED
        logger.warning("left out: %s", error)
        few = min(FEW, len(self) // 2) if self.max_bad_fraction else 0
        if self.damaged > max(few, self.max_bad_fraction * len(self)):
            raise UserError(
                f"{self.damaged} of {len(self)} images are damaged, more than data.max_bad_fraction="
                f"{self.max_bad_fraction} allows; the last one: {error}"
            )

    def _item(self, position: int, image: Image, top: int, left: int, mirrored: bool = False) -> dict[str, Tensor]:
        patch, before, after = self.window
        room, size = image.height - patch, self.window.size
        # `left` counts in the image as it is shown, so in a mirrored one the window starts at its other end.
        start = image.width - (left + patch + after) if mirrored else left - before
        return {
            "window": _tensor(image.window_float(top - before, start, size, size), mirrored),
            "thumbnail": _tensor(thumbnail(image, self.thumbnail), mirrored),
            "row": torch.tensor(2 * top / room - 1 if room > 0 else 0.0),
            "id": torch.tensor(self.records[position]),
        }


def _draw(random: np.random.Generator, room: int) -> int:
    """Start of a patch with `room` pixels to move; with too little room it may start outside, to be reflected."""
    return int(random.integers(min(0, room), max(0, room), endpoint=True))


def _tensor(pixels: np.ndarray, mirrored: bool) -> Tensor:
    """[H, W, 3] -> [3, H, W], mirrored left to right if asked for."""
    pixels = pixels[:, ::-1] if mirrored else pixels
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
