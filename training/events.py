"""The event files that TensorBoard shows: scalars and rows of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tensorboardX import SummaryWriter
from torch import Tensor

from utils import log
from utils.errors import UserError
from utils.files import free_space

PICTURES = 8  # images in a row
SPACE = 2**24  # bytes that must be free: the writer's thread dies on a full disk, and the run would wait for it


class Events:
    """A run's event files; does nothing on other processes than the main one."""

    def __init__(self, folder: Path, main: bool, step: int) -> None:
        """`step` is the last one of the run so far: what an earlier start logged after it is not shown any more.

        Raises UserError where the folder cannot be written, as do the methods on a full disk.
        """
        self.folder, self.writer = folder, None
        if main:
            try:
                self.writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)
            except OSError as error:
                raise UserError(f"cannot write {folder}: {error.strerror or error}") from error

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *error: object) -> None:
        if self.writer:
            self.writer.close()

    def scalars(self, values: dict, step: int) -> None:
        """Write scalars and show them in one line."""
        if not self.writer or not values:
            return
        self._require_space()
        for name, value in values.items():
            self.writer.add_scalar(name, float(value), step)
        log.info(f"step {step}  " + "  ".join(f"{name} {float(value):.4g}" for name, value in values.items()))

    def images(self, grids: dict[str, Tensor], step: int) -> None:
        """Write image batches [N, 3, H, W] in [-1, 1], each as a row of images."""
        if not self.writer:
            return
        self._require_space()
        for name, images in grids.items():
            row = torch.cat(list(images[:PICTURES].float().cpu()), dim=2).clamp(-1, 1)
            self.writer.add_image(name, np.asarray((row + 1) / 2), step)

    def _require_space(self) -> None:
        free = free_space(self.folder)
        if free < SPACE:
            raise UserError(f"cannot write {self.folder}: {free / 2**20:.0f} MiB free")
