"""Outpainting: a photograph on a larger canvas; its own inversion stays, the surroundings go on from it."""

from __future__ import annotations

from editing.canvas import fill_canvas
from editing.completion import FitOptions, Progress
from editing.known import Placement
from inversion.inverter import PatchInverter
from inversion.latents import Latents
from utils.errors import UserError


def outpaint(
    model: PatchInverter,
    latents: Latents,
    size: tuple[int | None, int | None] = (None, None),  # height, width of the canvas; None: twice the image's
    at: tuple[int | None, int | None] = (None, None),  # row, column of its first pixel; None: in the middle
    seed: int = 0,  # of the surroundings
    *,
    fit: FitOptions | None = None,  # None: the defaults
    noise: bool = True,  # whether the surroundings have texture noise
    progress: Progress = iter,  # wraps the steps of the fit
) -> Latents:
    """The latents of the canvas. UserError where the image does not fit, or lies between latent cells."""
    model.check(latents)
    height, width = canvas_size(latents.size, size)
    top = offset_of("top", latents.size[0], height, at[0], model.cell)
    left = offset_of("left", latents.size[1], width, at[1], model.cell)
    return fill_canvas(
        model, [Placement(latents, top, left)], (height, width), latents.style, seed,
        fit or FitOptions(), noise, model.cell, progress,
    )  # fmt: skip


def canvas_size(image: tuple[int, int], size: tuple[int | None, int | None]) -> tuple[int, int]:
    """Height and width of the canvas of an image of (height, width). UserError where it is smaller."""
    for name, edge, canvas in zip(("height", "width"), image, size, strict=True):
        if canvas is not None and canvas < edge:
            raise UserError(f"outpaint.{name}: {canvas} px, but the image has {edge}; allowed: {edge} or more")
    return tuple(2 * edge if canvas is None else canvas for edge, canvas in zip(image, size, strict=True))


def offset_of(name: str, edge: int, canvas: int, offset: int | None, cell: int) -> int:
    """Where an edge of an image begins along one of a canvas, in pixels; None: so that it is in the middle."""
    offset = (canvas - edge) // 2 // cell * cell if offset is None else offset
    if offset % cell or offset + edge > canvas:
        raise UserError(
            f"outpaint.{name}: {offset}; allowed: multiples of {cell} px (a latent cell) from 0 to {canvas - edge}"
        )
    return offset
