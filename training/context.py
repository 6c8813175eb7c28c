"""Where and how a training computes: device, number format, processes, batch; and what it draws at random.

Random values are a function of position: (seed, purpose, step, index of the sample in the whole batch). Nothing is
consumed, so a resumed run, or one shared out over more processes, draws the same values.
"""

from __future__ import annotations

from dataclasses import dataclass
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
    batch: int  # samples of this process
    device: torch.device
    dtype: torch.dtype  # of the autocast; float32 is none
    world: ProcessGroup

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
        """A seed [B] of 62 bits for each sample of this process; `batch` replaces their number."""
        batch = batch or self.batch
        values = self._random(purpose, step, 1).integers(0, 2**62, self.world.size * batch)
        return torch.from_numpy(self._own(values, batch)).to(self.device)

    def uniform(self, purpose: Stream, step: int, count: int, batch: int | None = None) -> np.ndarray:
        """Uniform values [B, count] in [0, 1) for the samples of this process; `batch` replaces their number."""
        batch = batch or self.batch
        return self._own(self._random(purpose, step, 0).random((self.world.size * batch, count)), batch)

    def check_batch(self, divisor: int, reason: str) -> None:
        """UserError unless the batch can be cut into groups of `divisor`."""
        if self.batch % divisor:
            raise UserError(f"train.batch: {self.batch} is not a multiple of {divisor} ({reason})")

    def _random(self, purpose: Stream, step: int, kind: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=[self.seed, purpose], counter=[0, 0, kind, step]))

    def _own(self, values: np.ndarray, batch: int) -> np.ndarray:
        return values[self.world.rank * batch : (self.world.rank + 1) * batch]
