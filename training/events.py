"""The event files that TensorBoard shows: scalars and rows of images."""

from __future__ import annotations

from pathlib import Path
from queue import Queue
from types import SimpleNamespace

import torch
from tensorboardX import SummaryWriter, event_file_writer
from torch import Tensor

from utils import log
from utils.files import refusals, require_space

EVENTS = "events"  # their folder, in that of a run
PICTURES = 8  # images in a row
SPACE = 2**24  # bytes that must be free: the writer's thread dies on a full disk, and the run would wait for it


class ThreadQueue(Queue):
    """What tensorboardX hands events to its thread by, in place of a queue for processes: those need /dev/shm."""

    def close(self) -> None:
        """Nothing is left to be closed."""


class Events(SummaryWriter):
    """A run's event files; does nothing on other processes than the main one."""

    def __init__(self, folder: Path, main: bool, step: int) -> None:
        """`step` is the last one of the run so far: what an earlier start logged after it is not shown any more.

        Raises UserError where the folder cannot be written, as do the methods on a full disk.
        """
        self.folder, self.main = folder, main
        event_file_writer.multiprocessing = SimpleNamespace(Queue=ThreadQueue)
        with refusals(folder):
            super().__init__(str(folder), purge_step=step + 1 if step else None, write_to_disk=main)

    def scalars(self, values: dict, step: int) -> None:
        """Write scalars and show them in one line."""
        self._check_space()
        for name, value in values.items():
            self.add_scalar(name, float(value), step)
        line = "  ".join(f"{name} {float(value):.4g}" for name, value in values.items())
        log.info(f"step {step}  {line}", self.main and bool(values))

    def images(self, grids: dict[str, Tensor], step: int) -> None:
        """Write image batches [N, 3, H, W] in [-1, 1], each as a row of images."""
        self._check_space()
        for name, images in grids.items():
            row = torch.cat(list(images[:PICTURES].float().cpu()), dim=2).clamp(-1, 1)
            self.add_image(name, ((row + 1) / 2).numpy(), step)

    def close(self) -> None:
        """Write what is still to be written."""
        with refusals(self.folder):
            super().close()

    def _check_space(self) -> None:
        if self.main:
            require_space(self.folder, SPACE)
