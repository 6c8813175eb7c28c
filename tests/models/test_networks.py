"""The networks: published sizes, geometry, and blocks that equal the whole."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models import build_discriminator, build_encoders, build_generator, count_parameters, patch_pixels
from models.discriminator import Discriminator, minibatch_deviation
from models.encoder import GlobalEncoder, PatchEncoder, RandomGlobal
from models.geometry import Interval, Region, partition
from models.noise import NoiseField
from models.structure import CoordinateGrid, StructureSynthesizer
from models.texture import TextureSynthesizer
from models.weights import export, load_inverter
from utils.config import load_config
from utils.errors import UserError
from utils.schema import TrainConfig

TOLERANCE = 1e-5
GRID = CoordinateGrid(vertical_slope=0.3, horizontal_period=20, row_starts=6)
UNUSED = 4096  # values of a constant that the public weights hold and no network reads


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def texture_synthesizer(stages):
    torch.manual_seed(1)
    network = TextureSynthesizer(5, 6, [6, 4, 4, 4, 3, 3][:stages], mapping_layers=2, mapping_lr_multiplier=0.01)
    for layer in network.layers:
        torch.nn.init.normal_(layer.noise_strength)
        torch.nn.init.normal_(layer.bias)
    return network.requires_grad_(False)


def patch_encoder(kind, scales=3, depth=1, shift=1):
    torch.manual_seed(2)
    return PatchEncoder(5, [4, 6, 6, 5][:scales], depth, kind, shift).requires_grad_(False)


def model_section(*overrides):
    return load_config(TrainConfig, None, overrides).model


def test_published_sizes():
    model = model_section()
    with torch.device("meta"):
        generator = build_generator(model)
        assert count_parameters(generator) == 36_358_944 - UNUSED
        assert count_parameters(generator.structure) == 13_528_076
        assert count_parameters(generator.texture) == 22_830_868 - UNUSED
        assert count_parameters(generator.texture.mapping) == 2_101_248
        assert patch_pixels(generator, 11) == (30, 130)
        assert count_parameters(build_discriminator(model, 101)) == 28_915_460


@pytest.mark.parametrize(
    ("build", "overrides", "key"),
    [
        (build_generator, ["model.texture.widths=[8,8,8]"], "model.texture.widths"),
        (build_encoders, ["model.stages=3"], "model.encoder.widths"),
        (build_encoders, ["model.global_encoder.thumbnail=16"], "model.global_encoder"),
        (lambda model: build_discriminator(model, 31), [], "model.discriminator.widths"),
    ],
)
def test_numbers_that_do_not_fit_together_are_named(build, overrides, key):
    with torch.device("meta"), pytest.raises(UserError, match=f"^{key}: "):
        build(model_section(*overrides))


def test_too_few_cells_are_named():
    with torch.device("meta"):
        generator = build_generator(model_section())
    with pytest.raises(UserError, match="4 cells draw no pixel; at least 5 are needed"):
        patch_pixels(generator, 4)


@pytest.mark.parametrize("stages", [3, 4, 5, 6])
def test_images_have_the_size_that_geometry_says(stages):
    network = texture_synthesizer(stages)
    for height, width in [(5, 8), (7, 6)]:
        region = Region.at(-2, 3, height, width).valid_output(network.rule)
        image = network(normal(2, 5, height, width), normal(2, 6), NoiseField(0), (-2, 3))
        assert image.shape == (2, 3, *region.shape)


def test_four_stages_draw_sixteen_pixels_each_less_seventy_five():
    assert texture_synthesizer(4)(normal(1, 5, 6, 9), normal(1, 6), None).shape == (1, 3, 16 * 6 - 75, 16 * 9 - 75)


@given(st.integers(3, 4), st.integers(-30, 30), st.integers(-30, 30), st.integers(5, 8), st.integers(5, 8), st.data())
def test_blocks_of_an_image_equal_the_whole(stages, top, left, height, width, data):
    network, noise = texture_synthesizer(stages), NoiseField(9)
    held, w = Region.at(top, left, height, width), normal(1, 6)
    z_s = normal(1, 5, height, width)
    drawn = held.valid_output(network.rule)
    whole = network(z_s, w, noise, (top, left))
    edges = [data.draw(st.integers(1 + size // 3, size + 1)) for size in drawn.shape]
    for rows in partition(drawn.rows, edges[0]):
        for cols in partition(drawn.cols, edges[1]):
            block = Region(rows, cols)
            needed = block.receptive_field(network.rule)
            part = z_s[(..., *needed.slices_in(held))]
            image = network(part, w, noise, (needed.rows.first, needed.cols.first))
            image = image[(..., *block.slices_in(needed.valid_output(network.rule)))]
            assert torch.allclose(image, whole[(..., *block.slices_in(drawn))], atol=TOLERANCE, rtol=0)


def largest_block_error(encoder, cells_per_block):
    """Largest difference of 7 x 6 latent cells, encoded in blocks, from those of the whole image."""
    cells = Region.at(-3, 2, 7, 6)
    seen = cells.receptive_field(encoder.rule)
    image = normal(1, 3, *seen.shape)
    whole = encoder(image)
    assert whole.shape == (1, 5, *cells.shape)
    errors = []
    for rows in partition(cells.rows, cells_per_block):
        for cols in partition(cells.cols, cells_per_block):
            block = Region(rows, cols)
            part = encoder(image[(..., *block.receptive_field(encoder.rule).slices_in(seen))])
            errors.append((part - whole[(..., *block.slices_in(cells))]).abs().max())
    return max(errors)


@given(
    st.integers(1, 7), st.integers(1, 3), st.integers(1, 2), st.integers(1, 2), st.sampled_from(["shifted", "valid"])
)  # fmt: skip
def test_blocks_of_latents_equal_the_whole(edge, scales, depth, shift, kind):
    assert largest_block_error(patch_encoder(kind, scales, depth, shift), edge) <= TOLERANCE


@pytest.mark.parametrize("kind", ["zero_pad", "rolled"])
@pytest.mark.parametrize("edge", [1, 2, 3])
def test_padding_shows_seams(kind, edge):
    assert largest_block_error(patch_encoder(kind), edge) > 1e-2


def test_what_a_cell_reads_and_nothing_else():
    """46 pixels: with any of the pixels around it unknown nothing changes, with one at its own edge everything does."""
    encoder = patch_encoder("shifted", scales=4)
    image = torch.full((1, 3, 46 + 2 * 16, 46 + 2 * 16), torch.nan)
    image[..., 16:-16, 16:-16] = normal(1, 3, 46, 46)
    latent = encoder(image)  # 3 x 3 cells, of which the middle one reads what is known
    assert latent.shape[-2:] == (3, 3) and latent[0, :, 1, 1].isfinite().all() and latent.isfinite().sum() == 5
    for row, col in [(16, 40), (61, 40), (40, 16), (40, 61)]:
        damaged = image.clone()
        damaged[..., row, col] = torch.nan
        assert encoder(damaged)[0, :, 1, 1].isnan().all()


def test_too_small_an_image_is_refused():
    with pytest.raises(ValueError, match=r"\(45, 50\) px are too few"):
        patch_encoder("shifted", scales=4)(normal(1, 3, 45, 50))


@given(st.integers(1, 3), st.integers(0, 2), st.integers(1, 4), st.integers(1, 4))
def test_blocks_of_structure_equal_the_whole(layers, radius, edge, size):
    torch.manual_seed(3)
    network = StructureSynthesizer(4, 6, layers, radius, GRID).requires_grad_(False)
    cells = Region.at(-2, 5, size, size + 2)
    canvas = cells.receptive_field(network.rule)
    z_l, z_g = normal(1, 4, *canvas.shape), normal(1, 6)
    whole = network(z_l, z_g, GRID.of_canvas(canvas, canvas))
    assert whole.shape == (1, 4, *cells.shape)
    for rows in partition(cells.rows, edge):
        for cols in partition(cells.cols, edge):
            needed = Region(rows, cols).receptive_field(network.rule)
            part = network(z_l[(..., *needed.slices_in(canvas))], z_g, GRID.of_canvas(needed, canvas))
            expected = whole[(..., *Region(rows, cols).slices_in(cells))]
            assert torch.allclose(part, expected, atol=TOLERANCE, rtol=0)


@given(st.integers(0, 5), st.integers(0, 19), st.integers(3, 9))
def test_coordinates_of_a_patch_are_those_of_its_place_on_the_canvas(row, col, cells):
    """The canvas of training has `row_starts` rows more than a patch, and its columns wrap around at the period."""
    canvas = Region.at(0, 0, cells + GRID.row_starts, 60)
    patch = GRID.of_patches(torch.tensor([row]), torch.tensor([col]), cells, torch.zeros(1, 3))
    steps = torch.arange(cells)
    placed = GRID.of_canvas(canvas, canvas)[:, :, row : row + cells]
    assert torch.allclose(patch, placed[..., (col + steps) % GRID.horizontal_period], atol=1e-5)
    assert -1 <= GRID.label(torch.tensor([row])) <= 1


@given(st.integers(1, 60), st.integers(-9, 9), st.integers(-100, 100), st.integers(-3, 3), st.integers(1, 40))
def test_coordinates_of_a_panorama_repeat(period, start, left, turns, width):
    """The angle is -pi at the canvas's first column and goes around once in a period; rows are as without one."""
    canvas, region = Region.at(-3, start, 9, 4 * period), Region.at(-2, left, 5, width)
    grid = GRID.of_canvas(region, canvas, period=period)
    assert grid.shape == (1, 3, 5, width)
    angle = math.pi * (2 * (torch.arange(left, left + width).double() - start) / period - 1)
    expected = torch.stack([angle.cos(), angle.sin()])[:, None].expand(-1, 5, -1).float()
    assert torch.allclose(grid[0, 1:], expected, atol=2e-5)
    assert torch.equal(grid[:, 0], GRID.of_canvas(region, canvas)[:, 0])
    later = Region.at(-2, left + turns * period, 5, width)
    assert torch.equal(grid, GRID.of_canvas(later, canvas, period=period))


