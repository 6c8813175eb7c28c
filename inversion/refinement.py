"""Refinement: the structure latents of a photograph, optimised from the encoder's result, block by block.

All cells take a step at once, from the latents of the step before. The gradient of a block of cells comes from all
pixels that they touch, drawn from them and from the cells around: so blocks equal the whole, in any order, and memory
depends on the block.

Minimised is 1/2 |TS(z) - x|^2 + weight/2 |(z - mean) / deviation|^2, with x in [-1, 1] and the mean and deviation of
the generator's own structure latents, by Nesterov's accelerated gradient, preconditioned by the curvature of a cell:

    g = P gradient,   m <- MOMENTUM m + g,   z <- z - rate (g + MOMENTUM m)

P [C, C] is the inverse of the mean of J^T J over cells (Gauss-Newton, J: pixels by the latents of one cell), damped,
and the rate the inverse of the largest eigenvalue of P J^T J over all cells. Both are measured once, in a window of the
image.

Letters: C channels, D global latent, h/w latent cells, H/W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from images.reading import Image
from inversion.blockwise import as_batch
from inversion.cost import refine_cost
from inversion.styles import ArrayLike, Style
from inversion.synthesis import GeneratedStructure, LocalField
from models.generator import Generator
from models.geometry import Interval, Region, reflect
from models.noise import Noise, gaussian_field
from models.structure import StyledStructure
from models.texture import TextureSynthesizer

MOMENTUM = 0.98
DAMPING = 0.1  # of P, times the mean curvature: some channels hardly change any pixel
PRIOR_CELLS = 32  # edge of the generated structure whose mean and deviation are the prior's
WINDOW_CELLS = 16  # largest edge of the window in which the curvature is measured
WINDOW_BYTES = 2**28  # that it may take
SAMPLES = 8  # gradients for each channel, in the mean of J^T J
STYLE_RATE = 0.02  # of Adam, for the global latent
LANCZOS_STEPS = 6  # for the largest eigenvalue
LARGER = 1.1  # times as large it may be elsewhere in the image


@dataclass(frozen=True)
class State:
    """Latents and momentum of all cells after a step: arrays [C, h, w], float32, that are read and written by window.

    A block's momentum is written first, so that where its latents are there, it is done.
    """

    latents: ArrayLike
    momentum: ArrayLike


class Step(NamedTuple):
    """What a step of a process reads, writes, and does."""

    before: State | None  # None: as encoded
    after: State
    todo: Iterable[Region]  # blocks that it lacks
    blocks: list[Region]  # all that are this process's
    whole: bool  # whether it lacks all of them


def steps_in_memory(shape: tuple[int, ...], blocks: list[Region], count: int) -> Iterator[Step]:
    """So many steps of latents of a shape [C, h, w]."""
    states = [State(*(np.empty(shape, np.float32) for _ in range(2))) for _ in range(min(count, 2))]
    for step in range(count):
        yield Step(states[(step - 1) % 2] if step else None, states[step % 2], blocks, blocks, True)


@dataclass(frozen=True)
class Prior:
    """The distribution of the generator's structure latents: an independent normal for each channel."""

    mean: Tensor  # [C, 1, 1]
    variance: Tensor  # [C, 1, 1]
    weight: float

    @staticmethod
    @torch.no_grad()
    def of(generator: Generator, z_g: Tensor, weight: float) -> Prior:
        """Of what a generator draws in the style z_g [D], on its device."""
        cells = Region.at(0, 0, PRIOR_CELLS, PRIOR_CELLS)
        local = LocalField(generator.structure.local_dim, 0, z_g.device)
        style = Style(z_g, isinstance(generator.structure, StyledStructure))
        drawn = GeneratedStructure(generator, style, local, cells).read(cells)
        variance, mean = torch.var_mean(drawn, (1, 2))
        variance = variance.clamp(min=1e-3 * float(variance.mean()) + 1e-12)  # of channels that are always the same
        return Prior(mean[:, None, None].clone(), variance[:, None, None].clone(), weight)

    def gradient(self, z_s: Tensor) -> Tensor:
        """Of the weighted prior, at z_s [C, h, w]."""
        return (z_s - self.mean) * (self.weight / self.variance)


