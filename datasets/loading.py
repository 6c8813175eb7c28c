"""Loading of crops, in this process or by others, whose failures are one line that names the image."""

from __future__ import annotations

import math
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datasets.crops import CropDataset
from utils import log
from utils.distributed import LostWorker
from utils.errors import UserError
from utils.signals import ignore_signals
from utils.watching import LOOK, Watch, end_with_parent

SHARED = Path("/dev/shm")  # what Linux shares between processes
SILENCE = 120  # seconds after which a worker counts as lost, whatever it does
PATIENCE = 2  # looks at a worker in a row at which it does nothing, after which it counts as lost
HANGS, END = "hangs", getattr(signal, "SIGKILL", signal.SIGTERM)


class CropLoader(DataLoader):
    """A DataLoader whose failures are one line that names the image, and come where a batch is asked for.

    PyTorch would also report a worker that is lost from a signal handler, in the middle of whatever is computed.
    """

    def __iter__(self) -> Iterator[dict]:
        iterator = super().__iter__()
        _silence_handler()
        workers, whole = getattr(iterator, "_workers", []), False
        try:
            while True:
                with _loading_failures(self.dataset, workers):
                    batch = _next(iterator)
                if batch is None:
                    break
                yield _as_tensors(batch)
            whole = True
        finally:
            if workers:
                _stop(iterator, at_once=not whole)


@contextmanager
def _loading_failures(dataset: CropDataset, workers: Sequence[BaseProcess]) -> Iterator[None]:
    """Turns the failure of a worker that reads `dataset` into one line that names the image."""
    try:
        yield
    except UserError as error:
        name = f"{type(error).__name__}: "
        if name not in str(error):
            raise
        # A worker's error arrives with its traceback in front.
        raise type(error)(str(error).strip().rpartition(name)[2]) from error
    except (RuntimeError, ConnectionError, EOFError) as error:  # the last two: it was lost while it sent a batch
        if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader "):
            raise
        names = ", ".join(dataset.being_read()) or "no image"
        said = str(error).partition("\n")[0]
        reason = said if HANGS in said else _ends(workers) or said or "a worker was lost"
        raise LostWorker(f"loading failed (being read: {names}): {reason}") from error


def _ends(workers: Sequence[BaseProcess]) -> str:
    """How workers have ended that should not have."""
    said = []
    for worker in workers:
        worker.join(0.1)  # one that closed its pipe is about to end
        if worker.exitcode is not None and worker.exitcode < 0:
            name = signal.Signals(-worker.exitcode).name
            hint = ", as the system does where memory is short" if name == "SIGKILL" else ""
            said.append(f"worker {worker.pid} was ended by {name}{hint}")
    return "; ".join(said)


def _next(iterator: Iterator[dict]) -> dict | None:
    """The next batch; None at the end. RuntimeError where the worker whose turn it is hangs, or works for too long."""
    asked, task = time.monotonic(), getattr(iterator, "_task_info", {}).get(getattr(iterator, "_rcvd_idx", None))
    with _guarded(iterator._workers[task[0]].pid) if task else nullcontext([]) as hung:
        while True:
            try:
                return next(iterator, None)
            except (RuntimeError, ConnectionError, EOFError) as error:
                if hung:
                    raise RuntimeError(f"DataLoader worker {hung[0]} {HANGS}") from error
                if not str(error).startswith("DataLoader timed out"):
                    raise
                if time.monotonic() - asked > SILENCE:
                    raise RuntimeError(f"DataLoader timed out after {SILENCE} seconds") from error


@contextmanager
def _guarded(pid: int) -> Iterator[list[int]]:
    """Ends a worker that is waited for and hangs; the list then holds it.

    In a thread, since a batch is taken over from the worker itself, which one that is stopped there never answers.
    """
    hung, done, watch = [], threading.Event(), Watch(pid, PATIENCE)

    def look() -> None:
        while not hung and not done.wait(LOOK):
            if watch.hangs():
                hung.append(pid)
                with suppress(ProcessLookupError):
                    os.kill(pid, END)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield hung
    finally:
        done.set()
        thread.join()


