"""Ways from image to image: their ends, blocks against the whole, and that contrast stays on the way."""

from dataclasses import replace

import numpy as np
import pytest

from editing.interpolate import film, interpolate
from inversion import Latents
from inversion.noise import FieldNoise
from inversion.styles import StyleMap
from inversion.weight_maps import HorizontalBlend
from tests.inversion.conftest import photograph
from utils.errors import UserError

SIZE = 24, 44
TOLERANCE = 1e-5
WHAT = "style", "structure", "both"


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
def test_whole_numbers_are_the_images_and_nothing_jumps(any_model, kind):
    """Behind the last one the way begins anew; a little before and behind an image, it is nearly that image."""
    given = images(any_model, kind)
    paths = {what: interpolate(any_model, given, what) for what in WHAT}
    for n in range(5):
        assert (any_model.draw(paths["both"](n)) == any_model.draw(given[n % 3])).all()
    for path in paths.values():
        assert (any_model.draw(path(0)) == any_model.draw(given[0])).all()
        assert (any_model.draw(path(4)) == any_model.draw(path(1))).all()
        for n in (1, 3):
            before, at, after = (any_model.draw(path(n + d), dtype=np.float32) for d in (-1e-4, 0, 1e-4))
            assert abs(before - at).max() < 0.02 and abs(after - at).max() < 0.02


def test_what_stays_is_that_of_the_first_image(any_model):
    given = images(any_model, "photographs")
    for what in WHAT:
        middle = interpolate(any_model, given, what)(0.5)
        same = (middle.style.global_latent == given[0].style.global_latent).all()
        assert same == (what == "structure") and (middle.structure is given[0].structure) == (what == "style")


@pytest.mark.parametrize("kind", ["generated", "photographs"])
def test_blocks_and_saved_latents_draw_the_same(model, kind, tmp_path):
    path = interpolate(model, images(model, kind))
    for share, top, left in ((0.1, 0, 0), (1.3, 5, 20), (2.9, 10, 30)):
        latents = path(share)
        box = top, left, min(top + 17, SIZE[0]), min(left + 23, SIZE[1])
        part, whole = (model.draw(latents, region, dtype=np.float32) for region in (box, None))
        assert abs(part - whole[top : box[2], left : box[3]]).max() < TOLERANCE
        every, some = latents.structure[:, :, :], latents.structure[1:3, 2:4, 1:5]
        assert (some == every[1:3, 2:4, 1:5]).all()
    latents.save(tmp_path / "between.safetensors")
    assert (model.draw(Latents.load(tmp_path / "between.safetensors")) == model.draw(latents)).all()


def test_contrast_stays_on_the_way(any_model):
    """The mean and the deviation of each channel, over the cells inside, lie on the straight line."""
    first, second, _ = images(any_model, "photographs")
    cells, (height, width) = any_model.cells(SIZE), (-(-edge // any_model.cell) for edge in SIZE)
    top, left = -cells.rows.first, -cells.cols.first

    def moments(latents):
        values = latents.structure[:, top : top + height, left : left + width].astype(np.float64)
        return values.mean((1, 2)), values.std((1, 2))

    for share in (0.3, 0.5, 0.9):
        between = interpolate(any_model, [first, second])(share)
        for found, start, end in zip(*map(moments, (between, first, second)), strict=True):
            assert np.allclose(found, (1 - share) * start + share * end, rtol=1e-3, atol=1e-4)


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
    given = [any_model.invert(photograph(*size), noise=FieldNoise(3)) for size in ((40, 44), (24, 75))]
    path = interpolate(any_model, given)
    for n, (top, left) in enumerate([(8, 0), (0, 8)]):
        whole = any_model.draw(given[n], dtype=np.float32)[top : top + 24, left : left + 44]
        assert abs(any_model.draw(path(n), dtype=np.float32) - whole).max() < TOLERANCE
    assert any_model.draw(path(0.4)).shape == (24, 44, 3)
    one, other = (any_model.generate(24, width, 4) for width in (44, 75))
    assert any_model.draw(interpolate(any_model, [one, other])(1.5)).shape == (24, 44, 3)


def test_what_cannot_be_interpolated_is_one_line(model):
    a, b, _ = images(model, "photographs")
    with pytest.raises(UserError, match="images: 1; needed are two or more"):
        interpolate(model, [a])
    several = StyleMap([a.style, b.style], HorizontalBlend(5, 30))
    with pytest.raises(UserError, match="one style each"):
        interpolate(model, [a, b.with_style(several)])
    grey = [replace(each, grey=True) for each in (a, b)]
    assert interpolate(model, grey)(0.5).grey and not interpolate(model, [grey[0], b])(0.5).grey