def test_jitter_displaces_the_coordinates_of_each_sample():
    start, jitter = torch.tensor([2, 2]), torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    patch = GRID.of_patches(start, start, 6, jitter)
    assert torch.allclose(patch[0, :, 1:, 1:], patch[1, :, :-1, :-1], atol=1e-5)


@pytest.mark.parametrize("stages", [3, 4, 5])
def test_features_are_spaced_as_the_rules_say(stages):
    """A latent that begins one cell later gives features that begin one cell later."""
    network = texture_synthesizer(stages)
    one, later = Interval(0, 99), Interval(1, 99)
    for index, layer in enumerate(network.layers):
        one, later = layer.conv.rule.valid_output(one), layer.conv.rule.valid_output(later)
        assert (later.first - one.first) * network.spacing(index) == 2**stages
    assert network.spacing(index) == 1


@pytest.mark.parametrize("stages", [3, 4])
def test_one_style_is_the_same_style_for_every_layer(stages):
    network, z_s, w = texture_synthesizer(stages), normal(2, 5, 6, 7), normal(2, 6)
    image = network(z_s, w, NoiseField(0))
    assert network.style_count == 2 * stages + 1
    assert torch.equal(image, network(z_s, w[:, None].expand(-1, network.style_count, -1), NoiseField(0)))


