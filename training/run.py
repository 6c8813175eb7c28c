"""A run's state: what it was made under, where it goes on, its checkpoints; and a step that says what it broke on."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from datasets import NO_VALIDATION, CropDataset
from training.context import TrainContext
from training.optimization import Diverged
from training.stage import Stage
from utils import log
from utils.checkpoint import load_latest, save_checkpoint
from utils.errors import UserError

CONFIG, CHECKPOINTS = "config.yaml", "checkpoints"  # in the folder of a run
Batch = dict[str, Tensor]
DATA = ("resize", "flip", "max_pixels", "val_fraction")  # what of the section decides on the images
TRAIN = ("ema_images", "style_mixing", "noise", "deterministic")


def fixed_conditions(config: dict, stage: Stage) -> dict:
    """What the state of a run is of no use without: plain values by name."""
    return {"train.stage": config.train.stage} | _flat("model", config.model) | stage.conditions


def free_conditions(config: dict, context: TrainContext, data: Sequence[CropDataset]) -> dict:
    """What a run may change, and its results with it: plain values by name; `data`: training and validation images."""
    found = {
        "seed": config.seed,
        "batch": " x ".join(map(str, context.shares)),
        "dtype": str(context.dtype),
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "device": context.device.type,
    }
    for name, images in zip(("train", "val"), data, strict=True):
        found[f"data.{name}"] = os.path.realpath(images.source.folder) if len(images) else NO_VALIDATION
        found[f"images of data.{name}"] = f"{len(images)} ({images.identity})"
    for section, names in ("data", DATA), ("train", TRAIN):
        found |= {f"{section}.{name}": config[section][name] for name in names}
    return found | _flat("train.optimizer", config.train.optimizer) | _flat("losses", config.losses)


def resume(
    folder: Path, config: dict, context: TrainContext, stage: Stage, data: Sequence[CropDataset]
) -> dict:
    """Load the newest valid checkpoint of the run, if there is one; `data`: training and validation images.

    Returns the run's `step`, seconds `elapsed` and `conditions`. Raises UserError where the folder cannot be written,
    or holds a run that this one cannot go on from.
    """
    fixed, free = fixed_conditions(config, stage), free_conditions(config, context, data)
    state = {"step": 0, "elapsed": 0.0}
    loaded = load_latest(folder / CHECKPOINTS)
    if loaded is not None:
        state, path, skipped = loaded
        notes = _compare(folder, state.get("conditions", {}), fixed, free)
        if not (type(state.get("step")) is int and state["step"] >= 0 and 0 <= state.get("elapsed", -1) < math.inf):
            raise UserError(f"{path}: does not hold the state of this run (no step, or time)")
        try:
            saved = state.pop("stage")
            for name, part in stage.state.items():
                part.load_state_dict(saved[name])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(f"{path}: does not hold the state of this run ({reason})") from error
        for line in [*skipped, *notes, f"resuming from {path}"]:
            log.info(line, context.world.main)
    context.world.wait()
    return state | {"conditions": fixed | free}


def save(folder: Path, state: dict, stage: Stage, context: TrainContext, keep: int) -> None:
    """Write a checkpoint, once, while the other processes wait."""
    if context.world.main:
        parts = {name: part.state_dict() for name, part in stage.state.items()}
        save_checkpoint(folder / CHECKPOINTS, state["step"], state | {"stage": parts}, keep)
    context.world.wait()


def take_step(stage: Stage, step: int, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """One step of a stage; its scalars. Diverged names the step and the batch's records, too."""
    try:
        return stage.step(step, batch)
    except Diverged as error:
        records = ", ".join(map(str, batch["id"].tolist()))
        raise Diverged(f"step {step}: {error}; records of the batch: {records}") from error


def with_failure(batches: Iterable[Batch]) -> Iterator[tuple[Batch, UserError | None]]:
    """Each batch, and why there is no other one after it, if that is a failure: so there is time to save."""
    following = next(iterator := iter(batches), None)
    while following is not None:
        batch, following, failure = following, None, None
        try:
            following = next(iterator, None)
        except UserError as error:
            failure = error
        yield batch, failure


def _compare(folder: Path, before: dict, fixed: dict, free: dict) -> list[str]:
    """Notes on what changes the results; UserError on what makes the state of no use."""

    def words(name: str, value: object) -> str:
        return f"{name} was {before.get(name)} and is {value}"

    for name, value in fixed.items():
        if before.get(name) != value:
            text = words(name, value)
            raise UserError(f"{folder} holds another run: {text}; choose another train.output, or the value of before")
    changed = [words(name, value) for name, value in free.items() if before.get(name, value) != value]
    return [f"note: {text}: results differ from those of an uninterrupted run" for text in changed]


def _flat(name: str, value: object) -> dict:
    """The values of nested sections by their full names."""
    if not isinstance(value, dict):
        return {name: value}
    return {key: leaf for part, item in value.items() for key, leaf in _flat(f"{name}.{part}", item).items()}
