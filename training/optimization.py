"""A network's optimizer, guarded; and the moving average of the weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from training.muon import Muon
from utils.distributed import ProcessGroup
from utils.errors import UserError

KINDS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "muon": Muon}
RAMP_UP = 0.1  # of the images seen: the longest half-life of the average


class Diverged(UserError):
    """The loss or a gradient is not a finite number any more."""

    exit_code = 1


class NetworkOptimizer:
    """Adam, AdamW or Muon for the parameters of one network, with the gradients of all processes."""

    def __init__(
        self,
        name: str,  # of the network, for messages
        network: nn.Module,
        settings: dict,  # the section train.optimizer
        world: ProcessGroup,
        lazy_every: int | None = None,
    ) -> None:
        """`lazy_every`: a regulariser has a step of its own every n steps; corrects rate and momenta for it (StyleGAN2,
        appendix B).
        """
        self.name, self.network, self.settings, self.world = name, network, settings, world
        self.ratio = 1.0 if lazy_every is None else lazy_every / (lazy_every + 1)
        self.optimizer = KINDS[settings["name"]](
            list(network.parameters()),
            lr=settings["lr"] * self.ratio,
            betas=tuple(beta**self.ratio for beta in settings["betas"]),
            weight_decay=settings["weight_decay"],
        )

    def schedule(self, step: int) -> None:
        """Set the learning rate of a step: step decay, and a cosine that falls to 0."""
        settings = self.settings
        decays = 0 if settings["decay_every"] is None else step // settings["decay_every"]
        passed = 0.0 if settings["cosine_steps"] is None else min(step / settings["cosine_steps"], 1.0)
        cosine = (1 + math.cos(math.pi * passed)) / 2
        for group in self.optimizer.param_groups:
            group["lr"] = settings["lr"] * self.ratio * settings["decay_factor"] ** decays * cosine

    def update(self, losses: Iterable[tuple[Tensor, dict[str, Tensor]]]) -> dict[str, Tensor]:
        """A step along the mean gradient of the losses of a batch's parts, each made, and gone, in its turn.

        `losses`: with scalars by name, to log; returned are their means. Diverged, with the network unchanged, if a
        loss or a gradient is not finite.
        """
        self.optimizer.zero_grad(set_to_none=True)
        found, finite = [], True
        for loss, scalars in losses:
            loss.backward()
            found.append(scalars)
            finite &= torch.isfinite(loss.detach())
            del loss  # nothing of it lives on while the next one is computed
        gradients = [parameter.grad for parameter in self.network.parameters() if parameter.grad is not None]
        if len(found) > 1:
            for gradient in gradients:
                gradient /= len(found)
        self.world.average(gradients)
        means = {name: torch.stack([scalars[name] for scalars in found]).mean() for name in found[0]}
        norm = torch.nn.utils.get_total_norm(gradients)
        (diverged,) = self.world.any(not bool(finite & torch.isfinite(norm)))
        if diverged:
            values = ", ".join(f"{name} {float(value):.4g}" for name, value in means.items())
            raise Diverged(
                f"loss or gradient of the {self.name} is not finite ({values}; gradient norm {float(norm):.4g});"
                f" this update of the {self.name} was left out; a lower train.optimizer.lr may help"
            )
        self.optimizer.step()
        return means

    def state_dict(self) -> dict:
        """The optimizer's state."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict) -> None:
        """Go on from `state_dict`, with the settings of now. UserError where it is another kind of optimizer's, or
        ValueError where it has other shapes.
        """
        saved, groups = state["param_groups"], self.optimizer.state_dict()["param_groups"]
        if ("eps" in saved[0]) != ("eps" in groups[0]):  # Adam and AdamW have it, Muon has not
            raise UserError("train.optimizer.name: the saved state is not of this optimizer; set that of before")
        self.optimizer.load_state_dict(state | {"param_groups": groups})
        for parameter, values in self.optimizer.state.items():
            shapes = {each.shape for each in values.values() if isinstance(each, Tensor) and each.dim()}
            if shapes - {parameter.shape}:
                raise ValueError(f"the state of the {self.name}'s optimizer has other shapes")


def averaged(network: nn.Module) -> nn.Module:
    """A copy of a network to hold the moving average of its weights."""
    return copy.deepcopy(network).requires_grad_(False).eval()


@torch.no_grad()
def move_average(average: nn.Module, network: nn.Module, images: int, half_life: float, step: int | None) -> None:
    """Move an average towards a network after step `step` (from 0) of `images` images each; `half_life` is in images.

    Early on the half-life is a tenth of the images seen, or the first weights would linger (StyleGAN2-ADA); not where
    `step` is None, for the average began with one.
    """
    if step is not None:
        half_life = min(half_life, RAMP_UP * (step + 1) * images)
    keep = 0.5 ** (images / half_life)
    for mean, value in zip(average.parameters(), network.parameters(), strict=True):
        mean.lerp_(value, 1.0 - keep)
