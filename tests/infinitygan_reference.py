"""InfinityGAN's equations once more, in the most literal way, and a small folder of numbers that follow from them.

Functions on state dicts in the public layout; nothing of models/ and losses/ is used, so that what the networks share
with these numbers is only the equations. Weights are modulated sample by sample, patches are drawn one by one and
overwrite each other, fusion maps are carried backward layer by layer.
Letters: B batch, C channels, D style, N fused styles, L layers of the texture synthesizer, h/w cells, H/W pixels.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

State = Mapping[str, Tensor]
STACK = "structure_synthesizer.implicit_model.conv_stack"
TEXTURE = "texture_synthesizer"


# Elementary layers


def leaky(x: Tensor) -> Tensor:
    """sqrt 2 times the leaky ReLU of slope 0.2."""
    return math.sqrt(2) * torch.where(x > 0, x, 0.2 * x)


def linear(state: State, key: str, x: Tensor, lr: float = 1.0) -> Tensor:
    """Equalised linear layer on [..., I]."""
    weight, bias = state[f"{key}.weight"], state[f"{key}.bias"]
    return x @ (weight * (lr / math.sqrt(weight.shape[1]))).T + bias * lr


def count(state: State, pattern: str) -> int:
    """How many names the state has with 0, 1, 2 ... put into the pattern."""
    index = 0
    while pattern.format(index) in state:
        index += 1
    return index


def mapping(state: State, z: Tensor) -> Tensor:
    """[B, D] -> [B, D]."""
    x = z / (z.square().mean(dim=1, keepdim=True) + 1e-8).sqrt()
    layer = 1
    while f"{TEXTURE}.mapping.{layer}.weight" in state:
        x = leaky(linear(state, f"{TEXTURE}.mapping.{layer}", x, 0.01))
        layer += 1
    return x


def spread(x: Tensor) -> Tensor:
    """Valid blur with [1 2 1] x [1 2 1] / 4 of every channel."""
    taps = torch.tensor([1.0, 2.0, 1.0])
    kernel = torch.outer(taps, taps) / 16 * 4
    return torch.cat([F.conv2d(x[:, c : c + 1], kernel[None, None]) for c in range(x.shape[1])], dim=1)


def convolve(x: Tensor, weight: Tensor, upsample: bool) -> Tensor:
    """Valid convolution, or the transposed one of stride 2 cropped by one; before the blur."""
    if not upsample:
        return F.conv2d(x, weight)
    return F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)[..., 1:-1, 1:-1]


def modulated(state: State, key: str, x: Tensor, style: Tensor, demodulate: bool = True) -> Tensor:
    """x [B, I, h, w], style [B, D]: a convolution with weights of its own for each sample."""
    weight = state[f"{key}.weight"][0]
    upsample = f"{key}.blur.kernel" in state
    samples = []
    for sample, own in zip(x, linear(state, f"{key}.modulation", style), strict=True):
        scaled = weight * own[None, :, None, None] / math.sqrt(weight[0].numel())
        if demodulate:
            scaled = scaled / (scaled.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
        samples.append(convolve(sample[None], scaled, upsample))
    y = torch.cat(samples)
    return spread(y) if upsample else y


def centre(x: Tensor, height: int, width: int) -> Tensor:
    """The middle of the last two dimensions."""
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[..., top : top + height, left : left + width]


def skip(rgb: Tensor) -> Tensor:
    """[B, 3, h, w] -> [B, 3, 2h - 1, 2w - 1]: zeros between the pixels, then the blur."""
    taps = torch.tensor([1.0, 2.0, 1.0])
    kernel = (torch.outer(taps, taps) / 4)[None, None]
    planes = [F.conv_transpose2d(rgb[:, c : c + 1], kernel, stride=2) for c in range(rgb.shape[1])]
    return torch.cat(planes, dim=1)[..., 1:-1, 1:-1]


# Generator


def structure_blocks(state: State, z: Tensor, local: Tensor, coords: Tensor) -> list[Tensor]:
    """What every block of the structure synthesizer gives; the last one is the structure latent."""
    x, blocks = local, []
    for i in range(count(state, f"{STACK}.{{}}.conv.conv.weight")):
        around = centre(coords, *x.shape[-2:]).expand(len(x), -1, -1, -1)
        x = modulated(state, f"{STACK}.{i}.conv.conv", torch.cat([x, around], dim=1), z)
        x = leaky(x + state[f"{STACK}.{i}.conv.activate.bias"][None, :, None, None])
        blocks.append(x)
    return blocks


def layer_count(state: State) -> int:
    """L."""
    return count(state, f"{TEXTURE}.convs.{{}}.conv.weight")


def mixed(state: State, z: Tensor, inject: int) -> Tensor:
    """z [B, 2, D] -> styles [B, L + 1, D]: `inject` of the first latent, then those of the second."""
    first, second = mapping(state, z[:, 0]), mapping(state, z[:, 1])
    return torch.stack([first] * inject + [second] * (layer_count(state) + 1 - inject), dim=1)


def finish(state: State, i: int, x: Tensor, noise: Tensor) -> Tensor:
    """Noise, bias and leaky ReLU of texture layer i."""
    x = x + state[f"{TEXTURE}.convs.{i}.noise.weight"] * noise
    return leaky(x + state[f"{TEXTURE}.convs.{i}.activate.bias"][None, :, None, None])


def texture(state: State, x: Tensor, styles: Tensor, noises: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Features of all layers, and the RGB stages; the last one is the image. styles [B, L + 1, D]."""
    features, stages = [], []
    for i in range(layer_count(state)):
        x = finish(state, i, modulated(state, f"{TEXTURE}.convs.{i}.conv", x, styles[:, i]), noises[i])
        features.append(x)
        if i % 2:
            k, last = i // 2, styles.shape[1] - 1
            rgb = modulated(state, f"{TEXTURE}.to_rgbs.{k}.conv", x, styles[:, min(i + 2, last)], demodulate=False)
            rgb = rgb + state[f"{TEXTURE}.to_rgbs.{k}.bias"]
            stages.append(rgb + centre(skip(stages[-1]), *rgb.shape[-2:]) if stages else rgb)
    return features, stages


