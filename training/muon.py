"""The optimizer Muon: momentum made orthogonal for the matrices among the weights, Adam for all others."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

MATRIX = 16  # rows and columns that a weight must have to be treated as a matrix
MOMENTUM = 0.95
ROOT_MEAN_SQUARE = 0.5  # of an update by a learning rate of 1; those of Adam are of the same size
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # coefficients that raise small singular values fastest (Jordan et al.)
ITERATIONS = 5
EPSILON = 1e-8


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al., 2024, kellerjordan.github.io/posts/muon) for convolution weights [O, I, K, K] as [O, I K K].

    The momentum's singular values are all set to about 1, so that rare directions learn as fast as frequent ones.
    Biases, fully connected layers and weights of few channels are left to Adam.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, betas: tuple[float, float], weight_decay: float
    ) -> None:
        """`betas` are those of Adam; `weight_decay` is decoupled, as in AdamW."""
        super().__init__(parameters, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update all parameters that have a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                change = self._orthogonal(parameter) if is_matrix(parameter) else self._adam(parameter, group["betas"])
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(change, alpha=group["lr"])

    def _orthogonal(self, parameter: Tensor) -> Tensor:
        gradient, momentum = parameter.grad, self._state(parameter, "momentum")
        momentum.mul_(MOMENTUM).add_(gradient)
        direction = orthogonal(gradient.add(momentum, alpha=MOMENTUM).flatten(1))  # Nesterov's
        return direction.reshape(parameter.shape) * (ROOT_MEAN_SQUARE * math.sqrt(max(direction.shape)))

    def _adam(self, parameter: Tensor, betas: tuple[float, float]) -> Tensor:
        mean, power = self._state(parameter, "mean"), self._state(parameter, "power")
        self.state[parameter]["step"] = step = self.state[parameter].get("step", 0) + 1
        mean.lerp_(parameter.grad, 1 - betas[0])
        power.lerp_(parameter.grad.square(), 1 - betas[1])
        deviation = (power / (1 - betas[1] ** step)).sqrt_().add_(EPSILON)
        return (mean / (1 - betas[0] ** step)).div_(deviation)

    def _state(self, parameter: Tensor, name: str) -> Tensor:
        state = self.state[parameter]
        if name not in state:
            state[name] = torch.zeros_like(parameter)
        return state[name]


def is_matrix(parameter: Tensor) -> bool:
    """Whether Muon takes a parameter: a convolution's weight with enough outputs and inputs."""
    return parameter.dim() == 4 and min(parameter.flatten(1).shape) >= MATRIX


def orthogonal(matrix: Tensor) -> Tensor:
    """About the nearest orthogonal matrix to [M, N], by Newton-Schulz iterations in bfloat16.

    Singular values become 0.65 to 1.25; those of less than 0.002 of the matrix's norm may stay smaller.
    """
    wide = matrix.shape[0] <= matrix.shape[1]
    x = (matrix if wide else matrix.T).bfloat16()
    x = x / (x.norm() + EPSILON)
    a, b, c = NEWTON_SCHULZ
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x if wide else x.T).float()
