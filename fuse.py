"""Several styles in one image, block by block: in a generated one, or in a photograph.

    python fuse.py --output FOLDER fuse.styles=[1,2,3,4] generate.height=1024 generate.width=4096
    python fuse.py --output FOLDER fuse.styles=[1,2] fuse.centres=[[0.2,0.5],[0.8,0.5]]
    python fuse.py --output FOLDER --input PHOTO_OR_FOLDER_OR_LATENTS fuse.styles=[own,3,OTHER_PHOTO] fuse.mask=MASK.png

Without --input, structure and texture of the image seed-N.png are generated in the mixed styles; with it, the
structure stays that of the photograph. Writes NAME.png.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from inversion.editing import KINDS, SUFFIX, Source, edit_files, parse
from inversion.generation import GeneratedStructure, LocalField, generated_style
from inversion.inputs import begin
from inversion.masks import style_labels
from inversion.scenes import Fusion, Scene
from inversion.stylemaps import SoftMap, nearest_centre
from inversion.tool import Tool
from models.geometry import Region
from models.noise import NoiseField
from utils.errors import UserError, run_command

OWN = "own"  # the style of the input


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, load, fuse."""
    inputs = {"help": "an image, a folder of images, or a latent file; without it, images are generated"}
    arguments, config = parse(__doc__, argv, ("fuse", "generate", "infer"), inputs)
    tool = Tool.load(arguments.checkpoint, config.infer, encoders=False)
    check(tool, config, generated=arguments.input is None)
    styles = {item: style_of(tool, item) for item in config.fuse.styles if item != OWN}
    if arguments.input:
        if arguments.input.resolve() == (arguments.output / f"{arguments.input.stem}.png").resolve():
            raise UserError(f"--output {arguments.output}: holds the input, which the result would overwrite")
        work = partial(fuse, tool, config, styles, arguments.output)
        return edit_files(tool, arguments.input, arguments.output, work)
    begin(arguments.output, KINDS)
    for seed in range(config.generate.seed, config.generate.seed + config.generate.count):
        tool.draw_png(generated_scene(tool, config, styles, seed), arguments.output / f"seed-{seed}.png")
    return 0


def check(tool: Tool, config: dict, generated: bool) -> None:
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
    if options.mask is not None:
        style_labels(Path(options.mask), len(options.styles), (1, 1), tool.options.max_pixels)


def style_of(tool: Tool, item: int | str) -> Tensor:
    """The global latent [D] that an item of fuse.styles names."""
    if isinstance(item, int):
        return generated_style(tool.generator, item)
    if item.endswith(SUFFIX):
        return tool.open_latents(Path(item)).z_g
    return tool.encode_global(tool.open_photograph(Path(item)))


def fusion(tool: Tool, options: dict, z_g: Sequence[Tensor], size: tuple[int, int]) -> Fusion:
    """Styles [D] with their map on a canvas of (height, width)."""
    count = len(z_g)
    if options.mask:
        label = style_labels(Path(options.mask), count, size, tool.options.max_pixels)
    else:
        shares = options.centres or [(0.5, (k + 0.5) / count) for k in range(count)]
        label = nearest_centre([(size[0] * down, size[1] * right) for down, right in shares])
    weights = SoftMap(label, count, Region.at(0, 0, *size), options.blur)
    return Fusion(torch.stack(list(z_g)), weights, options.modulation == "exact")


def fuse(tool: Tool, config: dict, styles: dict, output: Path, source: Source) -> None:
    """Draw a photograph's structure in several styles."""
    store = source.latents()
    z_g = [store.z_g if item == OWN else styles[item] for item in config.fuse.styles]
    style = fusion(tool, config.fuse, z_g, source.size)
    scene = Scene(source.size, store.read, style, tool.noise(store.description.seed))
    tool.draw_png(scene, output / f"{source.name}.png")


def generated_scene(tool: Tool, config: dict, styles: dict, seed: int) -> Scene:
    """The image that a seed gives in several styles."""
    size = config.generate.height, config.generate.width
    style = fusion(tool, config.fuse, [styles[item] for item in config.fuse.styles], size)
    local = LocalField(tool.generator.structure.local_dim, seed, tool.device)
    structure = GeneratedStructure(tool.generator, tool.decoder.cells(*size), local, style)
    noise = NoiseField(seed, tool.device) if config.generate.noise == "field" else None
    return Scene(size, structure.read, style, noise)


if __name__ == "__main__":
    sys.exit(run_command(main))
