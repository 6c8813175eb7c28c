"""Batches of crops in the order of their steps, made by processes that work ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection

import cv2
import torch
import torch.multiprocessing as mp
from torch import Tensor

from datasets.crops import CropDataset
from utils.errors import UserError
from utils.signals import ignore_signals

Batch = dict[str, Tensor]

AHEAD = 2  # batches that each worker is asked for at a time
SILENCE = 120  # seconds after which a worker counts as lost


def load(
    dataset: CropDataset, first_step: int, steps: int, batch: int, rank: int = 0, world: int = 1, workers: int = 0
) -> Iterator[Batch]:
    """Batches of `batch` items of this process, one for each of `steps` steps from `first_step` on, in order.

    The same for any number of workers. A worker that dies or is silent for two minutes raises UserError, which names
    the images that were being read. To be closed, so that no worker stays.
    """
    asked = range(first_step, first_step + steps)
    make = partial(dataset.batch, indices=range(rank * batch, (rank + 1) * batch), global_batch=batch * world)
    if not workers:
        yield from map(make, asked)
        return
    crew = [_start(make) for _ in range(min(workers, steps))]
    ahead = AHEAD * len(crew)
    try:
        for step in asked[:ahead]:
            crew[step % len(crew)][1].send(step)
        for step in asked:
            process, pipe = crew[step % len(crew)]
            made = _receive(process, pipe, dataset)
            if step + ahead in asked:
                pipe.send(step + ahead)
            yield made
    finally:
        for process, _ in crew:
            process.kill()
            process.join()


def _start(make: Callable[[int], Batch]) -> tuple[mp.Process, Connection]:
    """A worker, and the pipe to it: steps go in, batches come out."""
    ours, theirs = mp.Pipe()
    process = mp.Process(target=_work, args=(make, theirs, ours), daemon=True)
    process.start()
    theirs.close()  # so that the pipe ends with the worker
    return process, ours


def _work(make: Callable[[int], Batch], pipe: Connection, other_end: Connection) -> None:
    other_end.close()
    ignore_signals()  # the main process decides when to stop; then it saves
    cv2.setNumThreads(0)  # the workers are the threads
    torch.set_num_threads(1)
    with suppress(EOFError, ConnectionError):  # the main process has ended
        while True:
            step = pipe.recv()
            try:
                answer = make(step)
            except UserError as error:
                answer = error
            pipe.send(answer)


def _receive(process: mp.Process, pipe: Connection, dataset: CropDataset) -> Batch:
    """The next batch of a worker. UserError where it cannot make one, or was lost."""
    try:
        if not pipe.poll(SILENCE):
            raise TimeoutError
        answer = pipe.recv()
    except (EOFError, OSError) as error:
        process.join(1)
        state = "is silent" if process.exitcode is None else f"has ended with code {process.exitcode}"
        names = ", ".join(dataset.being_read()) or "no image"
        raise UserError(f"loading failed (being read: {names}): a worker {state}") from error
    if isinstance(answer, UserError):
        raise answer
    return answer
