"""New structure that the generator draws to go on from known structure: outpainting, inbetweening, resampling, filling.

The local latents near the border of what is known are fitted so that the structure synthesizer gives the known
structure there; beyond its reach they stay as they were drawn. With z0 the draw, the fit minimises

    fidelity * sum over the band |SS(z_l, z_g) - z_s|^2 / mean z_s^2  +  |z_l - z0|^2  +  |z_g - z_g0|^2,

in the manner of randomised maximum a posteriori (Bardsley et al., SIAM J. Sci. Comput. 2014; they also perturb the
data): each seed gives another continuation. The global latent moves along, for the structure only, since that of a
photograph is an estimate and colours show it. What the fit leaves fades out over some cells beyond the border. The fit
runs over tiles of a fixed grid, whatever the blocks that are drawn later; its memory grows with the border's length and
not with the area.

Letters: C channels, h/w latent cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from editing.known import KnownLatents
from inversion.inverter import PatchInverter
from inversion.styles import Style, StyleMap
from inversion.synthesis import LocalField, TiledStructure, grid, synthesize
from models.geometry import Interval, Region
from utils.errors import UserError

BETAS = (0.9, 0.99)
DIVERGED = 2.0  # times the error at the start
EXACT = 1e-6  # error of a draw that gives what is known already: Adam, whose steps have one size, would leave it


Progress = Callable[[Iterable[int]], Iterable[int]]  # wraps the steps of a fit, to show how far it is


@dataclass(frozen=True)
class FitOptions:
    """How new structure is fitted to known structure."""

    steps: int = 60  # of Adam; 0 goes on without regard to what is known
    lr: float = 0.15  # of local latents
    style_lr: float = 0.05  # of the global latent of the structure; 0 leaves it as it is
    fidelity: float = 10.0  # weight of the known structure against the draw
    band: int = 6  # cells of known structure beside the border that count
    fade: int = 12  # cells over which what the fit leaves fades out


def complete(
    model: PatchInverter,
    known: KnownLatents,
    size: tuple[int, int],  # height, width of the canvas, pixels
    style: Style | StyleMap,
    seed: int,
    options: FitOptions,
    progress: Progress = iter,
) -> TiledStructure:
    """The structure of a canvas that goes on from what is known of it. UserError if the fit diverges."""
    completion = Completion(model, known, model.cells(size), style, seed, options)
    completion.fit(progress)
    return TiledStructure(completion.compute, model.generator.structure.local_dim, completion.cells)


class Completion:
    """The structure latents of a canvas of which only a part is known."""

    def __init__(
        self,
        model: PatchInverter,
        known: KnownLatents,
        cells: Region,  # of the canvas
        style: Style | StyleMap,
        seed: int,
        options: FitOptions,
    ) -> None:
        self.known, self.cells, self.options, self.device = known, cells, options, model.device
        self.generator = model.generator.requires_grad_(False)
        self.style, self.z_g = style, style.global_latent.to(self.device)  # z_g: of the structure
        self.local = LocalField(self.generator.structure.local_dim, seed, self.device)
        self.fitted: dict[Region, Tensor] = {}  # tiles of local latents [C, h, w]

    def fit(self, progress: Progress) -> None:
        """Fit the local latents and the global latent of the structure."""
        targets = list(self._targets())
        if not targets:
            return
        scale = sum(float((weight * known.square()).sum()) for _, known, weight in targets)
        scale = max(scale / sum(float(weight.sum()) * len(known) for _, known, weight in targets), 1e-12)
        rule = self.generator.structure.rule
        touched = (tile for region, _, _ in targets for tile in grid(region.receptive_field(rule)))
        starts = {tile: self.local.read(tile) for tile in touched}
        self.fitted = {tile: nn.Parameter(start.clone()) for tile, start in starts.items()}
        first, z_g = self.z_g, nn.Parameter(self.z_g.clone())
        self.z_g = z_g
        groups = [{"params": list(self.fitted.values()), "lr": self.options.lr}]
        groups += [{"params": [z_g], "lr": 0.0 if self.style.measured else self.options.style_lr}]
        optimizer = torch.optim.Adam(groups, betas=BETAS)
        errors = []
        for _ in progress(range(self.options.steps)):
            errors.append(0.0)
            for region, known, weight in targets:
                error = ((self._structure(region) - known).square() * weight).sum() / scale
                (self.options.fidelity * error).backward()
                errors[-1] += float(error.detach())
            if errors[-1] < EXACT:
                break
            for values, start in [(z_g, first), *((self.fitted[tile], start) for tile, start in starts.items())]:
                values.grad += 2 * (values.detach() - start)
            optimizer.step()
            optimizer.zero_grad()
        if errors and not errors[-1] <= DIVERGED * errors[0]:
            raise UserError(f"the fit diverged, from {errors[0]:.3g} to {errors[-1]:.3g}; lower complete.lr may help")
        self.fitted = {tile: values.detach() for tile, values in self.fitted.items()}
        self.z_g = z_g.detach()

    def compute(self, region: Region) -> Tensor:
        """Structure latents [C, h, w] of a tile of the canvas: known ones as they are, new ones elsewhere."""
        fade = self.options.fade
        around = region.grown(fade)
        held = torch.from_numpy(self.known.where(around)).to(self.device)
        inner = region.slices_in(around)
        if bool(held[inner].all()):
            return self.known.read(region).to(self.device)
        if not bool(held.any()):
            return self._structure(region)
        known, new = self.known.read(around).to(self.device), self._structure(around)
        left = (known - new) * held
        return torch.where(held[inner], known[:, *inner], new[:, *inner] + _faded(left, held, fade))

    def _targets(self) -> Iterator[tuple[Region, Tensor, Tensor]]:
        """The cells that count, tile by tile: region, known latents [C, h, w], and 0 or 1 for each cell [h, w]."""
        band = self.options.band
        for region in grid(self.cells):
            around = region.grown(band)
            held = self.known.where(around)
            unknown = ~held & _inside(around, self.cells)
            near = cv2.dilate(unknown.astype(np.uint8), np.ones((2 * band + 1, 2 * band + 1), np.uint8)) > 0
            counts = (near & held)[region.slices_in(around)] & _inside(region, self.cells)
            if counts.any():
                rows, cols = (
                    Interval(first + int(np.flatnonzero(hit)[0]), first + int(np.flatnonzero(hit)[-1]))
                    for first, hit in ((region.rows.first, counts.any(1)), (region.cols.first, counts.any(0)))
                )
                part = Region(rows, cols)  # the smallest that holds them
                weight = torch.from_numpy(counts[part.slices_in(region)]).to(self.device)
                yield part, self.known.read(part).to(self.device), weight.float()

    def _structure(self, region: Region) -> Tensor:
        """The structure latents [C, h, w] that the latents, as they are now, give."""

        def local(around: Region) -> Tensor:  # fitted latents where there are some
            z_l = self.local.read(around)
            for tile in filter(self.fitted.__contains__, grid(around)):
                common = tile.common(around)
                z_l[:, *common.slices_in(around)] = self.fitted[tile][:, *common.slices_in(tile)]
            return z_l

        varies = isinstance(self.style, StyleMap)
        kind = self.style.measured
        style = replace(self.style, styles=[Style(z, kind) for z in self.z_g]) if varies else Style(self.z_g, kind)
        return synthesize(self.generator, style, local, region, self.cells)


def _faded(left: Tensor, held: Tensor, fade: int) -> Tensor:
    """What is left [C, H, W] at held cells [H, W], carried to the cells [h, w] that are `fade` inside, and faded out.

    The mean over held cells, weighted by 1 / distance^4, times a smooth step of the distance to the nearest one.
    """
    offsets = torch.arange(-fade, fade + 1, dtype=torch.float32, device=left.device)
    distance = (offsets[:, None].square() + offsets.square()).sqrt()
    weight = distance.clamp(min=1).pow(-4)
    weight[fade, fade] = 0
    values = F.conv2d(torch.cat([left, held[None].float()])[:, None], weight[None, None])[:, 0]
    mean = values[:-1] / values[-1:].clamp(min=1e-12)
    free = (~held).cpu().numpy().astype(np.uint8)
    nearest = torch.from_numpy(cv2.distanceTransform(free, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)).to(left.device)
    height, width = mean.shape[1:]
    share = (1 - nearest[fade : fade + height, fade : fade + width] / (fade + 1)).clamp(min=0)
    return mean * (share * share * (3 - 2 * share))


def _inside(region: Region, canvas: Region) -> np.ndarray:
    """Bool [h, w]: whether the cells of a region are those of the canvas."""
    rows, cols = (
        (np.arange(axis.first, axis.last + 1) >= bounds.first) & (np.arange(axis.first, axis.last + 1) <= bounds.last)
        for axis, bounds in ((region.rows, canvas.rows), (region.cols, canvas.cols))
    )
    return rows[:, None] & cols
