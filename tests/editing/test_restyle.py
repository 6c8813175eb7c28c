"""Other styles, and mixtures of layers: what a mask does not reach, what strength 0 keeps, which bands change."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from editing import fuse, mix, restyle
from inversion import Latents, PatchInverter
from inversion.styles import mean_style
from inversion.weight_maps import Boxes, LabelImage
from models.statistics import bands
from tests.inversion.conftest import CPU, photograph
from utils.errors import UserError

BANDS, LAYERS = 4, 2  # the last band of the tiny model, and the last layer of its structure synthesizer


@pytest.fixture(scope="module")
def images(trunk_model):
    """Latents of a photograph, of a generated image, and of a photograph in another style, of several sizes."""
    photo = trunk_model.invert(photograph(41, 70))
    styled = trunk_model.invert(photograph(50, 65, 1)).with_style(trunk_model.style(6), 0.5)
    return [photo, trunk_model.generate(45, 74, seed=3), styled]


def draw(model, latents, **options):
    return model.draw(latents, dtype=np.float32, **options)


CASES = [  # number of an image, edit, its options, a box, and pixels over which its edge is soft
    (0, restyle, {"strength": -0.5}, (0, 0, 9, 9), 0),
    (0, restyle, {"strength": 2.0, "layers": (0, 0)}, (31, 0, 41, 12), 3),
    (0, mix, {"layers": (1, 3)}, (3, 21, 12, 30), 0),
    (1, restyle, {"layers": (1, BANDS)}, (0, 0, 45, 20), 16),
    (1, mix, {"layers": (1, 1)}, (20, 60, 45, 74), 0),
    (1, mix, {"layers": (0, LAYERS)}, (5, 5, 13, 13), 3),
    (2, restyle, {"strength": 0.3}, (10, 40, 20, 65), 0),
    (2, mix, {"layers": (0, BANDS)}, (0, 0, 50, 10), 3),
]


@pytest.mark.parametrize(("number", "edit", "options", "box", "soften"), CASES)
def test_what_a_mask_does_not_reach_keeps_its_bits(trunk_model, images, number, edit, options, box, soften):
    """And blocks equal the whole."""
    latents, (top, left, bottom, right), away = images[number], box, trunk_model.reach + soften
    edited = edit(trunk_model, latents, trunk_model.style(number), where=Boxes([box]), soften=soften, **options)
    far = np.ones(latents.size, bool)
    far[max(0, top - away) : bottom + away, max(0, left - away) : right + away] = False
    plain, drawn = draw(trunk_model, latents), draw(trunk_model, edited)
    assert far.any() and (drawn == plain)[far].all() and (drawn != plain).any()
    blocks = PatchInverter(trunk_model.networks, CPU, torch.float32, 24)
    assert np.abs(draw(blocks, edited) - drawn).max() < 1e-5
    assert (draw(blocks, edited) == draw(blocks, latents))[far].all()


@pytest.mark.parametrize(("number", "edit"), [(0, restyle), (0, mix), (1, restyle), (1, mix), (2, mix)])
def test_a_mask_changes_what_it_covers_as_the_whole_does(trunk_model, images, number, edit):
    latents, layers = images[number], (0, LAYERS if (number, edit) == (1, mix) else BANDS)

    def drawn(*labels):
        where = LabelImage(np.array([labels], bool), latents.size) if labels else None
        edited = edit(trunk_model, latents, trunk_model.style(2), layers=layers, where=where, soften=0)
        return draw(trunk_model, edited)

    every = drawn()
    assert (drawn(1, 1) == every).all()
    change = np.abs(drawn(1, 0) - draw(trunk_model, latents))
    assert change[:, :20].mean() > 0.01 and change[:, -5:].max() == 0


def test_strength_0_and_its_own_style_are_the_image(trunk_model, images):
    photo, generated, _ = images
    for latents in (photo, generated):
        plain, other = draw(trunk_model, latents), trunk_model.style(1)
        for layers in (None, (0, 0), (1, BANDS)):
            assert (draw(trunk_model, restyle(trunk_model, latents, other, 0, layers=layers)) == plain).all()
            assert (draw(trunk_model, restyle(trunk_model, latents, latents.style, layers=layers)) == plain).all()
    assert (draw(trunk_model, mix(trunk_model, generated, generated.style, (0, LAYERS))) == plain).all()


def test_colours_and_textures(trunk_model, images):
    """What is not taken keeps what it has: colours their statistics, textures what the other colours make of them."""
    photo, other = images[0], trunk_model.style(photograph(50, 60, 7))
    trunk = trunk_model.generator.texture.trunk
    band = bands(trunk)[: trunk.channels]
    structures = {
        layers: trunk_model.as_drawn(restyle(trunk_model, photo, other, layers=layers)).structure[:, :, :]
        for layers in (None, (0, 0), (1, BANDS), (1, 2))
    }
    own = photo.structure[:, :, :]
    assert (structures[None][band == 0] == structures[0, 0][band == 0]).all()
    assert (
        np.abs(structures[1, BANDS] - own)[band == 0].max() < 1e-4 < np.abs(structures[1, BANDS] - own)[band > 0].max()
    )
    assert np.abs(structures[1, 2] - own)[band == BANDS].max() < 1e-4 < np.abs(structures[1, 2] - own)[band == 2].max()
    assert np.abs(structures[None] - structures[0, 0])[band > 0].max() > 1e-3


def test_layers_of_a_generated_image(trunk_model):
    """All of them are an image in the other style; one after the other they are several."""
    latents, style = trunk_model.generate(40, 60, seed=5), trunk_model.style(8)
    every = mix(trunk_model, latents, style, (0, LAYERS))
    assert (draw(trunk_model, every) == draw(trunk_model, trunk_model.generate(40, 60, seed=5, style=style))).all()
    inner = mix(trunk_model, latents, style, (1, LAYERS))
    assert inner.style is latents.style and np.abs(inner.structure[:, :, :] - latents.structure[:, :, :]).max() > 1e-3
    again = mix(trunk_model, mix(trunk_model, latents, style, (1, 1)), style, (2, LAYERS))
    assert (draw(trunk_model, again) == draw(trunk_model, inner)).all()


def test_edits_follow_each_other_and_files_keep_them(trunk_model, images, tmp_path):
    where, style = Boxes([(10, 10, 50, 50)]), trunk_model.style(4)
    for k, latents in enumerate(images):
        for edited in (
            mix(trunk_model, restyle(trunk_model, latents, style, 0.5, where=where), trunk_model.style(5), (1, 2)),
            restyle(trunk_model, mix(trunk_model, latents, style, (0, 1), where=where), trunk_model.style(5), 0.7),
        ):
            edited.save(tmp_path / f"{k}.safetensors")
            loaded = Latents.load(tmp_path / f"{k}.safetensors")
            assert (draw(trunk_model, loaded) == draw(trunk_model, edited)).all()


def test_the_mean_of_styles(trunk_model):
    one, two = trunk_model.style(1), trunk_model.style(2)
    assert torch.equal(mean_style([one, two], [3, 0]).global_latent, one.global_latent)
    middle = mean_style([one, two, two, two])
    assert torch.allclose(middle.global_latent, torch.lerp(one.global_latent, two.global_latent, 0.75))
    assert torch.equal(middle.global_latent, mean_style([one, two], [1, 3]).global_latent) and middle.measured


CORNER = Boxes([(0, 0, 8, 8)])
WRONG = {
    "no latent cell has its centre inside": lambda m, a: restyle(m, a, a.style, where=Boxes([(3, 3, 6, 6)]), soften=2),
    "a panorama would no longer close": lambda m, a: mix(m, m.generate(8, 16, panorama=True), a.style, where=CORNER),
    r"mix.layers: \[0, 5\]; allowed: \[first, last\] from 0 to 4": lambda m, a: mix(m, a, a.style, (0, 5)),
    r"mix.layers: \[2, 1\]; allowed": lambda m, a: mix(m, m.generate(8, 8), a.style, (2, 1)),
    "style: one varies over space": lambda m, a: restyle(m, a, fuse(m, a, [a.style]).style),
    "mix: a style varies over space": lambda m, a: mix(m, fuse(m, m.generate(8, 8), [a.style]), a.style, (0, 1)),
    "styles: one varies over space": lambda m, a: mean_style([fuse(m, a, [a.style]).style, a.style]),
    "encoded by the weights other": lambda m, a: restyle(m, replace(a, model="other"), a.style),
}


def test_what_does_not_fit_is_one_line(trunk_model, images, model, left):
    for said, edit in WRONG.items():
        with pytest.raises(UserError, match=rf"^[^\n]*{said}[^\n]*$"):
            edit(trunk_model, images[0])
    assert np.abs(draw(model, restyle(model, left, model.style(1))) - draw(model, left)).max() > 1e-3
    with pytest.raises(UserError, match="are told apart by checkpoints with a trunk"):
        restyle(model, left, model.style(1), layers=(0, 0))
