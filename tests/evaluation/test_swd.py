"""Sliced Wasserstein distance: against second implementations, closed forms, and what it must and must not see."""

import math

import cv2
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.swd import (
    descriptors,
    enlarge,
    laplacian_pyramid,
    pyramid_distances,
    shrink,
    sliced_wasserstein,
    wasserstein,
)


def images(count=6, size=32, seed=0):
    """Smooth random pictures around mid-grey."""
    noise = np.random.default_rng(seed).normal(0, 1, (count, size, size, 3)).astype(np.float32)
    smooth = np.stack([cv2.GaussianBlur(each, (0, 0), 2) for each in noise])
    return (128 + 200 * smooth).clip(40, 215).astype(np.uint8)


def distances(first, second, seed=0):
    return [level["distance"] for level in pyramid_distances(first, second, seed)]


# On a line


@settings(max_examples=25)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_on_a_line_it_is_that_of_scipy(p, q, seed):
    random = np.random.default_rng(seed)
    first, second = random.normal(0, 1, (3, p)), random.normal(1, 2, (3, q))
    expected = [scipy.stats.wasserstein_distance(a, b) for a, b in zip(first, second, strict=True)]
    assert wasserstein(np.sort(first), np.sort(second)) == pytest.approx(expected)


def test_clouds_on_a_line_have_the_distance_of_their_only_direction():
    random = np.random.default_rng(0)
    first, second = (random.normal(shift, 1, (50, 1)).astype(np.float32) for shift in (0, 3))
    expected = scipy.stats.wasserstein_distance(first[:, 0], second[:, 0])
    assert sliced_wasserstein(first, second) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dimensions", [2, 147])
def test_a_shift_counts_by_its_mean_part_along_a_direction(dimensions):
    cloud = np.random.default_rng(1).normal(0, 1, (30, dimensions)).astype(np.float32)
    shift = np.zeros(dimensions, np.float32)
    shift[0] = 5
    gammas = math.lgamma(dimensions / 2) - math.lgamma((dimensions + 1) / 2)
    part = math.exp(gammas) / math.sqrt(math.pi)
    assert sliced_wasserstein(cloud, cloud + shift) == pytest.approx(5 * part, rel=0.1)


def test_a_cloud_is_at_no_distance_from_several_copies_of_it():
    cloud = np.random.default_rng(1).normal(0, 1, (30, 9)).astype(np.float32)
    assert sliced_wasserstein(cloud, np.repeat(cloud, 3, axis=0)) == pytest.approx(0, abs=1e-6)
    assert sliced_wasserstein(cloud, np.repeat(cloud[1:], 3, axis=0)) > 0.01


# The pyramid


@pytest.mark.parametrize("size", [16, 17, 32])
def test_halves_and_their_enlargement_are_convolutions_with_the_binomial_kernel(size):
    image = np.random.default_rng(2).normal(0, 50, (size, size, 3)).astype(np.float32)
    row = np.array([1, 4, 6, 4, 1]) / 16
    kernel = np.outer(row, row)[:, :, None]
    half = scipy.ndimage.convolve(image, kernel, mode="mirror")[::2, ::2]
    assert np.allclose(shrink(image), half, atol=1e-4)
    sparse = np.zeros_like(image)
    sparse[::2, ::2] = half
    whole = scipy.ndimage.convolve(sparse, 4 * kernel, mode="mirror")
    assert np.allclose(enlarge(shrink(image), size), whole, atol=1e-4)


@pytest.mark.parametrize(("size", "levels"), [(128, [128, 64, 32, 16]), (101, [101, 51, 26]), (16, [16]), (30, [30])])
def test_levels_go_down_to_sixteen_pixels(size, levels):
    assert [planes.shape for planes in laplacian_pyramid(images(2, size))] == [(2, n, n, 3) for n in levels]


def test_the_levels_add_up_to_the_image():
    given = images(2, 65)
    levels = list(laplacian_pyramid(given))
    total = levels.pop()
    while levels:
        details = levels.pop()
        total = details + np.stack([enlarge(each, details.shape[1]) for each in total])
    assert np.allclose(total, given, atol=1e-3)


