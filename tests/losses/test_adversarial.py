"""Adversarial losses: closed forms, signs, and gradients that stay finite."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from losses import adversarial
from losses.adversarial import angular_distance, diversity, feature_matching, path_lengths, path_penalty


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_logistic_losses_at_indifference_and_at_certainty():
    zero, sure = torch.zeros(4), torch.full((4,), 100.0)
    assert math.isclose(adversarial.generator_logistic(zero), math.log(2), rel_tol=1e-6)
    assert math.isclose(adversarial.discriminator_logistic(zero, zero), 2 * math.log(2), rel_tol=1e-6)
    assert adversarial.discriminator_logistic(sure, -sure) < 1e-6
    assert adversarial.discriminator_logistic(-sure, sure) > 199
    assert adversarial.generator_logistic(sure) < 1e-6 and adversarial.generator_logistic(-sure) == 100


@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 6), st.floats(0.01, 100))
def test_r1_of_a_linear_function_is_its_squared_slope(batch, height, width, scale):
    slope = scale * normal(3, height, width)
    images = normal(batch, 3, height, width, seed=1).requires_grad_()
    penalty = adversarial.r1_penalty((images * slope).sum(dim=(1, 2, 3)) + 5, images)
    assert torch.isclose(penalty, slope.square().sum(), rtol=1e-4)


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5))
def test_path_lengths_of_a_linear_map(batch, layers, dim):
    """Image = A w: the gradient of <A w, y> / sqrt(HW) is A^T y / sqrt(HW), for each sample its own."""
    matrix = normal(3 * 4 * 6, layers * dim)
    styles = normal(batch, layers, dim, seed=1).requires_grad_()
    direction = normal(batch, 3, 4, 6, seed=2)
    images = (styles.flatten(1) @ matrix.T).unflatten(1, (3, 4, 6))
    expected = (direction.flatten(1) @ matrix / math.sqrt(4 * 6)).square().mean(dim=1).sqrt()
    lengths = path_lengths(images, styles, direction)
    assert lengths.shape == (batch,) and torch.allclose(lengths, expected, rtol=1e-4)
    weight = torch.zeros((), requires_grad=True)  # of a constant the gradient is finite
    path_lengths(weight * images, styles, direction).sum().backward()
    assert weight.grad.isfinite()


@given(st.lists(st.floats(0, 9), min_size=1, max_size=6), st.floats(0, 9), st.none() | st.floats(0, 9))
def test_path_penalty_follows_a_running_mean(lengths, mean, batch_mean):
    """The mean goes a hundredth of the way first; where several processes share a batch, towards that of them all."""
    towards = sum(lengths) / len(lengths) if batch_mean is None else batch_mean
    expected_mean = 0.99 * mean + 0.01 * towards
    expected = sum((length - expected_mean) ** 2 for length in lengths) / len(lengths)
    given_mean = None if batch_mean is None else torch.tensor(batch_mean)
    lengths = torch.tensor(lengths, requires_grad=True)
    penalty, new_mean = path_penalty(lengths, torch.tensor(mean), given_mean)
    assert penalty.shape == new_mean.shape == () and not new_mean.requires_grad
    assert math.isclose(new_mean, expected_mean, rel_tol=1e-5, abs_tol=1e-6)
    assert math.isclose(penalty.detach(), expected, rel_tol=1e-4, abs_tol=1e-5)


@given(st.floats(0.1, 3.0), st.floats(0.1, 50))
def test_angular_distance_is_a_share_of_pi(angle, scale):
    """Of samples 2k and 2k + 1, whatever their lengths."""
    turned = torch.tensor([math.cos(angle), math.sin(angle), 0.0]) * scale
    x = torch.stack([torch.tensor([2.0, 0.0, 0.0]), turned, turned, -turned])[..., None]
    assert torch.allclose(angular_distance(x), torch.tensor([angle / math.pi, 1.0]), atol=1e-3)


def test_diversity_rewards_different_structures():
    """Of two structures that differ less and more, the second has the smaller loss."""
    z_l, base, change = normal(4, 8, 5, 5), normal(2, 6, 3, 3, seed=1), normal(2, 6, 3, 3, seed=2)
    losses = [diversity(z_l, torch.stack([base, base + size * change], 1).flatten(0, 1)) for size in (0.1, 0.3, 0.9)]
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0])
def test_diversity_of_equal_structures_has_a_finite_gradient(scale):
    z_l, z_s = normal(4, 8, 5, 5), scale * normal(2, 6, 3, 3, seed=1).repeat_interleave(2, 0)
    for local in (z_l, z_l[:1].expand(4, -1, -1, -1)):
        structure = z_s.clone().requires_grad_()
        loss = diversity(local, structure)
        loss.backward()
        assert loss.isfinite() and structure.grad.isfinite().all()


def test_coordinate_takes_the_vertical_component():
    guess = torch.tensor([[0.5, 9.0, 9.0], [-1.0, 9.0, 9.0]])
    assert adversarial.coordinate(guess, torch.tensor([0.0, 1.0])) == 1.25


def test_feature_matching():
    real = [normal(2, 4, 5, 5), normal(2, 6, 3, 3, seed=1)]
    assert feature_matching(real, real) == 0
    fake = [(feature + 0.5).requires_grad_() for feature in real]
    leaves = [feature.clone().requires_grad_() for feature in real]
    loss = feature_matching(fake, leaves)
    loss.backward()
    assert torch.isclose(loss, torch.tensor(0.5)) and all(leaf.grad is None for leaf in leaves)
    with pytest.raises(ValueError):
        feature_matching(fake, real[:1])