class Refiner:
    """The steps of the structure latents of one image."""

    def __init__(
        self,
        generator: Generator,  # on `device`
        dtype: torch.dtype,  # of the convolutions
        device: torch.device,
        image: Image,
        z_g: Tensor,  # [D]
        noise: Noise | None,
        encoded: ArrayLike,  # structure latents [C, h, w] that the steps start from
        prior_weight: float,
    ) -> None:
        self.image, self.noise, self.device = image, noise, device
        self.texture = generator.texture.requires_grad_(False)
        self.pixels = Region.at(0, 0, image.height, image.width)
        self.cells = self.pixels.receptive_field(self.texture.rule)
        self.encoded, z_g = encoded, z_g.to(device)
        with torch.no_grad():
            self.draw = self.texture.bake(self.texture.mapping(z_g[None])[0], dtype)
        self.prior = Prior.of(generator, z_g, prior_weight)
        cells, pixels = curvature_window(self.texture, dtype)
        self._measure(_reflected(encoded, self.cells, cells.shape).to(device), cells, pixels)

    def step(self, before: State | None, after: State, blocks: Iterable[Region]) -> float:
        """Take a step from one state (None: the encoded latents, at rest) to the next, for blocks of cells.

        Returns the squared error, before the step, of all pixels that the blocks touch, added up.
        """
        total = 0.0
        for block in blocks:
            index = self._index(block)
            momentum = None if before is None else self._read(before.momentum, block)
            latents = self.encoded if before is None else before.latents
            z_s, moved, error = self.step_block(latents, momentum, block)
            after.momentum[index], after.latents[index] = moved.numpy(), z_s.numpy()
            total += error
        return total

    @torch.no_grad()
    def error(self, latents: ArrayLike, blocks: Iterable[Region]) -> float:
        """The squared error of all pixels that blocks of cells touch, added up block by block."""
        total = 0.0
        for block in blocks:
            pixels = block.affected_output(self.texture.rule).common(self.pixels)
            z_s = self._read(latents, pixels.receptive_field(self.texture.rule)).to(self.device)
            residual = self._drawn(z_s, pixels) - _target(self.image, pixels, self.device)
            total += float(residual.square().sum())
        return total

    def step_block(self, latents: ArrayLike, momentum: Tensor | None, block: Region) -> tuple[Tensor, Tensor, float]:
        """One step of a block of cells, from the latents of all and the momentum [C, h, w] of these (None: at rest).

        Returns their next latents and momentum, each [C, h, w] on the CPU, and the squared error, before the step, of
        all pixels that they touch.
        """
        pixels = block.affected_output(self.texture.rule).common(self.pixels)
        cells = pixels.receptive_field(self.texture.rule)
        around = self._read(latents, cells).to(self.device).requires_grad_()
        drawn = self._drawn(around, pixels)
        residual = drawn.detach() - _target(self.image, pixels, self.device)
        (gradient,) = torch.autograd.grad(drawn, around, residual)
        z_s = self._read(latents, block).to(self.device)
        gradient = _within(gradient, cells, block) + self.prior.gradient(z_s)
        gradient = torch.einsum("oc,chw->ohw", self.preconditioner, gradient)
        moved = gradient if momentum is None else MOMENTUM * momentum.to(self.device) + gradient
        next_z_s = z_s - self.rate * (gradient + MOMENTUM * moved)
        return next_z_s.cpu(), moved.cpu(), float(residual.square().sum())

    def _index(self, region: Region) -> tuple[slice, slice, slice]:
        return slice(None), *region.slices_in(self.cells)

    def _read(self, array: ArrayLike, region: Region) -> Tensor:
        # contiguous, so that sums run in the same order wherever the array lies
        return torch.from_numpy(np.ascontiguousarray(array[self._index(region)]))

    def _drawn(self, z_s: Tensor, pixels: Region) -> Tensor:
        return self.draw(z_s[None], self.noise, pixels)

    def _measure(self, z_s: Tensor, cells: Region, pixels: Region) -> None:
        """Set the preconditioner P [C, C] and the rate, at latents z_s [C, h, w] of cells that draw these pixels."""
        z_s = z_s.requires_grad_()
        drawn = self._drawn(z_s, pixels)
        pull = partial(torch.autograd.grad, drawn, z_s, retain_graph=True)  # J^T of an image
        precision = self.prior.weight / self.prior.variance

        found = []
        for cell in range(cells.rows.first, cells.rows.last + 1):
            touched = self.texture.rule.affected_output(Interval(cell, cell))
            if pixels.rows.first <= touched.first and touched.last <= pixels.rows.last:
                found.append(cell)
        inner = Region(*[Interval(found[0], found[-1])] * 2)  # the cells that touch none but these pixels
        probes = math.ceil(SAMPLES * len(z_s) / math.prod(inner.shape))
        curvature = torch.diag(precision.flatten())
        for probe in range(probes):
            white = gaussian_field(torch.tensor([probe], device=self.device), range(3), 0, 0, *pixels.shape)
            gradients = _within(pull(white)[0], cells, inner).flatten(1)
            curvature += gradients @ gradients.T / (probes * gradients.shape[1])
        curvature.diagonal().add_(DAMPING * float(curvature.diagonal().mean()) + 1e-12)
        self.preconditioner = torch.linalg.inv(curvature)
        values, vectors = torch.linalg.eigh(self.preconditioner)
        root = vectors * values.clamp(min=0).sqrt() @ vectors.T

        def apply(v: Tensor) -> Tensor:  # P^1/2 (J^T J + prior) P^1/2, symmetric
            v = torch.einsum("oc,chw->ohw", root, v)
            pushed = torch.func.jvp(lambda z: self._drawn(z, pixels), (z_s.detach(),), (v,))[1]
            return torch.einsum("oc,chw->ohw", root, pull(pushed)[0] + precision * v)

        start = gaussian_field(torch.tensor([0], device=self.device), range(len(z_s)), 0, 0, *cells.shape)[0]
        self.rate = 1.0 / max(LARGER * largest_eigenvalue(apply, start), 1e-20)


