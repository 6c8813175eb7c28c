"""A run's state: what it was made under, where it goes on, its checkpoints; and a step that says what it broke on."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from training.context import TrainContext
from training.optimization import Diverged
from training.stage import Stage
from utils import log
from utils.checkpoint import load_latest, save_checkpoint
from utils.errors import UserError

CONFIG, CHECKPOINTS = "config.yaml", "checkpoints"  # in the folder of a run
RESULTS_ONLY = ("seed", "batch", "dtype", "torch", "threads", "device")  # conditions that a run may change


def conditions(config: dict, context: TrainContext, stage: Stage) -> dict:
    """What the state of a run depends on: plain values by name."""
    fixed = {"train.stage": config.train.stage} | _flat("model", config.model) | stage.conditions
    return fixed | {
        "seed": config.seed,
        "batch": f"{context.batch} x {context.world.size}",
        "dtype": str(context.dtype),
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "device": context.device.type,
    }


def resume(folder: Path, config: dict, context: TrainContext, stage: Stage) -> dict:
    """Load the newest valid checkpoint of the run, if there is one.

    Returns the run's `step`, seconds `elapsed` and `conditions`. Raises UserError where the folder cannot be written,
    or holds a run that this one cannot go on from.
    """
    state, now = {"step": 0, "elapsed": 0.0}, conditions(config, context, stage)
    loaded = load_latest(folder / CHECKPOINTS)
    if loaded is not None:
        state, path, skipped = loaded
        notes = _compare(folder, state.get("conditions", {}), now)
        try:
            saved = state.pop("stage")
            for name, part in stage.state.items():
                part.load_state_dict(saved[name])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{path}: does not hold the state of this run ({str(error).splitlines()[0]})") from error
        for line in [*skipped, *notes, f"resuming from {path}"]:
            log.info(line, context.world.main)
    context.world.wait()
    return state | {"conditions": now}


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


def _compare(folder: Path, before: dict, now: dict) -> list[str]:
    """Notes on what changes the results; UserError on what makes the state of no use."""
    changed = {
        name: f"{name} was {before.get(name)} and is {value}"
        for name, value in now.items()
        if before.get(name) != value
    }
    for name, text in changed.items():
        if name not in RESULTS_ONLY:
            raise UserError(f"{folder} holds another run: {text}; choose another train.output, or the value of before")
    return [f"note: {text}: results differ from those of an uninterrupted run" for text in changed.values()]


def _flat(name: str, value: object) -> dict:
    """The values of nested sections by their full names."""
    if not isinstance(value, dict):
        return {name: value}
    return {key: leaf for part, item in value.items() for key, leaf in _flat(f"{name}.{part}", item).items()}
