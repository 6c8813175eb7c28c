"""Where what is new on a canvas comes from: the photographs themselves, or the generator."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from editing.collage import Collage, Sheet
from editing.completion import FitOptions, Progress, complete
from editing.known import KnownLatents, Placement
from editing.masks import seen_cells
from editing.montage import AROUND, INSIDE
from inversion.inverter import PatchInverter
from inversion.latents import Latents
from inversion.styles import ArrayLike, Style, StyleMap
from inversion.synthesis import GeneratedStructure
from inversion.weight_maps import Boxes, LabelImage, Labels
from utils.errors import UserError


@dataclass(frozen=True)
class Content:
    """How new structure is made."""

    # photograph: copied from what is there; both: and from generated images; generator: drawn and fitted to what is
    # there; auto: photograph, but generator where images have texture noise, as generated ones, and without trunk or
    # encoder
    source: Literal["auto", "photograph", "generator", "both"] = "auto"
    sources: Sequence[Latents] = ()  # photograph, both: copied from, too, in the canvas's style if it has one
    avoid: np.ndarray | None = None  # bool [n, m], stretched to each image of the canvas: what is not copied
    noise: bool | None = None  # whether what is new has texture noise; None: what the generator draws has
    fit: FitOptions = field(default_factory=FitOptions)  # generator
    progress: Progress = iter  # wraps the steps of the fit

    def copies(self, model: PatchInverter, images: Sequence[Latents]) -> bool:
        """Whether it copies from the images. UserError where it shall, and the model has no trunk or encoder."""
        if self.source == "auto":
            plain = all(each.noise is None and not isinstance(each.structure, GeneratedStructure) for each in images)
            return plain and model.measured and model.networks.encoder is not None
        if self.source != "generator":
            model.require_encoder()
            if not model.measured:
                raise UserError(f"complete.source: {self.source} needs a checkpoint with a trunk; allowed: generator")
        return self.source != "generator"

    def adds_noise(self, model: PatchInverter, images: Sequence[Latents]) -> bool:
        """Whether what is new has texture noise."""
        return not self.copies(model, images) if self.noise is None else self.noise

    def make(
        self,
        model: PatchInverter,
        placements: Sequence[Placement],  # the images of the canvas, in the order of the parts of `known`
        known: KnownLatents,
        size: tuple[int, int],  # height, width of the canvas, pixels
        style: Style | StyleMap,
        seed: int,
        hidden: Labels | None = None,  # above 0: pixels of the images to be made anew; None: those beside them
    ) -> ArrayLike:
        """The structure of the canvas. UserError if nothing is left to copy, or the fit diverges."""
        if not self.copies(model, [placement.latents for placement in placements]):
            return complete(model, known, size, style, seed, self.fit, self.progress)
        trunk = deepcopy(model.generator.texture.trunk).float().cpu()

        def sheet(latents: Latents, *place: Labels | tuple[int, int] | None) -> Sheet:
            return Sheet(trunk, latents.structure, model.cells(latents.size), latents.size, *place)

        sheets = []
        for placement in placements:
            avoid = None if self.avoid is None else LabelImage(self.avoid, placement.latents.size)
            sheets.append(sheet(placement.latents, hidden, avoid, (placement.top, placement.left)))
        for latents in self.sources:
            model.check(latents)
            latents = latents.with_style(style) if isinstance(style, Style) else latents
            sheets.append(sheet(model.as_drawn(latents)))
        if self.source == "both":
            edges = np.max([placement.latents.size for placement in placements], 0).tolist()
            for each in style.styles if isinstance(style, StyleMap) else [style]:
                sheets.append(sheet(model.generate(*edges, seed, style=each)))
        costs = AROUND if hidden is None else INSIDE
        if hidden is None:  # cells that see a pixel beside the photographs
            boxes = Boxes([placement.box for placement in placements])
            known = replace(known, mask=seen_cells(model, lambda rows, cols: boxes(rows, cols) == 0, size))
        return Collage(known, model.cells(size), size, sheets, costs, seed)
