"""Generated images: fields by seed, styles and noise that vary over space, panoramas, and blocks against the whole."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inversion.blocks import blocks
from inversion.generation import GeneratedStructure, LocalField, generated_style
from inversion.grain import field, noise_of
from inversion.passes import Decoder
from inversion.scenes import Fusion, MixedNoise, Scene
from inversion.stylemaps import Passage, SoftMap, nearest_centre
from models.geometry import Interval, Region
from models.noise import NoiseField, gaussian_field

TOLERANCE = 1e-5
CPU = torch.device("cpu")
SEEDS = st.integers(0, 2**40)
starts, sizes = st.integers(-40, 40), st.integers(1, 9)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def decoder_of(generator):
    return Decoder(generator, CPU, torch.float32)


def generated(generator, size, style, noise, seed=0, period=None):
    """The scene of a seed."""
    local = LocalField(generator.structure.local_dim, seed, CPU, period)
    structure = GeneratedStructure(generator, decoder_of(generator).cells(*size), local, style)
    return Scene(size, structure.read, style, noise)


def panorama(generator, height, width, seed, noise=True):
    """The scene of a seed that begins again after `width` pixels."""
    cell = 2**generator.texture.stages
    noise = noise_of(field(seed, width), (1, width), generator.texture, CPU) if noise else None
    return generated(generator, (height, width), generated_style(generator, seed), noise, seed, width // cell)


def draw(generator, scene, pixels, edge=10**6):
    """A region of pixels [h, w, 3], each drawn once."""
    image = np.full((*pixels.shape, 3), np.nan, np.float32)
    parts = ([block] for block in blocks(pixels, (edge, edge)))
    for region, values in decoder_of(generator).decode(scene, parts, eight_bit=False):
        image[region.slices_in(pixels)] = values
    return image


# What a seed means


def test_the_style_of_a_seed_never_changes(inverters):
    expected = torch.tensor([-1.6955065, 1.7606322, -0.1625317, -0.9173983, -1.1436692, -0.2763318])
    assert torch.allclose(generated_style(inverters().generator, 7), expected, atol=1e-6)


@given(SEEDS, st.integers(1, 4), starts, starts, sizes, sizes)
def test_local_latents_are_the_field_of_their_seed(seed, channels, top, left, height, width):
    values = LocalField(channels, seed, CPU).read(Region.at(top, left, height, width))
    assert torch.equal(values, gaussian_field(torch.tensor([seed]), range(channels), top, left, height, width)[0])


def stripes(region):
    """A mask over all cells."""
    rows, cols = (np.arange(axis.first, axis.last + 1) for axis in (region.rows, region.cols))
    return (rows[:, None] + 2 * cols) % 5 < 2


@given(SEEDS, SEEDS, st.none() | st.integers(1, 12), starts, starts, sizes, sizes)
def test_inside_a_mask_are_the_latents_of_another_seed(seed, other, period, top, left, height, width):
    region = Region.at(top, left, height, width)
    values = LocalField(3, seed, CPU, period, stripes, other).read(region)
    outside, inside = (LocalField(3, each, CPU, period).read(region) for each in (seed, other))
    mask = torch.from_numpy(stripes(region))
    assert torch.equal(values[:, mask], inside[:, mask]) and torch.equal(values[:, ~mask], outside[:, ~mask])


@given(SEEDS, st.integers(1, 12), st.integers(-3, 3), starts, starts, sizes, sizes)
def test_local_latents_of_a_panorama_repeat(seed, period, turns, top, left, height, width):
    local = LocalField(2, seed, CPU, period)
    values = local.read(Region.at(top, left, height, width))
    assert torch.equal(values, local.read(Region.at(top, left + turns * period, height, width)))
    once = LocalField(2, seed, CPU).read(Region.at(top, 0, height, period))
    assert torch.equal(values, once[..., torch.arange(left, left + width) % period])


# Mixed noise


def mixed_noise(generator, weights, first, second):
    kinds = [None if seed is None else NoiseField(seed) for seed in (first, second)]
    return MixedNoise(weights, kinds, generator.texture.spacing)


@given(
    st.lists(st.none() | st.integers(0, 99), min_size=2, max_size=2), st.integers(0, 5), st.integers(0, 60),
    st.integers(1, 50), starts, starts, st.integers(1, 30),
)  # fmt: skip
def test_mixed_noise_is_each_kind_where_it_has_all_the_weight(inverters, seeds, layer, first, gap, top, left, width):
    """To the last bit; in between it is weighted by the position of a layer's features, and None is none."""
    if seeds == [None, None]:
        return
    generator, weights = inverters().generator, Passage(Interval(first, first + gap))
    values = mixed_noise(generator, weights, *seeds)(layer, top, left, 3, width)
    assert values.shape == (1, 1, 3, width)
    parts = [
        torch.zeros(1, 1, 3, width) if seed is None else NoiseField(seed)(layer, top, left, 3, width) for seed in seeds
    ]
    spacing = 4 >> layer // 2  # of three stages
    cols = spacing * torch.arange(left, left + width)
    for part, alone in zip(parts, (cols <= first, cols >= first + gap), strict=True):
        assert torch.equal(values[..., alone], part[..., alone])
    share = weights(Region.at(0, left, 3, width), spacing)
    assert torch.allclose(values, parts[0] * share[0] + parts[1] * share[1], atol=1e-6)


