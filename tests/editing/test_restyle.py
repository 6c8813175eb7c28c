"""Other styles, and mixtures of layers: what a mask does not reach, what strength 0 keeps, which bands change."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

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
    photo = trunk_model.invert(photograph(61, 90))
    styled = trunk_model.invert(photograph(70, 75, 1)).with_style(trunk_model.style(6), 0.5)
    return [photo, trunk_model.generate(75, 84, seed=3), styled]


def draw(model, latents, **options):
    return model.draw(latents, dtype=np.float32, **options)


@st.composite
def places(draw, size):
    """A box of an image, and pixels over which its edge is soft."""
    top, left = draw(st.integers(0, size[0] - 9)), draw(st.integers(0, size[1] - 9))
    bottom, right = draw(st.integers(top + 8, size[0])), draw(st.integers(left + 8, size[1]))
    return (top, left, bottom, right), draw(st.sampled_from([0, 0, 3, 16]))


def beyond(model, size, box, soften):
    """Bool [H, W]: the pixels that a mask does not reach."""
    top, left, bottom, right = box
    away, untouched = model.reach + soften, np.ones(size, bool)
    untouched[max(0, top - away) : bottom + away, max(0, left - away) : right + away] = False
    return untouched


def ranges(last):
    """First and last layer."""
    return st.tuples(st.integers(0, last), st.integers(0, last)).map(lambda pair: tuple(sorted(pair)))


@settings(max_examples=25)
@given(st.data())
def test_what_a_mask_does_not_reach_keeps_its_bits(trunk_model, images, data):
    """Whatever the image, its size, the mask, the strength, the layers and the blocks."""
    kind, style = data.draw(st.integers(0, 2)), trunk_model.style(data.draw(st.integers(0, 9)))
    latents = images[kind]
    box, soften = data.draw(places(latents.size))
    options = {"where": Boxes([box]), "soften": soften}
    if data.draw(st.booleans()):
        edited = mix(trunk_model, latents, style, data.draw(ranges(LAYERS if kind == 1 else BANDS)), **options)
    else:
        strength = data.draw(st.sampled_from([-0.5, 0.3, 1.0, 2.0]))
        layers = data.draw(st.none() | ranges(BANDS))
        edited = restyle(trunk_model, latents, style, strength, layers=layers, **options)
    plain, drawn = draw(trunk_model, latents), draw(trunk_model, edited)
    far = beyond(trunk_model, latents.size, box, soften)
    assert (drawn == plain)[far].all()
    model = PatchInverter(trunk_model.networks, CPU, torch.float32, data.draw(st.sampled_from([24, 50])))
    assert np.abs(draw(model, edited) - drawn).max() < 1e-5
    assert (draw(model, edited) == draw(model, latents))[far].all()


def test_a_mask_changes_what_it_covers_as_the_whole_does(trunk_model, images):
    for latents, last in zip(images, (BANDS, LAYERS, BANDS), strict=True):
        whole = LabelImage(np.ones((2, 3), bool), latents.size)
        half = LabelImage(np.array([[1, 0]], bool), latents.size)
        for edit in (restyle, lambda *given, last=last, **options: mix(*given, (0, last), **options)):
            every = draw(trunk_model, edit(trunk_model, latents, trunk_model.style(2)))
            masked = (draw(trunk_model, edit(trunk_model, latents, trunk_model.style(2), where=where, soften=0))
                      for where in (whole, half))  # fmt: skip
            assert (next(masked) == every).all()
            change = np.abs(next(masked) - draw(trunk_model, latents))
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
    """All of them are an image in the other style; the first one alone changes mean and deviation, cell by cell."""
    latents, style = trunk_model.generate(40, 60, seed=5), trunk_model.style(8)
    every = mix(trunk_model, latents, style, (0, LAYERS))
    assert (draw(trunk_model, every) == draw(trunk_model, trunk_model.generate(40, 60, seed=5, style=style))).all()
    channels = trunk_model.generator.structure.local_dim
    mean, deviation = (latents.style.global_latent[: 2 * channels].reshape(2, channels, 1, 1)).numpy()
    mean_b, deviation_b = (style.global_latent[: 2 * channels].reshape(2, channels, 1, 1)).numpy()
    drawn = (latents.structure[:, :, :] - mean) / deviation
    colours = mix(trunk_model, latents, style, (0, 0)).structure[:, :, :]
    assert np.abs((colours - mean_b) / deviation_b - drawn).max() < 1e-3
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
    middle = mean_style([one, two], [1, 3])
    assert torch.allclose(middle.global_latent, torch.lerp(one.global_latent, two.global_latent, 0.75))
    assert torch.equal(middle.global_latent, mean_style([one, two, two, two]).global_latent) and middle.measured


WRONG = {
    "no latent cell has its centre inside it": lambda m, a: restyle(
        m, a, a.style, where=Boxes([(3, 3, 6, 6)]), soften=2
    ),
    "a panorama would no longer close": lambda m, a: mix(
        m, m.generate(8, 16, panorama=True), a.style, (0, 1), where=Boxes([(0, 0, 8, 8)])
    ),
    r"mix.layers: \[0, 5\]; allowed: \[first, last\] from 0 to 4": lambda m, a: mix(m, a, a.style, (0, 5)),
    r"mix.layers: \[2, 1\]; allowed": lambda m, a: mix(m, m.generate(8, 8), a.style, (2, 1)),
    "style: one varies over space": lambda m, a: restyle(m, a, fuse(m, a, [a.style]).style),
    "mix: a style varies over space": lambda m, a: mix(m, fuse(m, m.generate(8, 8), [a.style]), a.style, (0, 1)),
    "styles: one varies over space": lambda m, a: mean_style([fuse(m, a, [a.style]).style, a.style]),
    "encoded by the weights other": lambda m, a: restyle(m, replace(a, model="other"), a.style),
}


@pytest.mark.parametrize("said", WRONG)
def test_what_does_not_fit_is_one_line(trunk_model, images, said):
    with pytest.raises(UserError, match=said) as error:
        WRONG[said](trunk_model, images[0])
    assert "\n" not in str(error.value)


def test_bands_need_a_trunk(model, left):
    assert np.abs(draw(model, restyle(model, left, model.style(1))) - draw(model, left)).max() > 1e-3
    with pytest.raises(UserError, match="are told apart by checkpoints with a trunk"):
        restyle(model, left, model.style(1), layers=(0, 0))
