"""Speed and memory of inversion, beside the published algorithm and a plain loop over the same blocks.

    python -m benchmarks.inversion [--sizes 512 1024 ...] [--checkpoint FILE] [key=value ...]
    python -m benchmarks.inversion --sizes 512      # minutes on two cores

Without --checkpoint the networks are those of configs/default.yaml, with random weights. Options: device, block,
memory_mib. Each line of the table is a median of --repeats runs after a warm-up.

- method: `published`, see benchmarks.published: windows spread evenly over the image are timed, each once, and their
  median is multiplied by the number of windows; `loop`, the blocks of this program one after the other, by the forward
  passes of training, in float32, channels first; `blocks`, this program
- twice: multiply-adds of convolutions beyond those of the image drawn as a whole
- MiB: peak memory beyond that held before (the networks, the image); on CUDA, PyTorch's tensors
All have the same networks, float32 without TF32, and the allocator's settings of this program.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import photograph, repeated, seconds
from benchmarks.published import Canvas, Published
from evaluation.run import machine
from images.reading import Image
from images.writing import to_eight_bit
from inversion import PatchInverter
from inversion.cost import decode_cost, encode_cost
from models import build_encoders, build_generator
from models.geometry import Region
from models.weights import export
from utils.config import load_config
from utils.errors import run_command
from utils.log import info
from utils.schema import InferConfig, TrainConfig

SIZES = (256, 512, 1024, 2048, 4096)  # edges of images, pixels
DTYPES = ("float32", "bfloat16")
PATCHES = 31  # of the published algorithm that are timed: a fourth of those of 512 px
COLOURS = 0.2  # scales random colours to the range of images
HEADING = "       pixels    method    dtype   block  seconds   Mpx/s   twice    MiB times as fast"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="edges, pixels")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each line; 0: the first one only")
    parser.add_argument("--checkpoint", type=Path, help="inverter to measure")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="device, block, memory_mib of infer.py")
    arguments = parser.parse_intermixed_args(argv)
    options = load_config(InferConfig, None, arguments.overrides).infer
    shared = {key: options[key] for key in ("device", "block", "memory_mib")}
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.checkpoint or random_inverter(Path(folder, "random.safetensors"))
        models = {name: PatchInverter.from_pretrained(path, dtype=name, **shared) for name in DTYPES}
        whole = PatchInverter.from_pretrained(path, device=options.device, dtype="float32", block="whole")
    published = Published(whole.networks, whole.device)
    info(HEADING)
    for size in arguments.sizes:
        image = whole.open(photograph(size))
        style, needed = whole.style(image).global_latent, multiply_adds(whole, image)
        slowest = measure_published(published, image, style)
        print_line(size, "published", "float32", slowest, needed, slowest)
        for method, dtype, run in (("loop", "float32", plain_loop), *(("blocks", dtype, invert) for dtype in DTYPES)):
            measured = measure_blocks(models[dtype], image, run, arguments.repeats)
            print_line(size, method, dtype, measured, needed, slowest)
    info(f"machine: {machine(whole.device)}")
    return 0


class Measurement(NamedTuple):
    """Of an image."""

    seconds: float
    macs: int  # multiply-adds of convolutions
    memory: float  # MiB
    block: int  # edge, pixels


def measure_published(published: Published, image: Image, style: Tensor) -> Measurement:
    """The published algorithm, by some of its windows."""
    canvas, taken = Canvas(published, image, style), []
    chosen, count = canvas.places[:: -(-len(canvas.places) // PATCHES)], len(canvas.places)
    with FlopCounterMode(display=False) as counter:
        canvas.draw(*chosen[0])

    def draw() -> None:
        taken.extend(seconds(partial(canvas.draw, *place), published.device) for place in chosen)

    _, memory = repeated(draw, published.device, repeats=0)
    return Measurement(count * median(taken), count * counter.get_total_flops() // 2, memory, published.drawn)


def measure_blocks(
    model: PatchInverter, image: Image, run: Callable[[PatchInverter, Image], np.ndarray], repeats: int
) -> Measurement:
    """What goes through the blocks of a model."""
    taken, memory = repeated(lambda: run(model, image), model.device, repeats)
    block = next(iter(model.pixel_blocks(Region.at(0, 0, image.height, image.width)))).rows.size
    return Measurement(median(taken), multiply_adds(model, image), memory, block)


def invert(model: PatchInverter, image: Image) -> np.ndarray:
    """This program: the pixels [H, W, 3] uint8 of an image's inversion."""
    return model.draw(model.invert(image))


@torch.inference_mode()
def plain_loop(model: PatchInverter, image: Image) -> np.ndarray:
    """The same, block by block in the simplest way."""
    size, encoder, texture = (image.height, image.width), model.networks.encoder, model.generator.texture
    cells, canvas = model.cells(size), Region.at(0, 0, *size)
    w = texture.mapping(model.style(image).global_latent[None].to(model.device))
    structure = torch.empty(1, *model.structure_shape(size), device=model.device)
    for block in model.cell_blocks(size):
        around = block.receptive_field(encoder.rule)
        pixels = image.window_float(around.rows.first, around.cols.first, *around.shape)
        x = torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous().to(model.device)
        structure[(..., *block.slices_in(cells))] = encoder(x)
    result = np.empty((*size, 3), np.uint8)
    for block in model.pixel_blocks(canvas):
        around = block.receptive_field(texture.rule)
        drawn = texture(structure[(..., *around.slices_in(cells))].contiguous(), w, None)
        drawn = drawn[(0, slice(None), *block.slices_in(around.valid_output(texture.rule)))]
        result[block.slices_in(canvas)] = to_eight_bit(drawn.permute(1, 2, 0)).cpu().numpy()
    return result


def print_line(size: int, method: str, dtype: str, found: Measurement, needed: int, slowest: Measurement) -> None:
    """A line of the table, of an image of size x size that needs so many multiply-adds."""
    speed, twice = size**2 / 1e6 / found.seconds, 100 * (found.macs / needed - 1)
    info(
        f"{f'{size} x {size}':>13} {method:>9} {dtype:>8} {found.block:>7} {found.seconds:8.3g} {speed:7.3g}"
        f" {twice:5.1f} % {found.memory:6.0f} {slowest.seconds / found.seconds:13.2f}"
    )


@torch.no_grad()
def random_inverter(path: Path) -> Path:
    """The file of an inverter of configs/default.yaml with random weights, whose images are in the range of others."""
    model = load_config(TrainConfig).model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator, (encoder, global_encoder) = build_generator(model), build_encoders(model)
    for name, values in generator.texture.named_parameters():
        if "to_rgb" in name and name.endswith("conv.weight"):
            values *= COLOURS
    export(path, model, {"generator": generator, "encoder": encoder, "global_encoder": global_encoder}, step=0)
    return path


def multiply_adds(model: PatchInverter, image: Image) -> int:
    """Those of the convolutions of an image in the blocks of a model."""
    encoder, texture, size = model.networks.encoder, model.generator.texture, (image.height, image.width)
    encoded = sum(encode_cost(encoder, block, torch.float32).macs for block in model.cell_blocks(size))
    pixels = model.pixel_blocks(Region.at(0, 0, *size))
    return encoded + sum(decode_cost(texture, block, torch.float32).macs for block in pixels)


if __name__ == "__main__":
    sys.exit(run_command(main))
