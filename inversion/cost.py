"""What a block costs, from geometry alone: multiply-adds, and a model of the memory that its activations take."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from models.encoder import PatchEncoder
from models.geometry import UPSAMPLE, Region, StageRegions
from models.texture import TextureSynthesizer

NOISE = 48  # bytes for each value of the noise field while it is hashed
COLOURS = 48  # bytes for each pixel of the float32 colours that are summed over the stages
IMPOSED = 72  # bytes for each pixel that a trunk gives its channels: the image, its channels, and what they add
GRADIENTS = 96  # bytes for each pixel of the colours, their gradients and the photograph, while latents are refined
PIXELS = 36  # bytes for each pixel that is read: as float32, before and after it is reflected and turned


@dataclass(frozen=True)
class Cost:
    """Of one block, or of several one after the other."""

    macs: int  # multiply-adds of the convolutions
    bytes: int  # of the activations that are alive at once, at most

    @staticmethod
    def of(parts: Iterable[Cost]) -> Cost:
        """Of parts that are computed one after the other."""
        parts = list(parts)
        return Cost(sum(part.macs for part in parts), max((part.bytes for part in parts), default=0))


def decode_cost(texture: TextureSynthesizer, pixels: Region, dtype: torch.dtype) -> Cost:
    """Of drawing these pixels as one block."""
    parts = []
    for stage, regions in zip(texture.synthesis, texture.regions(pixels), strict=True):
        up, conv = stage.up.conv.weight, stage.conv.conv.weight
        outputs, inputs = up.shape[:2]
        reads, between, gives = map(area, (regions.input_region, regions.upsampled, regions.output_region))
        # the feature is there twice where it has been cut
        alive = 2 * reads * inputs + (_before_blur(regions) + between) * outputs
        macs = reads * up.numel() + between * outputs * 9
        parts.append(Cost(macs, alive * dtype.itemsize + between * (NOISE + COLOURS)))
        alive = (between + gives) * outputs
        parts.append(Cost(gives * conv.numel(), alive * dtype.itemsize + gives * (NOISE + COLOURS)))
        parts.append(Cost(gives * stage.to_rgb.conv.weight.numel(), 0))
    if texture.trunk:
        macs = area(pixels) * texture.trunk.channels * 3 * 4 * 2  # of both directions
        parts.append(Cost(macs, area(regions.output_region) * IMPOSED))
    return Cost.of(parts)


def _before_blur(regions: StageRegions) -> int:
    """Positions of what the transposed convolution of a stage gives."""
    return area(regions.input_region.valid_output(UPSAMPLE))


def refine_cost(texture: TextureSynthesizer, pixels: Region, dtype: torch.dtype) -> Cost:
    """Of drawing these pixels as one block, and of the gradient of its structure latents."""
    kept, passing = 0, 0
    for stage, regions in zip(texture.synthesis, texture.regions(pixels), strict=True):
        outputs, inputs = stage.up.conv.weight.shape[:2]
        up = (_before_blur(regions) + area(regions.upsampled)) * outputs
        conv = area(regions.output_region) * outputs
        kept += up + conv
        passing = max(passing, up + area(regions.input_region) * inputs, conv + area(regions.upsampled) * outputs)
    macs = 2 * decode_cost(texture, pixels, dtype).macs
    return Cost(macs, (kept + passing) * dtype.itemsize + area(pixels) * (NOISE + GRADIENTS))


def encode_cost(encoder: PatchEncoder, cells: Region, dtype: torch.dtype) -> Cost:
    """Of encoding these cells as one block."""
    image = cells.receptive_field(encoder.rule)
    parts = [Cost(0, area(image) * PIXELS)]
    if encoder.trunk:
        channels, coefficients = encoder.trunk.channels, 3 * encoder.trunk.cell**2
        parts.append(Cost(area(cells) * channels * coefficients * 4, area(image) * 2 * PIXELS))
    if encoder.scales:
        region = cells.receptive_field(encoder.scales_rule).valid_output(encoder.frame)
    for scale in encoder.scales:
        for layer in scale.layers:
            outside = region.valid_output(layer.conv.rule)
            outputs, inputs = layer.conv.weight.shape[:2]
            macs = area(outside) * (layer.conv.weight.numel() + layer.mix.weight.numel())
            alive = area(region) * inputs + area(outside) * outputs * (2 if layer.skip is None else 4)
            parts.append(Cost(macs, alive * dtype.itemsize))
            region = outside
        parts.append(Cost(area(cells) * scale.project.weight.numel(), 0))
    return Cost.of(parts)


def area(region: Region) -> int:
    """Positions of a region."""
    return region.rows.size * region.cols.size
