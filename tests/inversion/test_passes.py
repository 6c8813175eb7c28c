"""The contract: blocks equal the whole, for any image size, block size, offset, seed, and number of stages."""

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from inversion.blocks import blocks, pixels_per_cell
from inversion.generation import GeneratedStructure, LocalField, generated_style
from inversion.passes import Decoder, Encoder
from inversion.scenes import Scene
from inversion.tool import Tool

from images.reading import Image
from models.geometry import Interval, Region
from models.noise import NoiseField
from models.texture import BakedTexture
from models.weights import SHIPPED
from utils.config import load_config
from utils.errors import UserError
from utils.schema import InferConfig

TOLERANCE = 1e-5
CPU = torch.device("cpu")
edges = st.integers(1, 700) | st.integers(1, 40)


def picture(height, width, seed=0):
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (5, 5, 3), np.uint8)
    smooth = np.asarray(PIL.Image.fromarray(small).resize((width, height), PIL.Image.Resampling.BICUBIC))
    noise = random.integers(-20, 20, smooth.shape)
    return Image(np.clip(smooth + noise, 0, 255).astype(np.uint8))


def assemble(region, blocks, channels, last):
    """One array [C, h, w] or [h, w, C] from blocks, each cell written once."""
    shape = (*region.shape, channels) if last else (channels, *region.shape)
    whole = np.full(shape, np.nan, np.float32)
    for part, values in blocks:
        rows, cols = part.slices_in(region)
        whole[(rows, cols) if last else (slice(None), rows, cols)] = values
    return whole


