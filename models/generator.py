"""The generator: structure synthesizer, texture synthesizer, and the two together (InfinityGAN, Lin et al., ICLR 2022).

Letters: B batch, C channels, D style, h/w latent cells, H/W pixels, L layers of the texture synthesizer. Nothing pads:
sizes come from `models.geometry`, and every position is absolute, so that any block equals the same part of the whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.geometry import Region, Upsample, structure, texture
from models.layers import GAIN, SLOPE, EqualizedLinear, ModulatedConv2d, activate, pixel_norm, upsample_bilinear

Noise = Callable[[int, int, int, int, int], Tensor]  # (layer, top, left, height, width) -> [B or 1, 1, height, width]


@dataclass(frozen=True)
class CoordinateGrid:
    """The constants of the structure synthesizer's coordinates."""

    vertical_slope: float  # of the tanh, per row
    horizontal_period: int  # columns
    row_starts: int  # rows at which a training patch may start

    def channels(self, rows: Tensor, cols: Tensor, jitter: Tensor | None = None) -> Tensor:
        """Coordinates [B, 3, h, w] of rows [B, h] below the canvas centre and columns [B, w]: tanh, cos, sin.

        `jitter` [B, 3], in cells, displaces each channel of each sample on its own.
        """
        jitter = torch.zeros(len(rows), 3, device=rows.device) if jitter is None else jitter
        vertical = torch.tanh(self.vertical_slope * (rows + jitter[:, :1]))
        angle = [math.pi * (2.0 * (cols + jitter[:, k : k + 1]) / (self.horizontal_period - 1) - 1.0) for k in (1, 2)]
        h, w = rows.shape[1], cols.shape[1]
        planes = (
            vertical[:, :, None].expand(-1, h, w),
            torch.cos(angle[0])[:, None].expand(-1, h, w),
            torch.sin(angle[1])[:, None].expand(-1, h, w),
        )
        return torch.stack(planes, dim=1)

    def of_canvas(
        self, region: Region, canvas: Region, device: torch.device | str = "cpu", period: int | None = None
    ) -> Tensor:
        """Coordinates [1, 3, h, w] of `region` on a canvas of local latents; the vertical one is 0 at its middle.

        `period`: columns after which a panorama begins again, in place of the grid's own.
        """
        rows = torch.arange(region.rows.first, region.rows.last + 1, device=device)
        cols = torch.arange(region.cols.first, region.cols.last + 1, device=device) - canvas.cols.first
        middle = (canvas.rows.first + canvas.rows.last) / 2
        if period is not None:
            cols = cols % period * ((self.horizontal_period - 1) / period)
        return self.channels((rows - middle)[None], cols[None].float())

    def of_patches(self, row_start: Tensor, col_start: Tensor, cells: int, jitter: Tensor) -> Tensor:
        """Coordinates [B, 3, cells, cells] of training patches that start at these rows and columns [B] of the canvas.

        The canvas has `row_starts` rows more than a patch; columns wrap around at the period.
        """
        steps = torch.arange(cells, device=row_start.device)
        rows = row_start[:, None] + steps - (cells + self.row_starts - 1) / 2
        cols = (col_start[:, None] + steps) % self.horizontal_period
        return self.channels(rows, cols.float(), jitter)

    def label(self, row_start: Tensor) -> Tensor:
        """Vertical position in [-1, 1] of patches that start at these rows: what the discriminator is to guess."""
        return 2.0 * row_start.float() / max(self.row_starts - 1, 1) - 1.0


class StructureLayer(nn.Module):
    """Coordinates beside the feature, modulated convolution, leaky ReLU."""

    def __init__(self, channels: int, radius: int, style_dim: int) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(channels + 3, channels, 2 * radius + 1, style_dim)
        self.bias = nn.Parameter(torch.zeros(channels))

    def beside_coordinates(self, x: Tensor, coordinates: Tensor) -> Tensor:
        """The feature [B, C, h, w] and the middle of the coordinates [B or 1, 3, H, W], as [B, C + 3, h, w]."""
        margin = (coordinates.shape[-1] - x.shape[-1]) // 2
        height, width = x.shape[-2:]
        around = coordinates[..., margin : margin + height, margin : margin + width].to(x.dtype)
        return torch.cat([x, around.expand(len(x), -1, -1, -1)], dim=1)

    def forward(self, x: Tensor, coordinates: Tensor, z_g: Tensor) -> Tensor:
        return activate(self.conv(self.beside_coordinates(x, coordinates), z_g), self.bias)


class StructureSynthesizer(nn.Module):
    """Local latent z_l, global latent z_g and coordinates -> structure latent z_s. The style is z_g itself."""

    def __init__(self, local_dim: int, global_dim: int, layers: int, radius: int, grid: CoordinateGrid) -> None:
        super().__init__()
        self.layers = nn.ModuleList(StructureLayer(local_dim, radius, global_dim) for _ in range(layers))
        self.rule = structure(layers, radius)
        self.grid = grid
        self.local_dim, self.global_dim = local_dim, global_dim

    def forward(self, z_l: Tensor, z_g: Tensor, coordinates: Tensor) -> Tensor:
        """z_l [B, C, h, w], z_g [B, D], coordinates [B or 1, 3, h, w] -> z_s [B, C, h', w']."""
        x = z_l
        for layer in self.layers:
            x = layer(x, coordinates, z_g)
        return x


