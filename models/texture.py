"""The texture synthesizer: structure latent, style and noise -> image.

It is the padding-free half of InfinityGAN's generator (Lin et al., ICLR 2022): StyleGAN2 without its constant, from
coarse to fine in stages that double the resolution. Layer 2k of the noise is that of stage k's up-sampling convolution,
layer 2k + 1 that of its second one.

Letters: B batch, C channels of z_s, I input channels, O output channels, D style, L layers of noise, h/w features of
any level, H/W pixels. Nothing pads: sizes come from `models.geometry`, and every position is absolute, so that any
block equals the same part of the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.geometry import Chain, Region, StageRegions, Upsample, regions_from, regions_to, texture
from models.layers import (
    GAIN,
    SLOPE,
    EqualizedLinear,
    ModulatedConv2d,
    Restyled,
    Style,
    activate,
    pixel_norm,
    upsample_bilinear,
)
from models.noise import Noise, noise_in
from models.statistics import StatisticsMapping
from models.trunk import Trunk, analysis, imposing, synthesis


class Mapping(nn.Module):
    """Global latent z_g [B, D] -> style w [B, D]: pixel norm, then fully connected layers."""

    def __init__(self, dim: int, layers: int, lr_multiplier: float) -> None:
        super().__init__()
        linear = (EqualizedLinear(dim, dim, lr_multiplier=lr_multiplier, activation=True) for _ in range(layers))
        self.layers = nn.Sequential(*linear)

    def forward(self, z_g: Tensor) -> Tensor:
        return self.layers(pixel_norm(z_g))


class TextureLayer(nn.Module):
    """Modulated convolution, noise of one learned strength, leaky ReLU."""

    def __init__(self, inputs: int, outputs: int, style_dim: int, upsample: bool) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(inputs, outputs, 3, style_dim, upsample=upsample)
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor, style: Tensor, noise: Tensor | None) -> Tensor:
        """x [B, I, h, w], style [B, D], noise [B or 1, 1, h', w'] -> [B, O, h', w']."""
        return self.finish(self.conv(x, style), noise)

    def finish(self, x: Tensor, noise: Tensor | None) -> Tensor:
        """Everything after the convolution."""
        if noise is not None:
            x = x + (self.noise_strength * noise).to(x.dtype)
        return activate(x, self.bias)

    def bake(self, style: Tensor, dtype: torch.dtype, differentiable: bool) -> BakedTextureLayer:
        """The layer in one fixed style [1, D], with plain weights in `dtype`."""
        conv = self.conv.bake(style, dtype, self.bias, GAIN, differentiable)
        return BakedTextureLayer(conv, self.noise_strength * GAIN)


@dataclass(frozen=True)
class BakedTextureLayer:
    """A `TextureLayer` in a fixed style: the gain sqrt 2 has moved through the leaky ReLU into weights, bias, noise."""

    conv: Callable[[Tensor], Tensor]  # and the bias
    noise_strength: Tensor

    def __call__(self, x: Tensor, style: None, noise: Tensor | None) -> Tensor:
        y = self.conv(x)
        if noise is not None:
            y += (self.noise_strength * noise).to(y.dtype)
        return F.leaky_relu_(y, SLOPE)


class ToRGB(nn.Module):
    """1x1 modulated convolution, not demodulated, to three colours."""

    def __init__(self, inputs: int, style_dim: int) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(inputs, 3, 1, style_dim, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """x [B, I, h, w], style [B, D] -> [B, 3, h, w], float32."""
        return self.finish(self.conv(x, style))

    def finish(self, x: Tensor) -> Tensor:
        """Everything after the convolution; colours are summed over the stages in float32."""
        return x.float() + self.bias[:, None, None]

    def bake(self, style: Tensor, dtype: torch.dtype, differentiable: bool) -> Restyled:
        """The layer in one fixed style [1, D], with plain weights in `dtype`."""
        return Restyled(self, self.conv.bake(style, dtype, differentiable=differentiable))


class StageStyles(NamedTuple):
    """The style of each part of a stage."""

    up: Style
    conv: Style
    to_rgb: Style


class TextureStage(nn.Module):
    """Doubles the resolution: an up-sampling convolution, a second one, and the colours that this resolution adds.

    The parts are the trained ones with a style for each sample, or stand-ins whose style is baked into them, or varies
    over space (`models.mixing`).
    """

    def __init__(
        self,
        number: int,  # 0 is the coarsest
        up: TextureLayer | BakedTextureLayer | Restyled,
        conv: TextureLayer | BakedTextureLayer | Restyled,
        to_rgb: ToRGB | Restyled,
    ) -> None:
        super().__init__()
        self.number = number
        self.up, self.conv, self.to_rgb = up, conv, to_rgb

    def forward(
        self,
        x: Tensor,  # [B, I, h, w]
        image: Tensor | None,  # [B, 3, h, w] of the stages before; None at the first one
        styles: StageStyles,
        noise: Noise | None,
        regions: StageRegions,
    ) -> tuple[Tensor, Tensor]:
        """The feature [B, O, h', w'] of this stage, and the image [B, 3, h', w'] of all so far."""
        x = x[..., *regions.input_region.slices_in(regions.given)]
        layer = 2 * self.number
        x = self.up(x, styles.up, noise_in(noise, layer, regions.upsampled))  # [B, O, 2h - 3, 2w - 3]
        x = self.conv(x, styles.conv, noise_in(noise, layer + 1, regions.output_region))  # [B, O, 2h - 5, 2w - 5]
        colours = self.to_rgb(x, styles.to_rgb)  # [B, 3, 2h - 5, 2w - 5]
        if image is None:
            return x, colours
        around = regions.given.valid_output(Upsample())
        return x, colours + upsample_bilinear(image)[..., *regions.output_region.slices_in(around)]

    def bake(self, styles: StageStyles, dtype: torch.dtype, differentiable: bool) -> TextureStage:
        """The stage in fixed styles [1, D]."""
        parts = zip((self.up, self.conv, self.to_rgb), styles, strict=True)
        return TextureStage(self.number, *(part.bake(style, dtype, differentiable) for part, style in parts))


def synthesize(
    stages: Sequence[TextureStage],
    z_s: Tensor,  # [B, C, h, w], the cells that the first stage is given
    styles: Sequence[StageStyles],
    noise: Noise | None,
    regions: Sequence[StageRegions],
) -> Tensor:
    """The image [B, 3, H, W] that the stages draw. ValueError if z_s is not of the size that `regions` say."""
    if z_s.shape[-2:] != regions[0].given.shape:
        raise ValueError(f"a structure latent of {tuple(z_s.shape[-2:])} cells, not of {regions[0].given.shape}")
    x, image = z_s, None
    for stage, style, region in zip(stages, styles, regions, strict=True):
        x, image = stage(x, image, style, noise, region)
    return image


class TextureSynthesizer(nn.Module):
    """Structure latent z_s, style w and noise -> image [B, 3, H, W], nominally in [-1, 1].

    With a trunk, the style is that of statistics, and what the stages draw is given the channels of z_s at last
    (`Trunk.impose`): they draw what these lack, and the encoder finds z_s again, exactly.
    """

    def __init__(
        self,
        local_dim: int,
        global_dim: int,
        widths: Sequence[int],  # channels of each stage, coarse to fine
        mapping_layers: int,
        mapping_lr_multiplier: float,
        trunk: bool = False,
    ) -> None:
        super().__init__()
        layers = mapping_layers, mapping_lr_multiplier
        self.mapping = StatisticsMapping(local_dim, global_dim, *layers) if trunk else Mapping(global_dim, *layers)
        self.synthesis = nn.ModuleList()
        for number, (inputs, outputs) in enumerate(zip([local_dim, *widths[:-1]], widths, strict=True)):
            up = TextureLayer(inputs, outputs, global_dim, upsample=True)
            conv = TextureLayer(outputs, outputs, global_dim, upsample=False)
            self.synthesis.append(TextureStage(number, up, conv, ToRGB(outputs, global_dim)))
        self.rule = texture(len(widths))
        self.trunk = Trunk(local_dim, 2 ** len(widths)) if trunk else None
        if self.trunk:
            self.rule = Chain((self.rule, imposing(self.trunk.cell)))
            for stage in self.synthesis:
                nn.init.zeros_(stage.to_rgb.conv.weight)  # training begins with what is linear

    @property
    def stages(self) -> int:
        """Up-sampling stages: one latent cell covers 2^stages pixels, and there are 2 * stages layers of noise."""
        return len(self.synthesis)

    @property
    def layers(self) -> list[TextureLayer]:
        """The convolutions that add noise, in the order of its layers."""
        return [layer for stage in self.synthesis for layer in (stage.up, stage.conv)]

    def spacing(self, layer: int) -> int:
        """Pixels between the features that a layer of noise is added to."""
        return 2 ** (self.stages - 1 - layer // 2)

    @property
    def style_count(self) -> int:
        """Styles of an image: one for each layer of noise, and one for the last ToRGB."""
        return 2 * self.stages + 1

    def styles(self, w: Tensor) -> list[StageStyles]:
        """Of each stage, from w [B, D], or [B, L + 1, D] with a style for each layer.

        A ToRGB takes that of the next stage's second convolution: InfinityGAN's order, so that its public
        weights keep their meaning.
        """
        w = w[:, None].expand(-1, self.style_count, -1) if w.dim() == 2 else w
        layers = range(0, 2 * self.stages, 2)
        return [StageStyles(w[:, i], w[:, i + 1], w[:, min(i + 3, 2 * self.stages)]) for i in layers]

    def forward(
        self,
        z_s: Tensor,  # [B, C, h, w]
        w: Tensor,  # [B, D], or [B, L + 1, D] with a style for each layer
        noise: Noise | None,
        origin: tuple[int, int] = (0, 0),  # absolute row and column of the first latent cell
    ) -> Tensor:
        """Image of all pixels that z_s draws; the first one is at `rule.valid_output` of the latent's interval."""
        cells = Region.at(*origin, *z_s.shape[-2:])
        regions = regions_from(cells, self.stages)
        image = synthesize(self.synthesis, drawn_channels(self.trunk, z_s), self.styles(w), noise, regions)
        return impose(self.trunk, image, regions[-1].output_region, z_s, cells)[0] if self.trunk else image

    def bake(self, w: Tensor, dtype: torch.dtype, differentiable: bool = False) -> BakedTexture:
        """The synthesizer for one fixed style [D] (or [L + 1, D]), with plain convolution weights in `dtype`.

        `differentiable`: without Winograd's method, whose gradients take more time and memory.
        """
        styles = self.styles(w[None])
        stages = [stage.bake(own, dtype, differentiable) for stage, own in zip(self.synthesis, styles, strict=True)]
        return BakedTexture(stages, dtype, self.trunk)

    def regions(self, pixels: Region) -> list[StageRegions]:
        """The stages' regions where no more is computed than these pixels need."""
        return stage_regions(pixels, self.stages, self.trunk)


