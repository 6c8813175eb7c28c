"""What a block costs, from geometry alone: multiply-adds, and a model of the memory that its activations take."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from models.encoder import PatchEncoder
from models.generator import TextureSynthesizer
from models.geometry import Region, Upsample

NOISE = 48  # bytes for each value of the noise field while it is hashed
COLOURS = 48  # bytes for each pixel of the float32 colours that are summed over the stages
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
    for index, (layer, span) in enumerate(zip(texture.layers, texture.spans_to(pixels), strict=True)):
        reads, gives = area(span.input_region), area(span.output_region)
        outputs, inputs = layer.conv.weight.shape[:2]
        alive = reads * inputs + gives * outputs
        macs = gives * layer.conv.weight.numel()
        if layer.conv.upsample:
            between = area(span.input_region.valid_output(Upsample()))  # of the transposed convolution and the blur
            # the feature is there twice where it has been cut
            alive += between * outputs + reads * inputs
            macs = reads * layer.conv.weight.numel() + gives * outputs * 9
        parts.append(Cost(macs, alive * dtype.itemsize + gives * (NOISE + COLOURS)))
        if index % 2:
            parts.append(Cost(gives * texture.to_rgb[index // 2].conv.weight.numel(), 0))
    return Cost.of(parts)


def refine_cost(texture: TextureSynthesizer, pixels: Region, dtype: torch.dtype) -> Cost:
    """Of drawing these pixels as one block, and of the gradient of its structure latents."""
    kept, passing = 0, 0
    for layer, span in zip(texture.layers, texture.spans_to(pixels), strict=True):
        outputs, inputs = layer.conv.weight.shape[:2]
        features = area(span.output_region) * outputs
        if layer.conv.upsample:
            features += area(span.input_region.valid_output(Upsample())) * outputs
        kept += features
        passing = max(passing, features + area(span.input_region) * inputs)
    macs = 2 * decode_cost(texture, pixels, dtype).macs
    return Cost(macs, (kept + passing) * dtype.itemsize + area(pixels) * (NOISE + GRADIENTS))


def encode_cost(encoder: PatchEncoder, cells: Region, dtype: torch.dtype) -> Cost:
    """Of encoding these cells as one block."""
    image = cells.receptive_field(encoder.rule)
    region, parts = image.valid_output(encoder.frame), [Cost(0, area(image) * PIXELS)]
    for scale, project, projection in zip(encoder.scales, encoder.project, encoder.project_rules, strict=True):
        for layer in scale:
            outside = region.valid_output(layer.rule)
            outputs, inputs = layer.conv.weight.shape[:2]
            macs = area(outside) * (layer.conv.weight.numel() + layer.mix.weight.numel())
            alive = area(region) * inputs + area(outside) * outputs * (4 if layer.residual else 2)
            parts.append(Cost(macs, alive * dtype.itemsize))
            region = outside
        taps = area(cells.receptive_field(projection)) * math.prod(project.weight.shape[:2])
        parts.append(Cost(taps, 0))
    return Cost.of(parts)


def area(region: Region) -> int:
    """Positions of a region."""
    return region.rows.size * region.cols.size