# Styles that vary over space


def any_weights(data, canvas):
    """A number of styles and their weights: by centres, by an array of labels, or a passage."""
    kind, count = data.draw(st.sampled_from(["centres", "labels", "passage"]), "kind"), data.draw(st.integers(1, 4))
    blur = data.draw(st.integers(0, 60), "blur")
    if kind == "passage":
        first = data.draw(st.integers(-20, canvas.cols.size), "first of the gap")
        return 2, Passage(Interval(first, first + data.draw(st.integers(1, 90), "gap")))
    if kind == "labels":
        labels = np.random.default_rng(0).integers(0, count, canvas.shape)
        return count, SoftMap(lambda rows, cols: labels[np.ix_(rows, cols)], count, canvas, blur)
    centre = st.tuples(st.floats(0, canvas.rows.size), st.floats(0, canvas.cols.size))
    centres = data.draw(st.lists(centre, min_size=count, max_size=count), "centres")
    return count, SoftMap(nearest_centre(centres), count, canvas, blur)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("stages", [3, 4, 5])
@settings(max_examples=12)
@given(data=st.data())
def test_blocks_of_fused_styles_equal_the_whole(inverters, stages, exact, data):
    """Structure and texture together, from any place on the canvas, with any noise."""
    generator = inverters(stages).generator
    height, width = (data.draw(st.integers(1, 200), name) for name in ("height", "width"))
    image = Region.at(0, 0, height, width)
    count, weights = any_weights(data, image)
    kind = data.draw(st.sampled_from(["none", "field", "mixed"]), "noise")
    noise = {
        "none": None,
        "field": NoiseField(5),
        "mixed": mixed_noise(generator, Passage(Interval(width // 3, width)), 6, 7),
    }[kind]
    style = Fusion(normal(count, generator.structure.global_dim), weights, exact)
    scene = generated(generator, (height, width), style, noise, seed=data.draw(SEEDS, "seed"))
    whole = draw(generator, scene, image)
    edge = data.draw(st.integers(max(2**stages, max(height, width) // 4), 220), "edge")
    assert abs(draw(generator, scene, image, edge) - whole).max() <= TOLERANCE
    top, left = data.draw(st.integers(0, height - 1), "top"), data.draw(st.integers(0, width - 1), "left")
    window = Region(Interval(top, height - 1), Interval(left, width - 1))
    assert abs(draw(generator, scene, window, edge) - whole[top:, left:]).max() <= TOLERANCE


@pytest.mark.parametrize("exact", [True, False])
@settings(max_examples=25)
@given(data=st.data(), edge=st.integers(1, 6))
def test_blocks_of_fused_structure_equal_the_whole(inverters, exact, data, edge):
    generator, canvas = inverters().generator, Region.at(0, 0, 40, 48)
    count, weights = any_weights(data, canvas)
    style = Fusion(normal(count, 6), weights, exact)
    read, cells = generated(generator, canvas.shape, style, None).read, decoder_of(generator).cells(*canvas.shape)
    whole = read(cells)
    for top in range(0, cells.rows.size, edge):
        for left in range(0, cells.cols.size, edge):
            rows = Interval(cells.rows.first + top, min(cells.rows.first + top + edge - 1, cells.rows.last))
            cols = Interval(cells.cols.first + left, min(cells.cols.first + left + edge - 1, cells.cols.last))
            block = Region(rows, cols)
            assert (read(block) - whole[(..., *block.slices_in(cells))]).abs().max() <= TOLERANCE


@pytest.mark.parametrize("exact", [True, False])
def test_a_scene_far_from_the_passage_is_that_of_one_style(inverters, exact):
    """Both sides of a fused image are the ordinary images of their styles, in structure and texture."""
    generator, size, z_g = inverters().generator, (30, 360), normal(2, 6)
    style, noise = Fusion(z_g, Passage(Interval(150, 210)), exact), NoiseField(3)
    image = draw(generator, generated(generator, size, style, noise), Region.at(0, 0, *size))
    left, right = (
        draw(generator, generated(generator, size, each, noise), Region.at(0, 0, *size)) for each in z_g
    )  # fmt: skip
    # a pixel reads two cells of radius 1 in the structure, and less than four in the texture
    assert abs(image - left)[:, : 150 - 6 * 8].max() <= TOLERANCE < 0.01 < abs(image - left)[:, 180:].max()
    assert abs(image - right)[:, 210 + 6 * 8 :].max() <= TOLERANCE < 0.01 < abs(image - right)[:, :180].max()


@pytest.mark.parametrize(("exact", "reach"), [(True, 1), (False, 2)])
@pytest.mark.parametrize("border", [3, 4])
def test_cells_that_read_one_style_are_those_of_the_ordinary_structure(inverters, exact, reach, border):
    """Two layers of radius 1: the exact layers read the weights of what they give, the fast ones of what they take."""
    generator, canvas, z_g = inverters().generator, Region.at(0, 0, 40, 64), normal(2, 6)
    weights = SoftMap(lambda rows, cols: np.tile(cols >= 8 * border, (len(rows), 1)), 2, canvas, blur=0)
    cells = decoder_of(generator).cells(*canvas.shape)
    z_s = generated(generator, canvas.shape, Fusion(z_g, weights, exact), None).read(cells)
    first = border - cells.cols.first  # of the second style
    for style, own, more in (
        (z_g[0], slice(None, first - reach), slice(None, first - reach + 1)),
        (z_g[1], slice(first + reach, None), slice(first + reach - 1, None)),
    ):
        difference = (generated(generator, canvas.shape, style, None).read(cells) - z_s).abs()
        assert difference[..., own].max() <= TOLERANCE < 0.01 < difference[..., more].max()


# Panoramas


@pytest.mark.parametrize("stages", [3, 4])
def test_the_noise_of_a_panorama_repeats_after_its_width_and_not_before(inverters, stages):
    generator = inverters(stages).generator
    noise = noise_of(field(7, 48), (1, 48), generator.texture, CPU)
    for layer in range(2 * stages):
        width = 48 // 2 ** (stages - 1 - layer // 2)
        once = NoiseField(7)(layer, -3, 0, 4, width)
        assert torch.equal(noise(layer, -3, 0, 4, 2 * width), torch.cat([once, once], dim=-1))


@pytest.mark.parametrize("stages", [3, 4])
@settings(max_examples=6)
@given(data=st.data())
def test_a_panorama_repeats_and_its_blocks_equal_the_whole(inverters, stages, data):
    generator, cell = inverters(stages).generator, 2**stages
    height, width = data.draw(st.integers(1, 60), "height"), cell * data.draw(st.integers(1, 8), "cells")
    scene, start = panorama(generator, height, width, data.draw(SEEDS, "seed")), data.draw(st.integers(-150, 150))
    whole = draw(generator, scene, Region.at(0, 0, height, 2 * width))
    assert abs(whole[:, width:] - whole[:, :width]).max() <= TOLERANCE
    edge = data.draw(st.integers(max(cell, width // 3), 200), "edge")
    blocks = draw(generator, scene, Region.at(0, start, height, width), edge)
    assert abs(blocks - whole[:, np.arange(start, start + width) % width]).max() <= TOLERANCE


@pytest.mark.parametrize("noise", [True, False])
def test_a_panorama_closes_without_an_edge(inverters, noise):
    """Pixels change from the last column to the first one as they do elsewhere; those of other images more."""
    generator, size, seeds = inverters().generator, (120, 96), range(6)

    def share(scenes):
        images = np.stack([draw(generator, scene, Region.at(0, 0, *size)) for scene in scenes])
        return abs(images[:, :, 0] - images[:, :, -1]).mean() / abs(np.diff(images, axis=2)).mean()

    closed = share(panorama(generator, *size, seed, noise) for seed in seeds)
    styles = [generated_style(generator, seed) for seed in seeds]
    fields = [NoiseField(seed) if noise else None for seed in seeds]
    opened = share(generated(generator, size, *parts) for parts in zip(styles, fields, seeds, strict=True))
    assert closed < 1.5 < opened
