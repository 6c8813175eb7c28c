"""The networks: published sizes, geometry, and blocks that equal the whole."""

import json
import math
import resource

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models import build_discriminator, build_encoders, build_generator, count_parameters, patch_pixels
from models.encoder import GlobalEncoder, RandomGlobal
from models.geometry import Region
from models.layers import CONVOLUTIONS
from models.noise import NoiseField
from models.weights import FORMAT, export, load_inverter
from tests.models.small import (
    GRID,
    TOLERANCE,
    close,
    largest_block_error,
    normal,
    patch_encoder,
    structure_synthesizer,
    texture_synthesizer,
)
from utils.checkpoint import save_weights
from utils.config import load_config
from utils.errors import UserError
from utils.schema import TrainConfig

UNUSED = 4096  # values of a constant that the public weights hold and no network reads
places = st.builds(Region.at, *[st.integers(-30, 30)] * 2, *[st.integers(5, 8)] * 2)


def model_section(*overrides):
    return load_config(TrainConfig, None, overrides).model


def test_published_sizes():
    with torch.device("meta"):
        generator = build_generator(model_section())
        assert count_parameters(generator) == 36_358_944 - UNUSED
        assert count_parameters(generator.structure) == 13_528_076
        assert count_parameters(generator.texture.mapping) == 2_101_248
        assert patch_pixels(generator, 11) == (30, 130)
        assert count_parameters(build_discriminator(model_section(), 101)) == 28_915_460


@pytest.mark.parametrize(
    ("build", "overrides", "key"),
    [
        (build_generator, ["model.texture.widths=[8,8,8]"], "model.texture.widths"),
        (build_encoders, ["model.stages=3"], "model.encoder.widths"),
        (build_encoders, ["model.global_encoder.thumbnail=16"], "model.global_encoder"),
        (lambda model: build_discriminator(model, 31), [], "model.discriminator.widths"),
        (lambda model: patch_pixels(build_generator(model), 4), [], "train.patch_cells: 4 cells draw no pixel"),
    ],
)
def test_numbers_that_do_not_fit_together_are_named(build, overrides, key):
    with torch.device("meta"), pytest.raises(UserError, match=f"^{key}"):
        build(model_section(*overrides))


# The texture synthesizer


@settings(max_examples=8)
@given(stages=st.integers(1, 5), held=places, per_layer=st.booleans())
def test_a_style_that_is_baked_draws_the_same(stages, held, per_layer):
    network = texture_synthesizer(stages)
    z_s, w = normal(2, 5, *held.shape), normal(network.style_count, 6) if per_layer else normal(6)
    pixels, origin = held.valid_output(network.rule), (held.rows.first, held.cols.first)
    image = network(z_s, w.expand(2, *w.shape), NoiseField(4), origin)
    assert image.shape == (2, 3, *pixels.shape)
    assert close(network.bake(w, torch.float32)(z_s, NoiseField(4), pixels), image)