def test_every_style_matters():
    network, z_s = texture_synthesizer(3), normal(1, 5, 6, 6)
    styles = normal(1, network.style_count, 6)
    image = network(z_s, styles, None)
    for layer in range(network.style_count):
        other = styles.clone()
        other[:, layer] += 1
        assert not torch.allclose(image, network(z_s, other, None), atol=1e-4), layer


@pytest.mark.parametrize("per_layer", [False, True])
def test_a_folded_style_draws_the_same(per_layer):
    network, z_s = texture_synthesizer(4), normal(2, 5, 6, 7)
    w = normal(network.style_count, 6) if per_layer else normal(6)
    styles = w.expand(2, -1, -1) if per_layer else w.expand(2, -1)
    pixels = Region.at(-3, 8, 6, 7).valid_output(network.rule)
    folded = network.bake(w, torch.float32)(z_s, NoiseField(4), pixels)
    assert torch.allclose(folded, network(z_s, styles, NoiseField(4), (-3, 8)), atol=TOLERANCE, rtol=TOLERANCE)


def test_global_encoder_needs_a_thumbnail_that_can_be_halved():
    assert GlobalEncoder(6, 32, [2, 3, 4])(normal(2, 3, 32, 32)).shape == (2, 6)
    with pytest.raises(ValueError, match="9 px cannot be halved 3 times"):
        GlobalEncoder(6, 9, [2, 3, 4])


