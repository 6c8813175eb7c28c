"""Sets of images: patches that lie in their photographs, and generated images that are those of generate.py."""

import cv2
import numpy as np
import pytest

import generate
from evaluation.sets import generated_image, generated_set, real_set, shrunk
from tests.evaluation.tiny import tiny_tool

MAX_PIXELS = 10**6


@pytest.fixture(scope="module")
def tool(checkpoint):
    return tiny_tool(checkpoint)


@pytest.fixture
def photographs(tmp_path):
    """Paths and pixels of photographs of several sizes, of which only the first three are fit for 20 pixels."""
    sizes = {"a": (40, 31), "b": (20, 20), "c": (25, 60), "narrow": (50, 19), "large": (1001, 1000), "broken": (30, 30)}
    random, pixels = np.random.default_rng(0), {}
    for name, size in sizes.items():
        pixels[name] = random.integers(0, 256, (*size, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / f"{name}.png"), pixels[name][..., ::-1])
    path = tmp_path / "broken.png"
    path.write_bytes(path.read_bytes()[:-200])
    return [tmp_path / f"{name}.png" for name in sizes], list(pixels.values())


def lies_in(patch, image):
    windows = np.lib.stride_tricks.sliding_window_view(image, patch.shape)
    return bool((windows == patch).all((-3, -2, -1)).any())


def test_patches_lie_in_the_photographs_that_are_fit(photographs):
    paths, pixels = photographs
    found = real_set(paths, 20, 0, MAX_PIXELS, each=2)
    assert found.shape == (6, 20, 20, 3) and found.dtype == np.uint8
    assert all(lies_in(patch, pixels[index // 2]) for index, patch in enumerate(found))
    assert np.array_equal(found[2], pixels[1])


def test_places_are_functions_of_the_seed(photographs):
    paths, _ = photographs
    first, again, other = (real_set(paths, 20, seed, MAX_PIXELS, each=3) for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert not np.array_equal(first[0], first[1])


def test_no_photograph_that_is_fit_makes_an_empty_set(photographs):
    assert real_set(photographs[0], 200, 0, 1000).shape == (0, 200, 200, 3)


def test_generated_images_are_those_of_the_command(command, tool):
    size = ["generate.height=24", "generate.width=24", "generate.seed=5", "generate.count=2"]
    code, _, folder = command(generate.main, "infer.dtype=float32", *size)
    written = [cv2.imread(str(folder / f"seed-{seed}.png"))[..., ::-1] for seed in (5, 6)]
    assert code == 0 and np.array_equal(generated_set(tool, 24, range(5, 7)), written)


def test_scaled_canvases_are_shrunk_by_area(tool):
    small, large = generated_set(tool, 12, [3], scale=3)[0], generated_image(tool, 36, 3)
    means = large.reshape(12, 3, 12, 3, 3).mean((1, 3))
    assert np.abs(small - means).max() <= 0.5 + 1e-6
    assert large.std() > 5 and not np.array_equal(small, generated_set(tool, 12, [3])[0])


def test_options_of_pictures_change_nothing(checkpoint, tool):
    other = tiny_tool(checkpoint, "infer.save_float=true", "infer.block=16")
    difference = generated_image(other, 40, 1).astype(int) - generated_image(tool, 40, 1)
    assert np.abs(difference).max() <= 1


def test_no_seeds_make_an_empty_set(tool):
    assert generated_set(tool, 12, []).shape == (0, 12, 12, 3)


def test_an_image_of_the_size_itself_stays(tool):
    image = generated_image(tool, 18, 0)
    assert np.array_equal(shrunk(image, 18), image)
