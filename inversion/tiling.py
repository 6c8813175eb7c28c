"""How an image is cut into blocks: by a number of pixels, or by a memory budget."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from inversion.cost import decode_cost, encode_cost, refine_cost
from models.encoder import PatchEncoder
from models.geometry import Region
from models.texture import TextureSynthesizer
from utils.errors import UserError

# Larger blocks save little work, and leave the processor's caches: measured, the fastest ones are at these limits.
LARGEST = 512  # pixels along an edge
ENOUGH = 384 * 2**20  # bytes of activations
REFINED = 384 * 2**20  # bytes of activations and gradients of a block that is refined
RESERVED = 112 * 2**20  # bytes for blocks that wait, strips of rows, and the allocator's gaps


@dataclass(frozen=True)
class Plan:
    """The blocks of an image: (rows, columns) of one."""

    pixels: tuple[int, int]  # of a block that is drawn
    cells: tuple[int, int]  # of a block of latents that is encoded, and refined


@dataclass(frozen=True)
class Tiling:
    """How images are cut, for given networks."""

    texture: TextureSynthesizer
    encoder: PatchEncoder | None  # None: images are only drawn
    dtype: torch.dtype
    block: int | str  # pixels along an edge | whole | auto, which follows the budget
    memory_mib: int  # beyond the loaded networks

    @property
    def cell(self) -> int:
        """Pixels along the edge that one latent cell stands for."""
        return 2**self.texture.stages

    def plan(self, size: tuple[int, int], held: int = 0, refined: bool = False) -> Plan:
        """The blocks of an image of (height, width) pixels. UserError if a block is smaller than one latent cell.

        `held`: bytes of the budget that are taken, by the decoded image for example; `refined`: latents are refined.
        """
        cells = Region.at(0, 0, *size).receptive_field(self.texture.rule).shape
        if self.block == "auto":
            edge = self._largest_edge(self.memory_mib * 2**20 - held - RESERVED)
            pixels = tuple(even(length, edge, self.cell) for length in size)
            encoded = tuple(even(length, edge // self.cell, 1) for length in cells)
        elif self.block == "whole":
            pixels, encoded = size, cells
        elif not isinstance(self.block, int) or self.block < self.cell:
            raise UserError(
                f"infer.block: {self.block}; allowed: auto, whole, or a number of pixels from {self.cell} on, one"
                " latent cell of this checkpoint"
            )
        else:
            pixels, encoded = (self.block, self.block), (self.block // self.cell, self.block // self.cell)
        if refined:
            encoded = tuple(even(length, self.refined_edge(), 1) for length in cells)
        return Plan(pixels, encoded)

    def refined_edge(self) -> int:
        """Edge, in cells, of the blocks of latents that are encoded and refined: it follows from the network alone.

        Steps of descent through leaky ReLUs amplify the rounding that differs between blocks of other shapes; so these
        keep theirs, and the latents are the same to the last bit whatever the other blocks are.
        """

        for edge in range(max(LARGEST // self.cell, 1), 1, -1):
            touched = Region.at(0, 0, edge, edge).affected_output(self.texture.rule)
            if refine_cost(self.texture, touched, self.dtype).bytes <= REFINED:
                return edge
        return 1

    def _largest_edge(self, budget: int) -> int:
        """Edge of the largest square block, in whole cells, that a budget in bytes allows; at least one cell."""
        sizes = [layer.conv.weight.numel() for layer in self.texture.layers]
        # the weights into which a style is baked, and baking the largest one in float32
        weights = sum(sizes) * self.dtype.itemsize + 2 * max(sizes) * torch.float32.itemsize
        budget = min(budget - weights, ENOUGH)

        def fits(edge: int) -> bool:
            if decode_cost(self.texture, Region.at(0, 0, edge, edge), self.dtype).bytes > budget:
                return False
            cells = Region.at(0, 0, edge // self.cell, edge // self.cell)
            return self.encoder is None or encode_cost(self.encoder, cells, self.dtype).bytes <= budget

        edges = range(max(LARGEST // self.cell, 1) * self.cell, self.cell, -self.cell)
        return next(filter(fits, edges), self.cell)


def even(length: int, edge: int, cell: int) -> int:
    """The length of blocks, at most `edge` and a multiple of `cell`, that cover `length` as evenly as they can."""
    count = math.ceil(length / edge)
    return min(math.ceil(length / count / cell) * cell, edge)
