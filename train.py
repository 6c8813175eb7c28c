"""Train an inverter, then the structure synthesizer of its latents; or, without a trunk, a generator and its inverter.

    python train.py --config configs/sample/inverter.yaml data.train=FOLDER train.output=runs/inverter
    python train.py --config configs/sample/structure.yaml data.train=FOLDER train.output=runs/structure \\
        train.inverter=runs/inverter/inverter.safetensors
    torchrun --nproc-per-node 4 train.py --config ...      # data parallel

The same command again resumes the run. --dry-run prints config, parameter counts and geometry, reads nothing else.
"""

from __future__ import annotations

from utils.processors import share_processor
from utils.signals import exit_at_once

if __name__ == "__main__":  # before PyTorch is loaded
    exit_at_once()
    share_processor()

import argparse
import math
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from tqdm import tqdm

import datasets
import training
from models import count_parameters
from training.context import TrainContext
from training.events import EVENTS, PICTURES, Events
from training.run import CHECKPOINTS, CONFIG, resume, save, take_step, with_failure
from training.stage import Stage
from utils import distributed, log
from utils.config import dump_config, files_read, load_config, save_config
from utils.device import select_device, select_dtype, tune_allocator
from utils.distributed import LOST, LostWorker
from utils.errors import UserError, run_command
from utils.files import lock_folder, refuse_overwriting
from utils.schema import TrainConfig
from utils.signals import StopSignal, ignore_signals

VALIDATION_BATCHES = 8


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, build, load, train. Returns 0 when the run is complete, 128 + a signal's number when it was stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="YAML file; see configs/default.yaml for every key")
    parser.add_argument("--dry-run", action="store_true", help="print config, parameter counts and geometry, and end")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="single keys of the config")
    arguments = parser.parse_intermixed_args(argv)
    config = load_config(TrainConfig, arguments.config, arguments.overrides)

    torch.manual_seed(config.seed)
    if config.train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when CUDA starts
    torch.use_deterministic_algorithms(config.train.deterministic)
    tune_allocator()
    world, device = distributed.start(select_device(config.train.device), config.train.timeout_minutes)
    try:
        dtype = select_dtype(config.train.dtype, device)
        context = TrainContext(config.seed, config.train.batch, device, dtype, world, config.train.accumulate)
        stage = training.build(config, context)
        if arguments.dry_run:
            log.info(dump_config(config) + describe(config, context, stage), world.main)
            return 0
        if config.train.output is None:
            raise UserError("train.output is not set: a folder for the run is needed")
        folder = Path(config.train.output)
        own = (folder / CONFIG).exists() and os.path.samefile(arguments.config, folder / CONFIG)
        written = [*stage.exported, CHECKPOINTS, EVENTS, *([] if own else [CONFIG])]
        read = files_read(TrainConfig, config, arguments.config)
        refuse_overwriting(read, [folder / name for name in written])
        stage.load_files()
        with lock_folder(folder) if world.main else nullcontext():
            return train(config, context, stage, folder, keep_config=own)
    finally:
        distributed.stop()


def train(config: dict, context: TrainContext, stage: Stage, folder: Path, keep_config: bool) -> int:
    """Go on from the newest checkpoint in the folder, if any, to the end or a signal; returns the exit code.

    `keep_config`: the config in the folder is the one that was given, and stays as it is.
    """
    settings, world = config.train, context.world
    train_set, val_set = datasets.build(config.data, stage.window, config.model.global_encoder.thumbnail, config.seed)
    (shown,) = (val_set if len(val_set) else train_set).centre_crops(PICTURES, PICTURES)
    validation = val_set.centre_crops(VALIDATION_BATCHES * settings.batch, settings.batch)
    stage.prepare(train_set)
    state = resume(folder, config, context, stage, (train_set, val_set))
    if world.main and not keep_config:
        save_config(config, folder / CONFIG)
    seconds = math.inf if settings.minutes is None else 60 * settings.minutes
    steps = settings.steps - state["step"] if state["elapsed"] <= seconds else 0
    log.info(f"{describe(config, context, stage)}\n{describe_data(train_set, val_set)}", world.main)
    place = settings.batch * settings.accumulate, world.rank, world.size
    batches = datasets.loader(train_set, state["step"], steps, *place, steps > 0 and config.data.workers)

    started = time.monotonic() - state["elapsed"]
    scalars, over, stopping = {}, False, False
    with (
        StopSignal() as stop,
        Events(folder / EVENTS, world.main, state["step"]) as events,
        tqdm(total=settings.steps, initial=state["step"], disable=not world.main, unit="step", mininterval=5) as bar,
    ):
        for batch, failure in with_failure(batches):
            scalars |= take_step(stage, state["step"], context.load(batch))  # the lazy losses keep their last values
            state |= {"step": state["step"] + 1, "elapsed": time.monotonic() - started}
            step = state["step"]
            bar.update()
            # The processes agree on the end: a signal may reach only one of them.
            late, stopping, lost = world.any(state["elapsed"] > seconds, stop.requested, failure is not None)
            over = late or step == settings.steps

            if step % settings.log_every == 0 or over:
                world.average(scalars.values())
                events.scalars(scalars, step)
            if step % settings.image_every == 0 or over:
                events.images(stage.pictures(context.load(shown)), step)
            if validation and (step % settings.validate_every == 0 or over):
                events.scalars(stage.validate([context.load(held) for held in validation]), step)
            if step % settings.save_every == 0 or over or stopping or lost:
                save(folder, state, stage, context, settings.keep)
            if lost:
                raise failure or LostWorker(f"{LOST}; start again to go on")
            if over or stopping:
                break
    if stopping:
        ignore_signals()  # torchrun sends its own to whoever leaves last; the exit code stays ours
    if world.main:
        for path in stage.export(folder, state["step"]):
            log.info(f"wrote {path}")
    world.wait()  # torchrun ends the others when one process leaves
    if over or not stopping:
        return 0
    log.info(f"stopped at step {state['step']}; the same command goes on from there", world.main)
    return stop.exit_code or 128 + signal.SIGTERM  # another process got the signal


def describe_data(train_set: datasets.CropDataset, val_set: datasets.CropDataset) -> str:
    """How many images there are, in a line."""
    unseen = f"{len(val_set)} to validate" if len(val_set) else "none to validate: no figures, pictures of these"
    return f"data       {len(train_set)} images, {unseen}"


def describe(config: dict, context: TrainContext, stage: Stage) -> str:
    """Parameter counts, geometry and device, in lines."""
    counts = [f"{name:<10} {count_parameters(network):>12,} parameters" for name, network in stage.networks.items()]
    window, cells = stage.window, config.train.patch_cells
    return "\n".join([
        *counts,
        f"patch      {window.patch} x {window.patch} px from {cells} x {cells} latent cells;"
        f" window of {window.size} x {window.size} px ({window.before} before, {window.after} after)",
        f"device     {context.device}, {context.dtype}, batch {' x '.join(map(str, context.shares))}",
    ])  # fmt: skip


if __name__ == "__main__":
    sys.exit(run_command(main))
