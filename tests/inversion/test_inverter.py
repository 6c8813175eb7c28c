"""The program's interface: inverting, drawing, generating, styles, and what it refuses."""

import subprocess
import sys
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
import zarr

from inversion import Latents, PatchInverter, StyleMap
from inversion.noise import FieldNoise
from inversion.synthesis import LocalField
from inversion.weight_maps import HorizontalBlend
from models.geometry import Region, blocks
from models.weights import export
from tests.inversion.conftest import CPU, photograph, tiny_inverter
from utils.errors import UserError

ROOT = Path(__file__).parents[2]
EXAMPLES = """
import threading, torch, PIL.Image
def state():
    return [torch.get_num_threads(), threading.active_count(), torch.backends.cudnn.allow_tf32,
            PIL.Image.MAX_IMAGE_PIXELS]
before = state()
from inversion import PatchInverter, Latents
assert before == state()
photo = "photo.png"
model = PatchInverter.from_pretrained()
latents = model.invert(photo)
image = model.draw(latents)
assert image.shape == (40, 50, 3) and image.dtype == "uint8"
assert (model.draw(latents, region=(8, 3, 40, 20)) == image[8:40, 3:20]).mean() > 0.99
image = model.draw(latents.with_style(model.style("other.jpg"), strength=0.7))
world = model.generate(height=512, width=2048, seed=3)
assert model.draw(world, (500, 2000, 512, 2048)).shape == (12, 48, 3)
latents.save("photo.safetensors"); Latents.load("photo.safetensors")
"""


def test_the_examples_run_as_they_stand(tmp_path):
    """With the shipped checkpoint; and an import changes nothing in the process."""
    PIL.Image.fromarray(photograph(40, 50)).save(tmp_path / "photo.png")
    PIL.Image.fromarray(photograph(30, 30, 1)).save(tmp_path / "other.jpg")
    program = f"import sys; sys.path[:0] = {[str(ROOT), *sys.path]!r}\n{EXAMPLES}"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


# Loading


def test_a_checkpoint_without_encoder_draws_but_does_not_invert(tmp_path, model):
    networks = tiny_inverter()
    export(tmp_path / "generator.safetensors", networks.model, {"generator": networks.generator}, step=0)
    alone = PatchInverter.from_pretrained(tmp_path / "generator.safetensors", device="cpu", dtype="float32")
    assert alone.networks.encoder is None
    assert (alone.draw(alone.generate(30, 40, 5)) == model.draw(model.generate(30, 40, 5))).all()
    for use in (alone.invert, alone.encode, alone.style):
        with pytest.raises(UserError, match=r"generator\.safetensors: holds no encoder"):
            use(photograph(20, 20))


# Images


def test_an_image_is_a_path_an_array_or_an_image_of_pillow(model, tmp_path):
    """Of the same pixels, they have the same latents and style; a grey one has three equal colours."""
    pixels = photograph(50, 70)
    grey, path = pixels[..., 0], tmp_path / "a.png"
    PIL.Image.fromarray(pixels).save(path)
    for reference, *sources in (
        (pixels, path, str(path), PIL.Image.fromarray(pixels), model.open(path), pixels.astype(np.uint16) * 257),
        (np.repeat(grey[..., None], 3, axis=2), grey, PIL.Image.fromarray(grey)),
    ):
        expected = model.invert(reference)
        for source in sources:
            found = model.invert(source)
            assert found.size == (50, 70) and abs(found.structure - expected.structure).max() <= 1e-5
            assert torch.allclose(found.style.global_latent, expected.style.global_latent, atol=1e-5)
            assert torch.equal(model.style(source).global_latent, found.style.global_latent)


@pytest.mark.parametrize(
    "source", [np.zeros((5, 5, 3)), np.zeros((5, 5, 4), np.uint8), np.zeros((0, 5, 3), np.uint8), "none.png", __file__]
)
def test_what_is_no_image_is_one_line(model, source):
    for use in (model.invert, model.style):
        with pytest.raises(UserError) as error:
            use(source)
        assert "\n" not in str(error.value)


