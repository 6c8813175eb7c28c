"""Generate images of any size, block by block, by seed.

    python generate.py --output FOLDER [--checkpoint FILE] height=512 width=2048 seed=1
    python generate.py --output FOLDER --config configs/edit/panorama.yaml

Writes FOLDER/seed-N.png. The checkpoint is a generator.safetensors or inverter.safetensors of train.py, or what
scripts/import_infinitygan.py wrote.
"""

from __future__ import annotations

from utils.processors import share_processor
from utils.signals import exit_at_once

if __name__ == "__main__":  # before PyTorch is loaded
    exit_at_once()
    share_processor()

import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from images.writing import TILES
from inversion.commands import command_parser, load_model, require_room, save_picture, seeds_of
from inversion.latents import latents_suffix
from utils.arguments import parse_arguments
from utils.config import files_read, load_config
from utils.errors import UserError, run_command
from utils.files import lock_folder, refuse_overwriting
from utils.schema import GenerateConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, load, and generate one image after the other."""
    arguments = parse_arguments(command_parser(__doc__, "width=2048"), argv)
    config = load_config(GenerateConfig, arguments.config, arguments.overrides)
    options, output = config.generate, arguments.output
    model = load_model(arguments.checkpoint, config.infer)
    seeds = seeds_of("generate", options)
    if options.panorama and options.width % model.cell:
        raise UserError(
            f"generate.width: {options.width}; a panorama takes a multiple of {model.cell} pixels, a latent cell"
        )
    if options.scale > 1:
        model.preview_size((options.height, options.width), options.scale)
    read = [arguments.checkpoint, *files_read(GenerateConfig, config, arguments.config)]
    refuse_overwriting(read, places(output, seeds))
    with lock_folder(output):
        for seed in seeds:
            latents = model.generate(
                options.height, options.width, seed, panorama=options.panorama, noise=options.noise == "field"
            )
            require_room(output, latents, config.infer, None, options.save_latents)
            if options.save_latents:
                latents.save(output / f"latents/seed-{seed}{latents_suffix('auto', latents.structure.shape)}")
            save_picture(model, latents, output / f"seed-{seed}.png", config.infer, options.scale)
    return 0


def places(output: Path, seeds: Sequence[int]) -> Iterator[Path]:
    """What is there already of what images of seeds may be written into; file systems may ignore the case of names."""
    for path in chain(output.glob("*"), output.glob("latents/*")):
        digits = path.stem.lower().removeprefix("seed-").removesuffix(TILES)
        if digits.isdecimal() and int(digits) in seeds:
            yield path


if __name__ == "__main__":
    sys.exit(run_command(main))
