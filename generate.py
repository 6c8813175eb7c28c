"""Generate images of any size, block by block, by seed.

    python generate.py --output FOLDER [--checkpoint FILE] height=512 width=2048 seed=1
    python generate.py --output FOLDER --config configs/edit/panorama.yaml

Writes FOLDER/seed-N.png. The checkpoint is a generator.safetensors or inverter.safetensors of train.py, or what
scripts/import_infinitygan.py wrote.
"""

from __future__ import annotations

from utils.processors import share_processor

if __name__ == "__main__":  # before PyTorch is loaded
    share_processor()

import sys
from collections.abc import Sequence

from images.writing import TILES
from inversion.commands import command_parser, load_model, save_picture
from inversion.latents import latents_suffix
from utils.config import load_config
from utils.errors import UserError, run_command
from utils.files import lock_folder, refuse_overwriting, remove_stale
from utils.schema import GenerateConfig
from utils.signals import exit_on_terminate

LARGEST_SEED = 2**32 - 1  # that a config may name


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, load, and generate one image after the other."""
    arguments = command_parser(__doc__, "width=2048").parse_intermixed_args(argv)
    config = load_config(GenerateConfig, arguments.config, arguments.overrides)
    options, output = config.generate, arguments.output
    model = load_model(arguments.checkpoint, config.infer)
    seeds = range(options.seed, options.seed + options.count)
    if seeds[-1] > LARGEST_SEED:
        raise UserError(f"generate.count: {options.count}; seeds end at {LARGEST_SEED}")
    if options.panorama and options.width % model.cell:
        raise UserError(
            f"generate.width: {options.width}; a panorama takes a multiple of {model.cell} pixels, a latent cell"
        )
    if options.scale > 1:
        model.preview_size((options.height, options.width), options.scale)
    exit_on_terminate()
    found = [path for place in ("seed-*", "latents/seed-*") for path in output.glob(place)]
    digits = [path.stem.removeprefix("seed-").removesuffix(TILES) for path in found]
    results = [path for path, seed in zip(found, digits, strict=True) if seed.isdecimal() and int(seed) in seeds]
    refuse_overwriting(filter(None, [arguments.checkpoint, arguments.config]), results)
    with lock_folder(output):
        remove_stale(output)
        for seed in seeds:
            latents = model.generate(
                options.height, options.width, seed, panorama=options.panorama, noise=options.noise == "field"
            )
            if options.save_latents:
                latents.save(output / f"latents/seed-{seed}{latents_suffix('auto', latents.structure.shape)}")
            save_picture(model, latents, output / f"seed-{seed}.png", config.infer, options.scale)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
