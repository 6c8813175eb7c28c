"""Where and how a training computes: device, number format, processes, batch; and what it draws at random.

Random values are a function of position: (seed, purpose, step, index of the sample in the whole batch). Nothing is
consumed, so a resumed run, or one shared out over more processes, draws the same values.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor, nn

from utils.distributed import ProcessGroup
from utils.errors import UserError


class Stream(IntEnum):
    """What values are drawn for; each has its own."""

    LATENTS = 0
    PATHS = 1
    DIRECTION = 2
    RECONSTRUCTION = 3
    RECIPROCAL = 4
    PRIOR = 5
    PICTURES = 6


@dataclass(frozen=True)
class TrainContext:
    """What a training stage needs to know besides its networks and losses."""

    seed: int
    batch: int  # samples of a part
    device: torch.device
    dtype: torch.dtype  # of the autocast; float32 is none
    world: ProcessGroup
    accumulate: int = 1  # parts of a step's batch that this process computes one after the other
    part: int = 0  # which of them is computed

    @property
    def shares(self) -> tuple[int, ...]:
        """The factors of the whole batch: samples of a part, parts (left out where there is one), processes."""
        return (self.batch, *([self.accumulate] if self.accumulate > 1 else []), self.world.size)

    def parts(self, batch: dict[str, Tensor]) -> list[tuple[TrainContext, dict[str, Tensor]]]:
        """The parts of this process's batch, each with the context that draws its random values."""
        cuts = [slice(first * self.batch, (first + 1) * self.batch) for first in range(self.accumulate)]
        return [
            (replace(self, part=number), {name: value[cut] for name, value in batch.items()})
            for number, cut in enumerate(cuts)
        ]

    def autocast(self) -> torch.autocast:
        """The mixed precision of forward passes."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16)

    def place(self, network: nn.Module) -> nn.Module:
        """A network on the device, in the memory format that convolutions are fastest in."""
        return network.to(self.device, memory_format=torch.channels_last)

    def load(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """A batch on the device; images in channels_last."""
        images, others = torch.channels_last, torch.preserve_format
        return {
            name: value.to(self.device, non_blocking=True, memory_format=images if value.dim() == 4 else others)
            for name, value in batch.items()
        }

    def seeds(self, purpose: Stream, step: int, batch: int | None = None) -> Tensor:
        """A seed [B] of 62 bits for each sample of the part; `batch` replaces their number."""
        batch = batch or self.batch
        values = self._random(purpose, step, 1).integers(0, 2**62, self._parts * batch)
        return torch.from_numpy(self._own(values, batch)).to(self.device)

    def uniform(self, purpose: Stream, step: int, count: int, batch: int | None = None) -> np.ndarray:
        """Uniform values [B, count] in [0, 1) for the samples of the part; `batch` replaces their number."""
        batch = batch or self.batch
        return self._own(self._random(purpose, step, 0).random((self._parts * batch, count)), batch)

    @property
    def half(self) -> int:
        """Samples in half a part, in pairs, for what costs much."""
        return max(self.batch // 4 * 2, 2)

    def check_pairs(self) -> None:
        """UserError unless samples come in pairs; of several parts, half of each does."""
        self.check_batch(2, "samples come in pairs")
        if self.accumulate > 1:
            self.check_batch(4, "train.accumulate: half of each part is taken in pairs")

    def check_batch(self, divisor: int, reason: str) -> None:
        """UserError unless a part of the batch can be cut into groups of `divisor`."""
        if self.batch % divisor:
            raise UserError(f"train.batch: {self.batch} is not a multiple of {divisor} ({reason})")

    def _random(self, purpose: Stream, step: int, kind: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=[self.seed, purpose], counter=[0, 0, kind, step]))

    @property
    def _parts(self) -> int:
        """Those of all processes."""
        return self.world.size * self.accumulate

    def _own(self, values: np.ndarray, batch: int) -> np.ndarray:
        first = (self.world.rank * self.accumulate + self.part) * batch
        return values[first : first + batch]
