"""Losses of latents: plain formulas, and the behaviour of the maximum mean discrepancy."""

import pytest
import torch

from losses.latent import Distribution, GlobalLatent, Reciprocal


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def reference_mmd(x, y):
    """The published formula, pair by pair."""
    points = [*x, *y]
    n = len(points)
    d2 = [[((a - b) ** 2).sum().item() for b in points] for a in points]
    bandwidth = sum(map(sum, d2)) / (n * n - n) / 2**2
    kernel = sum(torch.exp(-torch.tensor(d2) / (bandwidth * 2**i)) for i in range(5))
    m = len(x)
    return kernel[:m, :m].mean() + kernel[m:, m:].mean() - kernel[:m, m:].mean() - kernel[m:, :m].mean()


def test_mean_squared_losses():
    a, b = normal(2, 4, 3, 5), normal(2, 4, 3, 5, seed=1)
    assert torch.isclose(Reciprocal()(a, b), ((a - b) ** 2).mean())
    assert torch.isclose(GlobalLatent()(a[:, :, 0, 0], b[:, :, 0, 0]), ((a - b)[:, :, 0, 0] ** 2).mean())


@pytest.mark.parametrize("counts", [(1, 1), (4, 4), (3, 7)])
def test_distribution_is_the_published_formula(counts):
    x, y = normal(counts[0], 6), normal(counts[1], 6, seed=1) + 0.5
    assert torch.isclose(Distribution()(x, y), reference_mmd(x, y), atol=1e-5)


def test_distribution_tells_a_shifted_sample_from_the_prior():
    prior = normal(64, 16)
    assert abs(Distribution()(prior, prior).item()) < 1e-6
    near, far = Distribution()(normal(64, 16, seed=1), prior), Distribution()(normal(64, 16, seed=1) + 1, prior)
    assert 0 <= near < far / 3


@pytest.mark.parametrize("latent", [torch.zeros(4, 8), normal(1, 8).repeat(4, 1)])
def test_distribution_of_collapsed_latents_has_a_finite_gradient(latent):
    latent = latent.clone().requires_grad_()
    for prior in (latent.detach().clone(), normal(4, 8, seed=2)):
        loss = Distribution()(latent, prior)
        loss.backward()
        assert loss.isfinite() and latent.grad.isfinite().all()


def test_bandwidth_is_no_path_of_the_gradient():
    """The value does not depend on the scale; with the bandwidth held, the gradient does."""
    scale = torch.ones((), requires_grad=True)
    x, y = normal(4, 8), normal(4, 8, seed=1) + 2
    loss = Distribution()(scale * x, scale * y)
    assert torch.isclose(loss, Distribution()(3 * x, 3 * y), atol=1e-5)
    loss.backward()
    assert scale.grad.abs() > 1e-3


def test_distribution_keeps_no_difference_of_each_pair():
    kept = []
    x = normal(40, 64).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda t: t):
        loss = Distribution()(x, normal(40, 64, seed=1))
    loss.backward()
    assert kept and max(kept) <= 80 * 80
