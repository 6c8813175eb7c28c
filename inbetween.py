"""Two photographs at the ends of a canvas, and what may lie between them, in styles that change from one to the other.

    python inbetween.py --input LEFT RIGHT --output FOLDER inbetween.width=1024

LEFT and RIGHT are images or latent files. Writes LEFT-RIGHT-seed-N.png, and the inversions into inversions/.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from inversion.editing import (
    KINDS,
    Placement,
    Source,
    canvas_grain,
    complete,
    open_source,
    parse,
    place_all,
)
from inversion.inputs import begin
from inversion.latents import SUFFIXES
from inversion.scenes import Fusion, Scene
from inversion.stylemaps import Passage
from inversion.tool import Tool
from models.geometry import Interval
from utils.errors import UserError, run_command
from utils.schema import InbetweenConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, load, and draw what lies between two photographs."""
    inputs = {"required": True, "nargs": 2, "metavar": ("LEFT", "RIGHT"), "help": "images or latent files"}
    arguments, config = parse(__doc__, argv, InbetweenConfig, inputs)
    tool = Tool.load(arguments.checkpoint, config.infer, encoders=False)
    if any(path.suffix not in SUFFIXES for path in arguments.input):
        tool.require_encoder()
    begin(arguments.output, KINDS)
    names = [path.stem for path in arguments.input]
    if names[0] == names[1]:
        names = [f"{names[0]}-left", f"{names[1]}-right"]
    left, right = (
        open_source(tool, path, name, arguments.output) for path, name in zip(arguments.input, names, strict=True)
    )
    inbetween(tool, config, arguments.output, left, right)
    return 0


def inbetween(tool: Tool, config: dict, output: Path, left: Source, right: Source) -> None:
    """Write the canvases of two photographs, one for each seed."""
    options = config.inbetween
    canvas = find_canvas(tool.cell, [left.size, right.size], options.height, options.width)
    tops = [(canvas[0] - source.size[0]) // 2 // tool.cell * tool.cell for source in (left, right)]
    start = canvas[1] - right.size[1]
    placements = [Placement(left.latents(), tops[0], 0), Placement(right.latents(), tops[1], start)]
    passage = Passage(Interval(left.size[1] - 1, start))
    style = Fusion(torch.stack([placement.store.z_g for placement in placements]), passage)
    ramp = min(tool.cell, (start - left.size[1]) // 2)
    pieces = place_all(tool, placements, canvas)
    for seed in range(options.seed, options.seed + options.count):
        name = f"{left.name}-{right.name}-seed-{seed}"
        completion = complete(tool, config.complete, pieces, canvas, style, seed, name)
        noise = tool.noise(canvas_grain(tool, config.complete, placements, seed, ramp), canvas)
        tool.draw_picture(Scene(canvas, completion.read, style, noise), output / f"{name}.png")


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
        raise UserError(f"inbetween.height: {height} px, but a photograph has {highest}; allowed: {highest} or more")
    if width < both + cell or (width - right) % cell:
        raise UserError(f"inbetween.width: {width}; allowed: {least} px, or more by a multiple of {cell}")
    return height, width


if __name__ == "__main__":
    sys.exit(run_command(main))
