"""Models with a trunk: latents that are found again, and styles that are statistics of them."""

from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import infer
from editing.fuse import fuse
from inversion import Latents, PatchInverter
from inversion.styles import Style, StyleMap, measure_style, mix_styles
from inversion.weight_maps import Boxes, HorizontalBlend, LabelMap
from models.geometry import Region
from tests.inversion.conftest import CPU, photograph
from utils.errors import UserError, run_command

SIZE = 75, 90


@pytest.fixture(scope="module")
def image():
    return photograph(*SIZE)


@pytest.fixture(scope="module")
def latents(trunk_model, image):
    return trunk_model.encode(image)


def inner(model, latents):
    """Structure latents of cells whose context lies inside the image."""
    cells = Region.at(0, 0, *latents.size).valid_output(model.networks.encoder.rule)
    return latents.structure[:, *cells.slices_in(model.cells(latents.size))]


@pytest.mark.parametrize("block", [24])
def test_blocks_equal_the_whole(trunk_model, image, latents, block):
    model = PatchInverter(trunk_model.networks, CPU, torch.float32, block)
    own = model.encode(image)
    assert np.abs(own.structure - latents.structure).max() < 1e-5
    other = trunk_model.style(photograph(40, 60, 3))
    for each in (latents, latents.with_style(other), model.generate(*SIZE, seed=2)):
        whole, blocks = (m.draw(each, dtype=np.float32) for m in (trunk_model, model))
        assert np.abs(whole - blocks).max() < 1e-5
        assert np.abs(model.draw(each, (8, 24, 60, 70), dtype=np.float32) - whole[8:60, 24:70]).max() < 1e-5


def test_the_encoder_finds_what_is_drawn(trunk_model, image, latents):
    """Of photographs and of generated images, with and without noise, in one style or another."""
    styled = latents.with_style(trunk_model.style(3), 0.5)
    generated = [trunk_model.generate(*SIZE, seed=1, noise=noise) for noise in (True, False)]
    for each in (latents, styled, *generated):
        drawn = trunk_model.draw(each, dtype=np.float32)
        pixels = torch.from_numpy(drawn).permute(2, 0, 1)[None]
        cells = Region.at(0, 0, *SIZE).valid_output(trunk_model.networks.encoder.rule)
        around = cells.receptive_field(trunk_model.networks.encoder.rule)
        found = trunk_model.networks.encoder(pixels[..., *around.slices_in(Region.at(0, 0, *SIZE))])[0]
        expected = inner(trunk_model, trunk_model.as_drawn(each))
        assert np.abs(found.detach().numpy() - expected).max() < 1e-4


