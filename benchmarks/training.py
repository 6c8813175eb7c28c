"""Training speed, beside a straightforward loop with the same networks, losses and batches.

    python -m benchmarks.training [--config FILE ...] [--repeats 5] [key=value ...]

Each config names its stage (train.stage) and is measured as train.py runs it: bfloat16 where the device gains, channels
last. The straightforward loop computes in float32, channels first, by layers of the plain formulas: weights for each
sample (grouped convolutions), concatenated copies in shifted convolutions, gains, bias and activation one by one. Both
take turns on batches of noise that are in memory before; the figures are medians of --repeats, after a warm-up. An
inverter starts from a generator of random weights. Losses that need a download are left out.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

import training
from benchmarks.machine import ROOT, seconds
from benchmarks.published import make_plain
from evaluation.run import machine
from models import build_generator
from models.weights import export
from training import Stage, TrainContext
from utils.config import load_config
from utils.device import select_device, select_dtype, tune_allocator
from utils.distributed import SINGLE
from utils.errors import run_command
from utils.log import info
from utils.schema import TrainConfig

CONFIGS = [ROOT / "configs" / "sample" / name for name in ("generator.yaml", "inverter.yaml")]
NO_DOWNLOADS = ["losses.inverter.lpips=0", "losses.inverter.identity=0"]
STEPS = 16  # of a measurement: each lazy loss comes, at its default interval


class PlainContext(TrainContext):
    """Training by plain layers, with features channels first."""

    def place(self, network: nn.Module) -> nn.Module:
        """A network on the device."""
        return make_plain(network, self.device)

    def load(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """A batch on the device."""
        return {name: value.to(self.device) for name, value in batch.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure every config, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, nargs="+", default=CONFIGS, help="one for each line of the table")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each loop")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="single keys of all configs")
    arguments = parser.parse_intermixed_args(argv)
    tune_allocator()
    info(f"{'config':<32} {'dtype':<9} {'images/s':>9} {'straightforward':>16} {'times as fast':>13}")
    for path in arguments.config:
        config = load_config(TrainConfig, path, [*NO_DOWNLOADS, *arguments.overrides])
        dtype, ours, plain = measure(config, arguments.repeats)
        info(f"{'/'.join(path.parts[-2:]):<32} {dtype:<9} {ours:9.2f} {plain:16.2f} {ours / plain:13.2f}")
    info(f"machine: {machine(select_device(config.train.device))}")
    return 0


def measure(config: dict, repeats: int) -> tuple[str, float, float]:
    """The number format, and images per second of train.py and of the straightforward loop.

    Medians of `repeats` measurements, which take turns.
    """
    torch.manual_seed(config.seed)
    device, batch = select_device(config.train.device), config.train.batch
    dtype = select_dtype(config.train.dtype, device)
    shared = config.seed, batch, device
    contexts = TrainContext(*shared, dtype, SINGLE), PlainContext(*shared, torch.float32, SINGLE)
    with tempfile.TemporaryDirectory() as folder:
        if config.train.stage == "inverter" and config.train.generator is None:
            config.train.generator = str(Path(folder, "generator.safetensors"))
            export(Path(config.train.generator), config.model, {"generator": build_generator(config.model)}, step=0)
        stages = [training.build(config, context) for context in contexts]
        for stage in stages:
            stage.load_files()
    batches = make_batches(config, stages[0])
    times: list[list[float]] = [[], []]
    for _ in range(1 + repeats):
        for stage, context, taken in zip(stages, contexts, times, strict=True):
            loaded = [context.load(each) for each in batches]
            taken.append(sum(seconds(partial(stage.step, step, each), device) for step, each in enumerate(loaded)))
    return str(dtype).removeprefix("torch."), *(batch * STEPS / median(taken[1:]) for taken in times)


def make_batches(config: dict, stage: Stage) -> list[dict[str, Tensor]]:
    """Batches of noise, of the shapes that a training's loader gives."""
    count, size, edge = config.train.batch, stage.window.size, config.model.global_encoder.thumbnail

    def noise(*shape: int) -> Tensor:
        return 2 * torch.rand(count, *shape) - 1

    return [
        {"window": noise(3, size, size), "thumbnail": noise(3, edge, edge), "row": noise(), "id": torch.arange(count)}
        for _ in range(STEPS)
    ]


if __name__ == "__main__":
    sys.exit(run_command(main))
