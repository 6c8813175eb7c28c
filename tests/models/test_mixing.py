"""Styles that vary over space: each position against the ordinary layer in its style, and blocks against the whole."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from models.geometry import Region
from models.layers import ModulatedConv2d
from models.mixing import MixedConv2d, mix_structure, mix_texture
from models.noise import NoiseField
from tests.models.small import (
    GRID,
    TOLERANCE,
    close,
    largest_block_error,
    normal,
    structure_synthesizer,
    texture_synthesizer,
)

exactly = pytest.mark.parametrize("exact", [True, False])
parts = st.lists(st.integers(0, 5), min_size=1, max_size=4).filter(sum)
shares = parts.map(lambda parts: [part / sum(parts) for part in parts])


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


# The formulas


def exact_literally(conv, styles, x, before, after):
    """At each position what the ordinary convolution gives there in the style of the position."""
    height, width = after.shape[1:]
    own = torch.einsum("nhw,nd->hwd", after, styles)
    columns = [conv(x, own[i, j].expand(len(x), -1))[..., i, j] for i in range(height) for j in range(width)]
    return torch.stack(columns, dim=-1).unflatten(-1, (height, width))


def fast_literally(conv, styles, x, before, after):
    """InfinityGAN's approximation in float64; an up-sampling convolution is one between inserted zeros."""
    weight = (conv.weight * conv.gain).double()
    tent = torch.tensor([0.5, 1.0, 0.5]).double()

    def scale(weights):
        return conv.modulation(torch.einsum("nhw,nd->hwd", weights, styles)).permute(2, 0, 1).double()

    def demodulation(weights):
        energy = torch.einsum("oikl,ihw->ohw", weight.square(), scale(weights).square())
        return (energy + 1e-8) ** -0.5 if conv.demodulate else torch.ones(()).double()

    def between_zeros(x, weight, groups=1):
        zeros = torch.zeros(*x.shape[:2], *(2 * n + 1 for n in x.shape[-2:])).double()
        zeros[..., 1::2, 1::2] = x
        return F.conv2d(zeros, weight.flip(2, 3), groups=groups)

    x = x.double() * scale(before)
    if not conv.upsample:
        return (F.conv2d(x, weight) * demodulation(after)).float()
    tents = (tent[:, None] * tent).expand(len(weight), 1, 3, 3)
    factor = demodulation(before).expand(len(weight), *x.shape[-2:])
    y = between_zeros(x, weight) * between_zeros(factor[None], tents, len(weight))
    return F.conv2d(y, tents, groups=len(weight)).float()


LITERALLY = {True: exact_literally, False: fast_literally}


@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize(("kernel", "upsample"), [(1, False), (3, False), (3, True), (5, False)])
@settings(max_examples=5)
@given(count=st.integers(1, 4), batch=st.integers(1, 2), extra=st.integers(0, 3), seed=st.integers(0, 99))
def test_a_layer_equals_its_formula(kernel, upsample, demodulate, count, batch, extra, seed):
    torch.manual_seed(seed)
    conv = ModulatedConv2d(4, 3, kernel, 6, demodulate, upsample).requires_grad_(False)
    styles, region = normal(count, 6, seed=seed), Region.at(seed - 50, -seed, kernel + 1, kernel + extra)
    x, after = normal(batch, 4, *region.shape, seed=seed + 1), region.valid_output(conv.rule)
    maps = soft(count)(region, 2), soft(count)(after, 1 if upsample else 2)
    for exact, literally in LITERALLY.items():
        assert close(MixedConv2d(conv, styles, torch.float32, exact)(x, maps), literally(conv, styles, x, *maps))


# The ordinary networks


@exactly
@settings(max_examples=8)
@given(stages=st.integers(3, 4), shares=shares, per_layer=st.booleans(), top=st.integers(-30, 30))
def test_weights_that_are_constant_give_the_ordinary_image(exact, stages, shares, per_layer, top):
    texture, noise, z_s = texture_synthesizer(stages), NoiseField(1), normal(2, 5, 6, 7)
    w, pixels = styles_of(texture, len(shares), per_layer), Region.at(top, 3, 6, 7).valid_output(texture.rule)
    image = mix_texture(texture, w, constant(shares), torch.float32, exact)(z_s, noise, pixels)
    mean = torch.einsum("n,n...->...", torch.tensor(shares), w).expand(2, *w.shape[1:])
    assert close(image, texture(z_s, mean, noise, (top, 3)))
    half = mix_texture(texture, w, constant(shares), torch.bfloat16, exact)(z_s, noise, pixels)
    assert half.dtype == torch.float32 and 0 < (image - half).abs().max() < 0.1


@exactly
@settings(max_examples=10)
@given(data=st.data())
def test_blocks_of_a_texture_equal_the_whole(exact, data):
    texture, top, left = texture_synthesizer(3), *data.draw(st.tuples(*[st.integers(-30, 30)] * 2))
    held = Region.at(top, left, *data.draw(st.tuples(*[st.integers(5, 8)] * 2)))
    drawn, z_s = held.valid_output(texture.rule), normal(1, 5, *held.shape)
    w = styles_of(texture, 3, data.draw(st.booleans(), "per layer"))
    weights = data.draw(st.sampled_from([soft(3), soft(3, sharpness=500.0)]))
    synthesize = mix_texture(texture, w, weights, torch.float32, exact)

    def pixels(region):
        return synthesize(z_s[(..., *region.receptive_field(texture.rule).slices_in(held))], NoiseField(9), region)

    edges = [data.draw(st.integers(1 + size // 3, size + 1), "edge") for size in drawn.shape]
    assert largest_block_error(drawn, *edges, pixels) <= TOLERANCE


@exactly
@settings(max_examples=10)
@given(layers=st.integers(1, 3), radius=st.integers(0, 2), edge=st.integers(1, 5))
def test_blocks_of_a_structure_equal_the_whole(exact, layers, radius, edge):
    structure, cells = structure_synthesizer(layers, radius), Region.at(-2, 3, 4, 5)
    canvas = cells.receptive_field(structure.rule)
    synthesize, z_l = mix_structure(structure, normal(3, 6), soft(3), 8, exact), normal(1, 5, *canvas.shape)

    def structure_at(region):
        around = region.receptive_field(structure.rule)
        part, grid = z_l[(..., *around.slices_in(canvas))], GRID.of_canvas(around, canvas)
        return synthesize(part, grid, (around.rows.first, around.cols.first))

    assert largest_block_error(cells, edge, edge, structure_at) <= TOLERANCE