def test_a_global_latent_at_random_is_a_normal_draw_by_the_thumbnail():
    network, thumbnails = RandomGlobal(64), normal(200, 3, 16, 16)
    latents = network(thumbnails)
    assert latents.shape == (200, 64) and latents.dtype == torch.float32 and not network.state_dict()
    assert abs(latents.mean()) < 0.03 and abs(latents.std() - 1) < 0.03  # 12,800 values: three deviations
    assert abs(latents.mean(0)).max() < 0.3 and abs(latents.mean(1)).max() < 0.5  # four deviations
    correlations = torch.corrcoef(latents) - torch.eye(200)
    assert correlations.abs().max() < 0.65  # five deviations: the draws of two images have nothing in common


def test_a_global_latent_at_random_is_that_of_its_image():
    """Also in another batch and another memory format, but not where a single value or the order differs."""
    network, thumbnails = RandomGlobal(6), normal(3, 3, 8, 8)
    latents = network(thumbnails)
    assert torch.equal(latents, network(thumbnails.to(memory_format=torch.channels_last)))
    assert torch.equal(latents[1:2], RandomGlobal(6)(thumbnails[1:2]))
    brighter = thumbnails.clone()
    brighter[..., 4, 4] += 1 / 255
    for other in (thumbnails.flip(-1), thumbnails.flip(1), -thumbnails, brighter):
        assert ((network(other) - latents).abs() > 1e-3).any(1).all()


def test_a_global_latent_at_random_is_exported_and_loaded(tmp_path):
    model = model_section(
        "model.stages=3", "model.local_dim=5", "model.global_dim=6", "model.structure.layers=1",
        "model.texture.widths=[6,4,4]", "model.texture.mapping_layers=1", "model.encoder.widths=[4,6,5]",
        "model.global_encoder.widths=[]",
    )  # fmt: skip
    generator, (encoder, random) = build_generator(model), build_encoders(model)
    assert isinstance(random, RandomGlobal) and count_parameters(random) == 0
    networks = {"generator": generator, "encoder": encoder, "global_encoder": random}
    export(tmp_path / "random.safetensors", model, networks, step=0)
    loaded = load_inverter(tmp_path / "random.safetensors")
    assert torch.equal(loaded.global_encoder(normal(2, 3, 64, 64)), random(normal(2, 3, 64, 64)))
    assert loaded.encoder.state_dict().keys() == encoder.state_dict().keys()

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


@pytest.mark.parametrize("patch", [13, 29, 53])
def test_discriminator_judges_patches(patch):
    torch.manual_seed(0)
    network = Discriminator(patch, [3, 4, 5], minibatch_group=2)
    score, coordinates, features = network(normal(4, 3, patch, patch))
    assert score.shape == (4,) and coordinates.shape == (4, 3)
    assert [tuple(feature.shape) for feature in features] == [(4, 4, *[patch // 2] * 2), (4, 5, *[patch // 4] * 2)]


def test_minibatch_deviation_is_of_consecutive_groups():
    x = normal(4, 3, 5, 5)
    appended = minibatch_deviation(x, 2)
    assert torch.equal(appended[:, :3], x)
    for group in (0, 2):
        deviation = torch.sqrt(((x[group] - x[group + 1]) / 2) ** 2 + 1e-8).mean()
        assert torch.allclose(appended[group : group + 2, 3], deviation)
    with pytest.raises(ValueError, match="batch of 4 cannot be cut into groups of 3"):
        minibatch_deviation(x, 3)


def test_reciprocal_cells_of_the_published_patch():
    """11 cells draw pixels 30 to 130; cells 4 to 6 are encoded from these alone."""
    assert patch_encoder("shifted", scales=4).rule.valid_output(Interval(30, 130)) == (4, 6)
