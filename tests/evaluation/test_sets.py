"""Sets of images: patches that lie in their photographs, and generated images."""

import cv2
import numpy as np
import pytest

from evaluation.sets import generated_set, real_sets
from tests.evaluation.tiny import tiny_model

MAX_PIXELS = 10**6


@pytest.fixture(scope="module")
def model(checkpoint):
    return tiny_model(checkpoint)


@pytest.fixture
def photographs(tmp_path):
    """Paths and pixels of photographs of several sizes, of which only the first four are fit for 20 pixels."""
    sizes = {"a": (40, 31), "b": (20, 20), "c": (25, 60), "d": (30, 30)}
    sizes |= {"narrow": (50, 19), "large": (1001, 1000), "broken": (30, 30)}
    random, pixels = np.random.default_rng(0), {}
    for name, size in sizes.items():
        pixels[name] = random.integers(0, 256, (*size, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / f"{name}.png"), pixels[name][..., ::-1])
    path = tmp_path / "broken.png"
    path.write_bytes(path.read_bytes()[:-200])
    return [tmp_path / f"{name}.png" for name in sizes], pixels


def origin(patch, pixels):
    """The name of the photograph that a patch lies in."""
    for name, image in pixels.items():
        if min(image.shape[:2]) >= len(patch):
            windows = np.lib.stride_tricks.sliding_window_view(image, patch.shape)
            if (windows == patch).all((-3, -2, -1)).any():
                return name
    return None


def test_the_sets_have_no_photograph_in_common(photographs):
    paths, pixels = photographs
    first, second = real_sets(paths, 20, 6, 0, MAX_PIXELS)
    assert first.shape == second.shape == (4, 20, 20, 3) and first.dtype == np.uint8  # of two files each
    origins = [[origin(patch, pixels) for patch in patches] for patches in (first, second)]
    assert origins == [["a", "a", "c", "c"], ["b", "b", "d", "d"]]


def test_as_many_patches_as_are_wanted_at_places_by_the_seed(photographs):
    paths, _ = photographs
    assert [len(each) for each in real_sets(paths[:4], 20, 7, 0, MAX_PIXELS)] == [8, 8]
    assert [len(each) for each in real_sets(paths[:1], 20, 7, 0, MAX_PIXELS)] == [7, 0]
    assert [each.shape for each in real_sets(paths, 200, 3, 0, 1000)] == [(0, 200, 200, 3)] * 2
    assert [len(each) for each in real_sets(paths, 20, 0, 0, MAX_PIXELS)] == [0, 0]
    (first, _), (again, _), (other, _) = (real_sets(paths, 20, 9, seed, MAX_PIXELS) for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other) and not np.array_equal(first[0], first[1])


def test_scaled_canvases_are_shrunk_by_area(model):
    small, large = generated_set(model, 12, [3], scale=3)[0], generated_set(model, 36, [3])[0]
    assert np.abs(small - large.reshape(12, 3, 12, 3, 3).mean((1, 3))).max() <= 0.5 + 1e-6
    assert large.std() > 5 and not np.array_equal(small, generated_set(model, 12, [3])[0])
    assert np.array_equal(large, model.draw(model.generate(36, 36, 3)))
    assert generated_set(model, 12, []).shape == (0, 12, 12, 3)
