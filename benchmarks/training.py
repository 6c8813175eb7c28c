"""Training speed, beside a straightforward loop with the same networks, losses and batches.

    python -m benchmarks.training [--config FILE ...] [--repeats 5] [--json FILE] [key=value ...]

Each config names its stage (train.stage) and is measured as train.py runs it: bfloat16 where the device gains, channels
last. The straightforward loop computes in float32, channels first, with a weight for each sample in modulated
convolutions (grouped convolutions), concatenated copies in shifted ones, and gains, bias, and activation in steps of
their own. Both take turns on synthetic batches that are in memory before. A measurement is as many steps as it takes
for each lazy loss to come; the figures are medians of --repeats of them, after one to warm up. An inverter starts from
a generator of random weights. Losses that need a download are left out.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from statistics import median
from unittest import mock

import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import training
from benchmarks import machine
from benchmarks.inference import positive
from benchmarks.memory import photograph
from benchmarks.published import SHIFTS, concatenated_weight, convolve, middle, modulated
from datasets import loader
from datasets.crops import CropDataset
from datasets.image import Image
from models import build_generator
from models.encoder import EncoderLayer
from models.layers import EqualizedConv2d, ModulatedConv2d, ShiftedConv2d, activate
from models.weights import export
from training.context import TrainContext
from training.run import take_step
from utils import log
from utils.config import load_config
from utils.device import select_device, select_dtype, tune_allocator
from utils.distributed import ProcessGroup
from utils.errors import run_command
from utils.files import atomic_path
from utils.schema import TrainConfig

CONFIGS = [Path(__file__).parents[1] / "configs" / "sample" / name for name in ("generator.yaml", "inverter.yaml")]
NO_DOWNLOADS = ["losses.inverter.lpips=0", "losses.inverter.identity=0"]
BATCHES = 4  # that the steps go through
PICTURE = 256  # edge of the photograph that they are crops of, pixels
SHORTEST = 4  # steps of a measurement


def main(argv: Sequence[str] | None = None) -> int:
    """Measure every config, print the table, and write the JSON that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, nargs="+", default=CONFIGS, help="one for each line of the table")
    parser.add_argument("--repeats", type=positive, default=5, help="measurements of each loop")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="single keys of all configs")
    arguments = parser.parse_intermixed_args(argv)
    tune_allocator()
    stages, device = [], torch.device("cpu")
    log.info(f"{'config':<32} {'stage':<10} {'dtype':<9} {'images/s':>9} {'straightforward':>16} {'speedup':>8}")
    for path in arguments.config:
        config = load_config(TrainConfig, path, [*NO_DOWNLOADS, *arguments.overrides])
        device = select_device(config.train.device)
        figures = {"config": str(path)} | measure(config, device, arguments.repeats)
        rates = f"{figures['images_per_second']:9.2f} {figures['images_per_second_straightforward']:16.2f}"
        name = "/".join(path.parts[-2:])
        log.info(f"{name:<32} {figures['stage']:<10} {figures['dtype']:<9} {rates} {figures['speedup']:8.2f}")
        stages.append(figures)
    figures = {"machine": machine.describe(device), "stages": stages}
    log.info(f"machine: {figures['machine']}")
    if arguments.json:
        with atomic_path(arguments.json) as temporary:
            temporary.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0


def measure(config: dict, device: torch.device, repeats: int) -> dict:
    """The figures of a config's stage: medians of `repeats` measurements of each loop, which take turns."""
    torch.manual_seed(config.seed)
    dtype = select_dtype(config.train.dtype, device)
    shared = config.seed, config.train.batch, device
    with tempfile.TemporaryDirectory() as folder:
        if config.train.stage == "inverter" and config.train.generator is None:
            config.train.generator = str(random_generator(config.model, Path(folder)))
        ours = Loop(config, TrainContext(*shared, dtype, ProcessGroup()), nullcontext)
        plain = Loop(config, PlainTrainContext(*shared, torch.float32, ProcessGroup()), straightforward)
    batches, steps = make_batches(config, ours.stage), steps_of(config)
    times: dict[Loop, list[float]] = {ours: [], plain: []}
    for _ in range(1 + repeats):
        for loop, taken in times.items():
            taken.append(loop.run(batches, steps))
    rates = [config.train.batch * steps / median(taken[1:]) for taken in times.values()]
    return {
        "stage": config.train.stage,
        "dtype": str(dtype).removeprefix("torch."),
        "batch": config.train.batch,
        "patch": ours.stage.window[0],
        "steps_of_a_measurement": steps,
        "measurements": repeats,
        "images_per_second": rates[0],
        "images_per_second_straightforward": rates[1],
        "speedup": rates[0] / rates[1],
    }


