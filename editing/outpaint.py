"""Outpainting: a photograph on a larger canvas; its own inversion stays, the surroundings go on from it."""

from __future__ import annotations

from dataclasses import replace

from editing.canvas import fill_canvas
from editing.content import Content
from editing.known import Placement
from inversion.inverter import PatchInverter
from inversion.latents import Latents
from inversion.styles import StyleMap
from inversion.weight_maps import ShiftedMap
from utils.errors import UserError


def outpaint(
    model: PatchInverter,
    latents: Latents,
    size: tuple[int | None, int | None] = (None, None),  # height, width of the canvas; None: twice the image's
    at: tuple[int | None, int | None] = (None, None),  # row, column of its first pixel; None: in the middle
    seed: int = 0,  # of the surroundings
    *,
    content: Content | None = None,  # how what is new is made; None: the defaults
) -> Latents:
    """The latents of the canvas. UserError where the image does not fit, or lies between latent cells."""
    model.check(latents)
    latents = model.as_drawn(latents)
    canvas, (top, left) = place(model.cell, latents.size, size, at)
    style = latents.style
    if isinstance(style, StyleMap):
        style = replace(style, weights=ShiftedMap(style.weights, top, left))
    placements = [Placement(latents, top, left)]
    return fill_canvas(model, placements, canvas, style, seed, content or Content(), model.cell)


def place(
    cell: int,
    image: tuple[int, int],  # height, width, pixels
    size: tuple[int | None, int | None],  # as of `outpaint`
    at: tuple[int | None, int | None],
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Height and width of the canvas of an image, and row and column at which it begins there, in pixels.

    UserError where it does not fit, or lies between latent cells.
    """
    places = []
    for names, edge, canvas, offset in zip((("height", "top"), ("width", "left")), image, size, at, strict=True):
        canvas = 2 * edge if canvas is None else canvas
        if canvas < edge:
            raise UserError(f"outpaint.{names[0]}: {canvas} px, but the image has {edge}; allowed: {edge} or more")
        offset = (canvas - edge) // 2 // cell * cell if offset is None else offset
        if offset % cell or not 0 <= offset <= canvas - edge:
            allowed = f"multiples of {cell} px (a latent cell) from 0 to {canvas - edge}"
            raise UserError(f"outpaint.{names[1]}: {offset}; allowed: {allowed}")
        places.append((canvas, offset))
    return tuple(zip(*places, strict=True))
