"""Invert photographs of any size, or decode saved latents again.

    python infer.py --input FILE_OR_FOLDER --output FOLDER [--checkpoint FILE] [--config FILE] [key=value ...]
    python infer.py --latents FILE_OR_FOLDER --output FOLDER infer.seed=7 infer.region=0,0,256,256
    torchrun --nproc-per-node 2 infer.py ...      # several workers: an image each, or all on the blocks of one

Writes reconstruction/, comparison/, latents/, metrics.csv and summary.json into the output folder; see the README.
A run that was stopped goes on when the same command is given again, and writes the same files as one that was not;
to the last bit, where PyTorch computes with the same number of threads (torchrun sets OMP_NUM_THREADS to 1).
Exit code: 0 all done; 1 some images failed, the others are done; 2 the command itself was wrong.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from images.reading import Image
from inversion.blocks import Plan, blocks, count_blocks
from inversion.inputs import find_files, find_latents, find_photographs, refuse_refinement
from inversion.latents import FILE, FOLDER, SUFFIXES, LatentStore, appearing
from inversion.outputs import Pictures, Pixels, Record, in_memory, measure
from inversion.scenes import Scene
from inversion.sweeps import in_memory as refined_in_memory
from inversion.tool import Tool, progress
from inversion.work import Item, Run, only_run, step
from models.geometry import Region
from models.weights import SHIPPED
from utils import distributed, log
from utils.config import load_config
from utils.device import peak_memory_mib, reset_peak_memory, select_device
from utils.distributed import SINGLE, ProcessGroup
from utils.errors import UserError, run_command
from utils.signals import exit_on_terminate

PATIENCE = 7 * 24 * 60.0  # minutes that a worker waits for the others; one that has gone is known at once


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, load, and invert or decode one image after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--input", type=Path, help="an image, or a folder that is searched for images")
    source.add_argument("--latents", type=Path, help="latents (.safetensors, .zarr) of an earlier run, or a folder")
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--checkpoint", type=Path, default=SHIPPED, help="inverter.safetensors of train.py")
    parser.add_argument("--config", help="YAML file with `infer` options")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="single options, as infer.block=256")
    arguments = parser.parse_intermixed_args(argv)
    options = load_config(arguments.config, arguments.overrides, sections=("infer",)).infer
    if arguments.latents:
        refuse_refinement(options, "those of --latents")
    if options.region is not None and arguments.latents is None:
        raise UserError("infer.region: regions are drawn from saved latents; invert once, then give --latents")
    try:
        world, device = distributed.start(select_device(options.device), PATIENCE, gloo=True)
        tool = Tool.load(arguments.checkpoint, options, encoders=arguments.input is not None, device=device)
        return process(tool, find(arguments, options), arguments, world)
    finally:
        distributed.stop()


def find(arguments: argparse.Namespace, options: dict) -> dict[Path, str]:
    """The files that the command names, with the names of their results."""
    if arguments.latents:
        files = find_files("--latents", arguments.latents, find_latents, ".safetensors file or .zarr folder")
        suffix = "" if options.region is None else f"-{'-'.join(map(str, options.region))}"
        return {path: f"{name}{suffix}" for path, name in files.items()}
    if arguments.input.suffix in SUFFIXES:
        raise UserError(f"--input {arguments.input}: latents are given as --latents")
    search = partial(find_photographs, output=arguments.output)
    return find_files("--input", arguments.input, search, "JPEG, PNG, WebP, TIFF or BMP image")


def process(tool: Tool, files: dict[Path, str], arguments: argparse.Namespace, world: ProcessGroup) -> int:
    """Do one file after the other, naming in one line each that fails; the command's exit code.

    With fewer images than workers, all workers do the blocks of each image, else each does images of its own.
    """
    exit_on_terminate()
    settings = {"checkpoint": str(arguments.checkpoint), "weights": tool.weights, "infer": dict(tool.options)}
    run, work = Run(files, arguments.output, settings, world), decode if arguments.latents else invert
    with only_run(arguments.output, world):
        items = run.to_do(identity(tool, arguments))
        team = world if len(items) < world.size else SINGLE
        items = items if team is world else list(world.share(items))
        try:
            for item in tqdm(items, desc="images", unit="image", disable=len(files) == 1 or not world.main):
                with run.attempt(item):
                    work(tool, item, team, world.main)
            world.any_rank()
        except BaseException as error:
            run.stop()  # an interrupted run too tells what it has done
            if not isinstance(error, Exception):
                log.info("note: stopped; the same command goes on from here", world.main)
            raise
        return run.close()


def identity(tool: Tool, arguments: argparse.Namespace) -> dict:
    """What must be equal for a run to go on with what another one left."""
    return {
        "source": str((arguments.latents or arguments.input).resolve()),
        "weights": tool.weights,
        "infer": dict(tool.options),
        "device": tool.device.type,
        "dtype": str(tool.decoder.dtype),
        "torch": torch.__version__,
    }


def invert(tool: Tool, item: Item, team: ProcessGroup, speaks: bool) -> None:
    """Encode and decode an image, and write its results; `speaks`: this process shows how far it is."""
    reset_peak_memory(tool.device)
    started = time.perf_counter()
    with step(team, item):
        image = tool.open_photograph(item.path, speaks)
        size = image.height, image.width
        pictures = Pictures.choose(tool.options, size, image)
    plan, latents = tool.plan(size, image.held), tool.latent_path(Path("latents"), item.name, size)
    on_disk = team.size > 1 or not refined_in_memory(size, tool.options.refine)
    unfinished = item.latents(FOLDER if on_disk or latents.suffix == FOLDER else FILE)
    with progress(item.name, sum(tool.count(plan, size)), main=speaks) as bar:
        with step(team, item):
            if team.main:
                store = tool.store_of(image, unfinished, plan)
        with step(team, item):
            store = store if team.main else LatentStore.open(unfinished, whole=False)
            tool.encode_into(store, image, plan, bar.update, team)
        for part in tool.refinement(store, image, plan, item.refined, bar.update, team):
            with step(team, item):
                part()
        pixels = draw(tool, tool.scene(store), Region.at(0, 0, *size), plan, item, team, bar.update)
    with step(team, item):
        if team.main:
            pictures.write(item.output, item.name, pixels, image)
            files = pictures.paths(item.name)
            if tool.options.latents != "none":
                files.append(str(latents))
                keep_latents(store, item.output / latents, plan)
            item.finish(make_record(tool, item.name, pixels, image, started), files)


def decode(tool: Tool, item: Item, team: ProcessGroup, speaks: bool) -> None:
    """Draw the image of saved latents, or a region of it, as `invert` does."""
    reset_peak_memory(tool.device)
    started = time.perf_counter()
    with step(team, item):
        scene = tool.scene(tool.open_latents(item.path))
        window = region_of(tool.options.region, scene.size, item.path)
        pictures = Pictures.choose(tool.options, window.shape, None)
    plan = tool.plan(window.shape)
    with progress(item.name, count_blocks(window, plan.pixels), main=speaks) as bar:
        pixels = draw(tool, scene, window, plan, item, team, bar.update)
    with step(team, item):
        if team.main:
            pictures.write(item.output, item.name, pixels, None)
            item.finish(make_record(tool, item.name, pixels, None, started), pictures.paths(item.name))


def draw(
    tool: Tool,
    scene: Scene,
    window: Region,  # of the scene
    plan: Plan,
    item: Item,
    team: ProcessGroup,
    tick: Callable[[int], object],  # takes the number of blocks that are done
) -> Pixels:
    """Draw a window of a scene; what an earlier run has drawn of a large one is kept."""
    folder = None if team.size == 1 and in_memory(window.shape) else item.pixels
    with step(team, item):
        if team.main:
            pixels = Pixels.open(window, folder, plan.pixels, tool.options.save_float)
    with step(team, item):
        if not team.main:
            pixels = Pixels.open(window, folder, plan.pixels, tool.options.save_float)
        tool.draw(scene, pixels, plan, tick, team)
    return pixels


def keep_latents(store: LatentStore, path: Path, plan: Plan) -> None:
    """Bring the latents of a finished image to their place, if that is a file; a folder is moved at the very end."""
    if path.suffix == FOLDER:
        return
    with appearing(path) as temporary:
        if store.path.suffix == path.suffix:
            os.rename(store.path, temporary)
            return
        shape = store.channels, *store.cells.shape
        copy = LatentStore.create(temporary, store.description, shape, store.z_g)
        for region in blocks(store.cells, plan.cells):
            copy.write(region, store.read(region))


def region_of(box: list[int] | None, size: tuple[int, int], path: Path) -> Region:
    """The pixels to draw of an image of (height, width). UserError where the region is not inside it."""
    if box is None:
        return Region.at(0, 0, *size)
    top, left, bottom, right = box
    if bottom > size[0] or right > size[1]:
        raise UserError(f"infer.region: {box}, but {path} is of an image of {size[0]} x {size[1]}")
    return Region.at(top, left, bottom - top, right - left)


def make_record(tool: Tool, name: str, pixels: Pixels, image: Image | None, started: float) -> Record:
    """The row of an image that was begun at this time."""
    quality = measure(pixels, image)
    height, width = pixels.region.shape
    seconds = time.perf_counter() - started
    return Record(name, height, width, **quality, seconds=seconds, megapixels_per_second=height * width / 1e6 / seconds,
                  peak_memory_mib=peak_memory_mib(tool.device))  # fmt: skip


if __name__ == "__main__":
    sys.exit(run_command(main))
