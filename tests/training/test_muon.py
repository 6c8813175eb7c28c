"""Muon: orthogonal updates of the matrices, by singular values; Adam's of everything else."""

import pytest
import torch
from torch import nn

from training.muon import MOMENTUM, ROOT_MEAN_SQUARE, Muon, orthogonal

SETTINGS = {"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.1}
LOW, HIGH = 0.65, 1.25  # where `orthogonal` brings singular values to


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def polar(matrix):
    """The nearest orthogonal matrix, by its singular vectors."""
    left, _, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    return (left @ right).float()


def cosine(one, other):
    return float((one * other).sum() / one.norm() / other.norm())


def with_singular_values(rows, cols, values):
    left, right = torch.linalg.qr(normal(rows, len(values)))[0], torch.linalg.qr(normal(cols, len(values), seed=1))[0]
    return left, right, left @ values.diag() @ right.T


def stepped(parameters, gradients, kind=Muon):
    """Copies of parameters after a step for each list of gradients."""
    copies = [nn.Parameter(parameter.clone()) for parameter in parameters]
    optimizer = kind(copies, **SETTINGS)
    for of_step in gradients:
        for parameter, gradient in zip(copies, of_step, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
    return copies


@pytest.mark.parametrize(("rows", "cols", "scale"), [(16, 144, 1e-5), (144, 16, 1.0), (24, 24, 1e5)])
def test_singular_values_become_about_one_and_their_vectors_stay(rows, cols, scale):
    left, right, matrix = with_singular_values(rows, cols, torch.logspace(0, -1.5, min(rows, cols)))
    found = orthogonal(matrix * scale)
    assert found.shape == matrix.shape and found.dtype == torch.float32
    values = torch.linalg.svdvals(found)
    assert values.min() > LOW and values.max() < HIGH
    rotated = left.T @ found @ right
    off = rotated - rotated.diagonal().diag()
    assert rotated.diagonal().min() > LOW - 0.05 and off.abs().max() < 0.05
    assert cosine(found, polar(matrix)) > 0.97
    assert torch.equal(orthogonal(torch.zeros(rows, cols)), torch.zeros(rows, cols))


@pytest.mark.parametrize("shape", [(16, 32, 3, 3), (70, 17, 1, 1)])
def test_a_matrix_moves_along_its_orthogonal_momentum(shape):
    """By steps whose root mean square does not depend on the gradient's, nor on the shape, beside the weight decay."""
    start, first, second = normal(*shape), normal(*shape, seed=1), 0.5 * normal(*shape, seed=2)
    (before,), (after,) = stepped([start], [[first]]), stepped([start], [[first], [second]])
    decayed = before * (1 - SETTINGS["lr"] * SETTINGS["weight_decay"])
    moved = (decayed - after).detach().flatten(1) / SETTINGS["lr"]
    momentum = MOMENTUM * first + second
    assert cosine(moved, polar((second + MOMENTUM * momentum).flatten(1))) > 0.98
    assert LOW * ROOT_MEAN_SQUARE < moved.square().mean().sqrt() < HIGH * ROOT_MEAN_SQUARE
    assert cosine(moved, polar(momentum.flatten(1))) < 0.98  # Nesterov's momentum looks ahead


def test_the_rest_learns_as_with_adamw():
    shapes = [(7,), (20, 24), (3, 32, 1, 1), (32, 1, 3, 3)]
    gradients = [[10.0**step * normal(*shape, seed=step) for shape in shapes] for step in range(5)]
    start = [normal(*shape, seed=9) for shape in shapes]
    moved, expected = (stepped(start, gradients, kind) for kind in (Muon, torch.optim.AdamW))
    for one, other, value in zip(moved, expected, start, strict=True):
        assert torch.allclose(one, other, rtol=1e-6, atol=1e-7) and not torch.allclose(one, value, atol=1e-3)
