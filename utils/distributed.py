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

from utils.errors import UserError

LAUNCHER = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # what torchrun sets beside WORLD_SIZE


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

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Whether each flag is set in any process."""
        if self.size == 1:
            return flags
        values = torch.tensor(flags, dtype=torch.uint8, device="cuda" if dist.get_backend() == "nccl" else "cpu")
        dist.all_reduce(values, op=dist.ReduceOp.MAX)
        return tuple(map(bool, values.tolist()))

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
    """Join the processes of torchrun, if it started this one; the world and the device of this process.

    Raises UserError where the launcher's variables are incomplete, a GPU is missing, or the processes do not meet.
    """
    if "WORLD_SIZE" not in os.environ:
        return World(), device
    missing = [name for name in LAUNCHER if name not in os.environ]
    if missing:
        raise UserError(f"WORLD_SIZE is set, but not {', '.join(missing)}: start with torchrun, or unset WORLD_SIZE")
    backend, gpu = "gloo", None
    if device.type == "cuda":
        backend, gpu = "nccl", _gpu(int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(gpu)
    try:
        dist.init_process_group(backend, timeout=timedelta(minutes=timeout_minutes), device_id=gpu)
    except (RuntimeError, ValueError) as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise UserError(f"cannot join the other processes at {where}: {str(error).splitlines()[0]}") from error
    return World(dist.get_rank(), dist.get_world_size()), gpu or device


def _gpu(local_rank: int) -> torch.device:
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise UserError(f"LOCAL_RANK is {local_rank}, but this machine has {count} GPUs; one process each at most")
    return torch.device("cuda", local_rank)


def stop() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def gradients(module: nn.Module) -> list[Tensor]:
    """The gradients that the last backward pass left in a module."""
    return [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
