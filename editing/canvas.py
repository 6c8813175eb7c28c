"""Canvases that are larger than the images on them: their texture noise, and what is drawn between."""

from __future__ import annotations

from collections.abc import Sequence

from editing.content import Content
from editing.known import KnownLatents, Placement
from inversion.inverter import PatchInverter
from inversion.latents import Latents
from inversion.noise import FieldNoise, ShiftedNoise, mix_noise
from inversion.styles import Style, StyleMap
from inversion.weight_maps import Boxes, LabelMap


def fill_canvas(
    model: PatchInverter,
    placements: Sequence[Placement],
    size: tuple[int, int],  # height, width of the canvas, pixels
    style: Style | StyleMap,
    seed: int,  # of what is new
    content: Content,
    ramp: int,  # pixels over which noise changes, to each side
) -> Latents:
    """Images on a canvas, and new structure around them that goes on from theirs.

    Texture noise is an image's own inside, and from 2 * ramp pixels beside it on that of what is new.
    """
    known = KnownLatents.placed(model, placements, size)
    structure = content.make(model, placements, known, size, style, seed)
    noise = content.adds_noise(model, [placement.latents for placement in placements])
    kinds, boxes = [FieldNoise(seed) if noise else None], []
    for placement in placements:
        own, (top, left, bottom, right) = placement.latents.noise, placement.box
        kinds.append(own and ShiftedNoise(own, top, left))
        boxes.append((top - ramp, left - ramp, bottom + ramp, right + ramp))
    spec = mix_noise(kinds, LabelMap(Boxes(boxes), len(kinds), size, ramp))
    grey = all(placement.latents.grey for placement in placements)
    return Latents(structure, style, size, spec, model.fingerprint, grey=grey)
