"""Where and how a training computes: device, number format, processes, batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.draws import StepRandom, Stream
from utils.distributed import ProcessGroup
from utils.errors import UserError


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
        moved = {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}
        return {
            name: value.contiguous(memory_format=torch.channels_last) if value.dim() == 4 else value
            for name, value in moved.items()
        }

    def draws(self, purpose: Stream, step: int, batch: int | None = None) -> StepRandom:
        """The random values of a step; `batch` replaces the number of samples."""
        batch = self.batch if batch is None else batch
        return StepRandom(self.seed, purpose, step, batch, self.world.rank, self.world.size, self.device)

    def check_batch(self, divisor: int, reason: str) -> None:
        """UserError unless the batch can be cut into groups of `divisor`."""
        if self.batch % divisor:
            raise UserError(f"train.batch: {self.batch} is not a multiple of {divisor} ({reason})")
