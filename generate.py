"""Generate images of any size, block by block, by seed.

    python generate.py --output FOLDER [--checkpoint FILE] generate.height=512 generate.width=2048 generate.seed=1
    python generate.py --output FOLDER --config configs/edit/panorama.yaml

Writes FOLDER/seed-N.png. The checkpoint is a generator.safetensors or inverter.safetensors of train.py, or what
scripts/import_infinitygan.py wrote.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from inversion.grain import Grain, wanted
from inversion.inputs import begin, refuse_refinement, refuse_unread
from inversion.scenes import Scene
from inversion.tool import Tool
from models.weights import SHIPPED
from utils.config import load_config
from utils.errors import UserError, run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, load, and generate one image after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the images")
    parser.add_argument("--checkpoint", type=Path, default=SHIPPED, help="generator or inverter of train.py")
    parser.add_argument("--config", help="YAML file with `generate` and `infer` options")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="single options, as generate.width=2048")
    arguments = parser.parse_intermixed_args(argv)
    config = load_config(arguments.config, arguments.overrides, sections=("generate", "infer"))
    refuse_unread(config.infer)
    refuse_refinement(config.infer, "generated images")
    tool = Tool.load(arguments.checkpoint, config.infer, encoders=False)
    if config.generate.panorama and config.generate.width % tool.cell:
        raise UserError(
            f"generate.width: {config.generate.width}; a panorama takes a multiple of {tool.cell} pixels, a latent cell"
        )
    begin(arguments.output, ["latents"])
    for seed in range(config.generate.seed, config.generate.seed + config.generate.count):
        generate(tool, config.generate, seed, arguments.output)
    return 0


def generate(tool: Tool, options: dict, seed: int, output: Path) -> None:
    """Write the image of a seed, and its latents where they are asked for."""
    scene, name = make_scene(tool, options, seed), f"seed-{seed}"
    if options.save_latents:
        path = tool.latent_path(output / "latents", name, scene.size)
        tool.store(path, scene.read, scene.size, scene.style, seed, grain_of(options, seed))
    tool.draw_picture(scene, output / f"{name}.png")


def grain_of(options: dict, seed: int) -> Grain:
    """The texture noise of the image of a seed."""
    return wanted(options.noise, seed, options.width if options.panorama else None)


def make_scene(tool: Tool, options: dict, seed: int) -> Scene:
    """The image of a seed, not drawn yet."""
    period = options.width // tool.cell if options.panorama else None
    return tool.generated((options.height, options.width), seed, grain_of(options, seed), period=period)


if __name__ == "__main__":
    sys.exit(run_command(main))