def largest_eigenvalue(apply: Callable[[Tensor], Tensor], start: Tensor) -> float:
    """Of a symmetric positive operator on tensors, nearly and from below: Lanczos' method, orthogonalised twice."""
    basis = [start / start.norm()]
    projected = torch.zeros(LANCZOS_STEPS, LANCZOS_STEPS, dtype=torch.float64)
    for step in range(LANCZOS_STEPS):
        rest = apply(basis[step])
        for _ in range(2):
            for row, vector in enumerate(basis):
                share = (vector * rest).sum()
                projected[row, step] += float(share)
                rest = rest - share * vector
        norm = rest.norm()
        if float(norm) < 1e-6 * float(projected[step, step].abs()) + 1e-30:
            break
        basis.append(rest / norm)
    return float(torch.linalg.eigvalsh(projected, UPLO="U")[-1])


@torch.enable_grad()
def fit_style(
    texture: TextureSynthesizer,
    dtype: torch.dtype,
    device: torch.device,
    image: Image,
    z_g: Tensor,  # [D]
    noise: Noise | None,
    encode: Callable[[Region], Tensor],  # region of cells -> z_s [C, h, w]
    steps: int,
) -> Tensor:
    """The global latent [D], on the CPU, that draws an image best from its encoded structure; by Adam, from `z_g` on.

    It looks at up to four windows, which follow from the image's size and not from its blocks.
    """
    texture.requires_grad_(False)
    edge = curvature_window(texture, dtype)[1].rows.size
    rows, cols = (_spread(length, edge) for length in (image.height, image.width))
    windows = [Region(row, col) for row in rows for col in cols]
    z_s = [encode(window.receptive_field(texture.rule)).to(device)[None] for window in windows]
    targets = [_target(image, window, device) for window in windows]
    z_g = torch.nn.Parameter(z_g.to(device).clone())
    optimizer = torch.optim.Adam([z_g], lr=STYLE_RATE)
    for _ in range(steps):
        optimizer.zero_grad()
        draw = texture.bake(texture.mapping(z_g[None])[0], dtype)
        for place, latents, target in zip(windows, z_s, targets, strict=True):
            (draw(latents, noise, place) - target).square().mean().backward(retain_graph=True)
        optimizer.step()
    return z_g.detach().cpu()


def _spread(length: int, edge: int) -> list[Interval]:
    """Parts of a length, of at most `edge`: one in the middle, or two around the quarters of what is twice as long."""
    shares = (0.25, 0.75) if length >= 2 * edge else (0.5,)
    starts = [round(max(length - edge, 0) * share) for share in shares]
    return [Interval(start, min(start + edge, length) - 1) for start in starts]


def _target(image: Image, pixels: Region, device: torch.device) -> Tensor:
    """Pixels [1, 3, H, W] of a photograph, in [-1, 1]."""
    return as_batch(torch.from_numpy(image.window_float(pixels.rows.first, pixels.cols.first, *pixels.shape)), device)


def curvature_window(texture: TextureSynthesizer, dtype: torch.dtype) -> tuple[Region, Region]:
    """The cells of the window in which the curvature is measured, and the pixels that they draw: at the origin.

    It follows from the network alone, so that it is the same for all blocks.
    """
    cell = 2**texture.stages
    smallest = math.ceil(texture.rule.affected_output(Interval(0, 0)).size / cell) + 1
    for edge in range(max(WINDOW_CELLS, smallest), smallest - 1, -1):
        pixels = Region.at(0, 0, edge * cell, edge * cell)
        cells = pixels.receptive_field(texture.rule)
        if refine_cost(texture, pixels, dtype).bytes <= WINDOW_BYTES:
            break
    return cells, pixels


def _within(values: Tensor, outer: Region, inner: Region) -> Tensor:
    """The part of values [C, H, W] of an outer region that lies in an inner one."""
    return values[:, *inner.slices_in(outer)]


def _reflected(structure: ArrayLike, cells: Region, shape: tuple[int, int]) -> Tensor:
    """The latents [C, h, w] in the middle of all cells; where there are fewer, they are reflected."""
    rows, cols = (
        reflect(np.arange(count) + (axis.size - count) // 2, axis.size)
        for axis, count in zip((cells.rows, cells.cols), shape, strict=True)
    )
    values = structure[:, rows.min() : rows.max() + 1, cols.min() : cols.max() + 1]
    return torch.from_numpy(np.ascontiguousarray(values[:, (rows - rows.min())[:, None], cols - cols.min()]))
