"""Masks and maps of labels from image files, read by strips."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from images.reading import open_image
from inversion.inverter import PatchInverter
from inversion.latents import Latents
from inversion.synthesis import GeneratedStructure
from inversion.weight_maps import Boxes, LabelImage, LabelMap, Labels
from models.geometry import Interval, Region, reflect
from utils.errors import UserError

STRIP = 256  # rows
WHITE = 128  # mean of the colours from which on a pixel of a mask is inside


def read_labels(path: Path, count: int, max_pixels: int) -> np.ndarray:
    """Labels 0 .. count - 1, uint8 [H, W], of an image's colours, from dark to bright. UserError for other counts."""
    codes = []  # a number for each colour, that grows with its brightness
    for rows in _strips(path, max_pixels):
        red, green, blue = np.moveaxis(rows.astype(np.int32), 2, 0)
        codes.append((red + green + blue) << 16 | red << 8 | green)  # blue follows from the sum
    colours = np.unique(np.concatenate([np.unique(strip) for strip in codes]))
    if len(colours) != count:
        raise UserError(
            f"fuse.mask {path}: colours: {len(colours)}, styles (fuse.styles): {count}; allowed: an image with one flat"
            " colour for each style, without smooth edges or compression losses"
        )
    return np.concatenate([np.searchsorted(colours, strip).astype(np.uint8) for strip in codes])


def read_mask(path: Path, max_pixels: int) -> np.ndarray:
    """Bool [H, W]: where an image is white. UserError if that is nowhere."""
    white = np.concatenate([rows.mean(2) >= WHITE for rows in _strips(path, max_pixels)])
    if not white.any():
        raise UserError(f"{path}: white nowhere; a mask is white (mean colour {WHITE} of 255 or more) where it applies")
    return white


def soft_mask(model: PatchInverter, latents: Latents, where: Boxes | LabelImage, soften: int) -> LabelMap | None:
    """A mask with an edge that is soft over so many pixels to each side; None: it covers all.

    UserError where it reaches the centre of no latent cell, and for a panorama, which would no longer close.
    """
    if isinstance(where, LabelImage) and where.values.all():
        return None
    refuse_panorama(latents, "mask")
    mask = LabelMap(where, 2, latents.size, soften)
    if not any(bool((mask(block, model.cell)[1] > 0).any()) for block in model.cell_blocks(latents.size)):
        raise UserError(
            "mask: no latent cell has its centre inside it; allowed: a mask with a pixel whose row and column are"
            f" multiples of {model.cell}, or a larger `soften`"
        )
    return mask


def refuse_panorama(latents: Latents, edit: str) -> None:
    """UserError for a panorama, which would no longer close."""
    if isinstance(latents.structure, GeneratedStructure) and latents.structure.local.period is not None:
        raise UserError(f"{edit}: a panorama would no longer close; allowed: images that are none")


def seen_cells(model: PatchInverter, labels: Labels, size: tuple[int, int]) -> Callable[[Region], np.ndarray]:
    """A mask of the latent cells that see a labelled pixel (label above 0) of an image of (height, width).

    A function from a region of cells to bool [h, w]; needs an encoder.
    """
    rule = model.networks.encoder.rule

    def seen(axis: Interval, edge: int) -> list[np.ndarray]:
        fields = (rule.receptive_field(Interval(cell, cell)) for cell in range(axis.first, axis.last + 1))
        return [reflect(np.arange(field.first, field.last + 1), edge) for field in fields]

    def mask(region: Region) -> np.ndarray:
        across = seen(region.cols, size[1])
        first = min(each.min() for each in across)
        cols = np.arange(first, max(each.max() for each in across) + 1)
        rows = np.stack([(labels(each, cols) > 0).any(0) for each in seen(region.rows, size[0])])
        return np.stack([rows[:, each - first].any(1) for each in across], 1)

    return mask


def _strips(path: Path, max_pixels: int) -> Iterator[np.ndarray]:
    """The rows of an image, a few at a time: uint8 [n, W, 3]."""
    image = open_image(path, max_pixels)
    for top in range(0, image.height, STRIP):
        yield image.window(top, 0, min(STRIP, image.height - top), image.width)