class Mapping(nn.Module):
    """Global latent z_g [B, D] -> style w [B, D]: pixel norm, then fully connected layers."""

    def __init__(self, dim: int, layers: int, lr_multiplier: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(EqualizedLinear(dim, dim, lr_multiplier=lr_multiplier, activation=True) for _ in range(layers))
        )

    def forward(self, z_g: Tensor) -> Tensor:
        return self.layers(pixel_norm(z_g))


class TextureLayer(nn.Module):
    """Modulated convolution, noise of one learned strength, leaky ReLU."""

    def __init__(self, inputs: int, outputs: int, style_dim: int, upsample: bool) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(inputs, outputs, 3, style_dim, upsample=upsample)
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.rule = self.conv.rule

    def finish(self, x: Tensor, noise: Tensor | None) -> Tensor:
        """Everything after the convolution."""
        if noise is not None:
            x = x + (self.noise_strength * noise).to(x.dtype)
        return activate(x, self.bias)

    def forward(self, x: Tensor, noise: Tensor | None, style: Tensor) -> Tensor:
        return self.finish(self.conv(x, style), noise)

    def bake(
        self, style: Tensor, dtype: torch.dtype, differentiable: bool = False
    ) -> Callable[[Tensor, Tensor | None], Tensor]:
        """A function (x, noise) -> forward for one fixed style [D]; `differentiable` as in `ModulatedConv2d.bake`."""
        # sqrt 2 moves through the leaky ReLU into weights, bias and noise; all after the convolution is in place
        convolve = self.conv.bake(style, dtype, self.bias, GAIN, differentiable)
        strength = self.noise_strength * GAIN

        def layer(x: Tensor, noise: Tensor | None) -> Tensor:
            y = convolve(x)
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

    def colours(self, x: Tensor) -> Tensor:
        """Everything after the convolution; colours are summed over the stages in float32."""
        return x.float() + self.bias[:, None, None]

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        return self.colours(self.conv(x, style))

    def bake(self, style: Tensor, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        """A function x -> forward for one fixed style [D]."""
        convolve = self.conv.bake(style, dtype)
        return lambda x: self.colours(convolve(x))


class TextureSynthesizer(nn.Module):
    """Structure latent z_s, style w and noise -> image [B, 3, H, W], nominally in [-1, 1]."""

    def __init__(
        self,
        local_dim: int,
        global_dim: int,
        widths: Sequence[int],  # channels of each stage, coarse to fine
        mapping_layers: int,
        mapping_lr_multiplier: float,
    ) -> None:
        super().__init__()
        self.mapping = Mapping(global_dim, mapping_layers, mapping_lr_multiplier)
        self.layers, self.to_rgb = nn.ModuleList(), nn.ModuleList()
        for inputs, outputs in zip([local_dim, *widths[:-1]], widths, strict=True):
            self.layers.append(TextureLayer(inputs, outputs, global_dim, upsample=True))
            self.layers.append(TextureLayer(outputs, outputs, global_dim, upsample=False))
            self.to_rgb.append(ToRGB(outputs, global_dim))
        self.rule = texture(len(widths))

    @property
    def stages(self) -> int:
        """Up-sampling stages: one latent cell covers 2^stages pixels."""
        return len(self.to_rgb)

    def spacing(self, layer: int) -> int:
        """Pixels between the features that a layer gives."""
        return 2 ** (self.stages - 1 - layer // 2)

    @property
    def style_count(self) -> int:
        """Styles of an image: one for each layer and one for the last ToRGB."""
        return len(self.layers) + 1

    def rgb_style(self, stage: int) -> int:
        """Which style a ToRGB takes; InfinityGAN's order, so that its public weights keep their meaning."""
        return min(2 * stage + 3, self.style_count - 1)

    def forward(
        self,
        z_s: Tensor,  # [B, C, h, w]
        w: Tensor,  # [B, D], or [B, L + 1, D] with a style for each layer
        noise: Noise | None,
        origin: tuple[int, int] = (0, 0),  # absolute row and column of the first latent cell
    ) -> Tensor:
        """Image of all pixels that z_s draws; the first one is at `rule.output` of the latent's interval."""
        styles = w[:, None].expand(-1, self.style_count, -1) if w.dim() == 2 else w
        layers = [_with_style(layer, styles[:, i]) for i, layer in enumerate(self.layers)]
        to_rgb = [_with_style(rgb, styles[:, self.rgb_style(k)]) for k, rgb in enumerate(self.to_rgb)]
        return self.draw(z_s, layers, to_rgb, noise, self.spans_from(Region.at(*origin, *z_s.shape[-2:])))

    def bake(self, w: Tensor, dtype: torch.dtype, differentiable: bool = False) -> BakedTexture:
        """The synthesizer for one fixed style [D] (or [L + 1, D]), with plain convolution weights in `dtype`.

        `differentiable`: for gradients, as in `ModulatedConv2d.bake`.
        """
        styles = w.expand(self.style_count, -1)
        layers = [layer.bake(styles[i], dtype, differentiable) for i, layer in enumerate(self.layers)]
        to_rgb = [rgb.bake(styles[self.rgb_style(k)], dtype) for k, rgb in enumerate(self.to_rgb)]
        return BakedTexture(self, layers, to_rgb, dtype)

    def spans_from(self, cells: Region) -> list[Span]:
        """What each layer reads and gives where all is drawn that these cells can draw."""
        spans = []
        for layer in self.layers:
            spans.append(Span(cells, cells.valid_output(layer.rule)))
            cells = spans[-1].output_region
        return spans

    def spans_to(self, pixels: Region) -> list[Span]:
        """What each layer reads and gives where no more is computed than a region of pixels needs.

        Up-sampling gives up to one row and column too many. They are cut off before the next up-sampling: a cut copies
        the feature, and there it is four times smaller.
        """
        needed = [pixels]
        for layer in reversed(self.layers):
            needed.append(needed[-1].receptive_field(layer.rule))
        spans = []
        for layer, reads in zip(self.layers, needed[:0:-1], strict=True):
            reads = reads if layer.conv.upsample else spans[-1].output_region
            spans.append(Span(reads, reads.valid_output(layer.rule)))
        return spans

    def draw(
        self,
        x: Tensor,  # [B, C, h, w], what the first layer reads
        layers: Sequence[Callable[[Tensor, Tensor | None], Tensor]],  # (feature, noise) -> feature
        to_rgb: Sequence[Callable[[Tensor], Tensor]],  # feature -> colours
        noise: Noise | None,
        spans: Sequence[Span],  # of the layers
    ) -> Tensor:
        """The image that these layers, whose styles are settled, draw from a structure latent."""
        image, drawn, region = None, None, spans[0].input_region
        for index, (layer, span) in enumerate(zip(layers, spans, strict=True)):
            rows, cols = span.input_region.slices_in(region)
            region = span.output_region
            field = noise and noise(index, region.rows.first, region.cols.first, *region.shape)
            x = layer(x[..., rows, cols], field)
            if tuple(x.shape[-2:]) != region.shape:
                raise ValueError(f"texture layer {index} gave {tuple(x.shape[-2:])}, geometry says {region.shape}")
            if index % 2 == 0:
                continue
            rgb = to_rgb[index // 2](x)
            if image is not None:
                drawn = drawn.valid_output(Upsample())
                rows, cols = region.slices_in(drawn)
                rgb = rgb + upsample_bilinear(image)[..., rows, cols]
            image, drawn = rgb, region
        return image


@dataclass(frozen=True)
class Span:
    """The features that a layer reads, and those that it gives."""

    input_region: Region
    output_region: Region


def _with_style(module: nn.Module, style: Tensor) -> Callable[..., Tensor]:
    return lambda *inputs: module(*inputs, style)


@dataclass(frozen=True)
class BakedTexture:
    """A texture synthesizer whose style is folded into plain weights; made by `TextureSynthesizer.bake`."""

    synthesizer: TextureSynthesizer
    layers: list[Callable[[Tensor, Tensor | None], Tensor]]
    to_rgb: list[Callable[[Tensor], Tensor]]
    dtype: torch.dtype

    def __call__(self, z_s: Tensor, noise: Noise | None, pixels: Region) -> Tensor:
        """A region of pixels [B, 3, H, W] in the folded style, from the cells [B, C, h, w] that it needs."""
        x = z_s.to(self.dtype).contiguous(memory_format=torch.channels_last)
        spans = self.synthesizer.spans_to(pixels)
        rows, cols = pixels.slices_in(spans[-1].output_region)
        return self.synthesizer.draw(x, self.layers, self.to_rgb, noise, spans)[..., rows, cols]


class Generator(nn.Module):
    """Structure and texture synthesizer: latents -> image."""

    def __init__(self, structure: StructureSynthesizer, texture: TextureSynthesizer) -> None:
        super().__init__()
        self.structure = structure
        self.texture = texture

    def forward(
        self,
        z_l: Tensor,  # [B, C, h, w]
        z_g: Tensor,  # [B, D]
        coordinates: Tensor,  # [B or 1, 3, h, w]
        noise: Noise | None,
        w: Tensor | None = None,  # style [B, D] or [B, L + 1, D] in place of the one that z_g maps to
    ) -> tuple[Tensor, Tensor]:
        """Image [B, 3, H, W] and structure latent [B, C, h', w']."""
        z_s = self.structure(z_l, z_g, coordinates)
        return self.texture(z_s, self.texture.mapping(z_g) if w is None else w, noise), z_s