def test_inverting_is_encoding_and_refining(model):
    pixels = photograph(50, 70)
    encoded, refined = model.encode(pixels, refined=True), model.invert(pixels, refine=5)
    assert (encoded.size, encoded.noise, encoded.model) == ((50, 70), None, "tiny")
    assert (model.refine(encoded, pixels, 5).structure == refined.structure).all()
    assert model.refine(encoded, pixels, 0) is encoded
    styled = model.invert(pixels, style_steps=5, noise=FieldNoise(4))
    assert styled.noise == FieldNoise(4)
    errors = [np.square(model.draw(replace(latents, noise=None), dtype=np.float32) - (pixels / 127.5 - 1)).mean()
              for latents in (refined, styled, encoded)]  # fmt: skip
    assert max(errors[:2]) < errors[2]


# Drawing


@pytest.mark.parametrize("box", [(0, 0, 10, 51), (-1, 0, 5, 5), (3, 4, 3, 9)])
def test_a_region_that_is_not_inside_is_refused(model, box):
    with pytest.raises(UserError, match="the image has 40 x 50 pixels"):
        model.draw(model.generate(40, 50), box)


def test_results_go_into_arrays_of_any_kind_in_blocks_of_any_order(model, tmp_path):
    pixels, whole = photograph(40, 50), Region.at(0, 0, 40, 50)
    expected = model.encode(pixels, blocks=blocks(model.cells((40, 50)), (6, 5)))
    store = zarr.create_array(tmp_path / "a", shape=expected.structure.shape, chunks=(5, 6, 5), dtype="float32")
    latents = model.encode(pixels, out=store, blocks=reversed(list(blocks(model.cells((40, 50)), (6, 5)))))
    assert latents.structure is store and (store[:] == expected.structure).all()
    drawn = model.draw(expected, blocks=blocks(whole, (30, 25)))
    for order in permutations(blocks(whole, (30, 25))):
        out = np.zeros((40, 50, 3), np.uint8)
        assert model.draw(latents, out=out, blocks=order) is out and (out == drawn).all()
    out = np.full((40, 50, 3), 77, np.uint8)
    model.draw(latents, out=out, blocks=[Region.at(8, 0, 10, 50)])
    assert (out[:8] == 77).all() and (out[18:] == 77).all()  # what is not to do stays as it is


def test_latents_of_other_weights_or_another_size_are_refused(model):
    latents = model.invert(photograph(40, 50))
    with pytest.raises(UserError, match="encoded by the weights other, but the checkpoint has tiny"):
        model.draw(replace(latents, model="other"))
    with pytest.raises(UserError, match="do not cover an image of 41 x 200"):
        model.draw(replace(latents, size=(41, 200)))
    styles = StyleMap([latents.style] * 2, HorizontalBlend(0, 9))
    for changed, width in ((latents, 51), (replace(latents, style=styles), 50)):
        with pytest.raises(UserError, match="refined are latents of the image itself, in one style"):
            model.refine(changed, photograph(40, width), 1)
    other = replace(latents.style, global_latent=torch.zeros(7))
    for style in (other, StyleMap([other] * 2, HorizontalBlend(0, 9))):
        with pytest.raises(UserError, match="style of 7 values, but the checkpoint has 6"):
            model.draw(replace(latents, style=style))


class Counting:
    """An array, or local latents, that count the cells that are read."""

    period, cells = None, 0

    dtype = np.dtype("float32")

    def __init__(self, source):
        self.source, self.shape = source, getattr(source, "shape", None)

    def _counted(self, values):
        self.cells += values.shape[1] * values.shape[2]
        return values

    def read(self, region):
        return self._counted(self.source.read(region))

    def __getitem__(self, index):
        return self._counted(self.source[index])


