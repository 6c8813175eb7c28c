"""How large a block is: from a number of pixels, or from a memory budget."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import islice

import torch

from models.encoder import PatchEncoder
from models.generator import TextureSynthesizer
from models.geometry import Interval, Region, partition
from utils.errors import UserError

LARGEST = 64  # cells along an edge; with the sample networks, larger blocks save less than 4 % of the work
BUFFERS = 4  # activations of the widest level that are alive at once: input, output, and what lies between


def pixels_per_cell(texture: TextureSynthesizer) -> int:
    """Pixels along the edge that one latent cell stands for."""
    return 2**texture.stages


def cells_per_block(texture: TextureSynthesizer, edge: int) -> int:
    """Latent cells along the edge of a block of `edge` pixels."""
    return max(edge // pixels_per_cell(texture), 1)


def bytes_per_pixel(texture: TextureSynthesizer, dtype: torch.dtype, encoder: PatchEncoder | None = None) -> float:
    """A model of the memory that a block takes, per pixel: the widest level of the networks."""
    drawn = max(layer.bias.numel() / 4 ** (texture.stages - 1 - i // 2) for i, layer in enumerate(texture.layers))
    scales = encoder.scales if encoder else []
    encoded = max((scale[0].mix.bias.numel() / 4 ** (k + 1) for k, scale in enumerate(scales)), default=0)
    return BUFFERS * max(drawn, encoded) * dtype.itemsize + 3 * 4 * 4


def block_edge(
    block: int | str,  # pixels | "whole" | "auto"
    memory_mib: int,  # budget of "auto"
    size: tuple[int, int],  # of the image, pixels
    texture: TextureSynthesizer,
    dtype: torch.dtype,
    encoder: PatchEncoder | None = None,  # if images are encoded too
) -> int:
    """Edge of a block in pixels. UserError if it is smaller than one latent cell."""
    cell = pixels_per_cell(texture)
    if block == "whole":
        return max(*size, cell)
    if block == "auto":
        halo = texture.rule.input(Interval(0, 0)).size * cell
        edge = math.isqrt(int(memory_mib * 2**20 / bytes_per_pixel(texture, dtype, encoder))) - halo
        return max(1, min(edge // cell, LARGEST)) * cell
    if block < cell:
        raise UserError(f"infer.block: {block} px is smaller than one latent cell of this checkpoint; at least {cell}")
    return block


def blocks(region: Region, edge: int) -> Iterator[Region]:
    """The blocks of at most `edge` x `edge` that cover a region, row by row."""
    for rows in partition(region.rows, edge):
        for cols in partition(region.cols, edge):
            yield Region(rows, cols)


def batched(items: Iterable, size: int) -> Iterator[list]:
    """Lists of at most `size` consecutive items."""
    items = iter(items)
    while group := list(islice(items, size)):
        yield group


def count_blocks(region: Region, edge: int) -> int:
    """How many blocks cover a region."""
    return math.ceil(region.rows.size / edge) * math.ceil(region.cols.size / edge)
