"""Small networks with random weights, random tensors, and blocks of a region."""

import torch

from models.encoder import PatchEncoder
from models.geometry import Region, partition
from models.structure import CoordinateGrid, StructureSynthesizer
from models.texture import TextureSynthesizer

TOLERANCE = 1e-5
GRID = CoordinateGrid(vertical_slope=0.3, horizontal_period=20, row_starts=6)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def close(one, other):
    return torch.allclose(one, other, atol=TOLERANCE, rtol=TOLERANCE)


def texture_synthesizer(stages, widths=(6, 4, 4, 3, 3, 3), local_dim=5):
    """Styles have 6 values; images are of the magnitude of trained ones."""
    torch.manual_seed(1)
    network = TextureSynthesizer(local_dim, 6, widths[:stages], mapping_layers=2, mapping_lr_multiplier=0.01)
    for stage in network.synthesis:
        stage.to_rgb.conv.weight.data *= 0.2
        for layer in (stage.up, stage.conv):
            torch.nn.init.constant_(layer.noise_strength, 0.3)
            torch.nn.init.normal_(layer.bias)
    return network.requires_grad_(False)


def structure_synthesizer(layers=2, radius=1):
    torch.manual_seed(2)
    return StructureSynthesizer(5, 6, [5] * (layers - 1), radius, [1] * layers, GRID).requires_grad_(False)


def patch_encoder(kind="shifted", scales=3, depth=1, shift=1):
    torch.manual_seed(2)
    return PatchEncoder(5, [4, 6, 6, 5][:scales], depth, kind, shift).requires_grad_(False)


def blocks(region, height, width):
    """Regions of at most that size which cover one."""
    return [Region(rows, cols) for rows in partition(region.rows, height) for cols in partition(region.cols, width)]


def largest_block_error(region, height, width, compute):
    """Largest difference between `compute(region)` and what it gives block by block."""
    whole = compute(region)
    assert whole.shape[-2:] == region.shape
    parts = [(block, compute(block)) for block in blocks(region, height, width)]
    return max((part - whole[(..., *block.slices_in(region))]).abs().max() for block, part in parts)
