"""Images for training: sources, splits, crops, loading. `build` turns the config's `data` section into datasets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import cv2
import torch
from torch.utils.data import DataLoader

from datasets.crops import CropDataset, StepSampler, Window
from datasets.sources import Source, combined_digest, open_source
from datasets.splits import refuse_shared, split
from images.resizing import check_side
from utils.errors import UserError
from utils.signals import ignore_signals

__all__ = ["NO_VALIDATION", "CropDataset", "CropLoader", "StepSampler", "Window", "build", "loader", "loading_failures"]

NO_VALIDATION = "none"  # in place of data.val
SILENCE = 120  # seconds after which a worker counts as lost


class CropLoader(DataLoader):
    """A DataLoader whose failures are one line that names the image."""

    def __iter__(self) -> Iterator[dict]:
        iterator = super().__iter__()
        try:
            with loading_failures(self.dataset):
                yield from iterator
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
        if "UserError: " not in str(error):
            raise
        # A worker's error arrives with its traceback in front.
        raise UserError(str(error).strip().rpartition("UserError: ")[2]) from error
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

    The same for any number of workers. A worker that dies or is silent for two minutes raises UserError.
    """
    return CropLoader(
        dataset.with_batch(batch * world),
        batch_sampler=StepSampler(first_step, steps, batch, rank, world),
        num_workers=workers,
        worker_init_fn=_start_worker,
        timeout=SILENCE if workers else 0,
        pin_memory=torch.cuda.is_initialized(),  # where this process computes on a GPU
    )


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
