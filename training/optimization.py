"""One optimizer step, guarded; and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from training.muon import Muon
from utils.distributed import ProcessGroup, gradients
from utils.errors import UserError

RAMP_UP = 0.1  # of the images seen: the longest half-life of the average


class Diverged(UserError):
    """The loss or a gradient is not a finite number any more."""

    exit_code = 1


def build_optimizer(parameters: Iterable[nn.Parameter], settings: dict, lazy_every: int | None = None):
    """Adam, AdamW or Muon.

    `lazy_every` corrects rate and momenta for a regulariser with a step of its own every n steps (StyleGAN2,
    appendix B).
    """
    ratio = 1.0 if lazy_every is None else lazy_every / (lazy_every + 1)
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "muon": Muon}
    return kinds[settings["name"]](
        list(parameters),
        lr=settings["lr"] * ratio,
        betas=tuple(beta**ratio for beta in settings["betas"]),
        weight_decay=settings["weight_decay"],
    )


def restore(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Go on from a `state_dict`, with the settings that the optimizer has now. UserError where it is another kind's."""
    saved, groups = state["param_groups"], optimizer.state_dict()["param_groups"]
    if ("eps" in saved[0]) != ("eps" in groups[0]):  # Adam and AdamW have it, Muon has not
        raise UserError("train.optimizer.name: the saved state is not of this optimizer; set that of before")
    optimizer.load_state_dict(state | {"param_groups": groups})


def schedule(optimizer: torch.optim.Optimizer, settings: dict, step: int, ratio: float = 1.0) -> None:
    """Set the learning rate of a step: step decay, and a cosine that falls to 0."""
    decays = 0 if settings["decay_every"] is None else step // settings["decay_every"]
    passed = 0.0 if settings["cosine_steps"] is None else min(step / settings["cosine_steps"], 1.0)
    cosine = (1 + math.cos(math.pi * passed)) / 2
    for group in optimizer.param_groups:
        group["lr"] = settings["lr"] * ratio * settings["decay_factor"] ** decays * cosine


def update(
    name: str,  # of the network, for messages
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Tensor,
    parts: dict[str, Tensor],  # of the loss, by name, for messages
    world: ProcessGroup,
) -> None:
    """Backward pass and optimizer step. Diverged, with the module unchanged, if a loss or gradient is not finite."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    grads = gradients(module)
    world.average(grads)
    norm = torch.nn.utils.get_total_norm(grads)
    (diverged,) = world.any(not bool(torch.isfinite(loss.detach()) & torch.isfinite(norm)))
    if diverged:
        values = ", ".join(f"{part} {float(value):.4g}" for part, value in parts.items())
        raise Diverged(
            f"loss or gradient of the {name} is not finite ({values}; gradient norm {float(norm):.4g});"
            f" this update of the {name} was left out; a lower train.optimizer.lr may help"
        )
    optimizer.step()


class EMA:
    """Exponential moving average of a module's parameters, in a copy of the module."""

    def __init__(self, module: nn.Module, copy: nn.Module, half_life: float) -> None:
        """`copy` has the module's architecture; `half_life` is in images."""
        self.module, self.copy, self.half_life = module, copy.requires_grad_(False).eval(), half_life
        self.ramps_up = True  # false where `copy` is an average already
        self.copy.load_state_dict(module.state_dict())

    @torch.no_grad()
    def update(self, step: int, images: int) -> None:
        """Move towards the module's weights after step `step` (from 0) of `images` images each.

        Early on the half-life is a tenth of the images seen, or the first weights would linger (StyleGAN2-ADA).
        """
        half_life = min(self.half_life, RAMP_UP * (step + 1) * images) if self.ramps_up else self.half_life
        keep = 0.5 ** (images / half_life)
        pairs = zip(self.copy.parameters(), self.module.parameters(), strict=True)
        for mean, value in pairs:
            mean.lerp_(value, 1.0 - keep)
