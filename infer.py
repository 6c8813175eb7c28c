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
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path

import numpy as np
import torch

from images.metrics import ImageMetrics
from images.reading import Image, open_photograph
from images.writing import (
    MOST_PNG_PIXELS,
    SUFFIXES,
    TILES,
    Comparison,
    Rounded,
    picture_kind,
    strips,
    write_npy,
    write_picture,
)
from inversion import runs
from inversion.commands import (
    IMAGES,
    command_parser,
    find_files,
    find_latents,
    find_photographs,
    load_latents,
    load_model,
)
from inversion.inverter import PatchInverter
from inversion.latents import FOLDER, ChunkRows, Latents, describe_folder, latents_suffix
from inversion.latents import SUFFIXES as LATENTS
from inversion.runs import InversionRun, Job, JobState, Row, Scratch
from inversion.small import each, is_small
from inversion.styles import ArrayLike
from models.geometry import Region
from utils import distributed, log
from utils.arguments import add_paths, parse_arguments
from utils.config import files_read, load_config
from utils.device import peak_memory_mib, release_freed_memory, reset_peak_memory, select_device
from utils.distributed import ProcessGroup
from utils.errors import UserError, run_command
from utils.files import lock_folder, refuse_overwriting, remove_tree, replace_folder
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
    if wrong := [path for path in arguments.input if path.suffix in LATENTS]:
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
    """Do one file after the other, naming in one line each that fails; the command's exit code."""
    settings = {"weights": model.fingerprint, "infer": dict(options)}
    identity = settings | {  # what must be equal for a run to go on with what another one left
        "device": model.device.type,
        "dtype": str(model.dtype),
        "torch": torch.__version__,
    }
    settings = {"checkpoint": log.printable(str(arguments.checkpoint))} | settings
    run = InversionRun(files, arguments.output, settings, group)
    refuse_overwriting([arguments.checkpoint, *read, *files], run.results())
    refined = options.refine or options.refine_style  # by derivatives whose state is the whole process's
    together = arguments.input and not refined and model.device.type == "cpu" and run.team.size == 1

    def small(job: Job) -> bool:
        return bool(together) and is_small(job.path)

    def work(job: Job) -> None:
        with run.attempt(job):
            make(model, job, options, bool(arguments.input))

    with lock_folder(arguments.output) if group.main else nullcontext():
        jobs = run.begin(identity)
        try:
            for _ in each(log.progress(jobs, "images", "image", main=group.main), work, small):
                pass
            return run.close()
        except BaseException as error:
            with suppress(UserError):  # a full disk
                run.write_figures()  # an interrupted run too tells what it has done
            if not isinstance(error, Exception):
                log.info("note: stopped; the same command goes on from here", group.main)
            raise


def make(model: PatchInverter, job: Job, options: dict, invert: bool) -> None:
    """Invert a photograph, or read saved latents; draw the image or a region of it, and write its results."""
    reset_peak_memory(model.device)
    started = time.perf_counter()
    if invert:
        image = open_photograph(job.path, options.max_pixels, options.memory_mib)
        window = Region.at(0, 0, image.height, image.width)
    else:
        image, latents = None, load_latents(model, job.path, options)
        top, left, bottom, right = options.region or (0, 0, *latents.size)
        if bottom > latents.size[0] or right > latents.size[1]:
            size = "{} x {}".format(*latents.size)
            raise UserError(f"infer.region: {options.region}, but {job.path} is of an image of {size}")
        window = Region.at(top, left, bottom - top, right - left)
        if options.scale > 1:
            window = Region.at(0, 0, *model.preview_size(latents.size, options.scale))
    kinds = choose_pictures(options, window.shape, image)
    job.require_space(space(model, job, window.shape, options, invert))
    if invert:
        latents = runs.invert(model, job, image, options)
    pixels = draw(model, job, latents, window, options, image.held if image else 0)
    if job.group.main:
        files = []
        try:
            write_results(job, latents, pixels, image, kinds, options, files)
            row = make_row(model, job.title, pixels, image, started)
            job.enter(JobState(row, list(map(log.printable, files))))
        except BaseException:
            for path in (job.output / file for file in files):
                remove_tree(path)
                remove_tree(path.with_name(f"{path.stem}{TILES}"))
            raise
        job.discard()


