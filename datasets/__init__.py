"""Images for training: sources, splits, crops, loading. `build` turns the config's `data` section into datasets."""

from __future__ import annotations

import math
import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datasets.crops import CropDataset, StepSampler, Window
from datasets.sources import Source, combined_digest, open_source
from datasets.splits import refuse_shared, split
from images.resizing import check_side
from utils import log
from utils.errors import UserError
from utils.signals import ignore_signals

__all__ = ["NO_VALIDATION", "CropDataset", "CropLoader", "StepSampler", "Window", "build", "loader", "loading_failures"]

NO_VALIDATION = "none"  # in place of data.val
SHARED = Path("/dev/shm")  # what Linux shares between processes
SILENCE = 120  # seconds after which a worker counts as lost


class CropLoader(DataLoader):
    """A DataLoader whose failures are one line that names the image."""

    def __iter__(self) -> Iterator[dict]:
        iterator = super().__iter__()
        try:
            with loading_failures(self.dataset):
                yield from map(_as_tensors, iterator)
        finally:
            if self.num_workers:
                _again(partial(_stop, iterator))


@contextmanager
def loading_failures(dataset: CropDataset) -> Iterator[None]:
    """Turns the failure of a worker that reads `dataset` into a UserError of one line that names the image.

    PyTorch reports a worker that is lost at any moment, also while something else is computed.
    """
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
        names = ", ".join(_again(dataset.being_read)) or "no image"
        reason = str(error).partition("\n")[0] or "a worker was lost"
        raise UserError(f"loading failed (being read: {names}): {reason}") from error


def build(config: dict, window: Window, thumbnail: int, seed: int) -> tuple[CropDataset, CropDataset]:
    """Training and validation data of a `data` section; sizes as in CropDataset. UserError where it is wrong.

    Without validation (data.val=none) the second one is empty.
    """
    if config.train is None:
        raise UserError("data.train is not set: a folder of images, a zip file or an LMDB is needed")
    if config.resize is not None:
        check_side("data.resize", config.resize, config.max_pixels)
    train_source = val_source = open_source(config.train)
    if config.val in (None, NO_VALIDATION):
        fraction = 0.0 if config.val else config.val_fraction
        train_records, val_records = split(train_source.digests, fraction)
    else:
        val_source = open_source(config.val)
        refuse_shared(train_source, val_source)
        train_records, val_records = list(range(len(train_source))), list(range(len(val_source)))

    def crops(source: Source, records: list[int], flip: bool = False) -> CropDataset:
        shared = {key: config[key] for key in ("resize", "max_pixels", "max_bad_fraction")}
        identity = combined_digest(source.digests[record] for record in records)
        return CropDataset(
            source, records, window, thumbnail=thumbnail, seed=seed, flip=flip, identity=identity, **shared
        )

    return crops(train_source, train_records, config.flip), crops(val_source, val_records)


def loader(
    dataset: CropDataset, first_step: int, steps: int, batch: int, rank: int = 0, world: int = 1, workers: int = 0
) -> DataLoader:
    """Batches of `batch` items of this process, one for each of `steps` steps from `first_step` on, in order.

    The same for any number of workers, which take turns. They hand over batches in shared memory or, where that is too
    small, by pipe, with a note; where the system lets none start, this process loads. A worker that dies or is silent
    for two minutes raises UserError.
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
    return CropLoader(
        dataset.with_batch(batch * world),
        batch_sampler=StepSampler(first_step, steps, batch, rank, world),
        collate_fn=_as_arrays if by_pipe else None,
        **options,
        pin_memory=torch.cuda.is_initialized(),  # where this process computes on a GPU
    )


def loader_options(workers: int) -> dict[str, object]:
    """How a CropLoader starts its workers; where the system lets none start, there are none."""
    workers = workers if workers and _processes_can_meet() else 0
    return {"num_workers": workers, "worker_init_fn": _start_worker, "timeout": SILENCE if workers else 0}


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
    cv2.setNumThreads(0)  # the workers are the threads


def _again(action: Callable[[], object]):
    """The action's result; it is begun again where PyTorch's signal handler, too, reports a worker that is lost."""
    try:
        return action()
    except RuntimeError as error:
        if not str(error).startswith("DataLoader "):
            raise
        return action()


def _stop(iterator: Iterator[dict]) -> None:
    """End the workers now: they ignore the signal by which an ending program stops them, and it would wait for ever."""
    workers = list(iterator._workers)
    iterator._shutdown_workers()
    for worker in workers:
        if worker.is_alive():
            worker.kill()
