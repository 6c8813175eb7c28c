"""Styles that vary over space: each position against the ordinary layer in its style, and blocks against the whole."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inversion.stylemaps import Passage, SoftMap, nearest_centre
from models.geometry import Interval, Region, partition
from models.layers import ModulatedConv2d
from models.mixing import MixedConv2d, mix_structure, mix_texture
from models.noise import NoiseField
from models.structure import CoordinateGrid, StructureSynthesizer, beside
from models.texture import TextureSynthesizer

TOLERANCE = 1e-5
GRID = CoordinateGrid(vertical_slope=0.3, horizontal_period=20, row_starts=6)
close = partial(torch.allclose, atol=TOLERANCE, rtol=TOLERANCE)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def texture_synthesizer(stages):
    torch.manual_seed(1)
    network = TextureSynthesizer(5, 6, [6, 4, 4, 3, 3][:stages], mapping_layers=1, mapping_lr_multiplier=0.01)
    for layer in network.layers:
        torch.nn.init.constant_(layer.noise_strength, 0.3)
        torch.nn.init.normal_(layer.bias)
    for stage in network.synthesis:
        stage.to_rgb.conv.weight.data *= 0.2
    return network.requires_grad_(False)


def structure_synthesizer(layers=2, radius=1):
    torch.manual_seed(2)
    return StructureSynthesizer(5, 6, layers, radius, GRID).requires_grad_(False)


def styles_of(network, count, per_layer):
    return normal(count, network.style_count, 6) if per_layer else normal(count, 6)


def positions(region, spacing):
    """Pixels at which the features of a region are centred: rows [h, 1], columns [1, w]."""
    rows, cols = (spacing * torch.arange(axis.first, axis.last + 1.0) for axis in (region.rows, region.cols))
    return rows[:, None], cols[None]


def soft(count, sharpness=2.0):
    """Weights that change with every pixel, all of them above zero."""

    def weights(region, spacing):
        rows, cols = positions(region, spacing)
        waves = [torch.sin((0.13 + 0.05 * n) * rows + (0.21 - 0.07 * n) * cols + n) for n in range(count)]
        return torch.softmax(sharpness * torch.stack(waves), dim=0)

    return weights


def constant(shares):
    return lambda region, spacing: torch.tensor(shares)[:, None, None].expand(-1, *region.shape)


def split(boundary):
    """The first style left of a column of pixels, the second from it on."""

    def weights(region, spacing):
        right = (positions(region, spacing)[1] >= boundary).float().expand(region.shape)
        return torch.stack([1 - right, right])

    return weights


def mixed(styles, weights, row, col):
    return torch.einsum("n,n...->...", weights[:, row, col], styles)


# One layer


def exact_literally(conv, styles, x, before, after):
    """At each position what the ordinary convolution gives there in the style of the position."""
    columns = []
    for row in range(after.shape[1]):
        for col in range(after.shape[2]):
            y = conv(x, mixed(styles, after, row, col).expand(len(x), -1))
            assert y.shape[-2:] == after.shape[1:]
            columns.append(y[..., row, col])
    return torch.stack(columns, dim=-1).unflatten(-1, after.shape[1:])


def fast_literally(conv, styles, x, before, after):
    """InfinityGAN's approximation, a sum over positions and taps in float64."""
    weight = (conv.weight * conv.gain).double()
    outputs, _, kernel, _ = weight.shape

    def scale(weights, row, col):
        return conv.modulation(mixed(styles, weights, row, col)[None])[0].double()

    def demodulation(weights, row, col):
        energy = (weight * scale(weights, row, col)[:, None, None]).square().sum(dim=(1, 2, 3))
        return 1 / torch.sqrt(energy + 1e-8) if conv.demodulate else torch.ones(outputs).double()

    height, width = x.shape[-2:]
    cells = [(row, col) for row in range(height) for col in range(width)]
    scaled = {cell: x[..., cell[0], cell[1]].double() * scale(before, *cell) for cell in cells}
    if conv.upsample:
        factors = {cell: demodulation(before, *cell) for cell in cells}
        return upsampled_literally(scaled, factors, weight, len(x), height, width)
    y = torch.zeros(len(x), outputs, *after.shape[1:]).double()
    for row, col in ((r, c) for r in range(after.shape[1]) for c in range(after.shape[2])):
        for a, b in ((a, b) for a in range(kernel) for b in range(kernel)):
            y[..., row, col] += scaled[row + a, col + b] @ weight[..., a, b].T
        y[..., row, col] *= demodulation(after, row, col)
    return y.float()


