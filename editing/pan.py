"""Panning: a film whose frames are windows of one image, or of a generated one that has no end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from editing.film import Film
from editing.fuse import in_style
from inversion.inverter import PatchInverter
from inversion.latents import Latents
from inversion.styles import Style, StyleMap
from inversion.synthesis import GeneratedStructure
from inversion.weight_maps import HorizontalBlend
from utils.errors import UserError

STRIP = 512  # columns (rows) that are drawn at a time, beginning at its multiples: they have the same bits in each film
FRAMES = 240  # of a generated image, by default


def pan(
    model: PatchInverter,
    latents: Latents,
    length: int | None = None,  # pixels of a frame along the axis; None: see `frames_of`
    step: int = 4,  # pixels from frame to frame
    count: int | None = None,  # of the frames; None: see `frames_of`
    *,
    vertical: bool = False,  # downwards; False: to the right
    to: Style | None = None,  # that the style has become at the end; None: it stays
    fps: int = 24,
) -> Film:
    """A film along an image: each pixel is drawn once, and where frames overlap they are equal to the last bit.

    A generated image goes on at its right edge as far as the film reaches. UserError where another image ends before,
    and for a style that is to change downwards, or varies over space already.
    """
    model.check(latents)
    axis, endless = 0 if vertical else 1, isinstance(latents.structure, GeneratedStructure)
    length, count = frames_of(latents.size, length, step, count, vertical, endless)
    end = length + step * (count - 1)
    if endless:
        size = latents.size[0], -(-end // STRIP) * STRIP  # whole strips, however many frames there are
        latents = replace(latents, structure=latents.structure.on_canvas(model.cells(size)), size=size)
    if to is not None:
        if vertical or isinstance(latents.style, StyleMap):
            raise UserError("pan.to: takes a horizontal axis, and an image of one style")
        latents = in_style(latents, StyleMap([latents.style, to], HorizontalBlend(0, end)))

    def strip(number: int) -> np.ndarray:
        box = [0, 0, *latents.size]
        box[axis], box[axis + 2] = number * STRIP, min((number + 1) * STRIP, latents.size[axis])
        return model.draw(latents, tuple(box))

    def frames(first: int) -> Iterator[np.ndarray]:
        held = {}
        for start in range(first * step, count * step, step):
            numbers = range(start // STRIP, (start + length - 1) // STRIP + 1)
            held = {number: held[number] if number in held else strip(number) for number in numbers}
            window = [slice(None), slice(None)]
            window[axis] = slice(start - numbers[0] * STRIP, start - numbers[0] * STRIP + length)
            yield np.concatenate([*held.values()], axis)[*window]

    size = list(latents.size)
    size[axis] = length
    return Film(tuple(size), count, fps, frames)


def frames_of(
    size: tuple[int, int],  # height, width of the image, pixels
    length: int | None,  # of a frame along the axis; None: half of the image's, all of a generated one's
    step: int,
    count: int | None,  # None: as many as the image has room for, 240 of a generated one
    vertical: bool,
    endless: bool,  # whether it is a generated image
) -> tuple[int, int]:
    """The length of a frame in pixels, and the number of frames. UserError where the image ends before."""
    if endless:
        if vertical:
            raise UserError("pan.axis: vertical, but generated images have a horizon; allowed: horizontal")
        return length or size[1], count or FRAMES
    edge, name = (size[0], "height") if vertical else (size[1], "width")
    length = max(1, edge // 2) if length is None else length
    if length > edge:
        raise UserError(f"pan.length: {length} px, but the image has a {name} of {edge}; allowed: 1 to {edge}")
    most = (edge - length) // step + 1
    if count is not None and count > most:
        raise UserError(f"pan.frames: {count}, but the image ends after {most} frames of {length} px, {step} px apart")
    return length, most if count is None else count
