"""What train.py asks of a stage of training: the generator's, the inverter's, or another one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from math import prod
from pathlib import Path
from typing import TypeVar

from torch import Tensor, nn

from datasets import CropDataset, Window
from training.context import TrainContext
from training.optimization import NetworkOptimizer, move_average

Part = TypeVar("Part")  # of a batch, with what a stage has made of it
Loss = tuple[Tensor, dict[str, Tensor]]  # and scalars to log, by name


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
    exported: tuple[str, ...]  # names of the files that `export` writes
    conditions: dict  # beside the `model` section, what a saved state must have been made with; after `load_files`
    average: nn.Module  # of the network that is used after training

    def __init__(self, config: dict, context: TrainContext) -> None:
        self.settings, self.model, self.context = config.train, config.model, context
        self.networks: dict[str, nn.Module] = {}  # that learn
        self.optimizers: dict[str, NetworkOptimizer] = {}
        self.state: dict[str, nn.Module | NetworkOptimizer] = {}  # of checkpoints, averages too; after `load_files`

    def add_network(self, name: str, network: nn.Module, lazy_every: int | None = None) -> nn.Module:
        """A network that learns, on the device, with an optimizer (see `NetworkOptimizer`); both are in checkpoints."""
        self.networks[name] = network = self.context.place(network)
        settings, world = self.settings.optimizer, self.context.world
        self.optimizers[name] = NetworkOptimizer(name, network, settings, world, lazy_every)
        self.state |= {name: network, f"{name}_optimizer": self.optimizers[name]}
        return network

    def schedule(self, step: int) -> None:
        """Set the learning rates of a step."""
        for optimizer in self.optimizers.values():
            optimizer.schedule(step)

    def update(self, name: str, parts: Iterable[Part], loss: Callable[[Part], Loss]) -> dict[str, Tensor]:
        """A step of a network along the mean gradient of the losses of a batch's parts; the means of their scalars."""
        return self.optimizers[name].update(loss(part) for part in parts)

    def follow(self, network: nn.Module, step: int | None) -> None:
        """Move the average towards a network after a step, see `move_average`."""
        move_average(self.average, network, prod(self.context.shares), self.settings.ema_images, step)

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