def upsampled_literally(scaled, factors, weight, batch, height, width):
    """Transposed convolution, demodulation interpolated between the inputs' positions, blur."""
    spread = torch.zeros(batch, len(weight), 2 * height + 1, 2 * width + 1).double()
    for (row, col), values in scaled.items():
        for a, b in ((a, b) for a in range(3) for b in range(3)):
            spread[..., 2 * row + a, 2 * col + b] += values @ weight[..., a, b].T
    spread = spread[..., 1:-1, 1:-1]
    for row in range(2 * height - 1):
        for col in range(2 * width - 1):
            around = [factors[r, c] for r in {row // 2, (row + 1) // 2} for c in {col // 2, (col + 1) // 2}]
            spread[..., row, col] *= sum(around) / len(around)
    y = torch.zeros(batch, len(weight), 2 * height - 3, 2 * width - 3).double()
    for a, across in enumerate((0.5, 1.0, 0.5)):
        for b, along in enumerate((0.5, 1.0, 0.5)):
            y += across * along * spread[..., a : a + 2 * height - 3, b : b + 2 * width - 3]
    return y.float()


@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize(("kernel", "upsample"), [(1, False), (3, False), (3, True), (5, False)])
@settings(max_examples=10)
@given(count=st.integers(1, 4), batch=st.integers(1, 2), extra=st.integers(0, 3), seed=st.integers(0, 99))
def test_a_layer_equals_its_formula(kernel, upsample, demodulate, count, batch, extra, seed):
    torch.manual_seed(seed)
    conv = ModulatedConv2d(4, 3, kernel, 6, demodulate, upsample).requires_grad_(False)
    styles, region = normal(count, 6, seed=seed), Region.at(seed - 50, -seed, kernel + 1, kernel + extra)
    x, after = normal(batch, 4, *region.shape, seed=seed + 1), region.valid_output(conv.rule)
    maps = soft(count)(region, 2), soft(count)(after, 1 if upsample else 2)
    for exact, literally in ((True, exact_literally), (False, fast_literally)):
        fused = MixedConv2d(conv, styles, torch.float32, exact)(x, maps)
        assert close(fused, literally(conv, styles, x, *maps))


@pytest.mark.parametrize("upsample", [True, False])
def test_a_style_that_is_absent_counts_for_nothing(upsample):
    torch.manual_seed(0)
    conv = ModulatedConv2d(4, 3, 3, 6, upsample=upsample).requires_grad_(False)
    region, x, styles = Region.at(0, 0, 5, 6), normal(1, 4, 5, 6), normal(4, 6)
    maps = [torch.zeros(4, *part.shape) for part in (region, region.valid_output(conv.rule))]
    maps[0][[1, 3]], maps[1][[1, 3]] = soft(2)(region, 2), soft(2)(region.valid_output(conv.rule), 1)
    for exact in (True, False):
        everything = MixedConv2d(conv, styles, torch.float32, exact)(x, maps)
        present = MixedConv2d(conv, styles[[1, 3]], torch.float32, exact)(x, [weights[[1, 3]] for weights in maps])
        assert close(everything, present)


@pytest.mark.parametrize("exact", [True, False])
def test_bfloat16_is_close_to_float32(exact):
    texture, z_s, w = texture_synthesizer(3), normal(1, 5, 7, 8), normal(2, 6)
    one, other = (
        mix_texture(texture, w, soft(2), dtype, exact)(z_s, None, drawn_from(texture, z_s, (0, 0)))
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert other.dtype == torch.float32 and 0 < (one - other).abs().max() < 0.1


# Whole networks


def drawn_from(texture, z_s, origin):
    """The pixels that structure latents draw whose first cell is at an origin."""
    return Region.at(*origin, *z_s.shape[-2:]).valid_output(texture.rule)


def texture_literally(texture, w, weights, literally, z_s, noise, origin):
    """The layers in their order; maps are asked for at the pixels on which each layer's features are centred."""
    styles = w if w.dim() == 3 else w[:, None].expand(-1, texture.style_count, -1)
    region, image = Region.at(*origin, *z_s.shape[-2:]), None
    pixels, x = 2**texture.stages, z_s
    for index, layer in enumerate(texture.layers):
        before, region = weights(region, pixels), region.valid_output(layer.conv.rule)
        pixels = pixels // 2 if index % 2 == 0 else pixels
        after = weights(region, pixels)
        x = literally(layer.conv, styles[:, index], x, before, after)
        x = layer.finish(x, noise(index, region.rows.first, region.cols.first, *region.shape))
        if index % 2 == 0:
            continue
        to_rgb, style = texture.synthesis[index // 2].to_rgb, styles[:, min(index + 2, 2 * texture.stages)]
        rgb = exact_literally(to_rgb.conv, style, x, None, after) + to_rgb.bias[:, None, None]
        if image is not None:
            grown = torch.nn.functional.interpolate(
                image, size=[2 * n - 1 for n in image.shape[-2:]], mode="bilinear", align_corners=True
            )
            cut = [(inner - outer) // 2 for inner, outer in zip(grown.shape[-2:], rgb.shape[-2:], strict=True)]
            rgb = rgb + grown[..., cut[0] : cut[0] + rgb.shape[-2], cut[1] : cut[1] + rgb.shape[-1]]
        image = rgb
    return image, region


@pytest.mark.parametrize(("exact", "literally"), [(True, exact_literally), (False, fast_literally)])
@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("origin", [(0, 0), (-3, 8)])
def test_a_texture_equals_its_formula(exact, literally, per_layer, origin):
    texture, z_s, noise = texture_synthesizer(3), normal(1, 5, 5, 6), NoiseField(4)
    w, weights = styles_of(texture, 3, per_layer), soft(3)
    image = mix_texture(texture, w, weights, torch.float32, exact)(z_s, noise, drawn_from(texture, z_s, origin))
    expected, region = texture_literally(texture, w, weights, literally, z_s, noise, origin)
    assert image.shape[-2:] == region.shape and close(image, expected)


@pytest.mark.parametrize(("exact", "literally"), [(True, exact_literally), (False, fast_literally)])
@pytest.mark.parametrize("origin", [(0, 0), (-3, 8)])
def test_a_structure_equals_its_formula(exact, literally, origin):
    structure, z_g, weights = structure_synthesizer(), normal(3, 6), soft(3, sharpness=4)
    region = Region.at(*origin, 7, 6)
    z_l, grid = normal(2, 5, *region.shape), GRID.of_canvas(region, region)
    z_s = mix_structure(structure, z_g, weights, 8, exact)(z_l, grid, origin)
    x = z_l
    for layer in structure.layers:
        x, inside = beside(x, grid), region
        region = region.valid_output(layer.conv.rule)
        x = literally(layer.conv, z_g, x, weights(inside, 8), weights(region, 8)) + layer.bias[:, None, None]
        x = torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)
    assert close(z_s, x)


parts = st.lists(st.integers(0, 5), min_size=1, max_size=4).filter(sum)
shares = parts.map(lambda parts: [part / sum(parts) for part in parts])


@pytest.mark.parametrize("exact", [True, False])
@settings(max_examples=15)
@given(stages=st.integers(3, 5), shares=shares, per_layer=st.booleans(), top=st.integers(-30, 30))
def test_weights_that_are_constant_give_the_ordinary_image(exact, stages, shares, per_layer, top):
    texture, noise, origin = texture_synthesizer(stages), NoiseField(1), (top, 3)
    w, z_s = styles_of(texture, len(shares), per_layer), normal(2, 5, 6, 7)
    pixels = drawn_from(texture, z_s, origin)
    fused = mix_texture(texture, w, constant(shares), torch.float32, exact)(z_s, noise, pixels)
    mean = torch.einsum("n,n...->...", torch.tensor(shares), w).expand(2, *w.shape[1:])
    assert close(fused, texture(z_s, mean, noise, origin))


@pytest.mark.parametrize("exact", [True, False])
@given(shares=shares, layers=st.integers(1, 3), radius=st.integers(0, 2))
def test_weights_that_are_constant_give_the_ordinary_structure(exact, shares, layers, radius):
    structure, z_g = structure_synthesizer(layers, radius), normal(len(shares), 6)
    region = Region.at(-2, 5, 2 * layers * radius + 2, 2 * layers * radius + 3)
    z_l, grid = normal(2, 5, *region.shape), GRID.of_canvas(region, region)
    fused = mix_structure(structure, z_g, constant(shares), 8, exact)(z_l, grid, (-2, 5))
    mean = (torch.tensor(shares) @ z_g).expand(2, -1)
    assert close(fused, structure(z_l, mean, grid))


@pytest.mark.parametrize("exact", [True, False])
@settings(max_examples=15)
@given(stages=st.integers(3, 4), boundary=st.integers(-40, 120), left=st.integers(-3, 3), per_layer=st.booleans())
def test_pixels_that_read_one_style_are_those_of_the_ordinary_image(exact, stages, boundary, left, per_layer):
    texture, noise, z_s = texture_synthesizer(stages), NoiseField(2), normal(1, 5, 6, 14)
    w, cells = styles_of(texture, 2, per_layer), Region.at(0, left, 6, 14)
    fused = mix_texture(texture, w, split(boundary), torch.float32, exact)(z_s, noise, cells.valid_output(texture.rule))
    pixels, cell = cells.valid_output(texture.rule).cols, 2**stages
    read = [texture.rule.receptive_field(Interval(col, col)) for col in range(pixels.first, pixels.last + 1)]
    sides = [
        torch.tensor([cell * reach.last < boundary for reach in read]),
        torch.tensor([cell * reach.first >= boundary for reach in read]),
    ]
    for style, side in zip(w, sides, strict=True):
        ordinary = texture(z_s, style[None], noise, (0, left))
        assert close(fused[..., side], ordinary[..., side])
        if sides[0].any() and sides[1].any():
            assert not close(fused[..., ~side], ordinary[..., ~side])


# Blocks


def soft_map(data, canvas):
    """A map with 1 to 4 styles, by centres or by an array of labels."""
    count, blur = data.draw(st.integers(1, 4), "styles"), data.draw(st.integers(0, 40), "blur")
    if data.draw(st.booleans(), "array"):
        labels = torch.randint(count, (9, 11), generator=torch.Generator().manual_seed(0)).numpy()
        return count, SoftMap(lambda rows, cols: labels[rows[:, None] // 13 % 9, cols // 7 % 11], count, canvas, blur)
    centre = st.tuples(st.floats(-50, 150), st.floats(-50, 150))
    centres = data.draw(st.lists(centre, min_size=count, max_size=count), "centres")
    return count, SoftMap(nearest_centre(centres), count, canvas, blur)


def any_weights(data, canvas):
    """A number of styles and their weights."""
    kind = data.draw(st.sampled_from(["soft", "map", "passage"]), "kind")
    if kind == "map":
        return soft_map(data, canvas)
    if kind == "passage":
        first = data.draw(st.integers(canvas.cols.first - 20, canvas.cols.last + 20), "first of the gap")
        return 2, Passage(Interval(first, first + data.draw(st.integers(1, 60), "gap")))
    return 3, soft(3)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("stages", [3, 4, 5])
@settings(max_examples=15)
@given(data=st.data())
def test_blocks_of_a_texture_equal_the_whole(stages, exact, data):
    texture, noise = texture_synthesizer(stages), NoiseField(9)
    top, left = (data.draw(st.integers(-30, 30), name) for name in ("top", "left"))
    held = Region.at(top, left, *(data.draw(st.integers(5, 8), name) for name in ("height", "width")))
    drawn, z_s = held.valid_output(texture.rule), normal(1, 5, *held.shape)
    count, weights = any_weights(data, drawn)
    w = styles_of(texture, count, data.draw(st.booleans(), "per layer"))
    synthesize = mix_texture(texture, w, weights, torch.float32, exact)
    whole = synthesize(z_s, noise, drawn)
    assert whole.shape == (1, 3, *drawn.shape)
    edges = [data.draw(st.integers(1 + size // 3, size + 1), "edge") for size in drawn.shape]
    for rows in partition(drawn.rows, edges[0]):
        for cols in partition(drawn.cols, edges[1]):
            block = Region(rows, cols)
            part = synthesize(z_s[(..., *block.receptive_field(texture.rule).slices_in(held))], noise, block)
            assert (part - whole[(..., *block.slices_in(drawn))]).abs().max() <= TOLERANCE


@pytest.mark.parametrize("exact", [True, False])
@settings(max_examples=15)
@given(data=st.data(), layers=st.integers(1, 3), radius=st.integers(0, 2), edge=st.integers(1, 5))
def test_blocks_of_a_structure_equal_the_whole(exact, data, layers, radius, edge):
    structure = structure_synthesizer(layers, radius)
    cells = Region.at(-2, data.draw(st.integers(-5, 5), "left"), 4, 5)
    canvas = cells.receptive_field(structure.rule)
    count, weights = any_weights(data, Region.at(-16, 0, 40, 48))
    synthesize = mix_structure(structure, normal(count, 6), weights, 8, exact)
    z_l = normal(1, 5, *canvas.shape)

    def structure_at(region):
        around = region.receptive_field(structure.rule)
        part, grid = z_l[(..., *around.slices_in(canvas))], GRID.of_canvas(around, canvas)
        return synthesize(part, grid, (around.rows.first, around.cols.first))

    whole = structure_at(cells)
    assert whole.shape == (1, 5, *cells.shape)
    for rows in partition(cells.rows, edge):
        for cols in partition(cells.cols, edge):
            block = Region(rows, cols)
            assert (structure_at(block) - whole[(..., *block.slices_in(cells))]).abs().max() <= TOLERANCE
