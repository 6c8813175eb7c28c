"""The processes that torchrun starts, and what they tell each other.

Gradients are averaged explicitly after each backward pass instead of through DistributedDataParallel: the lazy
regularisers differentiate twice and touch other parameters than the main losses, which its reducer does not allow for.
"""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import psutil
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from utils.device import select_device
from utils.errors import UserError
from utils.watching import Watch

POLL = 0.001  # seconds between looks at whether all have come
GOING = 0.2  # seconds from when others notice that a process has gone to when the system says so
PATIENCE = 4  # looks at another process in a row at which it does nothing, after which it counts as lost
LOST = "another worker was lost"


class LostWorker(UserError):
    """Another process of the run has ended before its time."""

    exit_code = 1


@dataclass(frozen=True)
class ProcessGroup:
    """This process among those of the run."""

    rank: int = 0
    size: int = 1
    peers: dict[int, int] = field(default_factory=dict)  # process numbers of the others on this machine, by rank

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
        self._meet(lambda: dist.all_reduce(flat, async_op=True))
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
        self._meet(lambda: dist.all_reduce(values, op=dist.ReduceOp.MAX, async_op=True))
        return tuple(map(bool, values.tolist()))

    def wait(self) -> None:
        """Return when all processes are here, as `any`."""
        self.any(False)

    def gather(self, values: Tensor) -> Tensor:
        """The samples [B, ...] of all processes, in order of rank, without gradients."""
        values = values.detach().contiguous()
        if self.size == 1:
            return values
        found = [torch.empty_like(values) for _ in range(self.size)]
        self._meet(lambda: dist.all_gather(found, values, async_op=True))
        return torch.cat(found)

    def _meet(self, begin: Callable[[], dist.Work]) -> None:
        """Begin something that takes all processes, and return when it is done. Signals are heard while waiting.

        LostWorker where a process has gone; one that hangs is killed, or it would outlive the run.
        """
        with self._telling_loss():
            work, watches = begin(), {rank: Watch(pid, PATIENCE) for rank, pid in self.peers.items()}
            while not work.is_completed():
                time.sleep(POLL)
                for rank, watch in watches.items():
                    if watch.hangs():
                        psutil.Process(watch.pid).kill()
                        raise LostWorker(f"{LOST} (rank {rank} does nothing); start again to go on")
            work.wait()

    @contextmanager
    def _telling_loss(self) -> Iterator[None]:
        """Turns the errors that the loss of another process causes into LostWorker, which names it if it was here."""
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or not re.search("gloo|nccl|socket|connection|distributed", str(error), re.IGNORECASE):
                raise
            time.sleep(GOING)
            gone = ", ".join(f"rank {rank}" for rank, pid in self.peers.items() if Watch(pid, 1).gone())
            raise LostWorker(f"{LOST}{f' ({gone})' if gone else ''}; start again to go on") from error


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
    bound, timeout = gpu if backend == "nccl" else None, timedelta(minutes=timeout_minutes)
    try:
        store, rank, size = next(rendezvous("env://", timeout=timeout))
        # torchrun keeps the store when it starts processes anew: some would find the places of those before
        store = dist.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout, device_id=bound)
    except (RuntimeError, ValueError) as error:
        where = ":".join(os.environ.get(name, "?") for name in ("MASTER_ADDR", "MASTER_PORT"))
        raise UserError(f"cannot join the other processes at {where}: {str(error).splitlines()[0]}") from error
    found = [None] * size
    dist.all_gather_object(found, (platform.node(), os.getpid()))
    here = {other: pid for other, (node, pid) in enumerate(found) if node == platform.node() and other != rank}
    return ProcessGroup(rank, size, here), gpu or device


def stop() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()
