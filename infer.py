"""Invert photographs of any size, or draw saved latents again.

    python infer.py --input FILE_OR_FOLDER ... --output FOLDER [--checkpoint FILE] [--config FILE] [key=value ...]
    python infer.py --latents FILE_OR_FOLDER ... --output FOLDER seed=7 region=0,0,256,256
    torchrun --nproc-per-node 2 infer.py ...      # several processes: an image each, or all on the blocks of one

Writes reconstruction/, comparison/, latents/, metrics.csv and summary.json into the output folder; see docs/using.md.
What is there already, of the same file, options and checkpoint, is kept; overwrite=true does it anew.
A run that was stopped goes on when the same command is given again, and writes the same files as one that was not;
to the last bit, where PyTorch computes with the same number of threads (torchrun sets OMP_NUM_THREADS to 1; small
images are computed on one thread each, several at a time).
Exit code: 0 all done; 1 some images failed, the others are done; 2 the command itself was wrong.
"""

from __future__ import annotations

from utils.processors import share_processor
from utils.signals import exit_at_once

if __name__ == "__main__":  # before PyTorch is loaded
    exit_at_once()
    share_processor()

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from inversion.commands import IMAGES, command_parser, find_files, find_latents, find_photographs, load_model
from inversion.inverter import PatchInverter
from inversion.jobs import make
from inversion.latents import SUFFIXES
from inversion.runs import InversionRun
from utils import distributed, log
from utils.arguments import add_paths, parse_arguments
from utils.config import files_read, load_config
from utils.device import select_device
from utils.distributed import ProcessGroup
from utils.errors import UserError, run_command
from utils.files import refuse_overwriting
from utils.schema import InferConfig

PATIENCE = 7 * 24 * 60.0  # minutes that a process waits for the others; one that has gone is known at once


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, load, and invert or draw one image after the other."""
    parser = command_parser(__doc__, "block=256")
    source = parser.add_mutually_exclusive_group(required=True)
    add_paths(source, "--input", "images, and folders that are searched for images")
    add_paths(source, "--latents", "latents (.safetensors, .zarr) of an earlier run, and folders of them")
    arguments = parse_arguments(parser, argv)
    config = load_config(InferConfig, arguments.config, arguments.overrides)
    options, read = config.infer, files_read(InferConfig, config, arguments.config)
    files = find(arguments, options)
    try:
        group, device = distributed.start(select_device(options.device), PATIENCE, gloo=True)
        model = load_model(arguments.checkpoint, options, device)
        if arguments.input:
            model.require_encoder()
        return process(model, files, arguments, read, options, group)
    finally:
        distributed.stop()


def find(arguments: argparse.Namespace, options: dict) -> dict[Path, str]:
    """The files that the command names, with the names of their results. UserError for what cannot be done."""
    if arguments.latents:
        if options.refine or options.refine_style:
            raise UserError("infer.refine: refined is against a photograph, and --latents have none")
        if options.scale > 1 and (options.region or options.save_float):
            raise UserError("infer.scale: previews are of whole images, in 8 bits; unset region and save_float")
        files = find_files("--latents", arguments.latents, find_latents, ".safetensors file or .zarr folder")
        suffix = "" if options.region is None else f"-{'-'.join(map(str, options.region))}"
        suffix += f"-{options.scale}" if options.scale > 1 else ""
        return {path: f"{name}{suffix}" for path, name in files.items()}
    if options.scale > 1:
        raise UserError("infer.scale: previews are drawn from saved latents; invert once, then give --latents")
    if options.region is not None:
        raise UserError("infer.region: regions are drawn from saved latents; invert once, then give --latents")
    if wrong := [path for path in arguments.input if path.suffix in SUFFIXES]:
        raise UserError(f"--input {wrong[0]}: latents are given as --latents")
    return find_files("--input", arguments.input, partial(find_photographs, output=arguments.output), IMAGES)


def process(
    model: PatchInverter,
    files: dict[Path, str],  # to do, with the names of their results
    arguments: argparse.Namespace,
    read: list[Path],  # other files that the command reads
    options: dict,
    group: ProcessGroup,
) -> int:
    """Do the files; the command's exit code."""
    checkpoint = log.printable(str(arguments.checkpoint))
    settings = {"checkpoint": checkpoint, "weights": model.fingerprint, "infer": dict(options)}
    machine = [model.device.type, str(model.dtype), torch.__version__]
    run = InversionRun(files, arguments.output, settings, machine, group)
    refuse_overwriting([arguments.checkpoint, *read, *files], run.results())
    photographs = bool(arguments.input)
    refined = options.refine or options.refine_style  # by derivatives whose state is the whole process's
    together = photographs and not refined and model.device.type == "cpu" and run.team.size == 1
    return run.do(partial(make, model, options, photographs), together)


if __name__ == "__main__":
    sys.exit(run_command(main))
