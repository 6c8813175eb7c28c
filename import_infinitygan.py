"""Turn a checkpoint of the public InfinityGAN code into files of this program.

    python import_infinitygan.py best_fid.pth.tar models/public.safetensors

Writes models/public.safetensors, the averaged generator, for generate.py and for train.generator of the inverter;
models/public-training.safetensors, generator, average and discriminator as they train; and models/public.yaml, a config
that goes on training from these. What no tensor tells is as published, unless an option says otherwise.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from models import build_generator, count_parameters, patch_pixels
from models.infinitygan import PUBLISHED, Checkpoint, Constants, read_checkpoint
from models.weights import export_states
from utils import log
from utils.config import dump_config, load_config
from utils.errors import UserError, run_command
from utils.files import atomic_path
from utils.schema import TrainConfig

SUFFIX = ".safetensors"
HEAD = """\
# Goes on from a public InfinityGAN model.
#   python train.py --config THIS_FILE data.train=FOLDER train.output=RUN

"""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, read, check, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="inter_*.pth.tar or best_fid.pth.tar of the public code")
    parser.add_argument("output", type=Path, help=f"file to write, {SUFFIX}; the others are named after it")
    for name, text in (
        ("ts_input_size", "latent cells along the edge of a training patch"),
        ("vert_sample_size", "rows at which a training patch may start"),
        ("hori_occupy_ratio", "share of the canvas' columns that a patch's latents cover"),
        ("vert_cut_pt", "vertical coordinate at the ends of the canvas, before the tanh"),
    ):
        value = getattr(PUBLISHED, name)
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=type(value), default=value, help=f"{text} (default: {value})")
    arguments = vars(parser.parse_args(argv))
    source, output = arguments.pop("checkpoint"), arguments.pop("output")
    targets = name_targets(source, output)
    constants = Constants(**arguments)
    checkpoint = read_checkpoint(source, constants)
    log.info(describe(checkpoint, constants))
    files = plan(checkpoint, constants, targets)
    write_together(files)
    for path in files:
        log.info(f"wrote {path}")
    return 0


def name_targets(source: Path, output: Path) -> dict[str, Path]:
    """Paths of the three files. UserError where they cannot be written there."""
    if output.suffix != SUFFIX:
        raise UserError(f"{output}: the output must be a file with the suffix {SUFFIX}")
    training = output.with_name(f"{output.stem}-training{SUFFIX}")
    targets = {"generator": output, "training": training, "config": output.with_suffix(".yaml")}
    for path in targets.values():
        if os.path.realpath(path) == os.path.realpath(source):
            raise UserError(f"{path}: is the checkpoint itself; choose another output")
        if path.is_dir():
            raise UserError(f"{path}: is a folder; choose another output")
    return targets


def plan(checkpoint: Checkpoint, constants: Constants, targets: dict[str, Path]) -> dict[Path, Callable[[Path], None]]:
    """What to write: the files, and how each is written. Says which training weights the checkpoint lacks."""
    model, step = checkpoint.model, checkpoint.iteration
    files = {targets["generator"]: lambda path: export_states(path, model, {"generator": checkpoint.average}, step)}
    training = {"generator": checkpoint.generator, "discriminator": checkpoint.discriminator}
    missing = [f"{name} ({key})" for (name, state), key in zip(training.items(), "gd", strict=True) if state is None]
    start = {"generator": targets["generator"], "discriminator": None}
    if missing:
        if targets["training"].exists():
            raise UserError(f"{targets['training']}: of another import, and this checkpoint has none; remove it first")
        log.info(f"no {targets['training']}: the checkpoint has no {' and no '.join(missing)}")
    else:
        states, values = training | {"average": checkpoint.average}, {"path_mean": torch.tensor(checkpoint.path_mean)}
        files[targets["training"]] = lambda path: export_states(path, model, states, step, values)
        start = dict.fromkeys(start, targets["training"])
    text = HEAD + dump_config(training_config(checkpoint, constants, start))
    files[targets["config"]] = lambda path: path.write_text(text, encoding="utf-8")
    return files


def training_config(checkpoint: Checkpoint, constants: Constants, start: dict[str, Path | None]) -> dict:
    """The config of a run that goes on from the weights `start`: what differs from configs/default.yaml."""
    default = load_config(TrainConfig)
    patch = drawn_by(checkpoint.model, constants.ts_input_size)
    settings = {
        "stage": "generator",
        **{name: path and os.path.abspath(path) for name, path in start.items()},
        "patch_cells": constants.ts_input_size,
        "batch": checkpoint.model["discriminator"]["minibatch_group"],
    }
    return {
        "model": checkpoint.model,
        "data": {"resize": 2 * patch - 5},  # as published: 197 px for patches of 101, the patch of one stage more
        "train": {name: value for name, value in settings.items() if value != default.train[name]},
    }


def drawn_by(model: dict, cells: int) -> int:
    """Pixels along the edge that latent cells draw."""
    with torch.device("meta"):
        return patch_pixels(build_generator(model), cells).size


def describe(checkpoint: Checkpoint, constants: Constants) -> str:
    """What a checkpoint holds, in lines."""
    with torch.device("meta"):
        generator = build_generator(checkpoint.model)
    parts = {
        "structure": count_parameters(generator.structure),
        "texture": count_parameters(generator.texture),
        "discriminator": sum(value.numel() for value in (checkpoint.discriminator or {}).values()),
    }
    cells, patch = constants.ts_input_size, drawn_by(checkpoint.model, constants.ts_input_size)
    best = "unknown" if checkpoint.best_fid is None else f"{checkpoint.best_fid:.2f}"
    return "\n".join([
        f"iteration      {checkpoint.iteration:>12,}, best FID {best}",
        *(f"{name:<14} {count:>12,} parameters" for name, count in parts.items() if count),
        f"geometry       {cells} x {cells} latent cells draw {patch} x {patch} px; one cell more draws"
        f" {2 ** checkpoint.model['stages']} px more",
    ])  # fmt: skip


def write_together(files: dict[Path, Callable[[Path], None]]) -> None:
    """Write all files or none: they appear, one after the other, when the last one is whole."""
    with ExitStack() as stack:
        for path, write in files.items():
            temporary = stack.enter_context(atomic_path(path))
            try:
                write(temporary)
            except UserError as error:
                raise UserError(str(error).replace(str(temporary), str(path))) from error


if __name__ == "__main__":
    sys.exit(run_command(main))
