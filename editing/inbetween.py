"""Inbetweening: two images at the ends of a canvas, and what may lie between, in styles that change on the way."""

from __future__ import annotations

from collections.abc import Sequence

from editing.canvas import fill_canvas
from editing.content import Content
from editing.known import Placement
from inversion.inverter import PatchInverter
from inversion.latents import Latents
from inversion.styles import StyleMap
from inversion.weight_maps import HorizontalBlend
from utils.errors import UserError


def inbetween(
    model: PatchInverter,
    left: Latents,
    right: Latents,
    size: tuple[int | None, int | None] = (None, None),  # height, width of the canvas, pixels; None: see `canvas_size`
    seed: int = 0,  # of what lies between
    *,
    content: Content | None = None,  # how what is new is made; None: the defaults
) -> Latents:
    """The latents of the canvas. UserError where the images do not fit, or have styles that vary over space."""
    model.check(left)
    model.check(right)
    left, right = model.as_drawn(left), model.as_drawn(right)
    if isinstance(left.style, StyleMap) or isinstance(right.style, StyleMap):
        raise UserError("inbetween: takes images of one style each")
    canvas = canvas_size(model.cell, [left.size, right.size], size)
    tops = [(canvas[0] - latents.size[0]) // 2 // model.cell * model.cell for latents in (left, right)]
    start = canvas[1] - right.size[1]
    placements = [Placement(left, tops[0], 0), Placement(right, tops[1], start)]
    style = StyleMap([left.style, right.style], HorizontalBlend(left.size[1] - 1, start))
    ramp = min(model.cell, (start - left.size[1]) // 2)
    return fill_canvas(model, placements, canvas, style, seed, content or Content(), ramp)


def canvas_size(cell: int, images: Sequence[tuple[int, int]], size: tuple[int | None, int | None]) -> tuple[int, int]:
    """Height and width of the canvas of two images, in pixels. UserError where they do not fit.

    By default that of the higher image, and half as much again as both widths.
    """
    (height, width), highest, right = size, max(edge for edge, _ in images), images[1][1]
    both = images[0][1] + right
    least = right + -(-(images[0][1] + cell) // cell) * cell
    height = highest if height is None else height
    width = max(least, right - (right - both * 3 // 2) // cell * cell) if width is None else width
    if height < highest:
        raise UserError(f"inbetween.height: {height} px, but a photograph has {highest}; allowed: {highest} or more")
    if width < both + cell or (width - right) % cell:
        raise UserError(f"inbetween.width: {width}; allowed: {least} px, or more by a multiple of {cell}")
    return height, width