def stage_regions(pixels: Region, stages: int, trunk: Trunk | None) -> list[StageRegions]:
    """Of so many stages; with a trunk they draw what it needs around the pixels."""
    return regions_to(pixels if trunk is None else pixels.receptive_field(imposing(trunk.cell)), stages)


def drawn_channels(trunk: Trunk | None, z_s: Tensor) -> Tensor:
    """What the stages draw from: the model's channels [B, K, h, w]. Further coefficients are only imposed."""
    return z_s if trunk is None else z_s[:, : trunk.channels]


def impose(trunk: Trunk, image: Tensor, drawn: Region, z_s: Tensor, cells: Region) -> tuple[Tensor, Region]:
    """An image [B, 3, H, W] drawn in a region, with the channels z_s [B, K, h, w] of a region of cells, in float32.

    And the region of pixels for which both are there.
    """
    inner = drawn.valid_output(analysis(trunk.cell)).common(cells)
    around, pixels = inner.receptive_field(analysis(trunk.cell)), inner.valid_output(synthesis(trunk.cell))
    with torch.autocast(image.device.type, enabled=False):
        own = z_s[..., *inner.slices_in(cells)].float()
        return trunk.impose(image[..., *around.slices_in(drawn)].float(), own), pixels


@dataclass(frozen=True)
class BakedTexture:
    """A texture synthesizer in one style; made by `TextureSynthesizer.bake`."""

    stages: Sequence[TextureStage]
    dtype: torch.dtype  # of the convolutions
    trunk: Trunk | None

    def __call__(self, z_s: Tensor, noise: Noise | None, pixels: Region) -> Tensor:
        """A region of pixels [B, 3, H, W], from the cells [B, C, h, w] that it needs."""
        x = drawn_channels(self.trunk, z_s).to(self.dtype).contiguous(memory_format=torch.channels_last)
        regions = stage_regions(pixels, len(self.stages), self.trunk)
        image = synthesize(self.stages, x, self.styles(regions, z_s.device), noise, regions)
        drawn = regions[-1].output_region
        if self.trunk:
            image, drawn = impose(self.trunk, image, drawn, z_s, regions[0].given)
        return image[..., *pixels.slices_in(drawn)]

    def styles(self, regions: Sequence[StageRegions], device: torch.device) -> list[StageStyles]:
        """Of each stage: they are baked in."""
        return [StageStyles(None, None, None)] * len(regions)
