"""Generate images of any size, block by block, by seed.

    python generate.py --output FOLDER [--checkpoint FILE] generate.height=512 generate.width=2048 generate.seed=1

Writes FOLDER/seed-N.png. The checkpoint is a generator.safetensors or inverter.safetensors of train.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from inversion.blocks import block_edge, count_blocks
from inversion.canvas import Closing, PngWriter, StripAssembler, to_eight_bit
from inversion.generation import GeneratedLatents
from inversion.passes import Decoder
from models.geometry import Region
from models.noise import NoiseField
from models.weights import SHIPPED, load_generator
from utils.config import load_config
from utils.device import select_device, select_dtype, use_exact_float32
from utils.errors import run_command
from utils.files import atomic_path
from utils.log import say


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, load, and generate one image after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the images")
    parser.add_argument("--checkpoint", type=Path, default=SHIPPED, help="generator or inverter of train.py")
    parser.add_argument("--config", help="YAML file with `generate` and `infer` options")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="single options, as generate.width=2048")
    arguments = parser.parse_intermixed_args(argv)
    config = load_config(arguments.config, arguments.overrides, sections=("generate", "infer"))
    device = select_device(config.infer.device)
    use_exact_float32()
    generator, _ = load_generator(arguments.checkpoint)
    decoder = Decoder(generator, device, select_dtype(config.infer.dtype, device))
    for seed in range(config.generate.seed, config.generate.seed + config.generate.count):
        path = arguments.output / f"seed-{seed}.png"
        generate(decoder, config, seed, path)
        say(f"wrote {path}")
    return 0


def generate(decoder: Decoder, config: dict, seed: int, path: Path) -> None:
    """Write the image of a seed."""
    size = config.generate.height, config.generate.width
    options = config.infer
    edge = block_edge(options.block, options.memory_mib, size, decoder.generator.texture, decoder.dtype)
    latents = GeneratedLatents(decoder.generator, decoder.cells(*size), seed, decoder.device)
    noise = NoiseField(seed, decoder.device) if config.generate.noise == "field" else None
    strips = StripAssembler(size[1], "uint8")
    canvas = Region.at(0, 0, *size)
    blocks = decoder.decode(latents.read, latents.z_g, canvas, edge, noise)
    with atomic_path(path) as temporary, Closing(PngWriter(temporary, *size)) as (writer,):
        for region, pixels in tqdm(blocks, total=count_blocks(canvas, edge), desc=path.stem, unit="block", leave=False):
            strip = strips.add(region, to_eight_bit(pixels))
            if strip is not None:
                writer.write(strip)


if __name__ == "__main__":
    sys.exit(run_command(main))
