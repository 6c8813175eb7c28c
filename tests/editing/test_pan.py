"""Films along an image: frames are its windows, overlap to the last bit, and cost each pixel once."""

from importlib import import_module

import numpy as np
import pytest

from editing.pan import pan
from inversion import PatchInverter
from tests.inversion.conftest import photograph
from utils.errors import UserError

SIZE = 24, 90


@pytest.fixture
def drawn(monkeypatch):
    """The regions that are drawn of films, in strips that are narrower than the images."""
    found, draw = [], PatchInverter.draw

    def counted(self, latents, region=None):
        found.append(region)
        return draw(self, latents, region)

    monkeypatch.setattr(import_module("editing.pan"), "STRIP", 32)  # the package exports the function
    monkeypatch.setattr(PatchInverter, "draw", counted)
    return found


@pytest.mark.usefixtures("drawn")
@pytest.mark.parametrize(("kind", "vertical"), [("generated", False), ("photograph", False), ("photograph", True)])
def test_frames_are_windows_of_the_image(model, kind, vertical):
    size = SIZE[::-1] if vertical else SIZE
    latents = model.generate(*size, 4) if kind == "generated" else model.invert(photograph(*size))
    made = pan(model, latents, 40, 7, 7, vertical=vertical)
    whole = model.draw(latents).astype(int)
    assert made.size == ((40, 24) if vertical else (24, 40)) and made.count == 7
    for k, frame in enumerate(made.frames(0)):
        window = whole[7 * k : 7 * k + 40] if vertical else whole[:, 7 * k : 7 * k + 40]
        assert abs(frame - window).max() <= 1  # blocks of another shape round otherwise


@pytest.mark.parametrize(("step", "length", "first"), [(7, 40, 3), (1, 2, 9), (40, 33, 1), (64, 60, 0)])
def test_overlapping_frames_are_equal_to_the_last_bit_and_each_pixel_is_drawn_once(model, drawn, step, length, first):
    """Wherever a film begins: also in a longer film, and after a kill."""
    latents = model.generate(*SIZE, 4)
    frames = list(pan(model, latents, length, step, 10).frames(0))
    assert len(set(drawn)) == len(drawn) and all(left % 32 == 0 and right == left + 32 for _, left, _, right in drawn)
    for before, after in zip(frames, frames[1:], strict=False):
        assert (before[:, step:] == after[:, : max(0, length - step)]).all()
    again = list(pan(model, latents, length, step, 12).frames(first))
    assert len(frames) == 10 and all((a == b).all() for a, b in zip(frames[first:], again, strict=False))


def test_what_is_not_said_follows_from_the_image(model):
    made = pan(model, model.generate(*SIZE, 4))
    assert (made.size, made.count) == (SIZE, 240)
    made = pan(model, model.invert(photograph(*SIZE)))
    assert (made.size, made.count) == ((24, 45), 12)
    frames = list(made.frames(11))
    assert len(frames) == 1 and np.ptp(frames[0]) > 0


def test_a_closed_panorama_comes_again(model):
    frames = list(pan(model, model.generate(24, 64, 4, panorama=True), 40, 8, 9).frames(0))
    assert abs(frames[0].astype(int) - frames[8]).max() <= 1 and (frames[0] != frames[4]).mean() > 0.5


def test_a_style_changes_on_the_way(trunk_model):
    """A film to its own style is the film without; the end of another looks more like that style than its beginning."""
    for latents in (trunk_model.generate(*SIZE, 4), trunk_model.invert(photograph(*SIZE))):
        plain, same, other = (
            np.stack(list(pan(trunk_model, latents, 30, 20, 4, to=to).frames(0))).astype(int)
            for to in (None, latents.style, trunk_model.style(9))
        )
        assert abs(plain - same).max() <= 1
        change = abs(other - plain).mean((1, 2, 3))
        assert (np.diff(change) > 0).all() and change[-1] > 3 * change[0]


def test_what_has_no_room_is_one_line(model):
    latents = model.invert(photograph(*SIZE))
    with pytest.raises(UserError, match=r"pan.length: 91 px, but the image has a width of 90; allowed: 1 to 90"):
        pan(model, latents, 91)
    with pytest.raises(UserError, match=r"pan.frames: 12, but the image ends after 11 frames of 50 px, 4 px apart"):
        pan(model, latents, 50, 4, 12)
    with pytest.raises(UserError, match=r"pan.axis: vertical, but generated images have a horizon"):
        pan(model, model.generate(*SIZE), vertical=True)
    with pytest.raises(UserError, match="pan.to: takes a horizontal axis"):
        pan(model, latents, vertical=True, to=model.style(1))
