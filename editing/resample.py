"""Resampling: a part of an image made anew, in its structure or its texture noise; the rest stays as it is."""

from __future__ import annotations

from dataclasses import replace

from editing.content import Content
from editing.known import KnownLatents, Placement
from editing.masks import refuse_panorama
from inversion.inverter import PatchInverter
from inversion.latents import Latents
from inversion.noise import FieldNoise, mix_noise
from inversion.synthesis import GeneratedStructure
from inversion.weight_maps import Boxes, LabelImage, LabelMap, of_cells
from utils.errors import UserError


def resample(
    model: PatchInverter,
    latents: Latents,
    where: Boxes | LabelImage,  # labels above 0 are made anew
    seed: int = 1,  # of what is new
    *,
    structure: bool = True,  # False: only the texture noise
    content: Content | None = None,  # how what is new is made; None: the defaults
) -> Latents:
    """The image with new content where it is asked for: that of a photograph goes on from its surroundings.

    UserError where no latent cell has its centre there, a box ends outside the image, or nothing would change, and for
    a panorama, which would no longer close.
    """
    model.check(latents)
    latents = model.as_drawn(latents)
    check_inside(where, latents.size, "resample.box")
    content = content or Content()
    generated = isinstance(latents.structure, GeneratedStructure)
    refuse_panorama(latents, "resample")
    noisy = content.adds_noise(model, [latents]) if structure else content.noise is not False
    new = FieldNoise(seed) if noisy else None
    if not structure and new is None and latents.noise is None:
        raise UserError("resample.what: noise, but complete.noise is none and so is the image's: nothing would change")
    mixed = mix_noise([latents.noise, new], LabelMap(where, 2, latents.size))
    if not structure:
        return replace(latents, noise=mixed)
    mask, cells = of_cells(where, latents.size, model.cell), model.cells(latents.size)
    if not any(mask(block).any() for block in model.cell_blocks(latents.size)):
        raise UserError(
            "resample: no latent cell has its centre inside the mask; allowed: a mask with a pixel whose row and column"
            f" are multiples of {model.cell}"
        )
    if generated:
        local = latents.structure.local
        local = replace(local, resampled=(*local.resampled, (mask, seed)))
        return replace(latents, structure=latents.structure.with_local(local))
    placement = Placement(latents, 0, 0)
    known = KnownLatents(model.generator.structure.local_dim, [(latents.structure, cells, cells)], mask)
    made = content.make(model, [placement], known, latents.size, latents.style, seed, where)
    return replace(latents, structure=made, noise=mixed)


def check_inside(where: Boxes | LabelImage, size: tuple[int, int], key: str) -> None:
    """UserError, which names the option, for a box that ends outside an image of (height, width)."""
    for box in where.boxes if isinstance(where, Boxes) else ():
        if box[2] > size[0] or box[3] > size[1]:
            raise UserError(f"{key}: {list(box)}, but the image has {size[0]} x {size[1]} pixels")
