"""The maximum mean discrepancy: its formula, and its gradients."""

import pytest
import torch

from losses.latent import maximum_mean_discrepancy as mmd


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def reference_mmd(x, y):
    """The published formula, pair by pair."""
    points = [*x, *y]
    n, m = len(points), len(x)
    d2 = [[((a - b) ** 2).sum().item() for b in points] for a in points]
    bandwidth = sum(map(sum, d2)) / (n * n - n) / 2**2
    kernel = sum(torch.exp(-torch.tensor(d2) / (bandwidth * 2**i)) for i in range(5))
    return kernel[:m, :m].mean() + kernel[m:, m:].mean() - kernel[:m, m:].mean() - kernel[m:, :m].mean()


@pytest.mark.parametrize("counts", [(1, 1), (3, 7)])
def test_it_is_the_published_formula(counts):
    x, y = normal(counts[0], 6), normal(counts[1], 6, seed=1) + 0.5
    assert torch.isclose(mmd(x, y), reference_mmd(x, y), atol=1e-5)


@pytest.mark.parametrize("latent", [torch.zeros(4, 8), normal(1, 8).repeat(4, 1)])
def test_collapsed_latents_have_a_finite_gradient(latent):
    latent = latent.clone().requires_grad_()
    for prior in (latent.detach().clone(), normal(4, 8, seed=2)):
        loss = mmd(latent, prior)
        loss.backward()
        assert loss.isfinite() and latent.grad.isfinite().all()


def test_bandwidth_is_no_path_of_the_gradient():
    """The value does not depend on the scale; with the bandwidth held, the gradient does."""
    scale = torch.ones((), requires_grad=True)
    x, y = normal(4, 8), normal(4, 8, seed=1) + 2
    loss = mmd(scale * x, scale * y)
    assert torch.isclose(loss, mmd(3 * x, 3 * y), atol=1e-5)
    loss.backward()
    assert scale.grad.abs() > 1e-3