def test_the_style_is_the_same_whatever_the_blocks_and_where_it_is_measured(trunk_model, image, latents):
    size, cells = latents.size, trunk_model.cells(latents.size)
    inside = Region.at(0, 0, *(-(-length // 8) for length in size))
    again = measure_style(latents.structure, cells, inside, latents.structure.shape[0])
    assert again.measured and torch.equal(again.global_latent, latents.style.global_latent)
    assert torch.allclose(trunk_model.style(image).global_latent, again.global_latent, atol=1e-5)
    n = trunk_model.generator.structure.local_dim
    values = torch.from_numpy(latents.structure[:, *inside.slices_in(cells)]).double()
    assert torch.allclose(again.global_latent[:n].double(), values.mean((1, 2)), atol=1e-6)


@pytest.mark.parametrize("suffix", [".safetensors", ".zarr"])
def test_files_keep_structure_and_both_styles(trunk_model, latents, tmp_path, suffix):
    other = trunk_model.style(5)
    edits = {
        "styled": latents.with_style(other, 0.7), "fused": fuse(trunk_model, latents, [latents.style, other], blur=20)
    }  # fmt: skip
    for name, each in edits.items():
        path = tmp_path / f"{name}{suffix}"
        each.save(path)
        loaded = Latents.load(path)
        assert (trunk_model.draw(loaded) == trunk_model.draw(each)).all(), name
        assert (loaded.own is None) == (each.own is None)
    plain = Latents.load(tmp_path / f"styled{suffix}").with_style(latents.style)
    assert np.abs(trunk_model.draw(plain).astype(int) - trunk_model.draw(latents)).max() <= 1


def test_styles_that_vary_over_space(trunk_model, latents):
    """Where one style has all the weight, the image is that in this style."""
    other = trunk_model.style(photograph(50, 50, 9))
    for each in (latents, trunk_model.generate(*SIZE, seed=4)):
        mixed = fuse(trunk_model, each, [each.style, other], [(0.5, 0.0), (0.5, 1.0)], blur=2)
        drawn = trunk_model.draw(mixed, dtype=np.float32)
        assert np.abs(drawn[:, :3] - trunk_model.draw(each, dtype=np.float32)[:, :3]).max() < 2.0
        assert np.abs(drawn - trunk_model.draw(each, dtype=np.float32)).max() > 0.05
    both = StyleMap([latents.style, other], HorizontalBlend(20, 60))
    blended = latents.with_style(both)
    left = trunk_model.as_drawn(blended).structure[:, :, 2:4]
    assert np.abs(left - latents.structure[:, :, 2:4]).max() < 1e-4
    back = blended.with_style(latents.style)
    assert np.abs(trunk_model.draw(back).astype(int) - trunk_model.draw(latents)).max() <= 1


def test_styles_are_mixed_at_each_position():
    one, other, third = (Style(torch.tensor([value])) for value in (0.0, 2.0, 6.0))
    both = StyleMap([one, other], HorizontalBlend(0, 9))
    for first, second in ((one, other), (both, third), (third, both), (both, both)):
        assert mix_styles(first, second, 0) is first and mix_styles(first, second, 1) is second
    assert mix_styles(one, other, 1.5).global_latent == 3
    assert mix_styles(both, third, 0.5).global_latent.tolist() == [[3], [4]]
    assert mix_styles(third, both, 0.5).global_latent.tolist() == [[3], [4]]
    with pytest.raises(ValueError, match="two maps"):
        mix_styles(both, both, 0.5)
    with pytest.raises(ValueError, match="3 styles, and weights of 2"):
        StyleMap([one, other, third], HorizontalBlend(0, 9))


def test_cut_latents(trunk_model, image, latents, tmp_path):
    cut = trunk_model.encode(image, channels=4)
    assert cut.structure.shape == (4, *latents.structure.shape[1:])
    assert np.array_equal(cut.structure, latents.structure[:4])
    assert torch.allclose(cut.style.global_latent, latents.style.global_latent, atol=1e-5)
    cut.save(tmp_path / "cut.safetensors")
    drawn = trunk_model.draw(Latents.load(tmp_path / "cut.safetensors"))
    assert (drawn == trunk_model.draw(cut)).all()
    styled = trunk_model.draw(cut.with_style(trunk_model.style(1)))
    assert (styled != drawn).any()
    with pytest.raises(UserError, match="infer.refine: takes the model's channels, and not 4"):
        trunk_model.invert(image, channels=4, refine=2)


def test_more_channels_than_the_model_has(trunk_model, image, latents, tmp_path):
    """They come nearer to the photograph, up to itself; styles, files and edits take them."""
    errors = []
    for channels in (None, 60, 192):
        each = trunk_model.encode(image, channels=channels)
        assert torch.allclose(each.style.global_latent, latents.style.global_latent, atol=1e-5)
        drawn = trunk_model.draw(each)
        errors.append(np.abs(drawn.astype(int) - image).mean())
    assert errors[0] > errors[1] > errors[2] and np.abs(drawn.astype(int) - image).max() <= 1
    styled = each.with_style(trunk_model.style(2))
    styled.save(tmp_path / "all.safetensors")
    assert (trunk_model.draw(Latents.load(tmp_path / "all.safetensors")) == trunk_model.draw(styled)).all()


def test_channels_that_are_not_there(trunk_model, model, image):
    for each, channels, allowed in ((trunk_model, 2, "3 to 192"), (trunk_model, 193, "3 to 192"), (model, 4, "5 to 5")):
        with pytest.raises(UserError, match=f"infer.channels: {channels}; allowed: {allowed} of this checkpoint"):
            each.encode(image, channels=channels)


@pytest.mark.parametrize("option", ["channels=2", "channels=16 refine=2", "refine_style=1"])
def test_commands_refuse_what_the_checkpoint_cannot_do(option, tmp_path, capsys):
    """Before they begin: nothing is written."""
    PIL.Image.fromarray(photograph(20, 20)).save(tmp_path / "a.png")
    arguments = ["--input", str(tmp_path / "a.png"), "--output", str(tmp_path / "out"), *option.split()]
    assert run_command(infer.main, arguments) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and error.startswith("error: infer.") and not (tmp_path / "out").exists()


def test_what_does_not_fit(trunk_model, model, image, latents):
    with pytest.raises(UserError, match="encoded by the weights trunk"):
        model.draw(latents)
    foreign = Latents(latents.structure, model.style(1), latents.size, None, trunk_model.fingerprint)
    with pytest.raises(UserError, match="a style of 6 values, but the checkpoint has 50"):
        trunk_model.draw(foreign)
    with pytest.raises(UserError, match="the style of this checkpoint is measured"):
        trunk_model.invert(image, style_steps=2)


def test_images_of_one_cell(trunk_model, latents):
    """Their deviation may be 0: they have a style, and take others, without numbers that are not finite."""
    tiny = trunk_model.encode(np.full((1, 1, 3), 90, np.uint8))
    assert torch.isfinite(tiny.style.global_latent).all()
    for each in (tiny.with_style(latents.style), latents.with_style(tiny.style)):
        assert np.isfinite(trunk_model.draw(each, dtype=np.float32)).all()


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_a_preview_is_the_picture_made_small(trunk_model, latents, scale):
    """As near as the mean over its pixels comes; blocks equal the whole."""
    for each in (latents, latents.with_style(trunk_model.style(1)), trunk_model.generate(*SIZE, seed=3)):
        small = trunk_model.preview(each, scale)
        height, width = SIZE[0] // scale, SIZE[1] // scale
        assert small.shape == (-(-SIZE[0] // scale), -(-SIZE[1] // scale), 3) and small.dtype == np.uint8
        linear = Latents(trunk_model.as_drawn(each).structure, each.style, each.size, None, each.model)
        drawn = trunk_model.draw(linear).astype(float)[: height * scale, : width * scale]
        means = drawn.reshape(height, scale, width, scale, 3).mean((1, 3))
        error, spread = np.abs(means - small[:height, :width]).mean(), np.abs(means - means.mean((0, 1))).mean()
        assert error < 0.35 * spread
        whole = Region.at(0, 0, *small.shape[:2])
        out = np.empty_like(small)
        trunk_model.preview(each, scale, out=out, blocks=_halves(whole))
        assert np.abs(out.astype(int) - small).max() <= 1


def _halves(region):
    rows, left, right = region.rows, region.cols.size // 2 + 1, region.cols.size - region.cols.size // 2 - 1
    return [Region.at(0, 0, rows.size, left), Region.at(0, left, rows.size, right)]


def test_scales_that_there_are_not(trunk_model, latents, model):
    for scale in (3, 16):
        with pytest.raises(UserError, match=f"scale: 1/{scale}; allowed: 1, 1/2, 1/4 ... 1/8"):
            trunk_model.preview(latents, scale)
    with pytest.raises(UserError, match="scale: previews need a checkpoint with a trunk"):
        model.preview(model.generate(20, 20), 2)


@st.composite
def masks(draw):
    """A box of an image of SIZE, and pixels over which its edge is soft."""
    top, left = draw(st.integers(0, SIZE[0] - 1)), draw(st.integers(0, SIZE[1] - 1))
    bottom, right = draw(st.integers(top + 1, SIZE[0])), draw(st.integers(left + 1, SIZE[1]))
    soft = draw(st.sampled_from([0, 0, 3, 11]))
    return LabelMap(Boxes([(top, left, bottom, right)]), 2, SIZE, soft)


def beyond(model, mask):
    """Bool [H, W]: the pixels that a mask does not reach."""
    top, left, bottom, right = mask.labels.boxes[0]
    away, untouched = model.reach + mask.blur, np.ones(SIZE, bool)
    untouched[max(0, top - away) : bottom + away, max(0, left - away) : right + away] = False
    return untouched


@given(masks(), masks(), st.sampled_from([-1.0, 0.4, 1.0, 2.5]), st.booleans())
def test_what_masks_do_not_reach_keeps_its_bits(trunk_model, latents, first, second, strength, grey):
    latents = replace(latents, grey=grey)
    one = latents.with_style(trunk_model.style(3), strength, first)
    two = one.with_style(trunk_model.style(4), strength, second)
    plain, *drawn = (trunk_model.draw(each, dtype=np.float32) for each in (latents, one, two))
    far = beyond(trunk_model, first)
    assert (drawn[0][far] == plain[far]).all() and ((drawn[0] != plain).any() or first.blur < trunk_model.cell)
    far = beyond(trunk_model, second)
    assert (drawn[1][far] == drawn[0][far]).all()
    model = PatchInverter(trunk_model.networks, CPU, torch.float32, 24)
    assert np.abs(model.draw(two, dtype=np.float32) - drawn[1]).max() < 1e-5


def test_masks_over_styles_that_vary_over_space(trunk_model, latents, tmp_path):
    """Also where the image's own style varies, and after a file."""
    blend = StyleMap([latents.style, trunk_model.style(1)], HorizontalBlend(20, 60))
    own, mask = replace(latents, style=blend), LabelMap(Boxes([(0, 0, 20, 20)]), 2, SIZE)
    styled = own.with_style(trunk_model.style(2), mask=mask)
    styled.save(tmp_path / "a.safetensors")
    loaded = Latents.load(tmp_path / "a.safetensors")
    plain, drawn = (trunk_model.draw(each, dtype=np.float32) for each in (own, loaded))
    far = beyond(trunk_model, mask)
    assert (drawn[far] == plain[far]).all() and (drawn[:16, :16] != plain[:16, :16]).any()
