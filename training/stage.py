"""What train.py asks of a stage of training: the generator's, the inverter's, or another one."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn


class Window(NamedTuple):
    """Edges in pixels of what a stage sees of an image: a patch in its context."""

    patch: int
    before: int  # context above and left of the patch
    after: int  # context below and right of it

    @property
    def size(self) -> int:
        """Edge of the whole window."""
        return self.before + self.patch + self.after


class Stateful(Protocol):
    """What goes on from where it was saved."""

    def state_dict(self) -> dict:
        """Nested dicts and lists of tensors and plain values."""

    def load_state_dict(self, state: dict) -> None:
        """Go on from `state_dict`."""


@runtime_checkable
class Stage(Protocol):
    """Networks that learn, and how.

    A stage is made from (config, context) and reads no file before `load_files`; UserError where the config's numbers
    do not fit together. A new stage is a class with these members, and a line in `training.STAGES`.

    A batch has `window` [B, 3, S, S], S = window.size, and `thumbnail` [B, 3, T, T], both in [-1, 1], `row` [B], the
    vertical position of the patch in [-1, 1], and `id` [B], the number of the image. With several processes each has a
    batch of its own; the stage averages gradients (`NetworkOptimizer`), train.py the scalars.
    """

    window: Window
    exported: tuple[str, ...]  # names of the files that `export` writes

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The networks that learn, by name."""

    @property
    def conditions(self) -> dict:
        """What a saved state must have been made with, beside the `model` section: plain values by name."""

    @property
    def state(self) -> dict[str, Stateful]:
        """What a checkpoint holds, by name: networks, optimizers, averages."""

    def load_files(self) -> None:
        """Load the weights that the run starts from. UserError for a file that is of no use."""

    def step(self, step: int, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Train on one batch; scalars to log, by name. `Diverged`, with the networks as before, if one is not finite.

        Random values are a function of `step` alone (`TrainContext.draws`), so that a resumed run repeats them.
        """

    def pictures(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Image batches [N, 3, H, W] in [-1, 1] to show, by name."""

    def validate(self, batches: list[dict[str, Tensor]]) -> dict[str, float]:
        """Figures on images that are not trained on, by name; none where a stage has none."""

    def export(self, folder: Path, step: int) -> list[Path]:
        """Write the weights that are used after training into the run's folder; their paths."""
