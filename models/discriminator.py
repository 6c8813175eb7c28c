"""The discriminator: StyleGAN2's residual network with minibatch standard deviation and a head for coordinates.

Letters: B batch, C channels, H/W pixels. It judges patches of one size as a whole and draws nothing, so it may pad.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import EqualizedConv2d, EqualizedLinear


def blur_pad(x: Tensor, padding: int) -> Tensor:
    """Blur with [1 3 3 1] x [1 3 3 1] / 64 after zero padding: what keeps a strided convolution from aliasing."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype, device=x.device) / 8.0
    channels = x.shape[1]
    return F.conv2d(x, (taps[:, None] * taps).expand(channels, 1, 4, 4), padding=padding, groups=channels)


def minibatch_deviation(x: Tensor, group: int) -> Tensor:
    """[B, C, H, W] -> [B, C + 1, H, W]: the mean standard deviation over each `group` consecutive samples, appended.

    Groups are consecutive so that a batch shared out over processes has the same groups as the whole.
    """
    if len(x) % group:
        raise ValueError(f"a batch of {len(x)} cannot be cut into groups of {group}")
    deviation = x.float().reshape(-1, group, *x.shape[1:]).var(dim=1, correction=0).add(1e-8).sqrt()
    mean = deviation.mean(dim=(1, 2, 3)).repeat_interleave(group).to(x.dtype)  # [B]
    return torch.cat([x, mean[:, None, None, None].expand(-1, 1, *x.shape[2:])], dim=1)


class ResidualBlock(nn.Module):
    """Two convolutions that halve the resolution, beside a strided 1x1 skip."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = EqualizedConv2d(inputs, inputs, 3, padding=1)
        self.conv2 = EqualizedConv2d(inputs, outputs, 3, stride=2)
        self.skip = EqualizedConv2d(inputs, outputs, 1, stride=2, activation=False, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        main = self.conv2(blur_pad(self.conv1(x), padding=2))
        return (main + self.skip(blur_pad(x, padding=1))) / math.sqrt(2.0)


class Discriminator(nn.Module):
    """Image patch -> score, guess of its coordinates, and the features of every block."""

    def __init__(
        self,
        patch: int,  # pixels along the edge of a patch
        widths: Sequence[int],  # channels at full, 1/2, 1/4 ... resolution
        minibatch_group: int,  # samples
    ) -> None:
        super().__init__()
        self.from_rgb = EqualizedConv2d(3, widths[0], 1)
        self.blocks = nn.ModuleList(ResidualBlock(i, o) for i, o in zip(widths[:-1], widths[1:], strict=True))
        edge = patch // 2 ** len(self.blocks)  # each blurs to edge + 1, then 3x3 of stride 2
        if edge < 1:
            raise ValueError(f"a patch of {patch} px cannot be halved {len(self.blocks)} times")
        self.minibatch_group = minibatch_group
        self.final_conv = EqualizedConv2d(widths[-1] + 1, widths[-1], 3, padding=1)
        features = widths[-1] * edge**2
        self.score = self._head(features, widths[-1], 1)
        self.coordinates = self._head(features, widths[-1], 3)

    @staticmethod
    def _head(inputs: int, width: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(EqualizedLinear(inputs, width, activation=True), EqualizedLinear(width, outputs))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """image [B, 3, H, W] -> score [B], coordinates [B, 3] (vertical, cos, sin), features of each block."""
        x = self.from_rgb(image)
        features = []
        for block in self.blocks:
            x = block(x)
            features.append(x)
        x = self.final_conv(minibatch_deviation(x, min(self.minibatch_group, len(x)))).flatten(1)
        return self.score(x).float()[:, 0], self.coordinates(x).float(), features
