"""Sliced Wasserstein distance: against second implementations, closed forms, and what it must and must not see."""

import cv2
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats

from evaluation.swd import descriptors, laplacian_pyramid, pyramid_distances, sliced_wasserstein


def images(count=6, size=32, seed=0):
    """Smooth random pictures around mid-grey."""
    noise = np.random.default_rng(seed).normal(0, 1, (count, size, size, 3)).astype(np.float32)
    smooth = np.stack([cv2.GaussianBlur(each, (0, 0), 2) for each in noise])
    return (128 + 200 * smooth).clip(40, 215).astype(np.uint8)


def distances(first, second, seed=0):
    return list(pyramid_distances(first, second, seed).values())


def test_clouds_on_a_line_have_the_distance_of_scipy():
    first, second = (np.random.default_rng(k).normal(3 * k, 1, (50, 1)).astype(np.float32) for k in range(2))
    expected = scipy.stats.wasserstein_distance(first[:, 0], second[:, 0])
    assert sliced_wasserstein(first, second) == pytest.approx(expected, rel=1e-5)


def test_levels_are_what_the_binomial_kernel_takes_away():
    image = np.random.default_rng(2).integers(0, 256, (1, 32, 32, 3), np.uint8)
    row = np.array([1, 4, 6, 4, 1]) / 16
    kernel = np.outer(row, row)[:, :, None]
    half = scipy.ndimage.convolve(image[0].astype(np.float32), kernel, mode="mirror")[::2, ::2]
    sparse = np.zeros((32, 32, 3), np.float32)
    sparse[::2, ::2] = half
    fine, coarse = laplacian_pyramid(image)
    assert [planes.shape[1] for planes in laplacian_pyramid(images(2, 101))] == [101, 51, 26]
    assert np.allclose(fine[0], image[0] - scipy.ndimage.convolve(sparse, 4 * kernel, mode="mirror"), atol=1e-3)
    assert np.allclose(coarse[0], half, atol=1e-3)


def test_descriptors_are_normalised_neighbourhoods_inside_the_image():
    """On a ramp each neighbourhood is the same one but for its height, which tells where it was taken."""
    ramp = np.broadcast_to(np.arange(16, dtype=np.uint8)[None, :, None, None] * 10, (4, 16, 16, 3))
    (_, found), *_ = descriptors(ramp)
    assert found.shape == (4 * 128, 7 * 7 * 3) and found.dtype == np.float32
    colours = found.reshape(-1, 3)
    assert np.allclose(colours.mean(0), 0, atol=1e-4) and np.allclose(colours.std(0), 1, atol=1e-4)
    found = found.reshape(-1, 7, 7, 3)
    steps = np.diff(found, axis=1)
    assert np.allclose(steps, steps[0, 0, 0, 0], atol=1e-4) and steps[0, 0, 0, 0] > 0
    assert np.allclose(np.diff(found, axis=2), 0, atol=1e-4)
    assert len(np.unique(found[:, 0, 0, 0].round(3))) == 16 - 7 + 1


def test_a_set_is_at_no_distance_from_itself_and_at_the_same_from_another_both_ways():
    first, second = images(seed=0), images(seed=1)
    assert pyramid_distances(first, first.copy()) == {32: 0, 16: 0}
    there, back = distances(first, second), distances(second, first)
    assert min(there) > 0 and there == pytest.approx(back, rel=1e-5)
    assert there == distances(first, second) != distances(first, second, seed=1)
    grey = np.full_like(first, 9)  # of a colour without deviation
    assert distances(grey, grey + 1) == [0, 0]
