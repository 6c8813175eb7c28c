"""The inverter's loss: a weighted sum of named terms. Those of the generator's training are in losses.adversarial."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from losses.adversarial import feature_matching, generator_logistic
from losses.latent import maximum_mean_discrepancy
from losses.perceptual import LPIPS, Identity
from losses.reconstruction import l1, l2, ms_ssim_loss
from utils.errors import UserError


class Term(NamedTuple):
    """A term of the loss; its weight is known to the sum alone."""

    inputs: tuple[str, ...]  # names of the tensors that it takes, in that order
    loss: Callable[..., Tensor]  # these tensors -> scalar; of pretrained networks the class, made from their files
    pretrained: tuple[str, ...] = ()  # names of the files


IMAGES = ("reconstruction", "target")

TERMS = {
    "l1": Term(IMAGES, l1),
    "l2": Term(IMAGES, l2),
    "ms_ssim": Term(IMAGES, ms_ssim_loss),
    "lpips": Term(IMAGES, LPIPS, ("alexnet", "lpips")),
    "identity": Term(IMAGES, Identity, ("resnet50",)),
    "adversarial": Term(("fake_scores",), generator_logistic),
    "feature_matching": Term(("fake_features", "real_features"), feature_matching),
    # E(TS(z_s)) against z_s: cells whose context is inside the image
    "reciprocal": Term(("encoded_structure", "true_structure"), l2),
    "global_latent": Term(("encoded_global", "true_global"), l2),
    "distribution": Term(("global_latent", "global_prior"), maximum_mean_discrepancy),
    # images redrawn by a tuned texture synthesizer, against what it generated before
    "preservation": Term(("redrawn", "generated"), l1),
}


class WeightedSum:
    """Sum of terms times their weights."""

    def __init__(self, losses: Mapping[str, Callable[..., Tensor]], weights: Mapping[str, float]):
        """`losses` and `weights` by the names of their terms."""
        self.losses, self.weights = losses, {name: float(weights[name]) for name in losses}

    @property
    def needs(self) -> set[str]:
        """Names of the tensors that a call must be given."""
        return {name for term in self.losses for name in TERMS[term].inputs}

    def without(self, tensors: set[str]) -> WeightedSum:
        """The sum of those terms that need none of these tensors."""
        rest = {name: loss for name, loss in self.losses.items() if not tensors & set(TERMS[name].inputs)}
        return WeightedSum(rest, self.weights)

    def __call__(self, **tensors: Tensor | list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, and each term's detached value before weighting. Tensors that no term needs are ignored.

        ValueError where a needed tensor is missing.
        """
        missing = sorted(self.needs - tensors.keys())
        if missing:
            raise ValueError(f"losses {', '.join(self.losses)} also need {', '.join(missing)}")
        values = {name: loss(*(tensors[key] for key in TERMS[name].inputs)) for name, loss in self.losses.items()}
        total = sum(self.weights[name] * value for name, value in values.items())
        return total, {name: value.detach() for name, value in values.items()}


def build(
    weights: Mapping[str, float],
    pretrained: Mapping[str, str | None],  # by the network's name, local files; None: the download
    device: torch.device | str = "cpu",  # of pretrained networks
) -> WeightedSum:
    """The sum of the terms whose weight is not zero.

    UserError for an unknown name, for weights that are all zero, and for pretrained weights that are missing.
    """
    unknown = sorted(weights.keys() - TERMS.keys())
    if unknown:
        raise UserError(f"losses.inverter: unknown loss '{unknown[0]}'; there are {', '.join(TERMS)}")
    used = {name: term for name, term in TERMS.items() if weights.get(name)}
    if not used:
        raise UserError(f"losses.inverter: every weight is 0; set one of {', '.join(TERMS)}")
    files = {name: [pretrained.get(key) for key in term.pretrained] for name, term in used.items()}
    losses = {name: term.loss(*files[name]).to(device) if files[name] else term.loss for name, term in used.items()}
    return WeightedSum(losses, weights)
