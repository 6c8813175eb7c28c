"""Images in the style of others: colours, textures or both, as far as a strength says, where a mask is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from editing.masks import soft_mask
from inversion.inverter import PatchInverter
from inversion.latents import Latents
from inversion.styles import Style, StyleMap, mix_styles
from inversion.weight_maps import Boxes, LabelImage
from models.statistics import bands, take_bands
from models.trunk import Trunk
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
    return latents.with_style(_partly(latents.style, style, strength, layers, model.generator.texture.trunk), mask=mask)


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


def _partly(
    own: Style | StyleMap, other: Style, strength: float, layers: Sequence[int], trunk: Trunk
) -> Style | StyleMap:
    if isinstance(own, StyleMap):
        return replace(own, styles=[_partly(each, other, strength, layers, trunk) for each in own.styles])
    mixed = mix_styles(own, other, strength).global_latent
    return replace(own, global_latent=take_bands(own.global_latent, mixed, trunk, *layers))