def test_a_region_costs_no_more_than_itself(model, tmp_path):
    """Of a canvas that no disk holds, and of a file."""
    world, box = model.generate(10**9, 10**9, seed=3), (7 * 10**8, 10**8, 7 * 10**8 + 40, 10**8 + 50)
    local = Counting(LocalField(5, 3, CPU))
    counted = replace(world, structure=world.structure.with_local(local))
    assert (model.draw(counted, box) == model.draw(world, box)).all()
    assert local.cells <= 4 * (32 + 4) ** 2  # tiles of 32 x 32 cells, and two layers of radius 1
    latents = model.encode(photograph(300, 300))
    latents.save(tmp_path / "a.safetensors")
    latents = Latents.load(tmp_path / "a.safetensors")
    counted = replace(latents, structure=Counting(latents.structure))
    model.draw(counted, (100, 96, 140, 146))
    assert 0 < counted.structure.cells <= (40 // 8 + 6) * (50 // 8 + 6)


# Generating


def test_a_seed_says_all(model):
    """Structure, style, and noise; each can be another."""
    world = model.generate(60, 90, seed=3)
    assert (world.size, world.noise, world.model) == ((60, 90), FieldNoise(3), "tiny")
    assert (model.draw(world) == model.draw(model.generate(60, 90, 3))).all()
    styled = model.generate(60, 90, 3, style=model.style(4))
    assert torch.equal(styled.style.global_latent, model.generate(60, 90, 4).style.global_latent)
    for other in (model.generate(60, 90, 4), model.generate(60, 90, 3, noise=False), styled):
        assert (model.draw(other) != model.draw(world)).mean() > 0.1
    assert model.generate(64, 64, 3, panorama=True).noise == FieldNoise(3, 64)


def test_sizes_that_cannot_be_generated_are_refused(model):
    with pytest.raises(UserError, match="width: 65; a panorama takes a multiple of 8 pixels"):
        model.generate(20, 65, panorama=True)
    for size in ((0, 9), (9, 0), (-8, 8)):
        with pytest.raises(UserError, match=f"an image of {size[0]} x {size[1]} pixels"):
            model.generate(*size)


# Styles


def test_the_style_of_a_photograph_of_latents_and_of_a_seed(model):
    one, other = (model.style(photograph(60, 80, seed)).global_latent for seed in (0, 1))
    assert one.shape == (6,) and one.dtype == torch.float32 and abs(one - other).max() > 1e-3
    assert torch.equal(model.style(np.int64(3)).global_latent, model.generate(9, 9, 3).style.global_latent)
    both = StyleMap([model.style(1), model.style(2)], HorizontalBlend(0, 9))
    assert model.style(model.generate(9, 9, style=both)) is both


@pytest.mark.parametrize("kind", ["photograph", "several styles"])
def test_a_style_takes_over_by_its_strength(model, kind):
    """0 is the same image, to the last bit; 1 is the other style; beyond, it goes further."""
    latents = model.invert(photograph(50, 70)) if kind == "photograph" else model.generate(50, 70, 1)
    if kind == "several styles":
        latents = replace(latents, style=StyleMap([model.style(1), model.style(2)], HorizontalBlend(10, 60)))
    other = model.style(9)
    everywhere = StyleMap([other, other], HorizontalBlend(10, 60))

    def drawn(style, strength):
        return model.draw(latents.with_style(style, strength), dtype=np.float32)

    assert (drawn(other, 0) == model.draw(latents, dtype=np.float32)).all()
    assert (drawn(everywhere, 0) == model.draw(latents, dtype=np.float32)).all()
    assert (drawn(other, 1) == model.draw(replace(latents, style=other), dtype=np.float32)).all()
    assert abs(drawn(everywhere, 1) - drawn(other, 1)).max() <= 1e-5
    images = [drawn(other, strength) for strength in (0, 0.3, 0.7, 1, 1.5)]
    assert all(abs(one - two).max() > 0.01 for one, two in zip(images, images[1:], strict=False))
    assert latents.with_style(other).structure is latents.structure


def test_edited_latents_that_cannot_be_drawn(model):
    latents = model.encode(photograph(30, 40))
    values = latents.structure
    for structure, words in (values[None], "without a batch axis"), (values.astype(int), "allowed: floating-point"):
        with pytest.raises(UserError, match=words):
            model.draw(replace(latents, structure=structure))
    broken = values.copy()
    broken[2, 4, 6] = np.nan
    with pytest.raises(UserError, match="latents: not a finite number in the cell at row 4, column 6"):
        model.draw(replace(latents, structure=broken))


def test_what_is_odd_about_a_file_is_told_once(model, tmp_path, capsys):
    PIL.Image.fromarray(photograph(40, 50)).save(tmp_path / "a.png", icc_profile=b"no profile")
    image = model.open(tmp_path / "a.png")
    model.open(image)
    assert capsys.readouterr().err.count("its colour profile cannot be used") == 1