def loader(
    dataset: CropDataset, first_step: int, steps: int, batch: int, rank: int = 0, world: int = 1, workers: int = 0
) -> DataLoader:
    """Batches of `batch` items of this process, one for each of `steps` steps from `first_step` on, in order.

    The same for any number of workers, which take turns. They hand over batches in shared memory or, where that is too
    small, by pipe, with a note; where the system lets none start, this process loads. A worker that dies, does nothing
    for some seconds while its batch is waited for, or has none for two minutes raises LostWorker.
    """
    options = loader_options(workers)
    if options["num_workers"] < workers:
        log.info(f"note: {SHARED} cannot be written: data.workers=0 in place of {workers}", rank == 0)
        workers = 0
    numbers = 3 * dataset.window.size**2 + 3 * dataset.thumbnail**2 + 2  # of an item
    needed, free = (2 * workers + 2) * batch * numbers * 4, _free_shared_memory()
    by_pipe = bool(workers) and needed > free
    if by_pipe:
        sizes = f"{free / 2**20:.0f} of {needed / 2**20:.0f} MiB"
        log.info(f"note: {SHARED} has {sizes} free that batches may take: they come by pipe, more slowly", rank == 0)
    indices = range(rank * batch, (rank + 1) * batch)
    return CropLoader(
        dataset.with_batch(batch * world),
        batch_sampler=([(step, index) for index in indices] for step in range(first_step, first_step + steps)),
        collate_fn=_as_arrays if by_pipe else None,
        **options,
        pin_memory=torch.cuda.is_initialized(),  # where this process computes on a GPU
    )


def loader_options(workers: int) -> dict[str, object]:
    """How a CropLoader starts its workers; where the system lets none start, there are none."""
    workers = workers if workers and _processes_can_meet() else 0
    return {"num_workers": workers, "worker_init_fn": _start_worker, "timeout": LOOK if workers else 0}


def _as_arrays(items: list[dict[str, Tensor]]) -> dict[str, np.ndarray]:
    """A batch as arrays: tensors of a worker would go into shared memory."""
    return {name: np.stack([item[name].numpy() for item in items]) for name in items[0]}


def _as_tensors(batch: object) -> object:
    """A batch of `_as_arrays` as tensors; others as they are."""
    return {name: torch.as_tensor(each) for name, each in batch.items()} if isinstance(batch, dict) else batch


def _free_shared_memory() -> float:
    """Bytes; other systems than Linux have no limit of their own."""
    if sys.platform != "linux":
        return math.inf
    return shutil.disk_usage(SHARED).free if os.access(SHARED, os.W_OK) else 0


def _processes_can_meet() -> bool:
    """Whether the system has the semaphores that worker processes need: Linux keeps them in shared memory, too."""
    try:
        multiprocessing.Lock()
    except (OSError, ImportError):
        return False
    return True


def _start_worker(_: int) -> None:
    ignore_signals()  # the main process decides when to stop; then it saves
    end_with_parent()
    cv2.setNumThreads(0)  # the workers are the threads


def _silence_handler() -> None:
    """Take away PyTorch's handler that raises wherever a worker is lost: `_next` finds out within a few seconds."""
    number = getattr(signal, "SIGCHLD", None)  # Windows has none
    if number is None or threading.current_thread() is not threading.main_thread():
        return
    if str(getattr(signal.getsignal(number), "__module__", "")).startswith("torch."):
        signal.signal(number, signal.SIG_DFL)


def _stop(iterator: Iterator[dict], at_once: bool) -> None:
    """End the workers now: they ignore the signal by which an ending program stops them, and it would wait for ever.

    `at_once`: for one that hangs PyTorch would wait for some seconds.
    """
    workers = list(iterator._workers)
    for worker in workers if at_once else []:
        worker.kill()
    iterator._shutdown_workers()
    for worker in workers:
        if worker.is_alive():
            worker.kill()
