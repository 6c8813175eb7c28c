"""Train the generator, then the inverter.

    python train.py --config configs/sample/generator.yaml data.train=FOLDER train.output=runs/generator
    python train.py --config configs/sample/inverter.yaml data.train=FOLDER train.output=runs/inverter \\
        train.generator=runs/generator/generator.safetensors
    torchrun --nproc-per-node 4 train.py --config ...      # data parallel

The same command again resumes the run. --dry-run prints config, parameter counts and geometry, and ends.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tensorboardX import SummaryWriter
from torch import Tensor
from tqdm import tqdm

import datasets
import training
from models import count_parameters
from training.context import Context
from utils import distributed
from utils.checkpoint import load_latest, save_checkpoint
from utils.config import dump_config, load_config, save_config
from utils.device import select_device, select_dtype
from utils.errors import UserError, run_command
from utils.log import say
from utils.signals import StopSignal

VALIDATION_BATCHES = 8
PICTURES = 8  # images in a grid


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, build, resume, train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="YAML file; see configs/default.yaml for every key")
    parser.add_argument("--dry-run", action="store_true", help="print config, parameter counts and geometry, and end")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="single keys of the config")
    arguments = parser.parse_intermixed_args(argv)
    config = load_config(arguments.config, arguments.overrides)

    torch.manual_seed(config.seed)
    torch.use_deterministic_algorithms(config.train.deterministic)
    world, device = distributed.start(select_device(config.train.device), config.train.timeout_minutes)
    try:
        dtype = select_dtype(config.train.dtype, device)
        context = Context(config.seed, config.train.batch, device, dtype, world)
        stage = training.build(config, context)
        if arguments.dry_run:
            say(dump_config(config) + describe(stage, context), world.main)
            return 0
        if config.train.output is None:
            raise UserError("train.output is not set: a folder for the run is needed")
        return train(config, context, stage, Path(config.train.output))
    finally:
        distributed.stop()


def train(config: dict, context: Context, stage, folder: Path) -> int:
    """The loop. Returns 0 when the run is complete, 128 + the signal's number when it was stopped."""
    settings, world = config.train, context.world
    patch, before, after = stage.window
    train_set, val_set = datasets.build(
        config.data, patch=patch, before=before, after=after,
        thumbnail=config.model.global_encoder.thumbnail, seed=config.seed,
    )  # fmt: skip
    state = resume(folder, config, context, stage)
    say(describe(stage, context) + f"data       {len(train_set)} images, {len(val_set)} to validate", world.main)
    loader = datasets.loader(
        train_set, state["step"], settings.steps - state["step"], settings.batch, world.rank, world.size,
        settings.steps > state["step"] and config.data.workers,
    )  # fmt: skip
    shown = context.load(collate(val_set.validation_items(PICTURES)))
    held_out = val_set.validation_items(VALIDATION_BATCHES * settings.batch)
    validation = [held_out[i : i + settings.batch] for i in range(0, len(held_out), settings.batch)]

    started = time.monotonic() - state["elapsed"]
    scalars, over, stopping = {}, False, False
    bar = tqdm(total=settings.steps, initial=state["step"], disable=not world.main, unit="step", mininterval=5)
    with bar, StopSignal() as stop, Events(folder, world.main) as events:
        for batch in loader:
            scalars |= stage.step(state["step"], context.load(batch))  # the lazy losses keep their last values
            state["step"] += 1
            state["elapsed"] = time.monotonic() - started
            step = state["step"]
            bar.update()

            # The processes agree on the end: a signal may reach only one of them.
            late = settings.minutes is not None and state["elapsed"] > 60 * settings.minutes
            over = world.any(late) or step == settings.steps
            stopping = world.any(stop.requested)

            if step % settings.log_every == 0 or over:
                world.average(scalars.values())
                events.scalars(scalars, step)
            if step % settings.image_every == 0 or over:
                events.images(stage.pictures(shown), step)
            if step % settings.validate_every == 0 or over:
                events.scalars(stage.validate([context.load(collate(items)) for items in validation]), step)
            if step % settings.save_every == 0 or over or stopping:
                save(folder, state, stage, context, settings.keep)
            if over or stopping:
                break
    if stopping and not over:
        say(f"stopped at step {state['step']}; the same command goes on from there", world.main)
        return stop.exit_code or 128 + signal.SIGTERM  # another process got the signal
    if world.main:
        for path in stage.export(folder, state["step"]):
            say(f"wrote {path}")
    return 0


