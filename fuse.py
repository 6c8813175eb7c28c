"""Several styles in one image, block by block: in a generated one, or in a photograph.

    python fuse.py --output FOLDER "fuse.styles=[1,2,3,4]" generate.height=1024 generate.width=4096
    python fuse.py --output FOLDER "fuse.styles=[1,2]" "fuse.centres=[[0.2,0.5],[0.8,0.5]]"
    python fuse.py --output FOLDER --input PHOTO_OR_FOLDER_OR_LATENTS "fuse.styles=[own,3,OTHER]" fuse.mask=MASK.png

Without --input, structure and texture of a seed's image are generated in the mixed styles; with it, the
structure stays that of the photograph. Writes seed-N-fused.png or NAME-fused.png.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from inversion.editing import KINDS, Source, edit_files, parse
from inversion.generation import generated_style
from inversion.grain import wanted
from inversion.inputs import begin, refuse_refinement
from inversion.latents import SUFFIXES
from inversion.masks import read_labels, stretched
from inversion.scenes import Fusion, Scene
from inversion.stylemaps import SoftMap, nearest_centre
from inversion.tool import Tool
from models.geometry import Region
from utils.errors import UserError, run_command
from utils.schema import FuseConfig

OWN = "own"  # the style of the input


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, load, fuse."""
    inputs = {"help": "an image, a folder of images, or a latent file; without it, images are generated"}
    arguments, config = parse(__doc__, argv, FuseConfig, inputs)
    tool = Tool.load(arguments.checkpoint, config.infer, encoders=False)
    check(config, generated=arguments.input is None)
    labels = None
    if config.fuse.mask is not None:
        labels = read_labels(Path(config.fuse.mask), len(config.fuse.styles), config.infer.max_pixels)
    styles = {item: style_of(tool, item) for item in config.fuse.styles if item != OWN}
    blend = partial(fusion, config.fuse, labels)
    if arguments.input:
        work = partial(fuse, tool, config.fuse.styles, styles, blend, arguments.output)
        return edit_files(tool, arguments.input, arguments.output, work)
    refuse_refinement(config.infer, "generated images")
    begin(arguments.output, KINDS)
    options, size = config.generate, (config.generate.height, config.generate.width)
    style = blend([styles[item] for item in config.fuse.styles], size)
    for seed in range(options.seed, options.seed + options.count):
        scene = tool.generated(size, seed, wanted(options.noise, seed), style)
        tool.draw_picture(scene, arguments.output / f"seed-{seed}-fused.png")
    return 0


def check(config: dict, generated: bool) -> None:
    """UserError for options that do not fit together."""
    options = config.fuse
    if generated and OWN in options.styles:
        raise UserError("fuse.styles: own is the style of the input, and there is no --input")
    if generated and config.generate.panorama:
        raise UserError("generate.panorama: true; only generate.py closes images, fuse.py does not")
    if options.centres is not None and options.mask is not None:
        raise UserError("fuse.centres and fuse.mask are both set; allowed: one of them")
    if options.centres is not None and len(options.centres) != len(options.styles):
        raise UserError(f"fuse.centres: {len(options.centres)} centres for {len(options.styles)} styles (fuse.styles)")


def style_of(tool: Tool, item: int | str) -> Tensor:
    """The global latent [D] that an item of fuse.styles names."""
    if isinstance(item, int):
        return generated_style(tool.generator, item)
    if item.endswith(SUFFIXES):
        return tool.open_latents(Path(item)).z_g
    return tool.encode_global(tool.open_photograph(Path(item)))


def fusion(options: dict, labels: np.ndarray | None, z_g: Sequence[Tensor], size: tuple[int, int]) -> Fusion:
    """Styles [D] with their map on a canvas of (height, width); `labels` [H, W] of a mask, if there is one."""
    count = len(z_g)
    if labels is not None:
        label = stretched(labels, size)
    else:
        shares = options.centres or [(0.5, (k + 0.5) / count) for k in range(count)]
        label = nearest_centre([(size[0] * down, size[1] * right) for down, right in shares])
    weights = SoftMap(label, count, Region.at(0, 0, *size), options.blur)
    return Fusion(torch.stack(list(z_g)), weights, options.modulation == "exact")


def fuse(
    tool: Tool,
    items: Sequence[int | str],  # fuse.styles
    styles: dict[int | str, Tensor],  # global latents [D] of all items but OWN
    blend: Callable[[Sequence[Tensor], tuple[int, int]], Fusion],
    output: Path,
    source: Source,
) -> None:
    """Draw a photograph's structure in several styles."""
    store = source.latents()
    style = blend([store.z_g if item == OWN else styles[item] for item in items], source.size)
    scene = Scene(source.size, store.read, style, tool.scene(store).noise, stored=True)
    tool.draw_picture(scene, output / f"{source.name}-fused.png")


if __name__ == "__main__":
    sys.exit(run_command(main))
