"""Filling: something is taken out of an image, and the hole is closed from the rest."""

from __future__ import annotations

from dataclasses import replace

from editing.content import Content
from editing.known import KnownLatents, Placement
from editing.masks import seen_cells
from editing.resample import check_inside
from inversion.inverter import PatchInverter
from inversion.latents import Latents
from inversion.noise import FieldNoise, mix_noise
from inversion.weight_maps import Boxes, LabelImage, LabelMap
from utils.errors import UserError


def fill(
    model: PatchInverter,
    latents: Latents,
    where: Boxes | LabelImage,  # labels above 0 are taken out
    seed: int = 0,  # of what is new
    *,
    content: Content | None = None,  # how what is new is made; None: the defaults
) -> Latents:
    """The image without what is there: all latent cells that see a pixel of it are made anew.

    UserError where nothing, or everything, is to be taken out, a box ends outside the image, or without an encoder.
    """
    model.check(latents)
    model.require_encoder()
    latents, content = model.as_drawn(latents), content or Content()
    check_inside(where, latents.size, "fill.box")
    mask, cells = seen_cells(model, where, latents.size), model.cells(latents.size)
    taken = [mask(block) for block in model.cell_blocks(latents.size)]
    if all(each.all() for each in taken):
        raise UserError("fill: the mask takes everything out; allowed: masks that leave some latent cells")
    if not any(each.any() for each in taken):
        raise UserError("fill: the mask takes nothing out; allowed: masks with a white pixel in its size")
    known = KnownLatents(model.generator.structure.local_dim, [(latents.structure, cells, cells)], mask)
    made = content.make(model, [Placement(latents, 0, 0)], known, latents.size, latents.style, seed, where)
    if not content.adds_noise(model, [latents]):
        return replace(latents, structure=made)
    noise = mix_noise([latents.noise, FieldNoise(seed)], LabelMap(where, 2, latents.size))
    return replace(latents, structure=made, noise=noise)
