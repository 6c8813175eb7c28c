"""How an image is cut into blocks: by a number of pixels, or by a memory budget."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch

from inversion.cost import decode_cost, encode_cost, refine_cost
from models.encoder import PatchEncoder
from models.geometry import Region, partition
from models.texture import TextureSynthesizer
from utils.errors import UserError

# Larger blocks save little work, and leave the processor's caches: measured, the fastest ones are at these limits.
LARGEST = 512  # pixels along an edge
ENOUGH = 384 * 2**20  # bytes of activations
REFINED = 384 * 2**20  # bytes of activations and gradients of a block that is refined
RESERVED = 112 * 2**20  # bytes for blocks that wait, strips of rows, and the allocator's gaps


@dataclass(frozen=True)
class Plan:
    """The blocks of an image: (rows, columns) of one, and how many are drawn at once."""

    pixels: tuple[int, int]  # of a block that is drawn
    cells: tuple[int, int]  # of a block of latents that is encoded, and refined
    batch: int


def pixels_per_cell(texture: TextureSynthesizer) -> int:
    """Pixels along the edge that one latent cell stands for."""
    return 2**texture.stages


def plan(
    options: dict,  # the `infer` section
    size: tuple[int, int],  # of the image, pixels
    texture: TextureSynthesizer,
    dtype: torch.dtype,
    encoder: PatchEncoder | None = None,  # if images are encoded too
    held: int = 0,  # bytes of the budget that are taken: the decoded image ...
) -> Plan:
    """The blocks of an image. UserError if `infer.block` is smaller than one latent cell."""
    cell, cells = pixels_per_cell(texture), Region.at(0, 0, *size).receptive_field(texture.rule).shape
    batch, edge = options["batch"], options["block"]
    if edge == "auto":
        budget = options["memory_mib"] * 2**20 - held - RESERVED - weights(texture, dtype)
        edge = largest_edge(min(budget, ENOUGH) // batch, texture, dtype, encoder)
        pixels = tuple(even(length, edge, cell) for length in size)
        encoded = tuple(even(length, edge // cell, 1) for length in cells)
    elif edge == "whole":
        pixels, encoded = size, cells
    elif edge < cell:
        raise UserError(f"infer.block: {edge} px is smaller than one latent cell of this checkpoint; at least {cell}")
    else:
        pixels, encoded = (edge, edge), (edge // cell, edge // cell)
    if options["refine"]:
        encoded = tuple(even(length, refined_edge(texture, dtype), 1) for length in cells)
    return Plan(pixels, encoded, batch)


def refined_edge(texture: TextureSynthesizer, dtype: torch.dtype) -> int:
    """Edge, in cells, of the blocks of latents that are encoded and refined: it follows from the network alone.

    Steps of descent through leaky ReLUs amplify the rounding that differs between blocks of other shapes; so these
    keep theirs, and the latents are the same to the last bit whatever the other blocks are.
    """

    def fits(edge: int) -> bool:
        touched = Region.at(0, 0, edge, edge).affected_output(texture.rule)
        return refine_cost(texture, touched, dtype).bytes <= REFINED

    return next((edge for edge in range(max(LARGEST // pixels_per_cell(texture), 1), 1, -1) if fits(edge)), 1)


def largest_edge(budget: int, texture: TextureSynthesizer, dtype: torch.dtype, encoder: PatchEncoder | None) -> int:
    """Edge of the largest square block, in whole cells, that a budget in bytes allows; at least one cell."""
    cell = pixels_per_cell(texture)

    def fits(edge: int) -> bool:
        drawn = decode_cost(texture, Region.at(0, 0, edge, edge), dtype).bytes
        return drawn <= budget and (encoder is None or encoded(edge) <= budget)

    def encoded(edge: int) -> int:
        return encode_cost(encoder, Region.at(0, 0, edge // cell, edge // cell), dtype).bytes

    return next((edge for edge in range(max(LARGEST // cell, 1) * cell, cell, -cell) if fits(edge)), cell)


def even(length: int, edge: int, cell: int) -> int:
    """The length of blocks, at most `edge` and a multiple of `cell`, that cover `length` as evenly as they can."""
    count = math.ceil(length / edge)
    return min(math.ceil(length / count / cell) * cell, edge)


def weights(texture: TextureSynthesizer, dtype: torch.dtype) -> int:
    """Bytes of the convolution weights into which a style is folded, and of folding the largest one in float32."""
    sizes = [layer.conv.baked_values(dtype) for layer in texture.layers]
    return sum(sizes) * dtype.itemsize + 2 * max(sizes) * torch.float32.itemsize


def blocks(region: Region, shape: tuple[int, int]) -> Iterator[Region]:
    """The blocks of at most (rows, columns) that cover a region, row by row."""
    for rows in partition(region.rows, shape[0]):
        for cols in partition(region.cols, shape[1]):
            yield Region(rows, cols)


def batched(items: Iterable, size: int) -> Iterator[list]:
    """Lists of at most `size` consecutive items."""
    items = iter(items)
    while group := list(islice(items, size)):
        yield group


def count_blocks(region: Region, shape: tuple[int, int]) -> int:
    """How many blocks cover a region."""
    return math.ceil(region.rows.size / shape[0]) * math.ceil(region.cols.size / shape[1])
