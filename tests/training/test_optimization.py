"""Guarded updates, the learning rate's schedule, the moving average."""

import copy

import pytest
import torch
from torch import nn

from training.optimization import EMA, Diverged, build_optimizer, restore, schedule, update
from utils.distributed import ProcessGroup
from utils.errors import UserError

ADAM = {
    "name": "adam", "lr": 0.1, "betas": [0.5, 0.9], "weight_decay": 0.0,
    "decay_every": 3, "decay_factor": 0.5, "cosine_steps": None,
}  # fmt: skip


@pytest.fixture
def module():
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def snapshot(module, optimizer):
    return copy.deepcopy((module.state_dict(), optimizer.state_dict()["state"]))


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


@pytest.mark.parametrize(
    "damage",
    [lambda x: x * torch.nan, lambda x: x + torch.inf, lambda x: -x * torch.inf, SilentlyInfinite.apply],
    ids=["nan", "inf", "-inf", "gradient"],
)
def test_nothing_changes_where_a_loss_or_gradient_is_not_finite(module, damage):
    optimizer = build_optimizer(module.parameters(), ADAM)
    x = torch.ones(4, 3)
    update("net", module, optimizer, module(x).square().mean(), {}, ProcessGroup())
    before = snapshot(module, optimizer)
    loss = damage(module(x).square().mean())
    with pytest.raises(Diverged, match=r"of the net is .*\(part 0.5; gradient norm \S+\)") as error:
        update("net", module, optimizer, loss, {"part": torch.tensor(0.5)}, ProcessGroup())
    assert error.value.exit_code == 1 and len(str(error.value).splitlines()) == 1
    assert same(before, snapshot(module, optimizer))


@pytest.mark.parametrize("name", ["adam", "adamw", "muon"])
def test_an_update_descends(module, name):
    optimizer = build_optimizer(module.parameters(), ADAM | {"name": name})
    losses = []
    for _ in range(5):
        losses.append(module(torch.ones(4, 3)).square().mean())
        update("net", module, optimizer, losses[-1], {}, ProcessGroup())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", ["adam", "adamw", "muon"])
def test_lazy_regularisation_corrects_rate_and_momenta(module, name):
    optimizer = build_optimizer(module.parameters(), ADAM | {"name": name}, lazy_every=4)
    group = optimizer.param_groups[0]
    assert group["lr"] == pytest.approx(0.1 * 0.8)
    assert group["betas"] == pytest.approx((0.5**0.8, 0.9**0.8))


def test_step_decay(module):
    optimizer = build_optimizer(module.parameters(), ADAM)
    rates = []
    for step in range(8):
        schedule(optimizer, ADAM, step, ratio=0.5)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == [0.05] * 3 + [0.025] * 3 + [0.0125] * 2
    schedule(optimizer, ADAM | {"decay_every": None}, 10**9)
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_a_cosine_falls_to_zero_and_stays_there(module):
    settings, rates = ADAM | {"decay_every": None, "cosine_steps": 6}, []
    optimizer = build_optimizer(module.parameters(), settings)
    for step in range(9):
        schedule(optimizer, settings, step, ratio=0.5)
        rates.append(optimizer.param_groups[0]["lr"])
    half = 3**0.5 / 2  # the cosine of 30 degrees
    shares = [1, (1 + half) / 2, 0.75, 0.5, 0.25, (1 - half) / 2, 0, 0, 0]
    assert rates == pytest.approx([0.05 * share for share in shares], abs=1e-12)


def test_a_cosine_and_step_decay_multiply(module):
    settings = ADAM | {"cosine_steps": 12}
    optimizer = build_optimizer(module.parameters(), settings)
    schedule(optimizer, settings, 6)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.5**2 * 0.5)


def trained(module, settings, steps=1):
    optimizer = build_optimizer(module.parameters(), settings)
    for _ in range(steps):
        update("net", module, optimizer, module(torch.ones(4, 3)).square().mean(), {}, ProcessGroup())
    return optimizer


@pytest.mark.parametrize("name", ["adam", "adamw", "muon"])
def test_a_saved_state_goes_on_with_the_settings_of_now(module, name):
    """Also with those of AdamW where it was Adam's."""
    before = trained(module, ADAM | {"name": name}, steps=2).state_dict()
    settings = ADAM | {"name": "muon" if name == "muon" else "adamw", "betas": [0.1, 0.2], "weight_decay": 0.3}
    optimizer = build_optimizer(module.parameters(), settings)
    own = copy.deepcopy(optimizer.state_dict()["param_groups"])
    restore(optimizer, before)
    assert optimizer.state_dict()["param_groups"] == own
    assert own[0]["betas"] == (0.1, 0.2) and own[0]["weight_decay"] == 0.3
    assert before["state"] and same(before["state"], optimizer.state_dict()["state"])


@pytest.mark.parametrize(("before", "now"), [("adam", "muon"), ("adamw", "muon"), ("muon", "adam"), ("muon", "adamw")])
def test_the_state_of_another_optimizer_is_refused(module, before, now):
    state = trained(module, ADAM | {"name": before}).state_dict()
    optimizer = build_optimizer(module.parameters(), ADAM | {"name": now})
    with pytest.raises(UserError, match=r"^train\.optimizer\.name: "):
        restore(optimizer, state)
    assert not optimizer.state_dict()["state"]


def test_the_average_moves_half_way_in_its_half_life(module):
    average = EMA(module, nn.Linear(3, 2), half_life=100)
    start = module.weight.detach().clone()
    assert torch.equal(average.copy.weight, start) and not average.copy.weight.requires_grad
    with torch.no_grad():
        module.weight += 1
    for step in range(100, 110):
        average.update(step, 10)
    assert torch.allclose(average.copy.weight, start + 0.5, atol=1e-5)


def test_the_average_forgets_the_first_weights_early(module):
    average = EMA(module, nn.Linear(3, 2), half_life=10**6)
    start = module.weight.detach().clone()
    with torch.no_grad():
        module.weight += 1
    for step in range(100):
        average.update(step, 10)
    assert torch.allclose(average.copy.weight, start + 1, atol=1e-5)