def encode(inverter, image, edge):
    encoder, cells = Encoder(inverter, CPU, torch.float32), Decoder(inverter.generator, CPU, torch.float32).cells
    region = cells(image.height, image.width)
    cells_per_edge = max(edge // pixels_per_cell(inverter.generator.texture), 1)
    parts = encoder.encode(image, blocks(region, (cells_per_edge, cells_per_edge)))
    return region, assemble(region, parts, inverter.model["local_dim"], last=False)


def scene_of(inverter, cells, z_s, size, seed):
    def read(region):
        rows, cols = region.slices_in(cells)
        return torch.from_numpy(z_s[:, rows, cols])

    z_g = torch.linspace(-1, 1, inverter.model["global_dim"])
    return Scene(size, read, z_g, None if seed is None else NoiseField(seed), stored=bool(cells.rows.first % 2))


def draw(decoder, scene, pixels, edge, batch=1):
    return decoder.decode(scene, decoder.groups(scene, blocks(pixels, (edge, edge)), batch), eight_bit=False)


def decode(inverter, cells, z_s, pixels, edge, seed):
    decoder = Decoder(inverter.generator, CPU, torch.float32)
    scene = scene_of(inverter, cells, z_s, pixels.shape, seed)
    return assemble(pixels, draw(decoder, scene, pixels, edge), 3, last=True)


@pytest.mark.parametrize("stages", [3, 4, 5])
@pytest.mark.parametrize("convolution", ["shifted", "valid"])
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_blocks_equal_the_whole(inverters, stages, convolution, data):
    height, width = data.draw(edges, "height"), data.draw(edges, "width")
    seed = data.draw(st.none() | st.integers(-(2**40), 2**40), "seed")
    # not too many blocks: each costs the overlap
    fewest = max(2**stages, max(height, width) // 6)
    edge, other = (data.draw(st.integers(fewest, 800), name) for name in ("edge", "other edge"))
    inverter, image = inverters(stages, convolution), picture(height, width)

    cells, whole = encode(inverter, image, max(height, width))
    parts = encode(inverter, image, edge)[1]
    assert abs(parts - whole).max() <= TOLERANCE

    everything = Region.at(0, 0, height, width)
    drawn = decode(inverter, cells, whole, everything, max(height, width), seed)
    assert abs(decode(inverter, cells, whole, everything, other, seed) - drawn).max() <= TOLERANCE

    # a window that starts anywhere
    top, left = data.draw(st.integers(0, height - 1), "top"), data.draw(st.integers(0, width - 1), "left")
    window = Region(Interval(top, min(top + edge, height) - 1), Interval(left, min(left + edge, width) - 1))
    rows, cols = window.slices_in(everything)
    assert abs(decode(inverter, cells, whole, window, other, seed) - drawn[rows, cols]).max() <= TOLERANCE


@pytest.mark.parametrize("stages", [3, 4, 5])
@pytest.mark.parametrize("convolution", ["zero_pad", "rolled"])
@settings(max_examples=4, deadline=None)
@given(data=st.data())
def test_padded_convolutions_show_seams(inverters, stages, convolution, data):
    """The same comparison fails for the kinds that pad their blocks, wherever there is more than one block."""
    height, width = data.draw(st.integers(100, 400), "height"), data.draw(st.integers(100, 400), "width")
    edge = data.draw(st.integers(2**stages, 90), "edge")
    inverter, image = inverters(stages, convolution), picture(height, width)
    cells, whole = encode(inverter, image, max(height, width) + 2 * edge)
    parts = encode(inverter, image, edge)[1]
    assert abs(parts - whole).max() > 0.01
    everything = Region.at(0, 0, height, width)
    drawn = [decode(inverter, cells, z_s, everything, max(height, width), None) for z_s in (whole, parts)]
    assert abs(drawn[1] - drawn[0]).max() > 1e-3


def test_one_pixel(inverters):
    inverter, image = inverters(), picture(1, 1)
    cells, z_s = encode(inverter, image, 8)
    drawn = decode(inverter, cells, z_s, Region.at(0, 0, 1, 1), 8, seed=0)
    assert drawn.shape == (1, 1, 3)
    assert np.isfinite(drawn).all()


def test_the_noise_of_a_picture_is_that_of_its_seed(inverters):
    inverter, image = inverters(), picture(40, 50)
    cells, z_s = encode(inverter, image, 64)
    first, again, other, none = (
        decode(inverter, cells, z_s, Region.at(0, 0, 40, 50), 64, seed) for seed in (1, 1, 2, None)
    )
    assert (first == again).all()
    assert abs(first - other).max() > 0.01
    assert abs(first - none).max() > 0.01


def test_bfloat16_is_close_to_float32(inverters):
    inverter, image = inverters(), picture(90, 70)
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        cells = Decoder(inverter.generator, CPU, dtype).cells(90, 70)
        parts = Encoder(inverter, CPU, dtype).encode(image, blocks(cells, (8, 8)))
        results.append(assemble(cells, parts, 5, last=False))
    assert 0 < abs(results[0] - results[1]).max() < 0.1


@settings(max_examples=10, deadline=None)
@given(height=st.integers(1, 300), width=st.integers(1, 300), edge=st.integers(30, 400), seed=st.integers(0, 2**62))
def test_generated_blocks_equal_the_whole(inverters, height, width, edge, seed):
    generator = inverters().generator
    decoder = Decoder(generator, CPU, torch.float32)
    local, style = LocalField(generator.structure.local_dim, seed, CPU), generated_style(generator, seed)
    latents = GeneratedStructure(generator, decoder.cells(height, width), local, style)
    scene, region = Scene((height, width), latents.read, style, NoiseField(seed)), Region.at(0, 0, height, width)
    whole, parts = (
        assemble(region, draw(decoder, scene, region, size), 3, last=True) for size in (max(height, width), edge)
    )
    assert abs(parts - whole).max() <= TOLERANCE


@pytest.mark.parametrize("stages", [3, 4, 5])
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_several_blocks_at_once_equal_one_after_the_other(inverters, stages, data):
    """In the same order, whatever the sizes of the last ones of a row."""
    height, width = (data.draw(st.integers(2**stages, 300), name) for name in ("height", "width"))
    edge = data.draw(st.integers(max(height, width) // 5, 200), "edge")
    seed = data.draw(st.none() | st.integers(0, 2**40), "seed")
    batch = data.draw(st.just(3) | st.integers(2, 9), "batch")
    inverter = inverters(stages)
    decoder, image = Decoder(inverter.generator, CPU, torch.float32), Region.at(0, 0, height, width)
    cells = decoder.cells(height, width)
    z_s = np.random.default_rng(0).normal(size=(5, *cells.shape)).astype(np.float32)
    top, left = data.draw(st.integers(0, height - 1), "top"), data.draw(st.integers(0, width - 1), "left")
    window = data.draw(st.sampled_from([image, Region(Interval(top, height - 1), Interval(left, width - 1))]), "window")
    scene = scene_of(inverter, cells, z_s, image.shape, seed)
    one, several = (list(draw(decoder, scene, window, edge, size)) for size in (1, batch))
    assert [region for region, _ in one] == [region for region, _ in several]
    for (_, alone), (_, together) in zip(one, several, strict=True):
        assert alone.shape == together.shape and abs(alone - together).max() <= TOLERANCE


def test_blocks_of_one_shape_are_drawn_at_once(inverters, monkeypatch):
    inverter = inverters()
    decoder, drawn = Decoder(inverter.generator, CPU, torch.float32), []
    original = BakedTexture.__call__
    monkeypatch.setattr(BakedTexture, "__call__", lambda *inputs: drawn.append(len(inputs[1])) or original(*inputs))
    cells = decoder.cells(32, 176)
    scene = scene_of(inverter, cells, np.zeros((5, *cells.shape), np.float32), (32, 176), 0)
    assert len(list(draw(decoder, scene, Region.at(0, 0, 32, 176), 32, 3))) == 6
    assert drawn == [3, 2, 1]  # five whole blocks and a narrower one


def test_the_global_latent_sees_the_whole_image(inverters):
    encoder = Encoder(inverters(), CPU, torch.float32)
    one, other = (encoder.encode_global(picture(60, 80, seed)) for seed in (0, 1))
    assert one.shape == (6,)
    assert abs(one - other).max() > 1e-3


def test_the_shipped_generator_draws_blocks_as_the_whole():
    """Trained weights amplify what random ones hide."""
    options = load_config(InferConfig, None, ["infer.device=cpu", "infer.dtype=float32"]).infer
    tool = Tool.load(SHIPPED, options, encoders=False)
    size, style = (200, 300), generated_style(tool.generator, 6)
    structure = GeneratedStructure(tool.generator, tool.decoder.cells(*size), LocalField(128, 6, CPU), style)
    region = Region.at(0, 0, *size)
    scene = Scene(size, structure.read, style, NoiseField(6))
    whole, parts = (assemble(region, draw(tool.decoder, scene, region, edge), 3, True) for edge in (300, 57))
    assert abs(parts - whole).max() <= TOLERANCE


def test_pixels_of_eight_bits_are_rounded_and_clipped(inverters):
    inverter = inverters()
    decoder, pixels = Decoder(inverter.generator, CPU, torch.float32), Region.at(0, 0, 40, 30)
    cells = decoder.cells(40, 30)
    z_s = 3 * np.random.default_rng(0).normal(size=(5, *cells.shape)).astype(np.float32)
    scene = scene_of(inverter, cells, z_s, (40, 30), 1)
    ((_, exact),), ((_, rounded),) = (list(decoder.decode(scene, [[pixels]], flag)) for flag in (False, True))
    assert exact.min() < -1 and exact.max() > 1
    assert (rounded == np.clip(np.rint((exact + 1) * 127.5), 0, 255)).all() and rounded.dtype == np.uint8


@pytest.mark.parametrize("stored", [True, False])
def test_an_error_of_reading_comes_out(inverters, stored):
    decoder = Decoder(inverters().generator, CPU, torch.float32)

    def read(region):
        raise UserError("no such latents")

    scene = Scene((40, 30), read, torch.zeros(6), None, stored)
    with pytest.raises(UserError, match="no such latents"):
        list(draw(decoder, scene, Region.at(0, 0, 40, 30), 16))
