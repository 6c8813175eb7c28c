"""The steps of a refinement over all blocks of an image, which can be shared among workers and gone on with.

The latents and the momentum after a step are kept apart from those before it, in memory or in a folder of chunks, so
that the blocks of a step need no order, and a killed run goes on within the step where it stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from inversion.blocks import blocks, count_blocks
from inversion.chunks import BlockArray, ChunkArray, MemoryArray
from inversion.latents import LatentStore
from inversion.outputs import in_memory as small
from inversion.refinement import Refiner
from models.geometry import Region
from utils import log
from utils.distributed import ProcessGroup
from utils.files import remove_tree

RESUMABLE = 2**26  # pixels times steps; more than that is kept in a folder, and can be gone on with

Tick = Callable[[int], object]  # takes the number of blocks that are done


def in_memory(size: tuple[int, int], steps: int) -> bool:
    """Whether the state of a refinement of an image of (height, width) is kept in memory."""
    return small(size) and size[0] * size[1] * steps <= RESUMABLE


def bytes_in_memory(shape: tuple[int, int, int], size: tuple[int, int], steps: int) -> int:
    """Bytes that the states of a refinement take in memory; `shape`: [C, h, w] of the latents."""
    return 4 * 4 * int(np.prod(shape)) if steps and in_memory(size, steps) else 0


@dataclass(frozen=True)
class State:
    """Latents and momentum of all cells after a step."""

    cells: Region
    channels: int
    latents: BlockArray  # [C, h, w]
    momentum: BlockArray  # [C, h, w]

    @staticmethod
    def in_memory(store: LatentStore) -> State:
        """A new one."""
        shape = store.channels, *store.cells.shape
        return State(store.cells, store.channels, *(MemoryArray(np.empty(shape, np.float32)) for _ in range(2)))

    @staticmethod
    def in_folder(folder: Path, store: LatentStore, block: tuple[int, int]) -> State:
        """That of a folder, which need not be there yet."""
        shape = store.channels, *store.cells.shape
        chunks = store.channels, *map(min, block, store.cells.shape)
        arrays = (ChunkArray(folder / name, shape, chunks, "float32") for name in ("latents", "momentum"))
        return State(store.cells, store.channels, *arrays)

    def read(self, array: BlockArray, region: Region) -> Tensor:
        """The values [C, h, w] of one of the arrays."""
        return torch.from_numpy(array.read(self._window(region)))

    def write(self, region: Region, latents: Tensor, momentum: Tensor) -> None:
        """Store the values of a block."""
        self.momentum.write(self._window(region), momentum.numpy())
        self.latents.write(self._window(region), latents.numpy())  # the second one says that the block is done

    def has(self, region: Region) -> bool:
        """Whether a block is known to be done."""
        return self.latents.has(self._window(region)) and self.momentum.has(self._window(region))

    def _window(self, region: Region) -> tuple[slice, slice, slice]:
        return slice(0, self.channels), *region.slices_in(self.cells)


@dataclass
class Sweeps:
    """The refinement of the latents in a store, in which they are replaced at the end."""

    make_refiner: Callable[[], Refiner]  # called where there is something to do
    store: LatentStore
    steps: int
    block: tuple[int, int]  # cells that take a step at once
    folder: Path | None  # of the states; None: they are kept in memory
    world: ProcessGroup
    tick: Tick
    _encoded: float = math.inf  # squared error of this worker's blocks, as they were encoded; infinity: not known
    _refined: float = 0.0  # and before the last step

    def parts(self) -> Iterator[Callable[[], None]]:
        """What all workers do one after the other, each part when all have done the one before."""
        done, state = self._latest()
        self.tick(done * self._count)
        for step in range(done, self.steps):
            following = self._state(step + 1)
            yield partial(self._prepare, following, step)
            yield partial(self._sweep, state, following)
            state = following
        yield partial(self._finish, state)

    @cached_property
    def _refiner(self) -> Refiner:
        """It measures the encoded latents, so before they are replaced; and within a part, since it can fail."""
        return self.make_refiner()

    @property
    def _count(self) -> int:
        return count_blocks(self.store.cells, self.block)

    def _share(self) -> Iterator[Region]:
        return self.world.share(blocks(self.store.cells, self.block))

    def _state(self, step: int) -> State:
        if self.folder is None:
            return State.in_memory(self.store)
        return State.in_folder(self.folder / str(step), self.store, self.block)

    def _latest(self) -> tuple[int, State | None]:
        """The last step that is done, and its state; None before the first one."""
        found = [int(path.name) for path in self.folder.glob("[0-9]*")] if self.folder else []
        for step in sorted((step for step in found if step <= self.steps), reverse=True):
            state = self._state(step)
            if all(map(state.has, blocks(self.store.cells, self.block))):
                return step, state
        return 0, None

    def _prepare(self, following: State, step: int) -> None:
        """Make room for the state after a step, and forget the one before last."""
        if self.folder is None or not self.world.main:
            return
        remove_tree(self.folder / str(step - 1))
        following.latents.continued()
        following.momentum.continued()

    def _sweep(self, state: State | None, following: State) -> None:
        latents = self.store.read if state is None else partial(state.read, state.latents)
        momentum = None if state is None else partial(state.read, state.momentum)
        regions = list(self._share())
        missing = [region for region in regions if not following.has(region)]
        self.tick(len(regions) - len(missing))
        self._refined = 0.0
        for region in missing:
            *values, error = self._refiner.step(latents, momentum, region)
            following.write(region, *values)
            self._refined += error
            self.tick(1)
        if state is None and missing == regions:
            self._encoded = self._refined

    def _finish(self, state: State) -> None:
        if self.world.main and not self._refined <= self._encoded:
            errors = f"squared error {self._encoded:.4g} at first, {self._refined:.4g} at last"
            log.error(f"note: {self._refiner.image.name}: refinement went away from the photograph: {errors}")
        for region in self._share():
            self.store.write(region, state.read(state.latents, region))
