"""The processes that torchrun starts, and what they tell each other.

Gradients are averaged explicitly after each backward pass instead of through DistributedDataParallel: the lazy
regularisers differentiate twice and touch other parameters than the main losses, which its reducer does not allow for.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from utils.device import select_device
from utils.errors import UserError

POLL = 0.001  # seconds between looks at whether all have come


class LostWorker(UserError):
    """Another process of the run has ended before its time."""

    exit_code = 1


@dataclass(frozen=True)
class ProcessGroup:
    """This process among those of the run."""

    rank: int = 0
    size: int = 1

    @property
    def main(self) -> bool:
        """Whether this process speaks for all: it prints, and writes what there is once for the run."""
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
        """Whether each flag is set in any process; returns when all are here. Signals are heard while waiting.

        LostWorker where a process has gone.
        """
        if self.size == 1:
            return flags
        values = torch.tensor(flags, dtype=torch.uint8, device="cuda" if dist.get_backend() == "nccl" else "cpu")
        try:
            work = dist.all_reduce(values, op=dist.ReduceOp.MAX, async_op=True)
            while not work.is_completed():
                time.sleep(POLL)
            work.wait()
        except RuntimeError as error:
            raise LostWorker("another worker was lost; start again to go on") from error
        return tuple(map(bool, values.tolist()))

    def wait(self) -> None:
        """Return when all processes are here, as `any`."""
        self.any(False)

    def gather(self, values: Tensor) -> Tensor:
        """The samples [B, ...] of all processes, in order of rank, with gradients to each."""
        if self.size == 1:
            return values
        from torch.distributed.nn.functional import all_gather

        return torch.cat(all_gather(values.contiguous()))


SINGLE = ProcessGroup()


def first_process() -> bool:
    """Whether this process speaks for those that torchrun started, before they have met."""
    return os.environ.get("RANK", "0") == "0"


def start(device: torch.device, timeout_minutes: float, gloo: bool = False) -> tuple[ProcessGroup, torch.device]:
    """Join the processes of torchrun, if it started this one; the world and the device of this process.

    They speak NCCL on GPUs, unless `gloo` is asked for: it is for those that exchange no tensors of the GPU.
    Raises UserError where a GPU is missing, or the processes do not meet.
    """
    if "WORLD_SIZE" not in os.environ:
        return SINGLE, device
    backend, gpu = "gloo", None
    if device.type == "cuda":
        backend, gpu = "gloo" if gloo else "nccl", select_device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}")
        torch.cuda.set_device(gpu)
    bound = gpu if backend == "nccl" else None
    try:
        dist.init_process_group(backend, timeout=timedelta(minutes=timeout_minutes), device_id=bound)
    except (RuntimeError, ValueError) as error:
        where = ":".join(os.environ.get(name, "?") for name in ("MASTER_ADDR", "MASTER_PORT"))
        raise UserError(f"cannot join the other processes at {where}: {str(error).splitlines()[0]}") from error
    return ProcessGroup(dist.get_rank(), dist.get_world_size()), gpu or device


def stop() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()
