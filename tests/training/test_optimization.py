"""Guarded updates, the learning rate's schedule, saved states, the moving average."""

import copy

import pytest
import torch
from torch import nn

from training.optimization import Diverged, NetworkOptimizer, averaged, move_average
from utils.distributed import SINGLE
from utils.errors import UserError

ADAM = {
    "name": "adam", "lr": 0.1, "betas": [0.5, 0.9], "weight_decay": 0.0,
    "decay_every": 3, "decay_factor": 0.5, "cosine_steps": None,
}  # fmt: skip


def optimizer_of(network, lazy_every=None, **changes):
    return NetworkOptimizer("net", network, ADAM | changes, SINGLE, lazy_every)


@pytest.fixture
def module():
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def error_of(module):
    return module(torch.ones(4, 3)).square().mean()


def same(one, other):
    flat = [torch.utils._pytree.tree_leaves(value) for value in (one, other)]
    return all(torch.equal(*map(torch.as_tensor, pair)) for pair in zip(*flat, strict=True))


class SilentlyInfinite(torch.autograd.Function):
    """The identity, with an infinite gradient."""

    @staticmethod
    def forward(context, x):
        return x.clone()

    @staticmethod
    def backward(context, gradient):
        return torch.full_like(gradient, torch.inf)


@pytest.mark.parametrize("damage", [lambda x: x * torch.nan, SilentlyInfinite.apply], ids=["loss", "gradient"])
def test_nothing_changes_where_a_loss_or_gradient_is_not_finite(module, damage):
    optimizer = optimizer_of(module)
    optimizer.update([(error_of(module), {})])
    before = copy.deepcopy((module.state_dict(), optimizer.state_dict()["state"]))
    loss = damage(error_of(module))
    with pytest.raises(Diverged, match=r"of the net is .*\(part 0.5; gradient norm \S+\)") as error:
        optimizer.update([(loss, {"part": torch.tensor(0.5)})])
    assert error.value.exit_code == 1 and len(str(error.value).splitlines()) == 1
    assert same(before, (module.state_dict(), optimizer.state_dict()["state"]))


@pytest.mark.parametrize("name", ["adam", "muon"])
def test_a_step_goes_along_the_mean_of_the_losses_of_parts(module, name):
    """Each is made after the one before has been used up."""
    other, made = copy.deepcopy(module), []

    def parts():
        for factor in (1.0, 3.0):
            assert (module.weight.grad is None) == (not made)
            made.append(factor)
            yield factor * error_of(module), {"factor": torch.tensor(factor)}

    scalars = optimizer_of(module, name=name).update(parts())
    optimizer_of(other, name=name).update([(2 * error_of(other), {})])
    assert scalars == {"factor": torch.tensor(2.0)}
    for one, two in zip(module.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two)


def test_lazy_regularisation_corrects_rate_and_momenta(module):
    (group,) = optimizer_of(module, lazy_every=4).optimizer.param_groups
    assert group["lr"] == pytest.approx(0.1 * 0.8)
    assert group["betas"] == pytest.approx((0.5**0.8, 0.9**0.8))


@pytest.mark.parametrize(
    ("changes", "shares"),
    [
        ({}, [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25]),
        ({"cosine_steps": 4}, [1, (1 + 2**-0.5) / 2, 0.5, 0.5 * (1 - 2**-0.5) / 2, 0, 0]),
        ({"decay_every": None}, [1] * 9),
    ],
)
def test_learning_rates(module, changes, shares):
    """Step decay, its product with a cosine that falls to zero and stays there, neither."""
    optimizer, rates = optimizer_of(module, lazy_every=1, **changes), []
    for step in range(len(shares)):
        optimizer.schedule(step)
        rates.append(optimizer.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.05 * share for share in shares], abs=1e-12)


def trained(module, steps=1, **changes):
    optimizer = optimizer_of(module, **changes)
    for _ in range(steps):
        optimizer.update([(error_of(module), {})])
    return optimizer.state_dict()


@pytest.mark.parametrize("name", ["adam", "muon"])
def test_a_saved_state_goes_on_with_the_settings_of_now(module, name):
    """Also with those of AdamW where it was Adam's."""
    start = error_of(module)
    before = trained(module, steps=2, name=name)
    assert error_of(module) < start
    changes = {"name": "muon" if name == "muon" else "adamw", "betas": [0.1, 0.2], "weight_decay": 0.3}
    optimizer = optimizer_of(module, **changes)
    own = copy.deepcopy(optimizer.state_dict()["param_groups"])
    optimizer.load_state_dict(before)
    assert optimizer.state_dict()["param_groups"] == own
    assert own[0]["betas"] == (0.1, 0.2) and own[0]["weight_decay"] == 0.3
    assert before["state"] and same(before["state"], optimizer.state_dict()["state"])


@pytest.mark.parametrize(("before", "now"), [("adam", "muon"), ("muon", "adamw")])
def test_the_state_of_another_optimizer_is_refused(module, before, now):
    state, optimizer = trained(module, name=before), optimizer_of(module, name=now)
    with pytest.raises(UserError, match=r"^train\.optimizer\.name: "):
        optimizer.load_state_dict(state)
    assert not optimizer.state_dict()["state"]


@pytest.mark.parametrize(("first", "half_life", "steps", "share"), [(100, 100, 10, 0.5), (0, 10**6, 100, 1.0)])
def test_the_average(module, first, half_life, steps, share):
    """It moves half way in its half-life; early on it forgets the first weights faster."""
    average = averaged(module)
    start = module.weight.detach().clone()
    assert torch.equal(average.weight, start) and not average.weight.requires_grad
    with torch.no_grad():
        module.weight += 1
    for step in range(first, first + steps):
        move_average(average, module, 10, half_life, step)
    assert torch.allclose(average.weight, start + share, atol=1e-5)
