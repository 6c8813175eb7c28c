"""What train.py asks of a stage of training: the generator's, the inverter's, or another one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from torch import Tensor, nn

from datasets import CropDataset, Window
from training.optimization import NetworkOptimizer


class Stage(ABC):
    """Networks that learn, and how.

    A stage is made from (config, context) and reads no file before `load_files`; UserError where the config's numbers
    do not fit together. A new stage is a class with these members, and a line in `training.STAGES`.

    A batch has `window` [B, 3, S, S], S = window.size, and `thumbnail` [B, 3, T, T], both in [-1, 1], `row` [B], the
    vertical position of the patch in [-1, 1], and `id` [B], the number of the image. With several processes each has a
    batch of its own; the stage averages gradients (`NetworkOptimizer`), train.py the scalars. A batch may have several
    parts (`TrainContext.parts`), of which the device holds one at a time: what is computed of them makes one step.
    """

    window: Window
    networks: dict[str, nn.Module]  # that learn
    exported: tuple[str, ...]  # names of the files that `export` writes
    conditions: dict  # beside the `model` section, what a saved state must have been made with; after `load_files`
    state: dict[str, nn.Module | NetworkOptimizer]  # what a checkpoint holds, averages too; after `load_files`

    @abstractmethod
    def load_files(self) -> None:
        """Load the weights that the run starts from, if any. UserError for a file that is of no use."""

    def prepare(self, images: CropDataset) -> None:  # noqa: B027 (most stages have nothing to set)
        """Set what follows from the training images without being learned; before a saved state is loaded."""

    @abstractmethod
    def step(self, step: int, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Train on one batch; scalars to log, by name. `Diverged`, with the networks as before, if one is not finite.

        Random values are a function of `step` alone (`TrainContext.seeds`), so that a resumed run repeats them.
        """

    @abstractmethod
    def pictures(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Image batches [N, 3, H, W] in [-1, 1] to show, by name."""

    def validate(self, batches: list[dict[str, Tensor]]) -> dict[str, float]:
        """Figures on images that are not trained on, by name; none where a stage has none."""
        return {}

    @abstractmethod
    def export(self, folder: Path, step: int) -> list[Path]:
        """Write the weights that are used after training into the run's folder; their paths."""
