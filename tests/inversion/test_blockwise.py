"""The contract: blocks equal the whole, for any image, block size, offset, seed, style, and number of stages."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inversion import Latents, PatchInverter, Style, StyleMap
from inversion.noise import FieldNoise, MixedNoise
from inversion.synthesis import GeneratedStructure, LocalField
from inversion.tiling import blocks
from inversion.weight_maps import Boxes, Centres, HorizontalBlend, LabelImage, LabelMap
from models.geometry import Region
from tests.inversion.conftest import CPU, photograph, tiny_model
from utils.errors import UserError

TOLERANCE = 1e-5
edges = st.integers(1, 700) | st.integers(1, 40)
seeds = st.none() | st.integers(-(2**40), 2**40)


def cut(region, edge, above=0, before=0):
    """Blocks of a region by a grid that starts so far above it and left of it."""
    outer = Region.at(
        region.rows.first - above, region.cols.first - before, region.shape[0] + above, region.shape[1] + before
    )
    return [block for block in (part.common(region) for part in blocks(outer, (edge, edge))) if block]


def encode(model, pixels, *grid):
    """Latents from blocks of a grid, each cell written once."""
    cells = model.cells(pixels.shape[:2])
    out = np.full(model.structure_shape(pixels.shape[:2]), np.nan, np.float32)
    return model.encode(pixels, out=out, blocks=cut(cells, *grid))


def draw(model, latents, window, *grid):
    """Float pixels of a window from blocks of a grid, each pixel written once."""
    box = window.rows.first, window.cols.first, window.rows.last + 1, window.cols.last + 1
    return model.draw(
        latents, box, out=np.full((*window.shape, 3), np.nan, np.float32), blocks=cut(window, *grid)
    )  # fmt: skip


def noise_of(seed):
    return None if seed is None else FieldNoise(seed)


def check_draw(model, latents, data, fewest):
    """Any blocks of the image, and of a window that starts anywhere, equal the whole."""
    image = Region.at(0, 0, *latents.size)
    whole = draw(model, latents, image, max(latents.size))
    edge = data.draw(st.integers(fewest, 800), "edge")
    offsets = [data.draw(st.integers(0, edge - 1), name) for name in ("above", "before")]
    assert abs(draw(model, latents, image, edge, *offsets) - whole).max() <= TOLERANCE
    top, left = (data.draw(st.integers(0, length - 1)) for length in latents.size)
    window = Region.at(top, left, edge, edge).common(image)
    assert abs(draw(model, latents, window, edge // 2 + 1) - whole[window.slices_in(image)]).max() <= TOLERANCE


@pytest.mark.parametrize("stages", [3, 4, 5])
@pytest.mark.parametrize("convolution", ["shifted", "valid"])
@settings(max_examples=10)
@given(data=st.data())
def test_blocks_equal_the_whole(inverters, stages, convolution, data):
    """Latents and pixels."""
    height, width = data.draw(edges, "height"), data.draw(edges, "width")
    # not too many blocks: each costs the overlap
    fewest = max(2**stages, max(height, width) // 6)
    model, pixels = tiny_model(inverters(stages, convolution)), photograph(height, width)
    whole = encode(model, pixels, max(height, width))
    edge = data.draw(st.integers(fewest, 800), "edge") // 2**stages
    offsets = [data.draw(st.integers(0, edge - 1), f"cells {name}") for name in ("above", "before")]
    assert abs(encode(model, pixels, edge, *offsets).structure - whole.structure).max() <= TOLERANCE
    check_draw(model, replace(whole, noise=noise_of(data.draw(seeds, "seed"))), data, fewest)


@pytest.mark.parametrize("stages", [3, 4, 5])
@pytest.mark.parametrize("convolution", ["zero_pad", "rolled"])
@settings(max_examples=4)
@given(data=st.data())
def test_padded_convolutions_show_seams(inverters, stages, convolution, data):
    """The same comparison fails for the kinds that pad their blocks, wherever there is more than one block."""
    height, width = data.draw(st.integers(100, 400), "height"), data.draw(st.integers(100, 400), "width")
    edge = data.draw(st.integers(2**stages, 90), "edge")
    model, pixels = tiny_model(inverters(stages, convolution)), photograph(height, width)
    whole, parts = (encode(model, pixels, cells) for cells in (1000, edge // 2**stages))
    assert abs(parts.structure - whole.structure).max() > 0.01
    assert abs(model.draw(parts, dtype=np.float32) - model.draw(whole, dtype=np.float32)).max() > 1e-3


@pytest.mark.parametrize("block", [8, 29, 64, "whole", "auto"])
def test_the_blocks_of_an_option_equal_the_whole(inverters, block):
    whole, model = tiny_model(inverters(), "whole"), tiny_model(inverters(), block)
    pixels = photograph(131, 75)
    latents, expected = model.invert(pixels), whole.invert(pixels)
    assert abs(latents.structure - expected.structure).max() <= TOLERANCE
    assert torch.equal(latents.style.global_latent, expected.style.global_latent)
    drawn = [each.draw(expected, dtype=np.float32) for each in (model, whole)]
    assert abs(drawn[0] - drawn[1]).max() <= TOLERANCE


@settings(max_examples=12)
@given(height=st.integers(1, 300), width=st.integers(1, 300), seed=st.integers(0, 2**62), data=st.data())
def test_generated_blocks_equal_the_whole(inverters, height, width, seed, data):
    model = tiny_model(inverters())
    check_draw(model, model.generate(height, width, seed), data, fewest=max(8, max(height, width) // 6))


# Styles that vary over space


def any_map(data, size):
    """A number of kinds and where each applies."""
    kind = data.draw(st.sampled_from([Centres, Boxes, LabelImage, HorizontalBlend]), "kind")
    height, width = size
    if kind is HorizontalBlend:
        first = data.draw(st.integers(-20, width), "first")
        return 2, HorizontalBlend(first, first + data.draw(st.integers(1, 90), "gap"))
    count = data.draw(st.integers(1, 4), "kinds")
    if kind is Boxes:
        row, col = st.integers(0, height), st.integers(0, width)
        boxes = data.draw(st.lists(st.tuples(row, col, row, col), min_size=count, max_size=count), "boxes")
        labels, count = Boxes([(*map(min, box[:2], box[2:]), *map(max, box[:2], box[2:])) for box in boxes]), count + 1
    elif kind is Centres:
        centre = st.tuples(st.floats(0, height), st.floats(0, width))
        labels = Centres(data.draw(st.lists(centre, min_size=count, max_size=count), "centres"))
    else:
        labels = LabelImage(np.random.default_rng(0).integers(0, count, (7, 9), np.uint8), size)
    return count, LabelMap(labels, count, size, data.draw(st.integers(0, 60), "blur"))


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("stages", [3, 4, 5])
@settings(max_examples=10)
@given(data=st.data())
def test_blocks_of_several_styles_equal_the_whole(inverters, stages, exact, data):
    """Structure and texture together, from any place on the canvas, with any noise."""
    model, size = tiny_model(inverters(stages)), tuple(data.draw(st.integers(1, 200), name) for name in "hw")
    count, weights = any_map(data, size)
    noise = {
        "none": None,
        "field": FieldNoise(5),
        "mixed": MixedNoise([FieldNoise(6), None], HorizontalBlend(size[1] // 3, size[1])),
    }[data.draw(st.sampled_from(["none", "field", "mixed"]), "noise")]
    style = StyleMap([Style(z_g) for z_g in normal(count, 6)], weights, exact)
    latents = model.generate(*size, data.draw(st.integers(0, 2**40), "seed"), style=style)
    check_draw(model, replace(latents, noise=noise), data, fewest=max(2**stages, max(size) // 4))


@pytest.mark.parametrize("exact", [True, False])
def test_far_from_the_blend_is_the_image_of_one_style(model, exact):
    """Both sides are the ordinary images of their styles, in structure and texture."""
    styles = [Style(z_g) for z_g in normal(2, 6)]
    both = StyleMap(styles, HorizontalBlend(150, 210), exact)
    image, left, right = (model.draw(model.generate(30, 360, 3, style=style), dtype=np.float32)
                          for style in (both, *styles))  # fmt: skip
    # a pixel reads two cells of radius 1 in the structure, and less than four in the texture
    assert abs(image - left)[:, : 150 - 6 * 8].max() <= TOLERANCE < 0.01 < abs(image - left)[:, 180:].max()
    assert abs(image - right)[:, 210 + 6 * 8 :].max() <= TOLERANCE < 0.01 < abs(image - right)[:, :180].max()


@pytest.mark.parametrize(("exact", "reach"), [(True, 1), (False, 2)])
@pytest.mark.parametrize("border", [3, 4])
def test_cells_that_read_one_style_are_those_of_the_ordinary_structure(model, exact, reach, border):
    """Two layers of radius 1: the exact layers read the weights of what they give, the fast ones of what they take."""
    size, styles = (40, 64), [Style(z_g) for z_g in normal(2, 6)]
    weights = LabelMap(Boxes([(0, 8 * border, 40, 64)]), 2, size)
    z_s, *alone = (
        GeneratedStructure(model.generator, style, LocalField(5, 0, CPU), model.cells(size))[:]
        for style in (StyleMap(styles, weights, exact), *styles)
    )
    first = border - model.cells(size).cols.first  # of the second style
    for ordinary, own, more in (
        (alone[0], slice(None, first - reach), slice(None, first - reach + 1)),
        (alone[1], slice(first + reach, None), slice(first + reach - 1, None)),
    ):
        difference = abs(ordinary - z_s)
        assert difference[..., own].max() <= TOLERANCE < 0.01 < difference[..., more].max()


# Single promises


def test_one_pixel(model):
    latents = model.invert(photograph(1, 1), noise=FieldNoise(0))
    drawn = model.draw(latents, dtype=np.float32)
    assert drawn.shape == (1, 1, 3) and np.isfinite(drawn).all()


def test_the_noise_of_an_image_is_that_of_its_seed(model):
    latents = model.invert(photograph(40, 50))
    first, again, other, none = (
        model.draw(replace(latents, noise=noise_of(seed)), dtype=np.float32) for seed in (1, 1, 2, None)
    )
    assert (first == again).all()
    assert min(abs(first - other).max(), abs(first - none).max()) > 0.01


def test_bfloat16_is_close_to_float32(inverters):
    pixels = photograph(90, 70)
    exact, rough = (tiny_model(inverters(), dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    encoded = [each.encode(pixels) for each in (exact, rough)]
    assert 0 < abs(encoded[0].structure - encoded[1].structure).max() < 0.1
    drawn = [each.draw(encoded[0], dtype=np.float32) for each in (exact, rough)]
    assert 0 < abs(drawn[0] - drawn[1]).max() < 0.2


def test_the_style_sees_the_whole_image(model):
    one, other = (model.style(photograph(60, 80, seed)).global_latent for seed in (0, 1))
    assert one.shape == (6,) and one.dtype == torch.float32 and abs(one - other).max() > 1e-3


def test_the_shipped_generator_draws_blocks_as_the_whole():
    """Trained weights amplify what random ones hide."""
    model = PatchInverter.from_pretrained(device="cpu", dtype="float32")
    latents, image = model.generate(200, 300, seed=6), Region.at(0, 0, 200, 300)
    assert abs(draw(model, latents, image, 57, 11, 3) - draw(model, latents, image, 300)).max() <= TOLERANCE


def test_pixels_of_eight_bits_are_rounded_and_clipped(model):
    latents = model.generate(40, 30, seed=1)
    latents = replace(latents, structure=3 * np.random.default_rng(0).normal(size=latents.structure.shape))
    exact, rounded = model.draw(latents, dtype=np.float32), model.draw(latents)
    assert exact.min() < -1 and exact.max() > 1 and rounded.dtype == np.uint8
    assert (rounded == np.clip(np.rint((exact + 1) * 127.5), 0, 255)).all()


class Refusing:
    """An array that can be neither read nor written."""

    dtype = np.dtype("float32")

    def __init__(self, shape):
        self.shape = shape

    def __getitem__(self, index):
        raise UserError("cannot be read")

    def __setitem__(self, index, values):
        raise UserError("cannot be written")


def test_an_error_of_reading_or_writing_comes_out(inverters):
    model, pixels = tiny_model(inverters(), block=8), photograph(40, 50)
    latents = model.encode(pixels)
    unreadable = Latents(Refusing(latents.structure.shape), latents.style, latents.size, None, "tiny")
    with pytest.raises(UserError, match="cannot be read"):
        model.draw(unreadable)
    with pytest.raises(UserError, match="cannot be written"):
        model.draw(latents, out=Refusing((40, 50, 3)))
    with pytest.raises(UserError, match="cannot be written"):
        model.encode(pixels, out=Refusing(latents.structure.shape))
