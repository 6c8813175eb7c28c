"""A part of an image made anew, in a generated one or in a photograph; the rest stays as it is.

    python resample.py --input PHOTO_OR_FOLDER_OR_LATENTS --output FOLDER "resample.region=[0,0,200,300]"
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

from inversion.editing import KINDS, Source, complete, draw_stored, edit_files, parse
from inversion.grain import Grain, mixed, wanted
from inversion.inputs import begin, refuse_refinement
from inversion.masks import at_cells, read_mask, rectangles, stretched
from inversion.pieces import MaskedLatents
from inversion.scenes import Scene
from inversion.tool import Tool
from models.geometry import Region
from utils.errors import UserError, run_command
from utils.schema import ResampleConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, load, resample."""
    inputs = {"help": "an image, a folder of images, or a latent file; without it, an image is generated"}
    arguments, config = parse(__doc__, argv, ResampleConfig, inputs)
    tool = Tool.load(arguments.checkpoint, config.infer, encoders=False)
    if (config.resample.mask is None) == (config.resample.region is None):
        raise UserError("resample.mask, resample.region: one of them says where the image is made anew")
    white = None
    if config.resample.mask is not None:
        white = read_mask(Path(config.resample.mask), config.infer.max_pixels)
    if arguments.input:
        work = partial(resample_photograph, tool, config, white, arguments.output)
        return edit_files(tool, arguments.input, arguments.output, work)
    if config.generate.panorama:
        raise UserError("generate.panorama: true; only generate.py closes images, resample.py does not")
    refuse_refinement(config.infer, "generated images")
    begin(arguments.output, KINDS)
    for seed in range(config.generate.seed, config.generate.seed + config.generate.count):
        resample_generated(tool, config, white, arguments.output, seed)
    return 0


def mask_of_cells(
    tool: Tool, options: dict, white: np.ndarray | None, size: tuple[int, int], name: str
) -> Callable[[Region], np.ndarray]:
    """The latent cells, by their centres, that mask or region take in. UserError if these do not fit the image."""
    if white is None:
        top, left, bottom, right = options.region
        if bottom > size[0] or right > size[1]:
            raise UserError(f"resample.region: {options.region}, but {name} has {size[0]} x {size[1]} pixels")
    label = rectangles([options.region]) if white is None else stretched(white, size)
    inside = at_cells(label, Region.at(0, 0, *size), tool.cell)
    if options.what == "structure" and not any(inside(part).any() for part in tool.cell_blocks(size)):
        raise UserError(
            f"resample: no latent cell of {name} has its centre inside the mask; allowed: a mask with a pixel whose row"
            f" and column are multiples of {tool.cell}"
        )
    return inside


def new_and_old(config: dict, white: np.ndarray | None, old: Grain, seed: int) -> Grain:
    """The texture noise of a resampled image: that of `complete.noise` inside. UserError if it alone would change."""
    new = wanted(config.complete.noise, seed)
    if config.resample.what == "noise" and new is None and old is None:
        raise UserError("resample.what: noise, but complete.noise is none and so is the image's: nothing would change")
    return mixed([old, new], 0, [config.resample.region] if white is None else [], white)


def resample_photograph(tool: Tool, config: dict, white: np.ndarray | None, output: Path, source: Source) -> None:
    """Make a part of a photograph anew, once for each seed."""
    options, size = config.resample, source.size
    inside = mask_of_cells(tool, options, white, size, source.name)
    store = source.latents()
    for seed in range(options.seed, options.seed + options.count):
        path = output / f"{source.name}-resampled-{seed}.png"
        grain = new_and_old(config, white, tool.grain(store), seed)
        if options.what == "noise":
            tool.draw_picture(Scene(size, store.read, store.z_g, tool.noise(grain, size), stored=True), path)
            continue
        completion = complete(tool, config.complete, MaskedLatents(store, inside), size, store.z_g, seed, path.stem)
        draw_stored(tool, completion, size, store.z_g, grain, seed, path)


def resample_generated(tool: Tool, config: dict, white: np.ndarray | None, output: Path, image_seed: int) -> None:
    """Make a part of a generated image anew, once for each seed."""
    options, name = config.resample, f"seed-{image_seed}"
    size = config.generate.height, config.generate.width
    inside = mask_of_cells(tool, options, white, size, name)
    grain = wanted(config.generate.noise, image_seed)
    for seed in range(options.seed, options.seed + options.count):
        if options.what == "noise":
            scene = tool.generated(size, image_seed, new_and_old(config, white, grain, seed))
        else:
            scene = tool.generated(size, image_seed, grain, mask=inside, mask_seed=seed)
        tool.draw_picture(scene, output / f"{name}-resampled-{seed}.png")


if __name__ == "__main__":
    sys.exit(run_command(main))
