"""Spatial style fusion: several styles in one image, around centres or by a mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from editing.masks import refuse_panorama
from inversion.inverter import PatchInverter
from inversion.latents import Latents
from inversion.styles import Style, StyleMap
from inversion.synthesis import GeneratedStructure
from inversion.weight_maps import Boxes, Centres, LabelImage, LabelMap
from utils.errors import UserError


def fuse(
    model: PatchInverter,
    latents: Latents,
    styles: Sequence[Style],
    where: Sequence[tuple[float, float]] | LabelImage | None = None,
    *,
    blur: int = 127,  # pixels to each side over which neighbouring styles blend
    exact: bool = True,  # False: InfinityGAN's approximation, one convolution for all styles
) -> Latents:
    """The image in several styles; a generated one takes them in its structure, too, a photograph keeps its own.

    `where`: the centre (row, column) of each style, as shares of height and width; or the number of the style of each
    pixel; None: from left to right. UserError for other counts, styles that vary over space themselves, or a panorama,
    which would no longer close.
    """
    model.check(latents)
    refuse_panorama(latents, "fuse")
    if any(isinstance(style, StyleMap) for style in styles):
        raise UserError("fuse.styles: one varies over space itself; allowed: styles of whole images")
    height, width = latents.size
    if not isinstance(where, LabelImage):
        where = Centres([(height * down, width * right) for down, right in positions(where, len(styles))])
    elif where.values.max() >= len(styles):
        raise UserError(f"fuse: {len(styles)} styles, but a label {where.values.max()}; labels begin at 0")
    return in_style(latents, StyleMap(list(styles), LabelMap(where, len(styles), latents.size, blur), exact))


def in_style(latents: Latents, style: Style | StyleMap) -> Latents:
    """An image in another style: a generated one takes it in its structure, too, a photograph keeps its own."""
    if isinstance(latents.structure, GeneratedStructure):
        return replace(latents, structure=latents.structure.with_style(style), style=style, own=None)
    if isinstance(style, Style):
        return latents.with_style(style)
    whole = LabelMap(Boxes([(0, 0, *latents.size)]), 2, latents.size)  # over its own style, which may be among them
    return latents.with_style(style, mask=whole)


def positions(centres: Sequence[tuple[float, float]] | None, count: int) -> Sequence[tuple[float, float]]:
    """The centres of so many styles; None: side by side, from left to right. UserError for another number of them."""
    if centres is None:
        return [(0.5, (k + 0.5) / count) for k in range(count)]
    if len(centres) != count:
        raise UserError(f"fuse.centres: {len(centres)} centres for {count} styles (fuse.styles)")
    return centres
