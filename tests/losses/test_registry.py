"""The registry of terms, `build` and `WeightedSum`."""

import pytest
import torch

from losses import build
from utils.errors import UserError


def test_total_is_the_weighted_sum_and_values_are_unweighted():
    x = torch.tensor([[[[0.5]]]], requires_grad=True)
    total, values = build({"l1": 2.0, "l2": 3.0}, {})(reconstruction=x, target=torch.zeros(1, 1, 1, 1))
    assert values == {"l1": 0.5, "l2": 0.25} and total.item() == 2 * 0.5 + 3 * 0.25
    assert not any(value.requires_grad for value in values.values())
    total.backward()
    assert x.grad.item() == 2 + 3 * 2 * 0.5


def test_a_sum_without_tensors_has_the_other_terms():
    """LPIPS, of weight zero, has no weights here. A tensor that is missing is named, others are ignored."""
    loss = build({"lpips": 0.0, "l1": 2.0, "distribution": 3.0, "reciprocal": 5.0}, {})
    assert list(loss.losses) == ["l1", "reciprocal", "distribution"]
    rest = loss.without({"encoded_structure", "global_prior", "no such tensor"})
    assert rest.weights == {"l1": 2.0} and loss.without(set()).weights == loss.weights
    image = torch.zeros(1, 3, 4, 4)
    assert rest(reconstruction=image, target=image, row=image)[0] == 0
    with pytest.raises(ValueError, match="encoded_structure, global_latent, global_prior"):
        loss(reconstruction=image, target=image, true_structure=image)


def test_mistakes_of_the_user():
    with pytest.raises(UserError, match="unknown loss 'l3'"):
        build({"l3": 1.0}, {})
    with pytest.raises(UserError, match="every weight is 0"):
        build({"l1": 0.0}, {})