@settings(max_examples=12)
@given(held=places, data=st.data())
def test_blocks_of_an_image_equal_the_whole(held, data):
    network, z_s = texture_synthesizer(3), normal(1, 5, *held.shape)
    draw, drawn = network.bake(normal(6), torch.float32), held.valid_output(network.rule)

    def pixels(region):
        return draw(z_s[(..., *region.receptive_field(network.rule).slices_in(held))], NoiseField(9), region)

    edges = [data.draw(st.integers(1 + size // 3, size + 1)) for size in drawn.shape]
    assert largest_block_error(drawn, *edges, pixels) <= TOLERANCE


def test_a_latent_of_another_size_is_refused():
    network = texture_synthesizer(3)
    with pytest.raises(ValueError, match=r"a structure latent of \(6, 6\) cells, not of \(7, 7\)"):
        network.bake(normal(6), torch.float32)(normal(1, 5, 6, 6), None, Region.at(0, 0, 16, 16))


# The structure synthesizer


@given(st.integers(1, 3), st.integers(0, 2), st.integers(1, 4), st.integers(1, 4))
def test_blocks_of_structure_equal_the_whole(layers, radius, edge, size):
    network, cells, z_g = structure_synthesizer(layers, radius), Region.at(-2, 5, size, size + 2), normal(1, 6)
    canvas = cells.receptive_field(network.rule)
    z_l = normal(1, 5, *canvas.shape)

    def structure(region):
        needed = region.receptive_field(network.rule)
        return network(z_l[(..., *needed.slices_in(canvas))], z_g, GRID.of_canvas(needed, canvas))

    assert largest_block_error(cells, edge, edge, structure) <= TOLERANCE


@given(st.integers(1, 60), st.integers(-9, 9), st.integers(-100, 100), st.integers(-3, 3), st.integers(1, 40))
def test_coordinates_of_a_panorama_repeat(period, start, left, turns, width):
    """The angle is -pi at the canvas's first column and goes around once in a period; rows are as without one."""
    canvas, region = Region.at(-3, start, 9, 4 * period), Region.at(-2, left, 5, width)
    grid = GRID.of_canvas(region, canvas, period=period)
    angle = math.pi * (2 * (torch.arange(left, left + width).double() - start) / period - 1)
    assert torch.allclose(grid[0, 1:, 0], torch.stack([angle.cos(), angle.sin()]).float(), atol=2e-5)
    assert torch.equal(grid[:, 0], GRID.of_canvas(region, canvas)[:, 0])
    later = Region.at(-2, left + turns * period, 5, width)
    assert torch.equal(grid, GRID.of_canvas(later, canvas, period=period))


# The encoders


def encoder_error(encoder, edge):
    """Largest difference of 7 x 6 latent cells, encoded in blocks, from those of the whole image."""
    cells = Region.at(-3, 2, 7, 6)
    seen = cells.receptive_field(encoder.rule)
    image = normal(1, 3, *seen.shape)
    return largest_block_error(
        cells, edge, edge, lambda region: encoder(image[(..., *region.receptive_field(encoder.rule).slices_in(seen))])
    )


@given(
    st.integers(1, 7), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2), st.sampled_from(["shifted", "valid"])
)  # fmt: skip
def test_blocks_of_latents_equal_the_whole(edge, scales, depth, shift, kind):
    assert encoder_error(patch_encoder(kind, scales, depth, shift), edge) <= TOLERANCE


@pytest.mark.parametrize("kind", ["zero_pad", "rolled"])
def test_padding_shows_seams(kind):
    assert encoder_error(patch_encoder(kind), 3) > 1e-2


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_a_baked_encoder_encodes_the_same_and_leaves_the_other_as_it_was(kind):
    encoder, image = patch_encoder(kind), normal(2, 3, 64, 72)
    whole = encoder(image)
    half, baked = encoder.bake(torch.bfloat16)(image), encoder.bake(torch.float32)
    assert close(baked(image), whole) and torch.equal(encoder(image), whole)
    assert half.dtype == torch.float32 and 0 < (half - whole).abs().mean() < 0.02
    assert all(one is other for one, other in zip(baked.parameters(), encoder.parameters(), strict=True))


def test_a_cell_reads_46_pixels():
    encoder = patch_encoder(scales=4)
    assert encoder(normal(1, 3, 46, 46)).shape[-2:] == (1, 1)
    with pytest.raises(ValueError, match=r"\(45, 50\) px are too few"):
        encoder(normal(1, 3, 45, 50))


def test_a_global_latent_at_random_is_a_normal_draw_by_the_thumbnail():
    thumbnails = normal(200, 3, 16, 16)
    latents = RandomGlobal(64)(thumbnails)
    assert abs(latents.mean()) < 0.03 and abs(latents.std() - 1) < 0.03  # 12,800 values: three deviations
    assert (torch.corrcoef(latents) - torch.eye(200)).abs().max() < 0.65  # five deviations
    assert torch.equal(RandomGlobal(64)(thumbnails[1:2]), latents[1:2])
    assert ((RandomGlobal(64)(thumbnails.flip(-1)) - latents).abs() > 1e-3).any(1).all()


def test_an_inverter_is_exported_and_loaded(tmp_path):
    model = model_section(
        "model.stages=3", "model.local_dim=5", "model.global_dim=6", "model.structure.layers=1",
        "model.texture.widths=[6,4,4]", "model.texture.mapping_layers=1", "model.encoder.widths=[4,6,5]",
        "model.global_encoder.widths=[]",
    )  # fmt: skip
    generator, (encoder, random) = build_generator(model), build_encoders(model)
    networks = {"generator": generator, "encoder": encoder, "global_encoder": random}
    export(tmp_path / "random.safetensors", model, networks, step=0)
    loaded, thumbnails = load_inverter(tmp_path / "random.safetensors"), normal(2, 3, 64, 64)
    assert torch.equal(loaded.global_encoder(thumbnails), random(thumbnails))
    assert torch.equal(loaded.encoder(thumbnails), encoder(thumbnails))

    trained = model_section("model.global_encoder={thumbnail: 16, widths: [4, 4]}")
    networks["global_encoder"] = GlobalEncoder(6, **trained.global_encoder)
    for held, section, words in (
        (networks, model, "another architecture: global_encoder"),
        ({"generator": generator, "encoder": encoder}, model | {"global_encoder": trained.global_encoder}, "holds no"),
        ({"generator": generator}, model, "holds no encoder"),
    ):
        export(tmp_path / "other.safetensors", section, held, step=0)
        with pytest.raises(UserError, match=words):
            load_inverter(tmp_path / "other.safetensors")


@pytest.mark.parametrize("section", ["structure", "encoder"])
def test_weights_that_describe_giants_take_no_memory(tmp_path, section):
    """Of a file of a few values, one network of which would take gigabytes."""
    small = [f"model.{name}.widths=[2,2,2]" for name in ("texture", "encoder")]
    model = model_section("model.stages=3", *small, f"model.{section}.widths={[8192] * 3}")
    tensors = {"generator.a": torch.zeros(1), "encoder.a": torch.zeros(1), "global_encoder.a": torch.zeros(1)}
    save_weights(tmp_path / "a.safetensors", tensors, {"format": FORMAT, "model": json.dumps(model)})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=r"a\.safetensors: another architecture: it describes more values"):
        load_inverter(tmp_path / "a.safetensors")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


@pytest.mark.parametrize("model", ["[" * 10**5, "{", "[]"])
def test_weights_that_describe_nothing(tmp_path, model):
    save_weights(tmp_path / "a.safetensors", {"generator.a": torch.zeros(1)}, {"format": FORMAT, "model": model})
    with pytest.raises(UserError, match=r"^\S*a\.safetensors: [^\n]*$"):
        load_inverter(tmp_path / "a.safetensors")
