"""Adversarial losses: closed forms, signs, and gradients that stay finite."""

import math

import pytest
import torch

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


def test_r1_of_a_linear_function_is_its_squared_slope():
    slope, images = 7 * normal(3, 4, 6), normal(2, 3, 4, 6, seed=1).requires_grad_()
    penalty = adversarial.r1_penalty((images * slope).sum(dim=(1, 2, 3)) + 5, images)
    assert torch.isclose(penalty, slope.square().sum(), rtol=1e-4)


def test_path_lengths_of_a_linear_map():
    """Image = A w: the gradient of <A w, y> / sqrt(HW) is A^T y / sqrt(HW), for each sample its own."""
    matrix, styles = normal(3 * 4 * 6, 2 * 5), normal(3, 2, 5, seed=1).requires_grad_()
    direction = normal(3, 3, 4, 6, seed=2)
    images = (styles.flatten(1) @ matrix.T).unflatten(1, (3, 4, 6))
    expected = (direction.flatten(1) @ matrix / math.sqrt(4 * 6)).square().mean(dim=1).sqrt()
    assert torch.allclose(path_lengths(images, styles, direction), expected, rtol=1e-4)
    weight = torch.zeros((), requires_grad=True)  # of a constant the gradient is finite
    path_lengths(weight * images, styles, direction).sum().backward()
    assert weight.grad.isfinite()


@pytest.mark.parametrize(("batch_mean", "mean"), [(None, 4.02), (9.0, 4.05)])
def test_path_penalty_follows_a_running_mean(batch_mean, mean):
    """The mean goes a hundredth of the way first; where several processes share a batch, towards that of them all."""
    lengths = torch.tensor([5.0, 7.0], requires_grad=True)
    given = None if batch_mean is None else torch.tensor(batch_mean)
    penalty, moved = path_penalty(lengths, torch.tensor(4.0), given)
    assert math.isclose(moved, mean, rel_tol=1e-5) and not moved.requires_grad
    assert math.isclose(penalty.detach(), ((5 - mean) ** 2 + (7 - mean) ** 2) / 2, rel_tol=1e-4)


@pytest.mark.parametrize("angle", [0.1, 3.0])
def test_angular_distance_is_a_share_of_pi(angle):
    """Of samples 2k and 2k + 1, whatever their lengths."""
    turned = torch.tensor([math.cos(angle), math.sin(angle), 0.0]) * 50
    x = torch.stack([torch.tensor([2.0, 0.0, 0.0]), turned, turned, -turned])[..., None]
    assert torch.allclose(angular_distance(x), torch.tensor([angle / math.pi, 1.0]), atol=1e-3)


def test_diversity_rewards_different_structures_and_has_a_finite_gradient_at_equal_ones():
    """Of two structures that differ less and more, the second has the smaller loss."""
    z_l, base, change = normal(4, 8, 5, 5), normal(2, 6, 3, 3, seed=1), normal(2, 6, 3, 3, seed=2)
    losses = [diversity(z_l, torch.stack([base, base + size * change], 1).flatten(0, 1)) for size in (0.1, 0.3, 0.9)]
    assert losses == sorted(losses, reverse=True)
    for local in (z_l, z_l[:1].expand(4, -1, -1, -1)):
        for scale in (0.0, 1e-6, 1.0):
            structure = (scale * base.repeat_interleave(2, 0)).requires_grad_()
            loss = diversity(local, structure)
            loss.backward()
            assert loss.isfinite() and structure.grad.isfinite().all()


def test_coordinate_takes_the_vertical_component():
    guess = torch.tensor([[0.5, 9.0, 9.0], [-1.0, 9.0, 9.0]])
    assert adversarial.coordinate(guess, torch.tensor([0.0, 1.0])) == 1.25


def test_feature_matching():
    real = [normal(2, 4, 5, 5).requires_grad_(), normal(2, 6, 3, 3, seed=1).requires_grad_()]
    assert feature_matching(real, real) == 0
    loss = feature_matching([(feature.detach() + 0.5).requires_grad_() for feature in real], real)
    loss.backward()
    assert torch.isclose(loss, torch.tensor(0.5)) and all(leaf.grad is None for leaf in real)