def space(model: PatchInverter, job: Job, size: tuple[int, int], options: dict, invert: bool) -> int:
    """Bytes of the arrays that the work on an image of (height, width) takes on the disk; pictures, which nobody knows
    before they are compressed, do not count.
    """
    scratch, refined = job.on_disk(size, options.refine), options.refine > 0
    values = 4 if options.save_float or options.depth > 8 else 1
    needed = 3 * size[0] * size[1] * (values * scratch + 4 * options.save_float)
    if invert:
        shape = model.structure_shape(size, options.channels)
        moves = scratch and not refined and latents_suffix(options.latents, shape) == FOLDER
        copies = scratch * (1 + 4 * refined) + (options.latents != "none" and not moves)
        needed += 4 * int(np.prod(shape)) * copies
    return needed


def draw(model: PatchInverter, job: Job, latents: Latents, window: Region, options: dict, held: int) -> ArrayLike:
    """The pixels [H, W, 3] of a window: uint8, or float32 where these are asked for."""
    on_disk = job.on_disk(window.shape, options.refine)
    shape, dtype = (*window.shape, 3), np.dtype("float32" if options.save_float or options.depth > 8 else "uint8")
    if options.scale > 1:
        blocks = list(model.preview_blocks(window, options.scale))
    else:
        blocks = list(model.pixel_blocks(window, held + (0 if on_disk else int(np.prod(shape)) * dtype.itemsize)))
    out = job.array("pixels", shape, (*blocks[0].shape, 3), dtype.name) if on_disk else np.empty(shape, dtype)
    todo = job.pending(out, blocks, window, "draw")
    if options.scale > 1:
        model.preview(latents, options.scale, out=out, blocks=todo)
    else:
        box = window.rows.first, window.cols.first, window.rows.last + 1, window.cols.last + 1
        model.draw(latents, box, out=out, blocks=todo)
    job.wait()
    release_freed_memory()
    return ChunkRows(out) if on_disk else out


def choose_pictures(options: dict, size: tuple[int, int], image: Image | None) -> dict[str, str]:
    """The pictures of an image of (height, width): folder -> kind. UserError if a format does not hold them."""
    kinds, wide = {"reconstruction": picture_kind(options.format, size)}, (size[0], 3 * size[1])
    auto = options.comparison == "auto"
    if image is not None and options.comparison and not (auto and wide[0] * wide[1] > MOST_PNG_PIXELS):
        with suppress(UserError) if auto else nullcontext():
            kinds["comparison"] = picture_kind(options.format, wide)
    return kinds | ({"float": "npy"} if options.save_float else {})


def write_results(
    job: Job,
    latents: Latents,
    pixels: ArrayLike,
    image: Image | None,  # that was inverted
    kinds: dict[str, str],  # of the pictures, see `choose_pictures`
    options: dict,
    files: list[str],
) -> None:
    """Write the pictures and the latents of an image, and enter each file into `files`.

    Latents that the job has in a folder of the same kind just move.
    """
    metadata = image.metadata if image and options.metadata else None
    for folder, picture in kinds.items():
        file = f"{folder}/{job.name}{SUFFIXES.get(picture, '.npy')}"
        if picture == "npy":
            write_npy(job.output / file, pixels)
        elif folder == "comparison":
            write_picture(job.output / file, Comparison(image, Rounded(pixels)), picture)
        else:
            write_picture(job.output / file, Rounded(pixels, options.depth), picture, metadata)
        files.append(file)
    if image is None or options.latents == "none":
        return
    structure, own = latents.structure, job.folder / "latents.zarr"
    file = f"latents/{job.name}{latents_suffix(options.latents, structure.shape)}"
    if file.endswith(FOLDER) and isinstance(structure, Scratch) and structure.path.parent == own:
        for part in ("zarr.json", "global"):  # of a run that was killed here
            remove_tree(own / part)
        describe_folder(own, latents)
        replace_folder(own, job.output / file)
    else:
        latents.save(job.output / file)
    files.append(file)


def make_row(model: PatchInverter, name: str, pixels: ArrayLike, image: Image | None, started: float) -> Row:
    """The figures of an image that was begun at this time; before JPEG or WebP compress it."""
    height, width = pixels.shape[:2]
    quality = {"psnr": None, "ssim": None}
    if image is not None:
        metrics, shown = ImageMetrics(height, width), Rounded(pixels)
        for strip in strips((height, width)):
            rows, cols = strip.slices_in(Region.at(0, 0, height, width))
            metrics.update(image.window(rows.start, 0, strip.rows.size, width), shown[rows, cols])
        quality = metrics.result()
    seconds = time.perf_counter() - started
    speed = height * width / 1e6 / seconds
    return Row(name, height, width, **quality, seconds=seconds, megapixels_per_second=speed,
               peak_memory_mib=peak_memory_mib(model.device))  # fmt: skip


if __name__ == "__main__":
    sys.exit(run_command(main))