def resume(folder: Path, config: dict, context: Context, stage) -> dict:
    """Load the newest valid checkpoint of the run, if there is one; the run's numbers: step and seconds elapsed."""
    loaded = load_latest(folder / "checkpoints") if folder.exists() else None
    conditions = {"torch": str(torch.__version__), "threads": torch.get_num_threads(), "device": context.device.type}
    state = {"step": 0, "elapsed": 0.0, "conditions": conditions}
    if loaded is not None:
        saved, path, skipped = loaded
        for line in skipped:
            say(line, context.world.main)
        previous = load_config(folder / "config.yaml")
        if previous.model != config.model:
            raise UserError(f"{folder} holds a run with another `model` section; choose another train.output")
        if previous.train.stage != config.train.stage:
            raise UserError(f"{folder} holds a run of the stage {previous.train.stage}; choose another train.output")
        stage.load_state_dict(saved.pop("stage"))
        if saved["conditions"] != conditions:
            note = f"note: saved under {saved['conditions']}, now {conditions}: results may differ in the last bits"
            say(note, context.world.main)
        state = saved | {"conditions": conditions}
        say(f"resuming from {path}", context.world.main)
    context.world.wait()
    if context.world.main:
        folder.mkdir(parents=True, exist_ok=True)
        save_config(config, folder / "config.yaml")
    return state


def save(folder: Path, state: dict, stage, context: Context, keep: int) -> None:
    """Write a checkpoint, once, while the other processes wait."""
    if context.world.main:
        save_checkpoint(folder / "checkpoints", state["step"], state | {"stage": stage.state_dict()}, keep)
    context.world.wait()


def describe(stage, context: Context) -> str:
    """Parameter counts, geometry and device, in lines."""
    counts = [f"{name:<10} {count_parameters(network):>12,} parameters" for name, network in stage.networks.items()]
    patch, before, after = stage.window
    size, cells = before + patch + after, stage.settings.patch_cells
    return "\n".join([
        *counts,
        f"patch      {patch} x {patch} px from {cells} x {cells} latent cells;"
        f" window of {size} x {size} px ({before} before, {after} after)",
        f"device     {context.device}, {context.dtype}, batch {context.batch} x {context.world.size}\n",
    ])  # fmt: skip


def collate(items: list[dict]) -> dict[str, Tensor]:
    """Stack items into a batch."""
    return torch.utils.data.default_collate(items)


class Events:
    """The run's tensorboardX event file; does nothing on other processes than the main one."""

    def __init__(self, folder: Path, main: bool) -> None:
        self.writer = SummaryWriter(str(folder / "events")) if main else None

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *error: object) -> None:
        if self.writer:
            self.writer.close()

    def scalars(self, values: dict, step: int) -> None:
        """Write scalars and show them in one line."""
        if not self.writer or not values:
            return
        for name, value in values.items():
            self.writer.add_scalar(name, float(value), step)
        say(f"step {step}  " + "  ".join(f"{name} {float(value):.4g}" for name, value in values.items()))

    def images(self, grids: dict[str, Tensor], step: int) -> None:
        """Write image batches [N, 3, H, W] in [-1, 1], each as a row of images."""
        if not self.writer:
            return
        for name, images in grids.items():
            row = torch.cat(list(images[:PICTURES].float().cpu()), dim=2).clamp(-1, 1)
            self.writer.add_image(name, np.asarray((row + 1) / 2), step)


if __name__ == "__main__":
    sys.exit(run_command(main))
