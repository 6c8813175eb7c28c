"""Measures of edits: each image in the style of the next one."""

import numpy as np
import pytest

from evaluation import run
from evaluation.edits import colour_movement, gradients_kept, measure_edits
from evaluation.latents import relative_error, window
from tests.evaluation.tiny import PIXELS, noise, tiny_evaluated, write_photographs


def brightness(images, seed):
    """Stands for a discriminator."""
    return np.mean([image.mean() for image in images])


def test_edits_are_in_the_style_of_the_next_image(checkpoint, tmp_path):
    files = write_photographs(tmp_path)
    evaluated = tiny_evaluated(checkpoint, "details=3", "pictures=2", discriminator=brightness)
    model, (_, _, kept) = evaluated.model, run.invert_all(evaluated, files, {})
    means, pictures = measure_edits(evaluated, kept)
    edits, pairs, moved, stayed = [], [], [], []
    for name, other in ("ab", "bc", "ca"):
        edited = kept[name].latents.with_style(kept[other].latents.style)
        edits.append(model.draw(edited))
        pairs.append((window(model, model.invert(edits[-1])), window(model, model.as_drawn(edited))))
        moved.append(colour_movement(kept[name].result, edits[-1], PIXELS[other]))
        stayed.append(gradients_kept(PIXELS[name], kept[name].result, edits[-1]))
    assert {name: list(captions) for name, captions in pictures.items()} == {
        "a": ["a", "style of b", "tiny: edit"], "c": ["c", "style of a", "tiny: edit"]
    }  # fmt: skip
    assert means["edit_consistency"] == pytest.approx(1 - relative_error(pairs))
    assert means["edit_colours"] == pytest.approx(np.mean(moved))
    assert means["edit_gradients"] == pytest.approx(np.mean(stayed))
    assert means["edit_score"] == pytest.approx(brightness(edits, 0))
    assert means["real_score"] == pytest.approx(brightness(PIXELS.values(), 0))
    assert means["reconstruction_score"] != means["real_score"]


def test_colours_move_as_far_as_they_are_moved():
    before, target = noise(30, 40, 1) // 2, noise(20, 50, 2)
    assert colour_movement(before, target[:, ::-1], target) == pytest.approx(1)  # where pixels lie does not matter
    assert colour_movement(before, before, target) == 0
    half = ((before.astype(int) + 2 * before) // 2).astype(np.uint8)
    assert 0.3 < colour_movement(before, half, target) < 0.7
    assert colour_movement(before, 255 - target // 2, target) < 0.9
    assert colour_movement(target, before, target) is None


def test_gradients_are_kept_whatever_the_colours():
    photograph = noise(30, 40, 1)
    assert gradients_kept(photograph, photograph, photograph // 2 + 90) == pytest.approx(1, abs=1e-3)
    assert abs(gradients_kept(photograph, photograph, noise(30, 40, 2))) < 0.1
    assert gradients_kept(photograph, photograph, np.full_like(photograph, 7)) is None