def test_descriptors_are_normalised_neighbourhoods():
    levels = dict(descriptors(images(3)))
    assert list(levels) == [32, 16]
    for found in levels.values():
        assert found.shape == (3 * 128, 7 * 7 * 3) and found.dtype == np.float32
        colours = found.reshape(-1, 3)
        assert np.allclose(colours.mean(0), 0, atol=1e-4) and np.allclose(colours.std(0), 1, atol=1e-4)


def test_descriptors_lie_in_the_image():
    """On a ramp each neighbourhood is the same one but for its height, which tells where it was taken."""
    ramp = np.broadcast_to(np.arange(16, dtype=np.uint8)[None, :, None, None] * 10, (4, 16, 16, 3))
    (_, found), *_ = descriptors(ramp)
    found = found.reshape(-1, 7, 7, 3)
    steps = np.diff(found, axis=1)
    assert np.allclose(steps, steps[0, 0, 0, 0], atol=1e-4) and steps[0, 0, 0, 0] > 0
    assert np.allclose(np.diff(found, axis=2), 0, atol=1e-4)
    assert len(np.unique(found[:, 0, 0, 0].round(3))) == 16 - 7 + 1


# Sets


def test_a_set_is_at_no_distance_from_itself_and_at_the_same_from_another_both_ways():
    first, second = images(seed=0), images(seed=1)
    assert pyramid_distances(first, first.copy()) == [{"size": 32, "distance": 0}, {"size": 16, "distance": 0}]
    there, back = distances(first, second), distances(second, first)
    assert min(there) > 0 and there == pytest.approx(back, rel=1e-5)


def test_brightness_and_contrast_of_a_whole_set_do_not_count():
    first = images()
    assert distances(first, first + 30) == pytest.approx([0, 0], abs=0.1)
    flat = (64 + first.astype(np.float32) / 2).astype(np.uint8)
    assert max(distances(first, flat)) < 30 < min(distances(first, 255 - first.transpose(0, 2, 1, 3) // 2 * 2))


@pytest.mark.parametrize("harm", ["noise", "blur"])
def test_the_distance_grows_with_harm(harm):
    def harmed(strength):
        if harm == "blur":
            return np.stack([cv2.GaussianBlur(image, (0, 0), strength) for image in images()])
        noise = np.random.default_rng(3).normal(0, 5 * strength, images().shape)
        return (images() + noise).clip(0, 255).astype(np.uint8)

    found = [distances(images(), harmed(strength)) for strength in (0.7, 1.5, 4)]
    assert found[0][0] < found[1][0] < found[2][0]
    assert harm == "blur" or all(fine > coarse for fine, coarse in found)


def test_sets_may_differ_in_number():
    more = images(20)
    assert distances(more, images(10, seed=1)) == pytest.approx(distances(more, images(20, seed=1)), rel=0.5)


def test_the_result_is_a_function_of_the_seed():
    first, second = images(seed=0), images(seed=1)
    assert distances(first, second) == distances(first, second)
    assert distances(first, second) != distances(first, second, seed=1)
    assert distances(first, second) == pytest.approx(distances(first, second, seed=1), rel=0.3)


def test_flat_sets_have_distances_too():
    flat = np.full((2, 16, 16, 3), 7, np.uint8)
    assert distances(flat, flat + 1) == [0]
    assert 0 < distances(flat, images(2, 16))[0] < math.inf


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((0, 16, 16, 3), "uint8"), ((2, 15, 15, 3), "uint8"), ((2, 16, 17, 3), "uint8"), ((2, 16, 16, 3), "float32")],
)
def test_other_arrays_are_refused(shape, dtype):
    with pytest.raises(ValueError, match="needs uint8"):
        pyramid_distances(np.zeros(shape, dtype), images(2, 16))


def test_sets_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match="16 and 32 pixels"):
        pyramid_distances(images(2, 16), images(2, 32))
