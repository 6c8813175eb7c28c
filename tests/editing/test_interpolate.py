"""Ways from image to image: their ends, blocks against the whole, and that contrast stays on the way."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from editing.interpolate import FLOOR, Moments, film, interpolate, moments
from inversion import Latents
from inversion.noise import FieldNoise
from inversion.styles import StyleMap
from inversion.weight_maps import HorizontalBlend
from tests.inversion.conftest import photograph, trunk_model
from utils.errors import UserError

__all__ = ["trunk_model"]
SIZE = 48, 70
TOLERANCE = 1e-5


def images(model, kind):
    """Three images of one size."""
    if kind == "generated":
        return [model.generate(*SIZE, seed) for seed in (2, 3, 5)]
    noises = None, FieldNoise(3), FieldNoise(4)
    return [model.invert(photograph(*SIZE, seed), noise=noise) for seed, noise in enumerate(noises)]


@pytest.fixture(params=["tiny", "trunk"])
def any_model(request, model, trunk_model):
    """With and without a trunk."""
    return model if request.param == "tiny" else trunk_model


@pytest.mark.parametrize("kind", ["generated", "photographs"])
def test_whole_numbers_are_the_images_and_the_way_begins_anew(any_model, kind):
    given = images(any_model, kind)
    path = interpolate(any_model, given)
    for n in range(5):
        assert (any_model.draw(path(n)) == any_model.draw(given[n % 3])).all()
    for what in ("style", "structure"):
        path = interpolate(any_model, given, what)
        assert (any_model.draw(path(0)) == any_model.draw(given[0])).all()
        assert (any_model.draw(path(4)) == any_model.draw(path(1))).all()


@pytest.mark.parametrize("kind", ["generated", "photographs"])
@pytest.mark.parametrize("what", ["style", "structure", "both"])
def test_nothing_jumps(any_model, kind, what):
    """A little way before and behind an image, it is nearly that image."""
    path = interpolate(any_model, images(any_model, kind), what)
    for n in (1, 2, 3):
        before, at, after = (any_model.draw(path(n + d), dtype=np.float32) for d in (-1e-4, 0, 1e-4))
        assert abs(before - at).max() < 0.02 and abs(after - at).max() < 0.02


@pytest.mark.parametrize("what", ["style", "structure", "both"])
def test_what_stays_is_that_of_the_first_image(any_model, what):
    given = images(any_model, "photographs")
    middle = interpolate(any_model, given, what)(0.5)
    same = (middle.style.global_latent == given[0].style.global_latent).all()
    assert same == (what == "structure")
    assert (middle.structure is given[0].structure) == (what == "style")


@pytest.mark.parametrize("kind", ["generated", "photographs"])
@settings(max_examples=15)
@given(top=st.integers(0, 40), left=st.integers(0, 60), share=st.floats(0.01, 0.99))
def test_blocks_equal_the_whole(model, kind, top, left, share):
    latents = interpolate(model, images(model, kind))(share)
    box = top, left, min(top + 17, SIZE[0]), min(left + 23, SIZE[1])
    part, whole = (model.draw(latents, region, dtype=np.float32) for region in (box, None))
    assert abs(part - whole[top : box[2], left : box[3]]).max() < TOLERANCE
    every, some = latents.structure[:, :, :], latents.structure[1:3, 2:4, 1:5]
    assert (some == every[1:3, 2:4, 1:5]).all()


@given(st.integers(0, 10**6), st.floats(-0.9, 1), st.floats(0, 1))
def test_means_and_deviations_lie_on_the_straight_line(seed, common, share):
    """Whatever two channels have in common."""
    random = np.random.default_rng(seed)
    a = random.standard_normal((3, 400)) * [[1], [5], [0.1]] + [[0], [7], [-1]]
    b = common * 2 * a + (1 - abs(common)) * random.standard_normal((3, 400)) + 4
    means, deviations = ((a.mean(1), b.mean(1)), (a.std(1), b.std(1)))
    correlation = ((a - means[0][:, None]) * (b - means[1][:, None])).mean(1) / deviations[0] / deviations[1]
    near, far, added = (each[:, 0] for each in Moments(means, deviations, correlation).weights(share))
    mixed = near * a + far * b + added
    assert np.allclose(mixed.mean(1), (1 - share) * means[0] + share * means[1], atol=1e-4)
    if (correlation > -0.95).all():
        assert np.allclose(mixed.std(1), (1 - share) * deviations[0] + share * deviations[1], rtol=1e-3)


def test_moments_are_those_of_the_cells_inside(model):
    a, b, _ = images(model, "photographs")
    found, (height, width) = moments(model, a, b), (-(-edge // model.cell) for edge in SIZE)
    first = [-interval.first for interval in (model.cells(SIZE).rows, model.cells(SIZE).cols)]
    inside = slice(None), slice(first[0], first[0] + height), slice(first[1], first[1] + width)
    values = [latents.structure[inside].reshape(5, -1) for latents in (a, b)]
    assert np.allclose(found.means, [each.mean(1) for each in values], atol=1e-6)
    assert np.allclose(found.deviations, [each.std(1) for each in values], atol=FLOOR)
    expected = [np.corrcoef(*pair)[0, 1] for pair in zip(*values, strict=True)]
    assert np.allclose(found.correlation, expected, atol=1e-4)


def test_an_image_between_is_kept_in_a_file(model, tmp_path):
    for kind in ("generated", "photographs"):
        latents = interpolate(model, images(model, kind))(1.3)
        latents.save(tmp_path / "between.safetensors")
        assert (model.draw(Latents.load(tmp_path / "between.safetensors")) == model.draw(latents)).all()


@pytest.mark.parametrize("loop", [False, True])
def test_a_film_rests_at_each_image(model, loop):
    given = images(model, "photographs")
    path = interpolate(model, given)
    made = film(model, path, len(given), 4, 25, loop)
    frames = list(made.frames(0))
    assert made.size == SIZE and made.fps == 25 and made.count == len(frames) == (12 if loop else 9)
    for k, latents in enumerate(given):
        assert (frames[4 * k] == model.draw(latents)).all()
    assert (frames[2] == model.draw(path(0.5))).all() and (frames[1] == model.draw(path(0.15625))).all()
    assert all((a == b).all() for a, b in zip(made.frames(5), frames[5:], strict=True))


def test_of_several_sizes_the_middle_is_shown(any_model):
    given = [any_model.invert(photograph(*size), noise=FieldNoise(3)) for size in ((64, 70), (48, 101))]
    path = interpolate(any_model, given)
    for n, (top, left) in enumerate([(8, 0), (0, 8)]):
        whole = any_model.draw(given[n], dtype=np.float32)[top : top + 48, left : left + 70]
        assert abs(any_model.draw(path(n), dtype=np.float32) - whole).max() < TOLERANCE
    assert any_model.draw(path(0.4)).shape == (48, 70, 3)
    one, other = (any_model.generate(48, width, 4) for width in (70, 101))
    assert any_model.draw(interpolate(any_model, [one, other])(1.5)).shape == (48, 70, 3)


def test_what_cannot_be_interpolated_is_one_line(model):
    a, b, _ = images(model, "photographs")
    with pytest.raises(UserError, match="images: 1; needed are two or more"):
        interpolate(model, [a])
    several = StyleMap([a.style, b.style], HorizontalBlend(5, 50))
    with pytest.raises(UserError, match="one style each"):
        interpolate(model, [a, b.with_style(several)])
    grey = [replace(each, grey=True) for each in (a, b)]
    assert interpolate(model, grey)(0.5).grey and not interpolate(model, [grey[0], b])(0.5).grey
