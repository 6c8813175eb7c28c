"""The registry of terms, `build` and `WeightedSum`."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import losses
from losses import build
from utils.errors import UserError

ROOT = Path(losses.__file__).parents[1]
PRETRAINED = {"alexnet": None, "lpips": None, "resnet50": None}


def test_total_is_the_weighted_sum_and_values_are_unweighted():
    x = torch.tensor([[[[0.5]]]], requires_grad=True)
    total, values = build({"l1": 2.0, "l2": 3.0}, PRETRAINED)(reconstruction=x, target=torch.zeros(1, 1, 1, 1))
    assert values == {"l1": 0.5, "l2": 0.25}
    assert total.item() == 2 * 0.5 + 3 * 0.25
    assert not any(value.requires_grad for value in values.values())
    total.backward()
    assert x.grad.item() == 2 + 3 * 2 * 0.5


def test_a_sum_without_tensors_has_the_other_terms():
    """LPIPS, of weight zero, has no weights here."""
    loss = build({"lpips": 0.0, "l1": 2.0, "distribution": 3.0, "reciprocal": 5.0, "global_latent": 7.0}, PRETRAINED)
    assert list(loss.losses) == ["l1", "reciprocal", "global_latent", "distribution"]
    rest = loss.without({"encoded_structure", "global_prior", "no such tensor"})
    assert rest.weights == {"l1": 2.0, "global_latent": 7.0}
    assert rest.needs == {"reconstruction", "target", "encoded_global", "true_global"}
    assert loss.without(set()).losses == loss.losses and loss.without(loss.needs).losses == {}


def test_unneeded_tensors_are_ignored_and_missing_ones_named():
    loss = build({"l2": 1.0, "distribution": 1.0}, PRETRAINED)
    image, latent = torch.zeros(1, 3, 4, 4), torch.zeros(2, 4)
    with pytest.raises(ValueError, match="global_latent, global_prior"):
        loss(reconstruction=image, target=image)
    total, _ = loss(reconstruction=image, target=image, global_latent=latent, global_prior=latent, row=latent)
    assert abs(total.item()) < 1e-6


def test_mistakes_of_the_user():
    with pytest.raises(UserError, match="unknown loss 'l3'"):
        build({"l3": 1.0}, PRETRAINED)
    with pytest.raises(UserError, match="every weight is 0"):
        build({"l1": 0.0}, PRETRAINED)


def test_import_leaves_torchvision_alone():
    code = "import losses, sys; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
