"""Style mixing: some layers of an image take the style of another one, the others stay in their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from editing.masks import soft_mask
from editing.restyle import check_layers, last_band, restyle
from inversion.inverter import PatchInverter
from inversion.latents import Latents
from inversion.styles import Style, StyleMap, layer_styles
from inversion.synthesis import GeneratedStructure, TiledStructure
from inversion.weight_maps import Boxes, LabelImage, LabelMap
from models.geometry import Region
from utils.errors import UserError


def mix(
    model: PatchInverter,
    latents: Latents,
    style: Style,
    layers: Sequence[int] | None = None,  # first and last; None: all but 0
    *,
    where: Boxes | LabelImage | None = None,  # labels above 0 are mixed; None: all
    soften: int = 16,  # pixels to each side over which the mask's edge is soft
) -> Latents:
    """The image with some layers of another style, coarse to fine; layer 0 is the colours.

    Of a generated image the others are the layers of the structure synthesizer; of other latents the bands of their
    channels, as `restyle`. What a mask does not reach keeps its bits. UserError as `restyle`, and for a generated image
    in several styles.
    """
    structure = latents.structure
    if not model.measured or latents.own is not None or not isinstance(structure, GeneratedStructure):
        layers = (1, last_band(model)) if layers is None else layers
        return restyle(model, latents, style, layers=layers, where=where, soften=soften)
    model.check(latents)
    count, own = len(model.generator.structure.layers), latents.style
    layers = (1, count) if layers is None else layers
    check_layers(layers, count)
    if isinstance(own, StyleMap) or isinstance(style, StyleMap):
        raise UserError("mix: a style varies over space itself; allowed: styles of whole images")
    mask = None if where is None else soft_mask(model, latents, where, soften)
    taken = [layers[0] <= k <= layers[1] for k in range(count + 1)]
    kept = structure.of_layers or [own] * count
    inner = [style if new else old for new, old in zip(taken[1:], kept, strict=True)]
    colours = style if taken[0] else own
    mixed = structure.with_style(colours, inner)
    if mask is None:
        return replace(latents, structure=mixed, style=colours)
    both = layer_styles(own, colours, mask) if taken[0] else own
    return replace(latents, structure=_masked(structure, mixed, mask, model.cell), style=both)


def _masked(below: GeneratedStructure, above: GeneratedStructure, mask: LabelMap, cell: int) -> TiledStructure:
    """One structure, and as far as the second kind of a mask says, another one over it."""

    def compute(region: Region) -> Tensor:
        share = mask(region, cell)[1].to(below.local.device)
        values = below.read(region)
        return torch.lerp(values, above.read(region), share) if bool((share > 0).any()) else values

    return TiledStructure(compute, below.shape[0], below.cells)
