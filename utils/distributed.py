"""Data-parallel training: the processes that torchrun starts, and what they tell each other.

Gradients are averaged explicitly after each backward pass instead of through DistributedDataParallel: the lazy
regularisers differentiate twice and touch other parameters than the main losses, which its reducer does not allow for.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class World:
    """This process among those of the run."""

    rank: int = 0
    size: int = 1

    @property
    def main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def average(self, values: Iterable[Tensor]) -> None:
        """Replace tensors by their means over all processes, in place."""
        values = [value for value in values if value is not None]
        if self.size == 1 or not values:
            return
        flat = torch.cat([value.reshape(-1) for value in values])
        dist.all_reduce(flat)
        flat /= self.size
        for value, mean in zip(values, flat.split([value.numel() for value in values]), strict=True):
            value.copy_(mean.view_as(value))

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if self.size == 1:
            return flag
        value = torch.tensor(float(flag), device="cuda" if dist.get_backend() == "nccl" else "cpu")
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return bool(value)

    def gather(self, values: Tensor) -> Tensor:
        """The samples [B, ...] of all processes, in order of rank, with gradients to each."""
        if self.size == 1:
            return values
        from torch.distributed.nn.functional import all_gather

        return torch.cat(all_gather(values.contiguous()))

    def wait(self) -> None:
        """Return when all processes are here."""
        if self.size > 1:
            dist.barrier()


def start(device: torch.device, timeout_minutes: float) -> tuple[World, torch.device]:
    """Join the processes of torchrun, if it started this one; the world and the device of this process."""
    if "WORLD_SIZE" not in os.environ:
        return World(), device
    backend = "gloo"
    if device.type == "cuda":
        device, backend = torch.device("cuda", int(os.environ["LOCAL_RANK"])), "nccl"
        torch.cuda.set_device(device)
    dist.init_process_group(backend, timeout=timedelta(minutes=timeout_minutes))
    return World(dist.get_rank(), dist.get_world_size()), device


def stop() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def gradients(module: nn.Module) -> list[Tensor]:
    """The gradients that the last backward pass left in a module."""
    return [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
