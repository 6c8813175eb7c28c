"""The inverter's loss: a weighted sum of named terms.

A term is a class with `inputs`, the names of the tensors that it takes, and a call that takes them in that order and
returns a scalar. `pretrained`, where a term has it, names the files of weights that its constructor takes.
The terms do not know their weights; the sum does. The losses of the generator's training are in losses.adversarial.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from losses.adversarial import Adversarial, FeatureMatching
from losses.latent import Distribution, GlobalLatent, Reciprocal
from losses.perceptual import LPIPS, Identity
from losses.reconstruction import L1, L2, MSSSIM, Preservation
from utils.errors import UserError

TERMS: dict[str, type] = {
    "l1": L1,
    "l2": L2,
    "ms_ssim": MSSSIM,
    "lpips": LPIPS,
    "identity": Identity,
    "adversarial": Adversarial,
    "feature_matching": FeatureMatching,
    "reciprocal": Reciprocal,
    "global_latent": GlobalLatent,
    "distribution": Distribution,
    "preservation": Preservation,
}


class WeightedSum:
    """Sum of terms times their weights."""

    def __init__(self, terms: Mapping[str, object], weights: Mapping[str, float]):
        self.terms = dict(terms)
        self.weights = {name: float(weights[name]) for name in terms}

    @property
    def needs(self) -> set[str]:
        """Names of the tensors that a call must be given."""
        return {name for term in self.terms.values() for name in term.inputs}

    def without(self, tensors: set[str]) -> "WeightedSum":
        """The sum of those terms that need none of these tensors."""
        terms = {name: term for name, term in self.terms.items() if not tensors & set(term.inputs)}
        return WeightedSum(terms, self.weights)

    def to(self, device: torch.device | str) -> "WeightedSum":
        """Move the pretrained networks of the terms; returns itself."""
        for term in self.terms.values():
            if isinstance(term, nn.Module):
                term.to(device)
        return self

    def __call__(self, **tensors: Tensor | list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, and each term's detached value before weighting. Tensors that no term needs are ignored.

        Raises ValueError where a needed tensor is missing.
        """
        missing = sorted(self.needs - tensors.keys())
        if missing:
            raise ValueError(f"losses {', '.join(self.terms)} also need {', '.join(missing)}")
        values = {name: term(*(tensors[key] for key in term.inputs)) for name, term in self.terms.items()}
        total = sum(self.weights[name] * value for name, value in values.items())
        return total, {name: value.detach() for name, value in values.items()}


def build(weights: Mapping[str, float], pretrained: Mapping[str, str | None]) -> WeightedSum:
    """Build the terms whose weight is not zero, on the CPU.

    `weights`: name of a term -> weight; `pretrained`: name of a network -> local file, None for the download.
    Raises UserError for an unknown name, for weights that are all zero, and for pretrained weights that are missing.
    """
    unknown = sorted(weights.keys() - TERMS.keys())
    if unknown:
        raise UserError(f"losses.inverter: unknown loss '{unknown[0]}'; there are {', '.join(TERMS)}")
    names = [name for name in TERMS if weights.get(name)]
    if not names:
        raise UserError(f"losses.inverter: every weight is 0; set one of {', '.join(TERMS)}")
    files = {name: {key: pretrained.get(key) for key in getattr(TERMS[name], "pretrained", ())} for name in names}
    return WeightedSum({name: TERMS[name](**files[name]) for name in names}, weights)
