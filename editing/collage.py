"""New structure from the photographs themselves: an array-like whose new cells are copies of cells of theirs.

What is stored is where each new cell comes from, and by how much its tones change; latents are read when they are asked
for. The montage (`editing.montage`) is made once, of the whole canvas, when the first window is read: whatever windows
follow, each cell has the same bits.

Letters: C channels, F features, h/w latent cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from editing.known import KnownLatents
from editing.montage import Canvas, Costs, Sources, compose, unusual
from inversion.inverter import PatchInverter
from inversion.latents import Latents
from inversion.styles import ArrayLike, Windowed
from inversion.synthesis import Mask
from models.geometry import Interval, Region
from models.trunk import COLOURS, Trunk, lapped_basis
from utils.errors import UserError

PATCHES = 150, 2500  # at most, by which something is told to be unusual, as a whole and in detail
FEATURES = 16  # first channels, by which cells are compared
STRIP = 64  # rows of cells that are read at a time
NOWHERE = -(2**20)  # row and column of what is no part of the canvas
SMALLEST = 1e-3  # scale of a feature
REACH = 0.6  # of the shorter edge: how near to itself a photograph is not copied
SLACK = 0.03, 0.2  # of rows, as shares of the height: inside the photograph's rows, and beyond them at most


@dataclass(frozen=True)
class Sheet:
    """A photograph to copy from."""

    structure: ArrayLike  # [C, h, w]
    usable: np.ndarray  # bool [h, w]
    inside: Region  # the indices of cells that see nothing beyond its border
    rows: Interval  # those of cells with pixels
    at: tuple[int, int] | None = None  # row and column of the canvas's array where its array begins

    @staticmethod
    def of(
        model: PatchInverter,
        latents: Latents,
        masks: Sequence[Mask] = (),  # of its cells that are not copied
        at: tuple[int, int] | None = None,  # cells
    ) -> Sheet:
        """Of an image. Cells that see beyond its border are not copied, either."""
        held, pixels = model.cells(latents.size), Region.at(0, 0, *latents.size)
        down, right = -held.rows.first, -held.cols.first
        inside = pixels.valid_output(model.networks.encoder.rule).common(held)
        usable = np.zeros(held.shape, bool)
        if inside is not None:
            usable[inside.slices_in(held)] = True
            for mask in masks:
                usable[inside.slices_in(held)] &= ~mask(inside)
        inside = (inside or held).moved(down, right)
        rows = Interval(down, down + (latents.size[0] - 1) // model.cell)
        return Sheet(latents.structure, usable, inside, rows, at)

    def features(self, channels: int) -> np.ndarray:
        """The first channels [F, h, w], read by strips."""
        strips = range(0, self.usable.shape[0], STRIP)
        return np.concatenate([self.structure[: min(FEATURES, channels), top : top + STRIP, :] for top in strips], 1)


class Collage(Windowed):
    """The structure of a canvas [C, h, w]: known where it is, and elsewhere copied from sheets, mirrored or not."""

    def __init__(
        self,
        known: KnownLatents,  # its parts are the first sheets
        cells: Region,  # of the canvas
        sheets: Sequence[Sheet],
        trunk: Trunk,
        costs: Costs,
        seed: int,
    ) -> None:
        """UserError where there is nothing to copy."""
        if not any(sheet.usable.any() for sheet in sheets):
            raise UserError("nothing is left to copy from; allowed: photographs and masks that leave some cells")
        super().__init__(known.channels, cells)
        self.known, self.sheets, self.costs, self.seed = known, sheets, costs, seed
        order, scale = (each[: known.channels].cpu().numpy() for each in (trunk.order, trunk.scale))
        down, right = order // trunk.cell % trunk.cell, order % trunk.cell  # frequencies
        self.signs = np.where(right % 2, np.float32(-1), np.float32(1))  # of a mirrored cell's channels
        # [C, 3, 3]: what each channel has of a tone of 1 at a cell and those around it, linear between them
        response, self.axis = _hats(trunk.cell), order // trunk.cell**2
        blends = response[down][:, :, None] * response[right][:, None] / response[0].sum() ** 2
        self.blends = (blends * (scale[self.axis] / scale)[:, None, None]).astype(np.float32)
        self.width = max(sheet.usable.shape[1] for sheet in sheets)  # of a sheet's place among the sources

    def make(self, region: Region) -> np.ndarray:
        """The values [C, h, w] of a region of the canvas."""
        values = self.known.read(region).numpy()
        new = ~self.known.where(region)
        if new.any():
            window = region.slices_in(self.cells)
            place = self._montage[0][:, *window]
            for n, sheet in enumerate(self.sheets):
                for mirrored in (False, True):
                    self._copy(values, place, new, sheet, self.width * (2 * n + mirrored), mirrored)
            values += self._toned(window) * new
        return values

    def origin(self, region: Region) -> np.ndarray:
        """The number of the sheet [h, w] that each new cell of a region of the canvas is copied from."""
        return self._montage[0][1][region.slices_in(self.cells)] // (2 * self.width)

    def _copy(
        self, values: np.ndarray, place: np.ndarray, new: np.ndarray, sheet: Sheet, start: int, mirrored: bool
    ) -> None:
        """Give the new cells that come from a sheet, whose columns begin at `start`, their values."""
        width = sheet.usable.shape[1]
        cols = place[1] - start
        cols = width - 1 - cols if mirrored else cols
        own = new & (place[1] >= start) & (place[1] < start + self.width)
        for top in range(0, sheet.usable.shape[0], STRIP):
            here = own & (place[0] >= top) & (place[0] < top + STRIP)
            if here.any():
                first, last = cols[here].min(), cols[here].max()
                strip = np.asarray(sheet.structure[: self.shape[0], top : top + STRIP, first : last + 1])
                found = strip[:, place[0][here] - top, cols[here] - first]
                values[:, here] = found * self.signs[:, None] if mirrored else found

    def _toned(self, window: tuple[slice, slice]) -> np.ndarray:
        """What tones add to the latents [C, h, w] of a window: those of an image linear between the tones of a piece.

        Beyond its seams a piece goes on with the tone of the cell. One product and sum after the other, so that each
        cell has the same bits in every window.
        """
        place, tones = self._montage
        (height, width), own = tones.shape[1:], tones[:, *window]
        rows, cols = (np.arange(axis.start, axis.stop) for axis in window)
        result = np.zeros((len(self.axis), len(rows), len(cols)), np.float32)
        for down in range(-1, 2):
            for right in range(-1, 2):
                beside = np.ix_(np.clip(rows + down, 0, height - 1), np.clip(cols + right, 0, width - 1))
                step = np.array([down, right])[:, None, None]
                same = (place[:, *beside] - place[:, *window] == step).all(0)
                tone = np.where(same, tones[:, *beside], own)
                result += self.blends[:, down + 1, right + 1, None, None] * tone[self.axis]
        return result

    @cached_property
    def _montage(self) -> tuple[np.ndarray, np.ndarray]:
        """Place [2, h, w] among the sources of each new cell, and what is added to its first channels [3, h, w]."""
        features = [sheet.features(self.known.channels) for sheet in self.sheets]
        copied = np.concatenate([each[:, sheet.usable] for each, sheet in zip(features, self.sheets, strict=True)], 1)
        mean, deviation = copied.mean(1), copied.std(1)
        scale = np.maximum(np.sqrt(deviation * deviation[0]), SMALLEST)  # whitens in part
        features = [(np.moveaxis(each, 0, 2) - mean) / scale for each in features]
        pieces = compose(
            self._canvas(features), self._sources(features, self.signs[: len(mean)]), self.costs, self.seed
        )
        tones = pieces.tones(COLOURS) * scale[:COLOURS, None, None]
        return pieces.place.astype(np.int32), tones.astype(np.float32)

    def _rows(self) -> Interval:
        """The rows of the canvas's array that correspond to the height of a photograph."""
        placed = [sheet for sheet in self.sheets if sheet.at is not None]
        first = min(sheet.at[0] + sheet.rows.first for sheet in placed)
        return Interval(first, max(sheet.at[0] + sheet.rows.last for sheet in placed))

    def _canvas(self, features: Sequence[np.ndarray]) -> Canvas:
        """What is known of the canvas, by features [h, w, F] of the sheets.

        A photograph's outermost cells, which see its mirror image beyond the border, count as the next ones inside.
        """
        height, width = self.cells.shape
        known, rows = self.known.where(self.cells), self._rows()
        values = np.zeros((height, width, features[0].shape[2]), np.float32)
        for (_, _, own), sheet, each in zip(self.known.parts, self.sheets, features, strict=False):
            part, parts = own.slices_in(self.cells), []
            for axis, start, inside in zip(part, sheet.at, (sheet.inside.rows, sheet.inside.cols), strict=True):
                parts.append(np.clip(np.arange(axis.start, axis.stop) - start, inside.first, inside.last))
            values[part] = each[np.ix_(*parts)]
        down = (np.arange(height, dtype=np.float32) - rows.first) / rows.size
        beyond = np.maximum(np.maximum(-down, down - 1), 0)
        wanted, slack = (
            np.broadcast_to(each[:, None], known.shape)
            for each in (np.clip(down, 0, 1), SLACK[0] + np.minimum(beyond, SLACK[1]))
        )
        return Canvas(values, known, ~known, wanted, slack)

    def _sources(self, features: Sequence[np.ndarray], signs: np.ndarray) -> Sources:
        """The sheets beside each other, each as it is and mirrored."""
        height, width, rows = max(len(each) for each in features), self.width, self._rows()
        shape = height, 2 * len(features) * width
        values = np.zeros((*shape, len(signs)), np.float32)
        usable, down, rare = np.zeros(shape, bool), np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        original = np.zeros(shape, np.int64)
        at = np.full((2, *shape), NOWHERE, np.float32)
        for n, (sheet, each) in enumerate(zip(self.sheets, features, strict=True)):
            unlike, (h, w) = np.maximum(*(unusual(each, sheet.usable, most) for most in PATCHES)), sheet.usable.shape
            own = sheet.rows if sheet.at is None else Interval(rows.first - sheet.at[0], rows.last - sheet.at[0])
            for mirrored, step in enumerate((1, -1)):
                box = np.s_[:h, (start := (2 * n + mirrored) * width) : start + w]
                values[box] = each[:, ::-1] * signs if mirrored else each
                usable[box], rare[box] = sheet.usable[:, ::step], unlike[:, ::step]
                down[box] = ((np.arange(h) - own.first) / own.size)[:, None]
                original[box] = (n * height + np.arange(h)[:, None]) * width + np.arange(w)[::step]
                if sheet.at is not None:
                    at[0][box] = (sheet.at[0] + np.arange(h))[:, None]
                    at[1][box] = sheet.at[1] + np.arange(w)[::step]
        reach = REACH * min(min(each.shape[:2]) for each in features)
        return Sources(values, usable, down, rare, at, reach, original)


def _hats(cell: int) -> np.ndarray:
    """[m, 3]: the coefficients, of one axis, of hat functions that are 1 at the cell before, at it, and after it."""
    taps = (np.arange(2 * cell) + 0.5) / cell - 1  # cells from the middle
    return lapped_basis(cell) @ np.maximum(1 - np.abs(taps[:, None] - np.arange(-1, 2)), 0)
