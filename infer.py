"""Invert photographs of any size, or decode saved latents again.

    python infer.py --input FILE_OR_FOLDER --output FOLDER [--checkpoint FILE] [--config FILE] [key=value ...]
    python infer.py --latents FILE_OR_FOLDER --output FOLDER infer.seed=7 infer.region=0,0,256,256

Writes reconstruction/, comparison/, latents/, metrics.csv and summary.json into the output folder; see the README.
Exit code: 0 all done; 1 some images failed, the others are done; 2 the command itself was wrong.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from tqdm import tqdm

from inversion.inputs import begin, failures, find_files, find_latents, find_photographs
from inversion.outputs import KINDS, PictureWriter, Record, write_figures
from inversion.tool import Tool, progress
from models.geometry import Region
from models.weights import SHIPPED
from utils.config import load_config
from utils.device import peak_memory_mib, reset_peak_memory
from utils.errors import UserError, run_command
from utils.log import say

FIGURES_EVERY = 10.0  # seconds between updates of metrics.csv and summary.json


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, load, and invert or decode one image after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--input", type=Path, help="an image, or a folder that is searched for images")
    source.add_argument("--latents", type=Path, help="a latent file of an earlier run, or a folder of them")
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--checkpoint", type=Path, default=SHIPPED, help="inverter.safetensors of train.py")
    parser.add_argument("--config", help="YAML file with `infer` options")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="single options, as infer.block=256")
    arguments = parser.parse_intermixed_args(argv)
    options = load_config(arguments.config, arguments.overrides, sections=("infer",)).infer
    if options.region is not None and arguments.latents is None:
        raise UserError("infer.region: regions are drawn from saved latents; invert once, then give --latents")
    tool = Tool.load(arguments.checkpoint, options, encoders=arguments.input is not None)
    if arguments.latents:
        files = find_files("--latents", arguments.latents, find_latents, ".safetensors file")
    else:
        search = partial(find_photographs, output=arguments.output)
        files = find_files("--input", arguments.input, search, "JPEG, PNG, WebP, TIFF or BMP image")
        if arguments.input.suffix == ".safetensors":
            raise UserError(f"--input {arguments.input}: latents are given as --latents")
    settings = {"checkpoint": str(arguments.checkpoint), "weights": tool.weights, "infer": dict(options)}
    return process(files, partial(decode_file if arguments.latents else invert_file, tool), arguments.output, settings)


def process(files: dict[Path, str], work: Callable[[Path, str, Path], Record], output: Path, settings: dict) -> int:
    """Do one file after the other, naming in one line each that fails; the command's exit code."""
    begin(output, KINDS)
    records, failed, written = [], {}, time.monotonic()
    try:
        for path, name in tqdm(files.items(), desc="images", unit="image", disable=len(files) == 1):
            with failures(path, name, failed):
                records.append(work(path, name, output))
                say(line(records[-1]))
            if time.monotonic() - written > FIGURES_EVERY:
                write_figures(output, records, failed, settings)
                written = time.monotonic()
    finally:
        write_figures(output, records, failed, settings)  # an interrupted run too tells what it has done
    say(f"{len(records)} of {len(files)} images done; results in {output}")
    return 1 if failed else 0


def invert_file(tool: Tool, path: Path, name: str, output: Path) -> Record:
    """Encode and decode an image; its row of the table."""
    reset_peak_memory(tool.device)
    started = time.perf_counter()
    image = tool.open_photograph(path)
    size = image.height, image.width
    with progress(name, tool.count_blocks(size) + tool.count_cell_blocks(size)) as bar:
        store = tool.encode(image, output / "latents" / f"{name}.safetensors", bar.update)
        writer = PictureWriter(output, name, size, image, tool.options.save_float)
        with writer:
            tool.draw(tool.scene(store), writer.add, bar.update)
    return make_record(tool, name, writer, started)


def decode_file(tool: Tool, path: Path, name: str, output: Path) -> Record:
    """Draw the image of saved latents, or a region of it; its row of the table."""
    reset_peak_memory(tool.device)
    started = time.perf_counter()
    scene = tool.scene(tool.open_latents(path))
    window = region_of(tool.options.region, scene.size, path)
    if tool.options.region is not None:
        name = f"{name}-{'-'.join(map(str, tool.options.region))}"
    writer = PictureWriter(output, name, window.shape, None, tool.options.save_float)
    with progress(name, tool.count_blocks(window.shape)) as bar, writer:
        tool.draw(scene, writer.add, bar.update, window)
    return make_record(tool, name, writer, started)


def region_of(box: list[int] | None, size: tuple[int, int], path: Path) -> Region:
    """The pixels to draw of an image of (height, width). UserError where the region is not inside it."""
    if box is None:
        return Region.at(0, 0, *size)
    top, left, bottom, right = box
    if bottom > size[0] or right > size[1]:
        raise UserError(f"infer.region: {box}, but {path} is of an image of {size[0]} x {size[1]}")
    return Region.at(top, left, bottom - top, right - left)


def make_record(tool: Tool, name: str, writer: PictureWriter, started: float) -> Record:
    """The row of an image that was begun at this time."""
    seconds = time.perf_counter() - started
    rate = writer.size[0] * writer.size[1] / 1e6 / seconds
    return Record(name, *writer.size, **writer.metrics(), seconds=seconds, megapixels_per_second=rate,
                  peak_memory_mib=peak_memory_mib(tool.device))  # fmt: skip


def line(record: Record) -> str:
    """One line on a finished image."""
    quality = "" if record.psnr is None else f"  PSNR {record.psnr:.2f} dB  SSIM {record.ssim:.3f}"
    return (
        f"{record.name}  {record.height} x {record.width}{quality}  {record.seconds:.2f} s"
        f"  peak {record.peak_memory_mib:.0f} MiB"
    )


if __name__ == "__main__":
    sys.exit(run_command(main))
