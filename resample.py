"""A part of an image made anew, in a generated one or in a photograph; the rest stays as it is.

    python resample.py --input PHOTO_OR_FOLDER_OR_LATENTS --output FOLDER resample.region=[0,0,200,300]
    python resample.py --input PHOTO --output FOLDER resample.mask=MASK.png resample.count=4
    python resample.py --output FOLDER generate.seed=3 resample.mask=MASK.png resample.what=noise

`structure` draws new local latents inside the mask: those of a photograph are fitted to its surroundings there.
`noise` draws new texture noise. Writes NAME-resampled-N.png, N the seed of what is new.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from inversion.editing import KINDS, Source, complete, draw_stored, edit_files, mixed_noise, new_noise, parse
from inversion.generation import GeneratedStructure, LocalField, generated_style
from inversion.inputs import begin
from inversion.masks import at_cells, mask_image, rectangles
from inversion.pieces import MaskedLatents
from inversion.scenes import Scene
from inversion.stylemaps import Label
from inversion.tool import Tool
from models.geometry import Region
from models.noise import NoiseField
from utils.errors import UserError, run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, load, resample."""
    inputs = {"help": "an image, a folder of images, or a latent file; without it, an image is generated"}
    arguments, config = parse(__doc__, argv, ("resample", "generate", "complete", "infer"), inputs)
    tool = Tool.load(arguments.checkpoint, config.infer, encoders=False)
    if (config.resample.mask is None) == (config.resample.region is None):
        raise UserError("resample.mask, resample.region: one of them says where the image is made anew")
    if config.resample.mask is not None:
        mask_of(tool, config.resample, (1, 1), "")  # a mask that cannot be used shows before any work
    if arguments.input:
        work = partial(resample, tool, config, arguments.output)
        return edit_files(tool, arguments.input, arguments.output, work)
    if config.generate.panorama:
        raise UserError("generate.panorama: true; only generate.py closes images, resample.py does not")
    begin(arguments.output, KINDS)
    for seed in range(config.generate.seed, config.generate.seed + config.generate.count):
        regenerate(tool, config, arguments.output, seed)
    return 0


def mask_of(tool: Tool, options: dict, size: tuple[int, int], name: str) -> Label:
    """The mask that the options give for an image of (height, width). UserError if it does not fit."""
    if options.mask is not None:
        return mask_image(Path(options.mask), size, tool.options.max_pixels)
    top, left, bottom, right = options.region
    if bottom > size[0] or right > size[1]:
        raise UserError(
            f"resample.region: {options.region} in {name} of {size[0]} x {size[1]}; allowed: [first row, first column,"
            " row after the last, column after the last] inside the image"
        )
    return rectangles([(top, left, bottom, right)])


def mask_of_cells(
    tool: Tool, options: dict, mask: Label, size: tuple[int, int], name: str
) -> Callable[[Region], np.ndarray]:
    """The mask of latent cells, by their centres. UserError if it holds none and the structure is to change."""
    inside = at_cells(mask, Region.at(0, 0, *size), tool.cell)
    if options.what == "structure" and not any(inside(part).any() for part in tool.cell_blocks(size)):
        raise UserError(
            f"resample: no latent cell of {name} has its centre inside the mask; allowed: a mask with a pixel whose row"
            f" and column are multiples of {tool.cell}"
        )
    return inside


def resample(tool: Tool, config: dict, output: Path, source: Source) -> None:
    """Make a part of a photograph anew, once for each seed."""
    options, size = config.resample, source.size
    mask = mask_of(tool, options, size, source.name)
    inside = mask_of_cells(tool, options, mask, size, source.name)
    if options.what == "noise" and config.complete.noise == tool.options.noise == "none":
        raise UserError("resample.what: noise, but complete.noise and infer.noise are none: nothing would change")
    store = source.latents()
    old = tool.noise(store.description.seed)
    for seed in range(options.seed, options.seed + options.count):
        name = f"{source.name}-resampled-{seed}"
        noise = mixed_noise(tool, mask, size, 0, [old, new_noise(tool, config.complete, seed)])
        if options.what == "noise":
            tool.draw_png(Scene(size, store.read, store.z_g, noise), output / f"{name}.png")
            continue
        completion = complete(tool, config.complete, MaskedLatents(store, inside), size, store.z_g, seed, name)
        draw_stored(tool, completion, Scene(size, completion.read, store.z_g, noise), seed, output, name)


def regenerate(tool: Tool, config: dict, output: Path, image_seed: int) -> None:
    """Make a part of a generated image anew, once for each seed."""
    options, generator, name = config.resample, tool.generator, f"seed-{image_seed}"
    size = config.generate.height, config.generate.width
    mask = mask_of(tool, options, size, name)
    inside = mask_of_cells(tool, options, mask, size, name)
    channels, style = generator.structure.local_dim, generated_style(generator, image_seed)
    noise = NoiseField(image_seed, tool.device) if config.generate.noise == "field" else None
    for seed in range(options.seed, options.seed + options.count):
        mixed, local = noise, LocalField(channels, image_seed, tool.device, mask=inside, mask_seed=seed)
        if options.what == "noise":
            mixed = mixed_noise(tool, mask, size, 0, [noise, NoiseField(seed, tool.device)])
            local = LocalField(channels, image_seed, tool.device)
        structure = GeneratedStructure(generator, tool.decoder.cells(*size), local, style)
        tool.draw_png(Scene(size, structure.read, style, mixed), output / f"{name}-resampled-{seed}.png")


if __name__ == "__main__":
    sys.exit(run_command(main))
