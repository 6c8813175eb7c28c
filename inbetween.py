"""Two photographs at the ends of a canvas, and what may lie between them, in styles that change from one to the other.

    python inbetween.py --input LEFT RIGHT --output FOLDER inbetween.width=1024

LEFT and RIGHT are images or latent files. Writes LEFT-RIGHT-seed-N.png, and the inversions into inversions/.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from inversion.editing import KINDS, SUFFIX, complete, mixed_noise, new_noise, parse, size_of, source
from inversion.inputs import begin
from inversion.latents import LatentStore
from inversion.masks import inverse, rectangles
from inversion.pieces import PlacedPhotographs, place
from inversion.scenes import Fusion, Scene
from inversion.stylemaps import Passage
from inversion.tool import Tool
from models.geometry import Interval
from utils.errors import UserError, run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, load, and draw what lies between two photographs."""
    inputs = {"required": True, "nargs": 2, "metavar": ("LEFT", "RIGHT"), "help": "images or latent files"}
    arguments, config = parse(__doc__, argv, ("inbetween", "complete", "infer"), inputs)
    tool = Tool.load(arguments.checkpoint, config.infer, encoders=False)
    if any(path.suffix != SUFFIX for path in arguments.input):
        tool.require_encoder()
    begin(arguments.output, KINDS)
    names = [path.stem for path in arguments.input]
    if names[0] == names[1]:
        names = [f"{names[0]}-left", f"{names[1]}-right"]
    stores = [source(tool, path, name, arguments.output) for path, name in zip(arguments.input, names, strict=True)]
    inbetween(tool, config, arguments.output, stores, "-".join(names))
    return 0


def inbetween(tool: Tool, config: dict, output: Path, stores: Sequence[LatentStore], name: str) -> None:
    """Write the canvases of two photographs, one for each seed."""
    options, sizes = config.inbetween, [size_of(store) for store in stores]
    canvas = find_canvas(tool.cell, sizes, options.height, options.width)
    tops = [(canvas[0] - height) // 2 // tool.cell * tool.cell for height, _ in sizes]
    lefts = [0, canvas[1] - sizes[1][1]]
    cells = tool.decoder.cells(*canvas)
    pieces = PlacedPhotographs([
        place(store, top // tool.cell, left // tool.cell, canvas, cells, tool.cell)
        for store, top, left in zip(stores, tops, lefts, strict=True)
    ])  # fmt: skip
    weights = Passage(Interval(sizes[0][1] - 1, lefts[1]))
    style = Fusion(torch.stack([store.z_g for store in stores]), weights)
    ramp = tool.cell
    new = inverse(rectangles([
        (top - ramp, left - ramp, top + height + ramp, left + width + ramp)
        for top, left, (height, width) in zip(tops, lefts, sizes, strict=True)
    ]))  # fmt: skip
    for seed in range(options.seed, options.seed + options.count):
        title = f"{name}-seed-{seed}"
        completion = complete(tool, config.complete, pieces, canvas, style, seed, title)
        old = tool.noise(stores[0].description.seed)
        noise = mixed_noise(tool, new, canvas, ramp, old, new_noise(tool, config.complete, seed))
        tool.draw_png(Scene(canvas, completion.read, style, noise), output / f"{title}.png")


def find_canvas(
    cell: int, sizes: Sequence[tuple[int, int]], height: int | None, width: int | None
) -> tuple[int, int]:
    """Height and width of the canvas of two photographs, in pixels. UserError where they do not fit."""
    highest, right = max(edge for edge, _ in sizes), sizes[1][1]
    both = sizes[0][1] + right
    least = right + -(-(sizes[0][1] + cell) // cell) * cell
    height = highest if height is None else height
    width = max(least, right - (right - both * 3 // 2) // cell * cell) if width is None else width
    if height < highest:
        raise UserError(f"inbetween.height: {height} px, but a photograph has {highest}; allowed: from there on")
    if width < both + cell or (width - right) % cell:
        raise UserError(f"inbetween.width: {width}; allowed: {least} px, or more by a multiple of {cell}")
    return height, width


if __name__ == "__main__":
    sys.exit(run_command(main))