# Spatial fusion


def backward_maps(state: State, pixel_map: Tensor, radius: int) -> tuple[list[Tensor], Tensor]:
    """Pixel map [1, N, H, W] -> the map before each texture layer, and that before the structure synthesizer."""
    maps = [pixel_map]
    for i in reversed(range(layer_count(state))):
        size = [(n + 3) // 2 for n in maps[0].shape[-2:]]
        m = F.pad(maps[0], (1, 1, 1, 1), mode="replicate")
        maps.insert(0, m if i % 2 else F.interpolate(m, size=size, mode="bilinear", align_corners=True))
    outer = maps[0]
    for _ in range(count(state, f"{STACK}.{{}}.conv.conv.weight")):
        outer = F.pad(outer, (radius,) * 4, mode="replicate")
    return maps, outer


def fused(state: State, key: str, x: Tensor, styles: Tensor, weights: Tensor, demodulate: bool = True) -> Tensor:
    """x [1, I, h, w], styles [N, D], weights [1, N, h, w]: the approximate modulation of every position."""
    weight = state[f"{key}.weight"][0]
    weight = weight / math.sqrt(weight[0].numel())
    upsample = f"{key}.blur.kernel" in state
    field = torch.einsum("nd,bnhw->bhwd", styles, weights)
    scale = linear(state, f"{key}.modulation", field).permute(0, 3, 1, 2)  # [1, I, h, w]
    y = convolve(x * scale, weight, upsample)
    if demodulate:
        energy = torch.einsum("oikl,bihw->bohw", weight.square(), scale.square())
        factor = (energy + 1e-8).rsqrt()
        if upsample:
            factor = F.interpolate(factor, size=y.shape[-2:], mode="bilinear", align_corners=True)
        y = y * centre(factor, *y.shape[-2:])
    return spread(y) if upsample else y


def fused_structure(state: State, z: Tensor, local: Tensor, coords: Tensor, weights: Tensor) -> Tensor:
    """As structure_blocks, its last one, for styles z [N, D] and weights [1, N, h, w]."""
    x = local
    for i in range(count(state, f"{STACK}.{{}}.conv.conv.weight")):
        size = x.shape[-2:]
        x = torch.cat([x, centre(coords, *size)], dim=1)
        x = fused(state, f"{STACK}.{i}.conv.conv", x, z, centre(weights, *size))
        x = leaky(x + state[f"{STACK}.{i}.conv.activate.bias"][None, :, None, None])
    return x


def fused_texture(state: State, x: Tensor, styles: Tensor, maps: list[Tensor], noises: list[Tensor]) -> Tensor:
    """The image of styles [N, D], with the map before each layer."""
    image = None
    for i in range(layer_count(state)):
        x = finish(state, i, fused(state, f"{TEXTURE}.convs.{i}.conv", x, styles, maps[i]), noises[i])
        if i % 2:
            inner = centre(maps[i], *x.shape[-2:])
            rgb = fused(state, f"{TEXTURE}.to_rgbs.{i // 2}.conv", x, styles, inner, demodulate=False)
            rgb = rgb + state[f"{TEXTURE}.to_rgbs.{i // 2}.bias"]
            image = rgb if image is None else rgb + centre(skip(image), *rgb.shape[-2:])
    return image


def nearest_style(centres: list[list[float]], height: int, width: int, kernel: int) -> Tensor:
    """Pixel map [1, N, height, width]: one-hot of the nearest centre (row, column), then the mean of a square.

    Distances are of whole pixels: the offsets along both axes are cut down to integers before they are squared.
    """
    rows, cols = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    distance = torch.stack([(rows - row).trunc().square() + (cols - col).trunc().square() for row, col in centres])
    hot = F.one_hot(distance.argmin(dim=0), len(centres)).permute(2, 0, 1)[None].double()
    hot = F.pad(hot, (kernel // 2,) * 4, mode="replicate")
    return F.avg_pool2d(hot, kernel, stride=1).float()


# Discriminator


def blur_down(x: Tensor, padding: int) -> Tensor:
    """Zero padding, then the blur with [1 3 3 1] x [1 3 3 1] / 64 of every channel."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    kernel = torch.outer(taps, taps) / 64
    x = F.pad(x, (padding,) * 4)
    return torch.cat([F.conv2d(x[:, c : c + 1], kernel[None, None]) for c in range(x.shape[1])], dim=1)


def plain(state: State, key: str, x: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
    """Equalised convolution without bias."""
    weight = state[f"{key}.weight"]
    return F.conv2d(x, weight / math.sqrt(weight[0].numel()), stride=stride, padding=padding)


def biased(state: State, key: str, x: Tensor) -> Tensor:
    """Bias per channel, then leaky ReLU."""
    return leaky(x + state[f"{key}.bias"][None, :, None, None])


def discriminator(state: State, image: Tensor) -> tuple[Tensor, Tensor]:
    """Score [B, 1] and coordinates [B, 3]; the whole batch is one group of the minibatch deviation."""
    x = biased(state, "convs.0.1", plain(state, "convs.0.0", image))
    block = 1
    while f"convs.{block}.conv1.0.weight" in state:
        key = f"convs.{block}"
        y = biased(state, f"{key}.conv1.1", plain(state, f"{key}.conv1.0", x, padding=1))
        y = biased(state, f"{key}.conv2.2", plain(state, f"{key}.conv2.1", blur_down(y, 2), stride=2))
        x = (y + plain(state, f"{key}.skip.1", blur_down(x, 1), stride=2)) / math.sqrt(2)
        block += 1
    deviation = ((x - x.mean(dim=0)).square().mean(dim=0) + 1e-8).sqrt().mean()
    x = torch.cat([x, deviation.expand(len(x), 1, *x.shape[2:])], dim=1)
    x = biased(state, "final_conv.1", plain(state, "final_conv.0", x, padding=1)).flatten(1)
    heads = [
        linear(state, f"{head}.1", leaky(linear(state, f"{head}.0", x))) for head in ("final_linear", "coord_linear")
    ]
    return heads[0], heads[1]


# Sizes and coordinates


@dataclass(frozen=True)
class Setup:
    """Sizes of a folder. The defaults are narrow networks in the public geometry."""

    seed: int = 0
    global_dim: int = 8
    local_dim: int = 6
    widths: tuple[int, ...] = (8, 8, 8, 8, 8, 8, 6, 6)  # of the texture layers
    mapping_layers: int = 3
    structure_layers: int = 4
    radius: int = 3
    cells: int = 11  # along the edge of a patch
    vertical_samples: int = 10
    vertical_cut: float = 3.0
    horizontal_share: float = 0.25  # of a patch in the canvas
    discriminator_widths: tuple[int, ...] = (3, 4, 4, 4, 4, 4)
    patches: tuple[int, int] = (3, 2)  # of the larger canvas, rows and columns
    target: tuple[int, int] = (101, 90)  # its middle
    centres: tuple[tuple[float, float], ...] = ((0.2, 0.1), (0.6, 0.9), (0.9, 0.2))  # of the block-wise styles
    blur_kernel: int = 21

    @property
    def local(self) -> int:
        """Cells of the local latent along the edge of a patch."""
        return self.cells + 2 * self.radius * self.structure_layers

    @property
    def columns(self) -> int:
        """Columns of the canvas of training patches."""
        return round(self.local / self.horizontal_share)

    @property
    def sizes(self) -> list[int]:
        """Edge of a patch before the first layer and after each."""
        sizes = [self.cells]
        for i in range(len(self.widths)):
            sizes.append(sizes[-1] - 2 if i % 2 else 2 * sizes[-1] - 3)
        return sizes

    @property
    def steps(self) -> list[int]:
        """Distance of two neighbouring patches, before the first layer and after each."""
        unit = 2 ** (len(self.widths) // 2)
        pixel_step = self.sizes[-1] // unit * unit
        return [pixel_step // unit * 2 ** ((i + 1) // 2) for i in range(len(self.widths) + 1)]

    def canvas(self, level: int) -> list[int]:
        """Height and width of the larger canvas after `level` layers."""
        return [self.steps[level] * (patches - 1) + self.sizes[level] for patches in self.patches]

    @property
    def crop(self) -> list[int]:
        """Where the target begins on the larger canvas."""
        return [(meta - target) // 2 for meta, target in zip(self.canvas(-1), self.target, strict=True)]


def raw_coordinates(setup: Setup, rows: Tensor, cols: Tensor) -> Tensor:
    """Rows below the middle [h] and columns [w] -> [3, h, w], before tanh, cos and sin."""
    slope = 2 * setup.vertical_cut / (setup.cells + setup.vertical_samples - 1)
    across = 2 * cols / (setup.columns - 1) - 1
    vertical = (slope * rows)[:, None].expand(-1, len(cols))
    return torch.stack([vertical, *[across.expand(len(rows), -1)] * 2])


def wrapped(raw: Tensor) -> Tensor:
    """tanh, cos and sin of the three channels."""
    return torch.stack([raw[0].tanh(), (math.pi * raw[1]).cos(), (math.pi * raw[2]).sin()])


def grid_of(setup: Setup, height: int, width: int, start: tuple[int, int] = (0, 0), panorama: bool = False) -> Tensor:
    """[1, 3, height, width]."""
    rows = torch.arange(height) - (height - 1) / 2 + start[0] / 2
    cols = torch.arange(width).float() + start[1]
    if panorama:
        cols = cols * (setup.columns - 1) / width
    return wrapped(raw_coordinates(setup, rows, cols))[None]


def constant_grid(setup: Setup) -> Tensor:
    """The canvas that training patches are cut from, before tanh, cos and sin."""
    height = setup.local + setup.vertical_samples
    return raw_coordinates(setup, torch.arange(height) - (height - 1) / 2, torch.arange(setup.columns).float())


# The folder


@dataclass
class Draws:
    """Random numbers of one seed."""

    random: torch.Generator

    def normal(self, *shape: int) -> Tensor:
        """Standard normal values."""
        return torch.randn(*shape, generator=self.random)

    def half(self, *shape: int) -> Tensor:
        """Standard normal values that half precision holds."""
        return self.normal(*shape).half()

    def uniform(self, *shape: int) -> Tensor:
        """Values in [0, 1)."""
        return torch.rand(*shape, generator=self.random)


def generator_weights(setup: Setup, draw: Draws) -> dict[str, Tensor]:
    """A generator in the public layout."""
    state: dict[str, Tensor] = {}

    def modulated_weights(key: str, inputs: int, outputs: int, kernel: int) -> None:
        state[f"{key}.weight"] = draw.normal(1, outputs, inputs, kernel, kernel)
        state[f"{key}.modulation.weight"] = draw.normal(inputs, setup.global_dim)
        state[f"{key}.modulation.bias"] = 1 + 0.2 * draw.normal(inputs)

    taps = torch.tensor([1.0, 2.0, 1.0])
    kernel = torch.outer(taps, taps) / 4
    for i in range(setup.structure_layers):
        modulated_weights(f"{STACK}.{i}.conv.conv", setup.local_dim + 3, setup.local_dim, 2 * setup.radius + 1)
        state[f"{STACK}.{i}.conv.activate.bias"] = 0.3 * draw.normal(setup.local_dim)
    for i in range(1, setup.mapping_layers + 1):
        state[f"{TEXTURE}.mapping.{i}.weight"] = draw.normal(setup.global_dim, setup.global_dim) / 0.01
        state[f"{TEXTURE}.mapping.{i}.bias"] = 20 * draw.normal(setup.global_dim)
    state[f"{TEXTURE}.const_z.input"] = draw.normal(1, setup.local_dim, 4, 4)
    for i, (inputs, outputs) in enumerate(zip([setup.local_dim, *setup.widths], setup.widths, strict=False)):
        modulated_weights(f"{TEXTURE}.convs.{i}.conv", inputs, outputs, 3)
        if i % 2 == 0:
            state[f"{TEXTURE}.convs.{i}.conv.blur.kernel"] = kernel.clone()
        else:
            modulated_weights(f"{TEXTURE}.to_rgbs.{i // 2}.conv", outputs, 3, 1)
            state[f"{TEXTURE}.to_rgbs.{i // 2}.bias"] = 0.2 * draw.normal(1, 3, 1, 1)
            state[f"{TEXTURE}.to_rgbs.{i // 2}.upsample.kernel"] = kernel.clone()
        state[f"{TEXTURE}.convs.{i}.noise.weight"] = 0.2 + 0.2 * draw.uniform(1)
        state[f"{TEXTURE}.convs.{i}.activate.bias"] = 0.3 * draw.normal(outputs)
        edge = 2 ** ((i + 1) // 2 + 2)
        state[f"{TEXTURE}.noises.noise_{i}"] = draw.normal(1, 1, edge, edge)
    return state


def discriminator_weights(setup: Setup, draw: Draws) -> dict[str, Tensor]:
    """A discriminator in the public layout."""
    widths, last = setup.discriminator_widths, setup.discriminator_widths[-1]
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    kernel, edge = torch.outer(taps, taps) / 64, setup.sizes[-1]
    state = {"convs.0.0.weight": draw.normal(widths[0], 3, 1, 1), "convs.0.1.bias": 0.2 * draw.normal(widths[0])}
    for i, (inputs, outputs) in enumerate(zip(widths[:-1], widths[1:], strict=True), start=1):
        state[f"convs.{i}.conv1.0.weight"] = draw.normal(inputs, inputs, 3, 3)
        state[f"convs.{i}.conv1.1.bias"] = 0.2 * draw.normal(inputs)
        state[f"convs.{i}.conv2.0.kernel"] = kernel.clone()
        state[f"convs.{i}.conv2.1.weight"] = draw.normal(outputs, inputs, 3, 3)
        state[f"convs.{i}.conv2.2.bias"] = 0.2 * draw.normal(outputs)
        state[f"convs.{i}.skip.0.kernel"] = kernel.clone()
        state[f"convs.{i}.skip.1.weight"] = draw.normal(outputs, inputs, 1, 1)
        edge //= 2
    state["final_conv.0.weight"] = draw.normal(last, last + 1, 3, 3)
    state["final_conv.1.bias"] = 0.2 * draw.normal(last)
    for head, outputs in (("final_linear", 1), ("coord_linear", 3)):
        for layer, (o, i) in enumerate(((last, last * edge**2), (outputs, last))):
            state[f"{head}.{layer}.weight"], state[f"{head}.{layer}.bias"] = draw.normal(o, i), 0.2 * draw.normal(o)
    return state


def noises_of(draw: Draws, batch: int, shapes: list[tuple[int, int]]) -> dict[str, Tensor]:
    """Noise for every layer, by the names of the files."""
    return {f"in.noise_{i}": draw.half(batch, 1, *shape) for i, shape in enumerate(shapes)}


def noise_list(tensors: Mapping[str, Tensor], prefix: str = "in") -> list[Tensor]:
    """The noise of every layer of a file, in float32."""
    return [tensors[f"{prefix}.noise_{i}"].float() for i in range(count(tensors, f"{prefix}.noise_{{}}"))]


def shapes_of(setup: Setup, height: int, width: int) -> list[tuple[int, int]]:
    """Feature sizes after each layer, from height x width latent cells."""
    shapes = []
    for i in range(len(setup.widths)):
        height, width = (height - 2, width - 2) if i % 2 else (2 * height - 3, 2 * width - 3)
        shapes.append((height, width))
    return shapes


def patch_file(setup: Setup, state: State, draw: Draws, batch: int = 2, inject: int = 4) -> dict[str, Tensor]:
    """Two patches: what every part of the generator gives."""
    n, layers = setup.local, len(setup.widths)
    given = {
        "in.z": draw.normal(batch, 2, setup.global_dim),
        "in.local": draw.half(batch, setup.local_dim, n, n),
        "in.coords": torch.cat([grid_of(setup, n, n, (k, 2 * k)) for k in range(batch)]),
        "in.wplus": draw.normal(1, layers + 1, setup.global_dim),
        **noises_of(draw, batch, shapes_of(setup, setup.cells, setup.cells)),
    }
    blocks = structure_blocks(state, given["in.z"][:, 0], given["in.local"].float(), given["in.coords"])
    noises, first = noise_list(given), [noise[:1] for noise in noise_list(given)]
    features, stages = texture(state, blocks[-1], mixed(state, given["in.z"], layers + 1), noises)
    mixing = mixed(state, given["in.z"], inject)[:1]
    return {
        **given,
        "out.w": mapping(state, given["in.z"].flatten(0, 1)).unflatten(0, (batch, 2)),
        "out.structure": blocks[-1],
        **{f"mid.ss_block_{i}": block[:1] for i, block in enumerate(blocks)},
        **{f"mid.ts_conv_{i}": feature[:1] for i, feature in enumerate(features[:2])},
        **{f"mid.rgb_{k}": stage[:1] for k, stage in enumerate(stages[:-1])},
        "out.image_nomix": stages[-1],
        f"out.image_inject{inject}": texture(state, blocks[-1][:1], mixing, first)[1][-1],
        "out.image_wplus": texture(state, blocks[-1][:1], given["in.wplus"], first)[1][-1],
    }


def direct_file(setup: Setup, state: State, draw: Draws) -> dict[str, Tensor]:
    """A latent that is not square."""
    height, width = setup.local, setup.local + 2
    margin = height - setup.cells
    given = {
        "in.z": draw.normal(1, 2, setup.global_dim),
        "in.local": draw.half(1, setup.local_dim, height, width),
        **noises_of(draw, 1, shapes_of(setup, height - margin, width - margin)),
    }
    coords = grid_of(setup, height, width)
    z_s = structure_blocks(state, given["in.z"][:, 0], given["in.local"].float(), coords)[-1]
    styles = mixed(state, given["in.z"], len(setup.widths) + 1)
    image = texture(state, z_s, styles, noise_list(given))[1][-1]
    return {**given, "out.coords": coords, "out.structure": z_s, "out.image": image}


def canvas_inputs(setup: Setup, draw: Draws, styles: int) -> dict[str, Tensor]:
    """The inputs of the larger canvas."""
    shape = [n + setup.local - setup.cells for n in setup.canvas(0)]
    return {
        "in.z": draw.normal(1, styles, setup.global_dim),
        "in.local": draw.half(1, setup.local_dim, *shape),
        "in.coords": grid_of(setup, *shape),
        **noises_of(draw, 1, [tuple(setup.canvas(i + 1)) for i in range(len(setup.widths))]),
    }


def windows(setup: Setup, tensors: list[Tensor], row: int, col: int, first: int) -> list[Tensor]:
    """What a patch reads of the canvases before or after each layer; the first of them has level `first`."""
    cut = []
    for level, tensor in enumerate(tensors, start=first):
        top, left, size = setup.steps[level] * row, setup.steps[level] * col, setup.sizes[level]
        cut.append(tensor[..., top : top + size, left : left + size])
    return cut


def canvas_outputs(setup: Setup, given: Mapping[str, Tensor], draw_patch, corner: int = 40) -> dict[str, Tensor]:
    """The canvas patch by patch, the later one on top; draw_patch(row, col, local, coords, noises) -> image."""
    meta, noises = torch.zeros(1, 3, *setup.canvas(-1)), noise_list(given)
    for row in range(setup.patches[0]):
        for col in range(setup.patches[1]):
            top, left = setup.steps[0] * row, setup.steps[0] * col
            local, coords = (
                given[key].float()[..., top : top + setup.local, left : left + setup.local]
                for key in ("in.local", "in.coords")
            )
            (target,) = windows(setup, [meta], row, col, len(setup.widths))
            target.copy_(draw_patch(row, col, local, coords, windows(setup, noises, row, col, 1)))
    (top, left), (height, width) = setup.crop, setup.target
    middle = meta[..., top : top + height, left : left + width]
    return {"out.image": middle, f"out.meta_corner_{corner}": meta[..., :corner, :corner]}


def blockwise_file(setup: Setup, state: State, draw: Draws) -> dict[str, Tensor]:
    """A larger canvas in one style."""
    given = canvas_inputs(setup, draw, styles=2)
    styles = mixed(state, given["in.z"], len(setup.widths) + 1)

    def draw_patch(row, col, local, coords, noises):
        z_s = structure_blocks(state, given["in.z"][:, 0], local, coords)[-1]
        return texture(state, z_s, styles, noises)[1][-1]

    return {**given, **canvas_outputs(setup, given, draw_patch)}


def centre_pixels(setup: Setup) -> list[list[float]]:
    """The styles' centres on the larger canvas."""
    return [[c * t + o for c, t, o in zip(place, setup.target, setup.crop, strict=True)] for place in setup.centres]


def fused_blockwise_file(setup: Setup, state: State, draw: Draws) -> dict[str, Tensor]:
    """A larger canvas in several styles."""
    given = canvas_inputs(setup, draw, styles=len(setup.centres))
    z = given["in.z"][0]
    styles = mapping(state, z)
    pixel_map = nearest_style(centre_pixels(setup), *setup.canvas(-1), setup.blur_kernel)
    maps, outer = backward_maps(state, pixel_map, setup.radius)

    def draw_patch(row, col, local, coords, noises):
        top, left = setup.steps[0] * row, setup.steps[0] * col
        z_s = fused_structure(
            state, z, local, coords, outer[..., top : top + setup.local, left : left + setup.local]
        )
        return fused_texture(state, z_s, styles, windows(setup, maps, row, col, 0), noises)

    (top, left), (height, width) = setup.crop, setup.target
    return {
        **given,
        "out.w": styles[None],
        "fusion.pixel_map0_crop": pixel_map[:, :1, top : top + height, left : left + width],
        "fusion.ss_map0": outer[:, :1],
        **{f"fusion.ts_{i}_map0": maps[i][:, :1] for i in (0, 3)},
        **canvas_outputs(setup, given, draw_patch),
    }


def fused_patch_file(setup: Setup, state: State, draw: Draws) -> dict[str, Tensor]:
    """One patch in two styles, by a smooth random map."""
    n, edge = setup.local, setup.sizes[-1]
    given = {
        "in.z": draw.normal(1, 2, setup.global_dim),
        "in.local": draw.half(1, setup.local_dim, n, n),
        "in.coords": grid_of(setup, n, n),
        **noises_of(draw, 1, shapes_of(setup, setup.cells, setup.cells)),
    }
    first = (4 * F.avg_pool2d(draw.normal(1, 1, edge + 16, edge + 16), 17, stride=1) * 17 / 4).sigmoid()
    maps, outer = backward_maps(state, torch.cat([first, 1 - first], dim=1), setup.radius)
    styles = mapping(state, given["in.z"][0])
    z_s = fused_structure(state, given["in.z"][0], given["in.local"].float(), given["in.coords"], outer)
    return {
        **given,
        "out.w": styles[None],
        "fusion.pixel_map0": first,
        "fusion.ss_map0": outer[:, :1],
        **{f"fusion.ts_{i}_map0": m[:, :1] for i, m in enumerate(maps[:-1])},
        "out.structure": z_s,
        "out.image": fused_texture(state, z_s, styles, maps, noise_list(given)),
    }


def coords_file(setup: Setup, draw: Draws, samples: int = 6) -> dict[str, Tensor]:
    """Grids for training and for images."""
    n, columns, constant = setup.local, setup.columns, constant_grid(setup)
    slope, step = 2 * setup.vertical_cut / (setup.cells + setup.vertical_samples - 1), 1 / (columns - 1)
    reach = torch.tensor([slope / 2, step, step], dtype=torch.float64)
    rows = torch.randint(setup.vertical_samples, (samples,), generator=draw.random)
    cols = torch.randint(columns, (samples,), generator=draw.random)
    uniform = draw.uniform(3, samples)
    patches, labels = [], []
    for k, (row, col) in enumerate(zip(rows.tolist(), cols.tolist(), strict=True)):
        raw = constant[:, row : row + n][:, :, [(col + i) % columns for i in range(n)]]
        patches.append(wrapped(raw + ((2 * uniform[:, k] - 1) * reach).float()[:, None, None]))
        angle = math.pi * (2 * col / (columns - 1) - 1)
        labels.append([2 * row / (setup.vertical_samples - 1) - 1, math.cos(angle), math.sin(angle)])
    return {
        "const_grid": constant,
        "perturb_range": reach,
        f"test_{n}x{n}": grid_of(setup, n, n),
        f"test_{n}x{n + 9}_init_4_9": grid_of(setup, n, n + 9, (4, 9)),
        f"test_{n}x{2 * n}_pano": grid_of(setup, n, 2 * n, panorama=True),
        "train_x_start": rows,
        "train_y_start": cols,
        "train_uniform01": uniform,
        "train_coords": torch.stack(patches),
        "train_ac_coords": torch.tensor(labels),
    }


def discriminator_file(setup: Setup, state: State, draw: Draws, batch: int = 4) -> dict[str, Tensor]:
    """Image -> score, coordinates, mean squared gradient."""
    image = draw.half(batch, 3, setup.sizes[-1], setup.sizes[-1])
    x = image.float().requires_grad_()
    score, coordinates = discriminator(state, x)
    (slope,) = torch.autograd.grad(score.sum(), x)
    return {
        "in.image": image,
        "out.d_patch": score.detach(),
        "out.ac_coords_pred": coordinates.detach(),
        "out.r1": slope.square().sum(dim=(1, 2, 3)).mean()[None],
    }


def pair_angle(x: Tensor) -> Tensor:
    """Angular similarity of the samples 2k and 2k + 1."""
    pairs = x.flatten(1)[0::2], x.flatten(1)[1::2]
    cosine = (pairs[0] * pairs[1]).sum(dim=1) / (pairs[0].norm(dim=1) * pairs[1].norm(dim=1))
    return 1 - cosine.acos() / math.pi


def path_file(setup: Setup, state: State, draw: Draws, batch: int = 2) -> dict[str, Tensor]:
    """Path lengths of the generator, styles mixed nowhere."""
    n, edge = setup.local, setup.sizes[-1]
    given = {
        "pl.z": draw.normal(batch, 2, setup.global_dim),
        "pl.local": draw.half(batch, setup.local_dim, n, n),
        "pl.coords": torch.cat([grid_of(setup, n, n)] * batch),
        "pl.y": draw.half(batch, 3, edge, edge),
    }
    for i, shape in enumerate(shapes_of(setup, setup.cells, setup.cells)):
        given[f"pl.noise_{i}"] = draw.half(batch, 1, *shape)
    z_s = structure_blocks(state, given["pl.z"][:, 0], given["pl.local"].float(), given["pl.coords"])[-1]
    styles = mixed(state, given["pl.z"], len(setup.widths) + 1).requires_grad_()
    image = texture(state, z_s, styles, noise_list(given, "pl"))[1][-1]
    (slope,) = torch.autograd.grad((image * given["pl.y"].float() / edge).sum(), styles)
    return {**given, "pl.lengths": slope.square().mean(dim=(1, 2)).sqrt()}


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp x)."""
    return (1 + x.exp()).log()


def generator_losses_file(setup: Setup, state: State, draw: Draws, batch: int = 5) -> dict[str, Tensor]:
    """The losses of the generator stage."""
    real, fake = draw.normal(batch, 1), draw.normal(batch, 1)
    label, pred = draw.normal(batch, 3), draw.normal(batch, 3)
    local, structure = draw.half(4, setup.local_dim, 5, 5), draw.normal(4, setup.local_dim, 3, 3)
    structure[1::2] += structure[0::2]
    lengths, mean = 3 * draw.uniform(batch + 1), torch.tensor([0.7])
    new = mean + 0.01 * (lengths.mean() - mean)
    return {
        "adv.real": real,
        "adv.fake": fake,
        "adv.d_loss": (softplus(-real).mean() + softplus(fake).mean())[None],
        "adv.g_loss": softplus(-fake).mean()[None],
        "ac.label": label,
        "ac.pred": pred,
        "ac.loss_vert_only": (pred[:, 0] - label[:, 0]).abs().mean()[None],
        "div.local": local,
        "div.structure": structure,
        "div.loss": 1 / (pair_angle(structure).mean() / pair_angle(local.float()).mean() + 1e-5)[None],
        "path.lengths": lengths,
        "path.mean_in": mean,
        "path.mean_out": new,
        "path.penalty": (lengths - new).square().mean()[None],
        **path_file(setup, state, draw),
    }


def discrepancy(source: Tensor, target: Tensor) -> Tensor:
    """Maximum mean discrepancy of two sets of equal size under five Gaussian kernels."""
    points = torch.cat([source, target])
    n = len(points)
    square = torch.stack([torch.stack([(a - b).square().sum() for b in points]) for a in points])
    narrowest = square.sum() / (n * n - n) / 2**2
    kernel = sum(torch.exp(-square / (narrowest * 2**i)) for i in range(5))
    half = len(source)
    xx, yy, xy, yx = kernel[:half, :half], kernel[half:, half:], kernel[:half, half:], kernel[half:, :half]
    return xx.mean() + yy.mean() - xy.mean() - yx.mean()


def inverter_losses_file(setup: Setup, draw: Draws) -> dict[str, Tensor]:
    """Losses of the inverter stage."""
    image = draw.half(1, 3, setup.sizes[-1], setup.sizes[-1])
    halves = [image.float()]
    for _ in range(2):
        halves.append(F.interpolate(halves[-1], scale_factor=0.5, mode="bilinear", align_corners=False))
    source, target = draw.normal(6, setup.global_dim), draw.normal(6, setup.global_dim) + 0.5
    return {
        "down.in": image, "down.k1": halves[1], "down.k2": halves[2],
        "mmd.source": source, "mmd.target": target, "mmd.loss": discrepancy(source, target)[None],
    }  # fmt: skip


def blocks_section(setup: Setup) -> dict:
    """The geometry of the larger canvas, as the parameter file has it."""
    steps = setup.steps
    return {
        "target": list(setup.target), "num_steps": list(setup.patches), "meta": setup.canvas(-1),
        "pixel_step": steps[-1], "latent_step": steps[0], "crop_offset": setup.crop,
        "out_feat_sizes": setup.sizes[1:], "out_feat_steps": steps[1:],
        "in_feat_sizes": setup.sizes[:-1], "in_feat_steps": steps[:-1],
    }  # fmt: skip


def parameters(setup: Setup) -> dict:
    """The parameter file."""
    fused_section = {
        **blocks_section(setup),
        "blur_kernel": setup.blur_kernel,
        "blur_type": "mean",
        "style_centers": setup.centres,
        "style_center_pixels": centre_pixels(setup),
    }
    return {
        "seed": setup.seed,
        "global_latent_dim": setup.global_dim,
        "local_latent_dim": setup.local_dim,
        "ts_width": setup.widths[0],
        "ts_conv_out_channels": setup.widths,
        "n_mlp": setup.mapping_layers,
        "ss_n_layers": setup.structure_layers,
        "ss_unfold_radius": setup.radius,
        "ts_input_size": setup.cells,
        "patch_size": setup.sizes[-1],
        "coord": {
            "num_dir": 3,
            "vert_sample_size": setup.vertical_samples,
            "hori_occupy_ratio": setup.horizontal_share,
            "vert_cut_pt": setup.vertical_cut,
            "continuous": True,
        },
        "discriminator": {"stddev_group": 4},
        "blockwise": blocks_section(setup),
        "fused_blockwise": fused_section,
    }


def checkpoint(setup: Setup, generator: State, judge: State) -> dict:
    """A training checkpoint whose generator and averaged generator differ."""
    biases = {key: value + 0.5 for key, value in generator.items() if key.endswith("activate.bias")}
    return {
        "iter": 1000 + setup.seed,
        "best_fid": 9.5,
        "g": {**generator, **biases},
        "d": dict(judge),
        "g_ema": dict(generator),
        "g_optim": {"state": {}, "param_groups": []},
        "d_optim": {"state": {}, "param_groups": []},
        "mean_path_lengths": [torch.tensor(1.5)],
    }


def write_folder(path: str | Path, **sizes) -> Setup:
    """Write a folder of numbers from random weights; `sizes` are fields of Setup."""
    folder, setup = Path(path), Setup(**sizes)
    folder.mkdir(parents=True, exist_ok=True)
    draw = Draws(torch.Generator().manual_seed(setup.seed))
    state, judge = generator_weights(setup, draw), discriminator_weights(setup, draw)
    files = {
        "infinitygan_state_dict": state,
        "infinitygan_discriminator_state_dict": judge,
        "infinitygan_patch_io": patch_file(setup, state, draw),
        "infinitygan_direct_io": direct_file(setup, state, draw),
        "infinitygan_blockwise_io": blockwise_file(setup, state, draw),
        "infinitygan_fused_blockwise_io": fused_blockwise_file(setup, state, draw),
        "infinitygan_fused_patch_io": fused_patch_file(setup, state, draw),
        "infinitygan_discriminator_io": discriminator_file(setup, judge, draw),
        "coords": coords_file(setup, draw),
        "losses_generator": generator_losses_file(setup, state, draw),
        "losses_patchinverter": inverter_losses_file(setup, draw),
    }
    for name, tensors in files.items():
        own = {key: value.detach().clone(memory_format=torch.contiguous_format) for key, value in tensors.items()}
        save_file(own, folder / f"{name}.safetensors")
    torch.save(checkpoint(setup, state, judge), folder / "infinitygan_best_fid.pth.tar")
    (folder / "infinitygan_hparams.json").write_text(json.dumps(parameters(setup)), encoding="utf-8")
    return setup
