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
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.geometry import UPSAMPLE, Chain, Region, StageRegions, regions_from, regions_to, texture
from models.layers import GAIN, SLOPE, EqualizedLinear, ModulatedConv2d, activate, pixel_norm, upsample_bilinear
from models.noise import Noise, noise_in
from models.statistics import StatisticsMapping
from models.trunk import Trunk, analysis, imposing, synthesis

StyledLayer = Callable[[Tensor, Tensor | None], Tensor]  # of the feature and noise

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

    def bake(self, style: Tensor, dtype: torch.dtype) -> StyledLayer:
        """The layer in one fixed style [1, D], of x and noise, with plain weights in `dtype`.

        The gain sqrt 2 has moved through the leaky ReLU into weights, bias and noise.
        """
        conv, strength = self.conv.bake(style, dtype, self.bias, GAIN), self.noise_strength * GAIN

        def layer(x: Tensor, noise: Tensor | None) -> Tensor:
            y = conv(x)
            if noise is not None:
                y += (strength * noise).to(y.dtype)
            return F.leaky_relu_(y, SLOPE)

        return layer


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

    def bake(self, style: Tensor, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        """The layer in one fixed style [1, D], with plain weights in `dtype`."""
        conv = self.conv.bake(style, dtype)
        return lambda x: self.finish(conv(x))


class TextureStage(nn.Module):
    """Doubles the resolution: an up-sampling convolution, a second one, and the colours that this resolution adds.

    It draws in a style, as a `StyledStage`.
    """

    def __init__(self, inputs: int, outputs: int, style_dim: int) -> None:
        super().__init__()
        self.up = TextureLayer(inputs, outputs, style_dim, upsample=True)
        self.conv = TextureLayer(outputs, outputs, style_dim, upsample=False)
        self.to_rgb = ToRGB(outputs, style_dim)

    def styled(self, up: Tensor, conv: Tensor, to_rgb: Tensor) -> StyledStage:
        """In a style [B, D] for each sample and part."""
        return StyledStage(
            lambda x, noise: self.up(x, up, noise),
            lambda x, noise: self.conv(x, conv, noise),
            partial(self.to_rgb, style=to_rgb),
        )

    def bake(self, *styles: Tensor, dtype: torch.dtype) -> StyledStage:
        """In a fixed style [1, D] for each part, with plain weights in `dtype`."""
        parts = zip((self.up, self.conv, self.to_rgb), styles, strict=True)
        return StyledStage(*(part.bake(style, dtype) for part, style in parts))


class StyledStage(NamedTuple):
    """A stage in a style: for each sample, baked into the weights, or one that varies over space (`models.mixing`)."""

    up: StyledLayer
    conv: StyledLayer
    to_rgb: Callable[[Tensor], Tensor]

    def __call__(
        self,
        x: Tensor,  # [B, I, h, w]
        image: Tensor | None,  # [B, 3, h, w] of the stages before; None at the first one
        number: int,  # of the stage: 0 is the coarsest
        noise: Noise | None,
        regions: StageRegions,
    ) -> tuple[Tensor, Tensor]:
        """The feature [B, O, h', w'] of this stage, and the image [B, 3, h', w'] of all so far."""
        x = x[..., *regions.input_region.slices_in(regions.given)]
        x = self.up(x, noise_in(noise, 2 * number, regions.upsampled))  # [B, O, 2h - 3, 2w - 3]
        x = self.conv(x, noise_in(noise, 2 * number + 1, regions.output_region))  # [B, O, 2h - 5, 2w - 5]
        colours = self.to_rgb(x)  # [B, 3, 2h - 5, 2w - 5]
        if image is None:
            return x, colours
        around = regions.given.valid_output(UPSAMPLE)
        return x, colours + upsample_bilinear(image)[..., *regions.output_region.slices_in(around)]


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
        sizes = zip([local_dim, *widths[:-1]], widths, strict=True)
        self.synthesis = nn.ModuleList(TextureStage(inputs, outputs, global_dim) for inputs, outputs in sizes)
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

    def styles(self, w: Tensor) -> list[tuple[TextureStage, Tensor, Tensor, Tensor]]:
        """Each stage with the styles of its parts, from w [B, D], or [B, L + 1, D] with a style for each layer.

        A ToRGB takes that of the next stage's second convolution: InfinityGAN's order, so that its public
        weights keep their meaning.
        """
        w = w[:, None].expand(-1, self.style_count, -1) if w.dim() == 2 else w
        last = 2 * self.stages
        return [
            (stage, w[:, 2 * k], w[:, 2 * k + 1], w[:, min(2 * k + 3, last)]) for k, stage in enumerate(self.synthesis)
        ]

    def forward(
        self,
        z_s: Tensor,  # [B, C, h, w]
        w: Tensor,  # [B, D], or [B, L + 1, D] with a style for each layer
        noise: Noise | None,
        origin: tuple[int, int] = (0, 0),  # absolute row and column of the first latent cell
    ) -> Tensor:
        """Image of all pixels that z_s draws; the first one is at `rule.valid_output` of the latent's interval."""
        regions = regions_from(Region.at(*origin, *z_s.shape[-2:]), self.stages)
        stages = [stage.styled(*styles) for stage, *styles in self.styles(w)]
        return self.draw(stages, self.drawn_from(z_s), z_s, noise, regions)[0]

    def bake(self, w: Tensor, dtype: torch.dtype) -> StyledTexture:
        """The synthesizer for one fixed style [D] (or [L + 1, D]), with plain convolution weights in `dtype`."""
        stages = [stage.bake(*own, dtype=dtype) for stage, *own in self.styles(w[None])]
        return StyledTexture(self, dtype, lambda regions, device: stages)

    def regions(self, pixels: Region) -> list[StageRegions]:
        """The stages' regions where no more is computed than these pixels need."""
        return regions_to(pixels.receptive_field(imposing(self.trunk.cell)) if self.trunk else pixels, self.stages)

    def drawn_from(self, z_s: Tensor) -> Tensor:
        """What the stages draw from: the model's channels [B, C, h, w]. Further coefficients are only imposed."""
        return z_s[:, : self.trunk.channels] if self.trunk else z_s

    def draw(
        self,
        stages: Sequence[StyledStage],
        x: Tensor,  # [B, C, h, w], which the first stage is given
        z_s: Tensor,  # [B, C or more, h, w], which a trunk imposes
        noise: Noise | None,
        regions: Sequence[StageRegions],
    ) -> tuple[Tensor, Region]:
        """The image [B, 3, H, W] that stages in a style draw, and its pixels. ValueError for a z_s of another size."""
        cells, image = regions[0].given, None
        if z_s.shape[-2:] != cells.shape:
            raise ValueError(f"a structure latent of {tuple(z_s.shape[-2:])} cells, not of {cells.shape}")
        for number, (stage, region) in enumerate(zip(stages, regions, strict=True)):
            x, image = stage(x, image, number, noise, region)
        drawn = regions[-1].output_region
        if not self.trunk:
            return image, drawn
        read, give = analysis(self.trunk.cell), synthesis(self.trunk.cell)
        inner = drawn.valid_output(read).common(cells)
        around = inner.receptive_field(read)
        with torch.autocast(image.device.type, enabled=False):
            own = z_s[..., *inner.slices_in(cells)].float()
            image = self.trunk.impose(image[..., *around.slices_in(drawn)].float(), own)
        return image, inner.valid_output(give)


@dataclass(frozen=True)
class StyledTexture:
    """A texture synthesizer in a style; made by `TextureSynthesizer.bake` and `models.mixing.mix_texture`."""

    texture: TextureSynthesizer
    dtype: torch.dtype  # of the convolutions
    stages: Callable[[Sequence[StageRegions], torch.device], Sequence[StyledStage]]  # for these regions

    def __call__(self, z_s: Tensor, noise: Noise | None, pixels: Region) -> Tensor:
        """A region of pixels [B, 3, H, W], from the cells [B, C, h, w] that it needs."""
        x = self.texture.drawn_from(z_s).to(self.dtype).contiguous(memory_format=torch.channels_last)
        regions = self.texture.regions(pixels)
        image, drawn = self.texture.draw(self.stages(regions, z_s.device), x, z_s, noise, regions)
        return image[..., *pixels.slices_in(drawn)]
