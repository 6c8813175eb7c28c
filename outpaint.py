"""A photograph on a larger canvas: its own inversion stays, the surroundings are generated and go on from it.

    python outpaint.py --input PHOTO_OR_FOLDER_OR_LATENTS --output FOLDER outpaint.height=512 outpaint.width=1024
    python outpaint.py --input PHOTO --output FOLDER outpaint.count=4      # four different surroundings

Writes NAME-seed-N.png, latents/NAME-seed-N.safetensors (for further edits) and inversions/NAME.safetensors.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from inversion.editing import Placement, Source, canvas_grain, complete, draw_stored, edit_files, parse, place_all
from inversion.tool import Tool
from utils.errors import UserError, run_command
from utils.schema import OutpaintConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, load, outpaint one photograph after the other."""
    inputs = {"required": True, "help": "an image, a folder of images, or a latent file"}
    arguments, config = parse(__doc__, argv, OutpaintConfig, inputs)
    tool = Tool.load(arguments.checkpoint, config.infer, encoders=False)
    return edit_files(tool, arguments.input, arguments.output, partial(outpaint, tool, config, arguments.output))


def outpaint(tool: Tool, config: dict, output: Path, source: Source) -> None:
    """Write the canvases of a photograph, one for each seed."""
    options = config.outpaint
    top, height = along(source, tool.cell, 0, "height", options.height, "top", options.top)
    left, width = along(source, tool.cell, 1, "width", options.width, "left", options.left)
    canvas, store = (height, width), source.latents()
    placement = Placement(store, top, left)
    pieces = place_all(tool, [placement], canvas)
    for seed in range(options.seed, options.seed + options.count):
        name = f"{source.name}-seed-{seed}"
        completion = complete(tool, config.complete, pieces, canvas, store.z_g, seed, name)
        grain = canvas_grain(tool, config.complete, [placement], seed, ramp=tool.cell)
        draw_stored(tool, completion, canvas, store.z_g, grain, seed, output / f"{name}.png")


def along(
    source: Source,
    cell: int,  # pixels
    axis: int,
    length: str,  # height | width
    canvas: int | None,  # edge of the canvas along this axis, pixels
    start: str,  # top | left
    offset: int | None,  # of the photograph on the canvas, pixels
) -> tuple[int, int]:
    """(offset, edge of the canvas) along one axis. UserError where the photograph does not fit."""
    edge = source.size[axis]
    canvas = 2 * edge if canvas is None else canvas
    if canvas < edge:
        raise UserError(f"outpaint.{length}: {canvas} px, but {source.name} has {edge}; allowed: {edge} or more")
    offset = (canvas - edge) // 2 // cell * cell if offset is None else offset
    if offset % cell or offset + edge > canvas:
        raise UserError(
            f"outpaint.{start}: {offset}; allowed for {source.name}: multiples of {cell} px (a latent cell) from 0 to"
            f" {canvas - edge}"
        )
    return offset, canvas


if __name__ == "__main__":
    sys.exit(run_command(main))
