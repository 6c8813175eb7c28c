"""Images in the style of others: colours, textures or both, as far as a strength says; or some of their layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from editing.masks import soft_mask
from inversion.inverter import PatchInverter
from inversion.latents import Latents
from inversion.styles import Style, StyleMap, each_style, layer_styles, mix_styles
from inversion.synthesis import GeneratedStructure, TiledStructure
from inversion.weight_maps import Boxes, LabelImage, LabelMap
from models.geometry import Region
from models.statistics import bands, take_bands
from utils.errors import UserError


def restyle(
    model: PatchInverter,
    latents: Latents,
    style: Style,
    strength: float = 1.0,  # 0: as it is, to the last bit; 1: in the other style; beyond 1: overdone
    *,
    layers: Sequence[int] | None = None,  # first and last band that change; 0: colours, 1 ...: textures; None: all
    where: Boxes | LabelImage | None = None,  # labels above 0 are restyled; None: all
    soften: int = 16,  # pixels to each side over which the mask's edge is soft
) -> Latents:
    """The image in another style; what a mask does not reach keeps its bits (as `Latents.with_style`).

    UserError for a style that varies over space, bands that the model does not have, or a mask beside all cells.
    """
    model.check(latents)
    if isinstance(style, StyleMap):
        raise UserError("style: one varies over space itself; allowed: styles of whole images")
    if layers is not None:
        check_layers(layers, last_band(model))
    mask = None if where is None else soft_mask(model, latents, where, soften)
    if strength == 0:
        return latents
    if layers is None:
        return latents.with_style(style, strength, mask)

    def partly(own: Style) -> Style:
        mixed, trunk = mix_styles(own, style, strength).global_latent, model.generator.texture.trunk
        return replace(own, global_latent=take_bands(own.global_latent, mixed, trunk, *layers))

    return latents.with_style(each_style(partly, latents.style), mask=mask)


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


def last_band(model: PatchInverter) -> int:
    """The finest band of textures. UserError for a model without a trunk."""
    if not model.measured:
        raise UserError("style: colours and textures are told apart by checkpoints with a trunk")
    trunk = model.generator.texture.trunk
    return int(bands(trunk)[: trunk.channels].max())


def check_layers(layers: Sequence[int], last: int) -> None:
    """UserError unless the first and the last layer are there, in this order."""
    if not 0 <= layers[0] <= layers[1] <= last:
        raise UserError(f"mix.layers: {list(layers)}; allowed: [first, last] from 0 to {last}")


def _masked(below: GeneratedStructure, above: GeneratedStructure, mask: LabelMap, cell: int) -> TiledStructure:
    """One structure, and as far as the second kind of a mask says, another one over it."""

    def compute(region: Region) -> Tensor:
        share = mask(region, cell)[1].to(below.local.device)
        values = below.read(region)
        return torch.lerp(values, above.read(region), share) if bool((share > 0).any()) else values

    return TiledStructure(compute, below.shape[0], below.cells)
