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

from inversion.editing import complete, draw_stored, edit_files, mixed_noise, new_noise, parse, size_of
from inversion.latents import LatentStore
from inversion.masks import inverse, rectangles
from inversion.pieces import PlacedPhotographs, place
from inversion.scenes import Scene
from inversion.tool import Tool
from utils.errors import UserError, run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, load, outpaint one photograph after the other."""
    inputs = {"required": True, "help": "an image, a folder of images, or a latent file"}
    arguments, config = parse(__doc__, argv, ("outpaint", "complete", "infer"), inputs)
    tool = Tool.load(arguments.checkpoint, config.infer, encoders=False)
    return edit_files(tool, arguments.input, arguments.output, partial(outpaint, tool, config, arguments.output))


def outpaint(tool: Tool, config: dict, output: Path, store: LatentStore, name: str) -> None:
    """Write the canvases of a photograph, one for each seed."""
    options, size = config.outpaint, size_of(store)
    top, height = along(tool.cell, size[0], "height", options.height, "top", options.top)
    left, width = along(tool.cell, size[1], "width", options.width, "left", options.left)
    canvas, cells = (height, width), tool.decoder.cells(height, width)
    pieces = PlacedPhotographs([place(store, top // tool.cell, left // tool.cell, canvas, cells, tool.cell)])
    ramp = tool.cell  # grain sets in over two latent cells beyond the photograph
    new = inverse(rectangles([(top - ramp, left - ramp, top + size[0] + ramp, left + size[1] + ramp)]))
    for seed in range(options.seed, options.seed + options.count):
        title = f"{name}-seed-{seed}"
        completion = complete(tool, config.complete, pieces, canvas, store.z_g, seed, title)
        old = tool.noise(store.description.seed)
        noise = mixed_noise(tool, new, canvas, ramp, old, new_noise(tool, config.complete, seed))
        draw_stored(tool, completion, Scene(canvas, completion.read, store.z_g, noise), seed, output, title)


def along(
    cell: int,  # pixels
    edge: int,  # of the photograph along this axis, pixels
    axis: str,  # height | width
    canvas: int | None,  # the same of the canvas
    name: str,  # top | left
    offset: int | None,  # of the photograph on the canvas, pixels
) -> tuple[int, int]:
    """(offset, edge of the canvas) along one axis. UserError where the photograph does not fit."""
    canvas = 2 * edge if canvas is None else canvas
    if canvas < edge:
        raise UserError(f"outpaint.{axis}: {canvas} px, but the photograph has {edge}; allowed: from there on")
    offset = (canvas - edge) // 2 // cell * cell if offset is None else offset
    if offset % cell or offset + edge > canvas:
        raise UserError(
            f"outpaint.{name}: {offset}; allowed: multiples of {cell} px (a latent cell) from 0 to {canvas - edge}"
        )
    return offset, canvas


if __name__ == "__main__":
    sys.exit(run_command(main))