def random_generator(model: dict, folder: Path) -> Path:
    """The file of a generator with random weights."""
    path = folder / "generator.safetensors"
    export(path, model, {"generator": build_generator(model)}, step=0)
    return path


def steps_of(config: dict) -> int:
    """Steps after which each lazy loss has come."""
    losses, weights = config.losses, config.losses.generator
    if config.train.stage != "generator":
        return math.lcm(SHORTEST, losses.generated_every)
    lazy = [losses.r1_every] * bool(weights.r1) + [losses.path_length_every] * bool(weights.path_length)
    return math.lcm(SHORTEST, *lazy)


def make_batches(config: dict, stage) -> list[dict[str, Tensor]]:
    """Batches of random crops of a synthetic photograph, as a training's loader makes them."""
    patch, before, after = stage.window
    data = CropDataset(
        Photograph(), [0], patch=patch, before=before, after=after,
        thumbnail=config.model.global_encoder.thumbnail, seed=config.seed, flip=config.data.flip,
    )  # fmt: skip
    return list(loader(data, 0, BATCHES, config.train.batch))


class Photograph:
    """A source of one synthetic photograph in memory."""

    def name(self, index: int) -> str:
        """Of the image, for messages."""
        return "photograph"

    def open(self, index: int, max_pixels: int) -> Image:
        """The photograph."""
        return Image(PIL.Image.fromarray(photograph(PICTURE)))


class Loop:
    """A stage that is trained in some manner."""

    def __init__(self, config: dict, context: TrainContext, manner: Callable[[], AbstractContextManager]) -> None:
        self.context, self.manner, self.done = context, manner, 0
        self.stage = training.build(config, context)
        self.stage.load_files()

    def run(self, batches: Sequence[dict[str, Tensor]], steps: int) -> float:
        """Train for some steps; the seconds that they took."""
        with self.manner():
            return machine.seconds(lambda: self.train(batches, steps), self.context.device)

    def train(self, batches: Sequence[dict[str, Tensor]], steps: int) -> None:
        """Train for some steps."""
        for _ in range(steps):
            take_step(self.stage, self.done, self.context.load(batches[self.done % len(batches)]))
            self.done += 1


class PlainTrainContext(TrainContext):
    """Training with features channels first."""

    def place(self, network: nn.Module) -> nn.Module:
        """A network on the device."""
        return network.to(self.device)

    def load(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """A batch on the device."""
        return {name: value.to(self.device) for name, value in batch.items()}


@contextmanager
def straightforward() -> Iterator[None]:
    """Lets the layers compute by the plain formulas; see the head of this file."""
    with (
        mock.patch.object(ModulatedConv2d, "forward", modulated),
        mock.patch.object(EqualizedConv2d, "forward", convolve),
        mock.patch.object(ShiftedConv2d, "forward", _plain_shifted),
        mock.patch.object(EncoderLayer, "forward", _plain_encoder_layer),
    ):
        yield


def _plain_shifted(self: ShiftedConv2d, x: Tensor) -> Tensor:
    shift, stride = self.dilation, self.stride
    x = F.pad(x, (0, self.wrap, 0, self.wrap), mode="circular") if self.wrap else x
    height, width = (edge - shift for edge in x.shape[-2:])
    copies = [x[..., shift * y : shift * y + height, shift * z : shift * z + width] for y, z in SHIFTS]
    beside = torch.cat(copies, dim=1)[..., ::stride, ::stride]
    return activate(F.conv2d(beside, concatenated_weight(self)), self.bias)


def _plain_encoder_layer(self: EncoderLayer, x: Tensor) -> Tensor:
    y = self.mix(self.conv(x))
    return y if self.skip is None else (y + middle(x, y.shape[-1])) * 0.5**0.5


if __name__ == "__main__":
    sys.exit(run_command(main))
