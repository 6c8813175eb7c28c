"""Gaussian noise as a field over absolute coordinates.

The value at (seed, channel, row, column) comes from hashing those four integers, not from a stream: it is the same for
every block shape, device and order of computation, and nothing is stored. Negative coordinates are valid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from models.geometry import Region

Noise = Callable[[int, int, int, int, int], Tensor]  # (layer, top, left, height, width) -> [B or 1, 1, height, width]

_MASK = 0xFFFFFFFF
_GOLDEN = 0x9E3779B9  # 2^32 / golden ratio: decorrelates the two uniforms of Box-Muller


def _mix(value: Tensor) -> Tensor:
    """Bijective 32-bit integer hash (lowbias32 of Wellons' hash-prospector), on int64 tensors of 32-bit values."""
    value = (value ^ (value >> 16)) * 0x7FEB352D & _MASK
    value = (value ^ (value >> 15)) * 0x846CA68B & _MASK
    return value ^ (value >> 16)


def gaussian_field(
    seeds: Tensor,  # [B] int64: a field each
    channels: range,
    top: int,  # absolute row of the first value; may be negative
    left: int,
    height: int,
    width: int,
    period: int | None = None,  # columns after which the field repeats
) -> Tensor:
    """Standard normal values [B, C, height, width], float32, of each seed's field at rows top.. and columns left.. .

    Box-Muller over two 32-bit hashes of the counter (seed, channel, row, column); on the device of `seeds`.
    """

    def counter(start: int, count: int, period: int | None = None) -> Tensor:
        values = torch.arange(start, start + count, dtype=torch.int64, device=seeds.device)
        return (values if period is None else values % period) & _MASK

    key = _mix(_mix(seeds & _MASK) ^ (seeds >> 32 & _MASK))
    key = _mix(key[:, None] ^ counter(channels.start, len(channels)))  # [B, C]
    key = _mix(key[..., None] ^ counter(top, height))  # [B, C, height]
    first = _mix(key[..., None] ^ counter(left, width, period))  # [B, C, height, width]
    second = _mix((first + _GOLDEN) & _MASK)
    # 24 bits each: exact in float32; +1 keeps the logarithm finite
    radius = torch.sqrt(-2.0 * torch.log(((first >> 8) + 1).float() * 2.0**-24))
    return radius * torch.cos((second >> 8).float() * (2.0 * math.pi * 2.0**-24))


class NoiseField:
    """The noise of a texture synthesizer: its layer k adds channel k of the field of a seed.

    Called with (layer, top, left, height, width) it returns [B, 1, height, width], a sample for each seed; one seed
    serves a batch of any size.
    """

    def __init__(
        self,
        seeds: Tensor | int,
        device: torch.device | str = "cpu",
        periods: Sequence[int] | None = None,  # of each layer: columns after which a panorama begins again
    ) -> None:
        self.seeds = torch.as_tensor(seeds, dtype=torch.int64, device=device).reshape(-1)
        self.periods = periods

    def __call__(self, layer: int, top: int, left: int, height: int, width: int) -> Tensor:
        period = None if self.periods is None else self.periods[layer]
        return gaussian_field(self.seeds, range(layer, layer + 1), top, left, height, width, period)


def noise_in(noise: Noise | None, layer: int, region: Region) -> Tensor | None:
    """The noise of a layer in a region of its features, [B or 1, 1, h, w]; None without noise."""
    return None if noise is None else noise(layer, region.rows.first, region.cols.first, *region.shape)
