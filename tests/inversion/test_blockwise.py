"""The contract: blocks equal the whole, for any image, block size, offset, seed, style, and number of stages."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inversion import PatchInverter, Style, StyleMap
from inversion.noise import FieldNoise, MixedNoise
from inversion.weight_maps import Boxes, Centres, HorizontalBlend, LabelImage, LabelMap
from models.geometry import Region, blocks
from tests.inversion.conftest import photograph, tiny_model
from utils.errors import UserError

TOLERANCE = 1e-5
edges = st.integers(1, 400) | st.integers(1, 40)
noises = st.none() | st.integers(-(2**40), 2**40).map(FieldNoise)


def cut(region, edge, above=0, before=0):
    """Blocks of a region by a grid that starts so far above it and left of it."""
    outer = region.grown(max(above, before)).moved(max(above, before) - above, max(above, before) - before)
    return [block for block in (part.common(region) for part in blocks(outer, (edge, edge))) if block]


def encode(model, pixels, *grid):
    """Latents from blocks of a grid, each cell written once."""
    cells = model.cells(pixels.shape[:2])
    out = np.full(model.structure_shape(pixels.shape[:2]), np.nan, np.float32)
    return model.encode(pixels, out=out, blocks=cut(cells, *grid))


def draw(model, latents, window, *grid):
    """Float pixels of a window from blocks of a grid, each pixel written once."""
    box = window.rows.first, window.cols.first, window.rows.last + 1, window.cols.last + 1
    out = np.full((*window.shape, 3), np.nan, np.float32)
    return model.draw(latents, box, out=out, blocks=cut(window, *grid))


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


@pytest.mark.parametrize(("stages", "convolution"), [(3, "valid"), (4, "shifted"), (5, "shifted")])
@settings(max_examples=8)
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
    check_draw(model, replace(whole, noise=data.draw(noises, "noise")), data, fewest)


@pytest.mark.parametrize(("stages", "convolution"), [(3, "zero_pad"), (4, "rolled")])
@settings(max_examples=4)
@given(data=st.data())
def test_padded_convolutions_show_seams(inverters, stages, convolution, data):
    """The same comparison fails for the kinds that pad their blocks, wherever there is more than one block."""
    height, width = data.draw(st.integers(100, 250), "height"), data.draw(st.integers(100, 250), "width")
    edge = data.draw(st.integers(2**stages, 90), "edge")
    model, pixels = tiny_model(inverters(stages, convolution)), photograph(height, width)
    whole, parts = (encode(model, pixels, cells) for cells in (1000, edge // 2**stages))
    assert abs(parts.structure - whole.structure).max() > 0.01
    assert abs(model.draw(parts, dtype=np.float32) - model.draw(whole, dtype=np.float32)).max() > 1e-3


@pytest.mark.parametrize("block", [8, 29, "auto"])
def test_the_blocks_of_an_option_equal_the_whole(inverters, block):
    whole, model = tiny_model(inverters(), "whole"), tiny_model(inverters(), block)
    pixels = photograph(131, 75)
    latents, expected = model.invert(pixels), whole.invert(pixels)
    assert abs(latents.structure - expected.structure).max() <= TOLERANCE
    assert torch.equal(latents.style.global_latent, expected.style.global_latent)
    drawn = [each.draw(expected, dtype=np.float32) for each in (model, whole)]
    assert abs(drawn[0] - drawn[1]).max() <= TOLERANCE


# Styles that vary over space


def any_map(data, size):
    """Where each of several kinds applies."""
    height, width = size
    count, blur = data.draw(st.integers(1, 4), "kinds"), data.draw(st.integers(0, 60), "blur")
    points = st.lists(st.tuples(st.floats(0, height), st.floats(0, width)), min_size=count, max_size=count)
    box = data.draw(st.integers(0, height)), data.draw(st.integers(0, width)), height, width
    first, gap = data.draw(st.integers(-20, width), "first"), data.draw(st.integers(1, 90), "gap")
    image = np.random.default_rng(0).integers(0, count, (7, 9), np.uint8)
    return data.draw(
        st.sampled_from([
            LabelMap(Centres(data.draw(points, "centres")), count, size, blur), LabelMap(Boxes([box]), 2, size, blur),
            LabelMap(LabelImage(image, size), count, size, blur), HorizontalBlend(first, first + gap),
        ]), "map",
    )  # fmt: skip


def normal(count):
    return [Style(z_g) for z_g in torch.randn(count, 6, generator=torch.Generator().manual_seed(0))]


@pytest.mark.parametrize(("stages", "exact"), [(3, False), (4, True)])
@settings(max_examples=10)
@given(data=st.data())
def test_blocks_of_several_styles_equal_the_whole(inverters, stages, exact, data):
    """Structure and texture together, from any place on the canvas, with any noise."""
    model, size = tiny_model(inverters(stages)), tuple(data.draw(st.integers(1, 200), name) for name in "hw")
    weights, mixed = any_map(data, size), MixedNoise([FieldNoise(6), None], HorizontalBlend(size[1] // 3, size[1]))
    noise, style = data.draw(noises | st.just(mixed), "noise"), StyleMap(normal(weights.count), weights, exact)
    latents = model.generate(*size, data.draw(st.integers(0, 2**40), "seed"), style=style)
    check_draw(model, replace(latents, noise=noise), data, fewest=max(2**stages, max(size) // 4))


# Single promises


def test_bfloat16_is_close_to_float32(inverters):
    pixels = photograph(90, 70)
    exact, rough = (tiny_model(inverters(), dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    encoded = [each.encode(pixels) for each in (exact, rough)]
    assert 0 < abs(encoded[0].structure - encoded[1].structure).max() < 0.1
    drawn = [each.draw(encoded[0], dtype=np.float32) for each in (exact, rough)]
    assert 0 < abs(drawn[0] - drawn[1]).max() < 0.2


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

    dtype, shape = np.dtype("float32"), (5, 10, 11)

    def __getitem__(self, index):
        raise UserError("cannot be read")

    def __setitem__(self, index, values):
        raise UserError("cannot be written")


def test_an_error_of_reading_or_writing_comes_out(inverters):
    model, pixels = tiny_model(inverters(), block=8), photograph(40, 50)
    latents = model.encode(pixels)
    with pytest.raises(UserError, match="cannot be read"):
        model.draw(replace(latents, structure=Refusing()))
    with pytest.raises(UserError, match="cannot be written"):
        model.draw(latents, out=Refusing())
    with pytest.raises(UserError, match="cannot be written"):
        model.encode(pixels, out=Refusing())
