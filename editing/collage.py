"""New structure from the photographs themselves: an array-like whose new cells are made of pixels of theirs.

The pixels are those that the trunk draws. What is known stays, each open pixel is a copy of another one, and the trunk
analyses the picture that these give. What is stored is where the copies come from, and by how much their tones change:
the montage (`editing.montage`), which is made once, of the whole canvas, when the first window is read. It is as fine
as a pixel where the canvas is small, and as a latent cell where it is large.

Letters: C channels, F features, h/w latent cells, nodes of the montage, or pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
import torch
from torch import Tensor

from editing.known import KnownLatents
from editing.montage import Canvas, Costs, Sources, compose, unusual
from inversion.styles import ArrayLike
from inversion.synthesis import TiledStructure
from inversion.weight_maps import Labels
from models.geometry import Interval, Region, reflect
from models.trunk import COLOURS, Trunk
from utils.errors import UserError

NOTHING = "nothing is left to copy from; allowed: photographs and masks that leave some pixels"
NODES = 2**19  # of a canvas and its sheets, mirrored too, above which they become coarser
OPEN = 80_000  # nodes beside photographs, likewise
PATCHES = 150, 2500  # at most, by which something is told to be unusual, as a whole and in detail
WHOLE = 2**22  # pixels of a sheet up to which its picture is kept
STRIP = 128  # rows of pixels that are described at a time
RIM = 4  # pixels at the border of a photograph, which may be unlike those inside
UNLIKE = 2.0  # times as far from the lines inside as these from the next ones
BESIDE = 3  # pixels beside hidden ones that are made anew, too
SQUARE = np.ones((2 * BESIDE + 1, 2 * BESIDE + 1), np.uint8)
RADIUS = 4  # pixels around a pixel, whose slopes are its texture
# features: three colours, slopes of the first one downwards and to the right, the strength of both around
SLOPES = slice(3, 5)
SHARES = np.array([1, 1, 1, 0.5, 0.5, 0.7, 0.7], np.float32)  # their deviations; colours: beside the first one's
MIRRORED = np.array([1, 1, 1, 1, -1, 1, 1], np.float32)
NOWHERE = -(2**20)  # row and column of what is no part of the canvas
SMALLEST = 1e-3  # scale of a feature
REACH = 0.6  # of the shorter edge: how near to itself a photograph is not copied
SLACK = 0.03, 0.2  # of rows, as shares of the height: inside the photograph's rows, and beyond them at most
HELD = 2e-4  # weight of no change of tones at a pixel, beside a gradient's 1


@dataclass(frozen=True)
class Sheet:
    """A photograph to copy from."""

    trunk: Trunk
    structure: ArrayLike  # [C, h, w]
    cells: Region  # that it holds
    size: tuple[int, int]  # height, width, pixels
    hidden: Labels | None = None  # above 0: pixels that are to be made anew
    avoid: Labels | None = None  # above 0: pixels that are not copied
    at: tuple[int, int] | None = None  # row and column of the canvas where its first pixel lies; None: nowhere

    def picture(self, region: Region) -> np.ndarray:
        """Colours [3, h, w], by axes of the trunk, of a region of its pixels."""
        if self._whole is not None:
            return self._whole[:, *region.slices_in(Region.at(0, 0, *self.size))]
        return self._drawn(region)

    @cached_property
    def _whole(self) -> np.ndarray | None:
        """All of a small one, which is copied from again and again."""
        height, width = self.size
        return self._drawn(Region.at(0, 0, height, width)) if height * width <= WHOLE else None

    def _drawn(self, region: Region) -> np.ndarray:
        m = self.trunk.cell
        cells = Region(*(Interval(axis.first // m, axis.last // m + 1) for axis in (region.rows, region.cols)))
        structure = self.structure[(slice(self.trunk.channels), *cells.slices_in(self.cells))]
        drawn = self.trunk.synthesise(torch.from_numpy(np.ascontiguousarray(structure, dtype=np.float32))[None])[0]
        inner = region.slices_in(Region.at(m * cells.rows.first, m * cells.cols.first, *drawn.shape[1:]))
        return torch.tensordot(self.trunk.axes, drawn[:, *inner], 1).numpy()

    def known(self, region: Region) -> np.ndarray:
        """Bool [h, w]: the pixels of a region that stay. Those close to hidden ones have something of them."""
        inner = slice(BESIDE, -BESIDE)
        return cv2.erode(self._unlabelled(self.hidden, region.grown(BESIDE)), SQUARE)[inner, inner] > 0

    def usable(self, region: Region) -> np.ndarray:
        """Bool [h, w]: the pixels of a region that may be copied: not the rim, which is dark in scans."""
        inner = Region.at(0, 0, *self.size).grown(-RIM).common(region) if min(self.size) > 4 * RIM else region
        usable = np.zeros(region.shape, bool)
        if inner:
            usable[inner.slices_in(region)] = self.known(inner) & (self._unlabelled(self.avoid, inner) > 0)
        return usable

    def _unlabelled(self, labels: Labels | None, region: Region) -> np.ndarray:
        """1 for the pixels of a region whose label is 0, uint8 [h, w]; beyond the rim as at it."""
        if labels is None:
            return np.ones(region.shape, np.uint8)
        axes = zip((region.rows, region.cols), self.size, strict=True)
        positions = (np.arange(axis.first, axis.last + 1).clip(0, edge - 1) for axis, edge in axes)
        return (labels(*positions) == 0).astype(np.uint8)

    def strips(self) -> list[Region]:
        """Its rows, a few at a time."""
        width, tops = Interval(0, self.size[1] - 1), range(0, self.size[0], STRIP)
        return [Region(Interval(top, min(top + STRIP, self.size[0]) - 1), width) for top in tops]

    def describe(self, factor: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Means of features [h, w, F] over nodes of `factor` pixels each way, and whether all is known, and usable.

        Features are the colours, the slopes of the first one, and how strong these are around.
        """
        parts = []
        for strip in self.strips():
            around = strip.grown(2 * RADIUS).common(Region.at(0, 0, *self.size))
            features = _features(self.picture(around), self.known(around))[strip.slices_in(around)]
            parts.append([_means(each, factor) for each in (features, self.known(strip), self.usable(strip))])
        features, known, usable = (np.concatenate(each) for each in zip(*parts, strict=True))
        return features, known == 1, usable == 1


class Collage(TiledStructure):
    """The structure of a canvas [C, h, w]: known where it is, and elsewhere copied from sheets, mirrored or not."""

    def __init__(
        self,
        known: KnownLatents,
        cells: Region,  # of the canvas
        size: tuple[int, int],  # of the canvas, pixels
        sheets: Sequence[Sheet],  # those on the canvas first
        costs: Costs,
        seed: int,
    ) -> None:
        """UserError where there is nothing to copy."""
        if not any(sheet.usable(strip).any() for sheet in sheets for strip in sheet.strips()):
            raise UserError(NOTHING)
        super().__init__(self._compute, known.channels, cells)
        self.known, self.size, self.sheets, self.costs, self.seed = known, size, sheets, costs, seed
        self._placed = [sheet for sheet in sheets if sheet.at is not None]
        self.trunk, self.factor = sheets[0].trunk, 1
        areas = [each.size[0] * each.size[1] for each in sheets]
        beside = size[0] * size[1] - sum(areas[: len(self._placed)])
        nodes, edge = size[0] * size[1] + 2 * sum(areas), min(*size, *(min(each.size) for each in sheets))
        while max(nodes / NODES, beside / OPEN) > self.factor**2 and self.factor < min(self.trunk.cell, edge):
            self.factor *= 2
        self.width = max(sheet.size[1] for sheet in sheets) // self.factor  # nodes of a sheet's place in the sources

    def _compute(self, tile: Region) -> Tensor:
        """Structure latents [C, h, w] of a tile; 0 beyond the canvas."""
        values, region, m = self.known.read(tile), tile.common(self.cells), self.trunk.cell
        if region is None or self.known.where(region).all():
            return values
        axes = zip((region.rows, region.cols), self.size, strict=True)
        rows, cols = (reflect(np.arange(m * axis.first - m, m * axis.last + m), edge) for axis, edge in axes)
        seen = Region(*(Interval(int(each.min()), int(each.max())) for each in (rows, cols)))
        picture = self._picture(seen)[:, *np.ix_(rows - seen.rows.first, cols - seen.cols.first)]
        made = self.trunk.analyse(torch.tensordot(self.trunk.axes.T, torch.from_numpy(picture), 1)[None])[0]
        inner, new = region.slices_in(tile), torch.from_numpy(~self.known.where(region))
        values[:, *inner] = torch.where(new, made, values[:, *inner])
        return values

    def _picture(self, region: Region) -> np.ndarray:
        """Colours [3, h, w] of a region of pixels of the canvas."""
        picture, free = np.zeros((COLOURS, *region.shape), np.float32), np.ones(region.shape, bool)
        for sheet in self._placed:
            common = Region.at(*sheet.at, *sheet.size).common(region)
            if common:
                own = common.moved(-sheet.at[0], -sheet.at[1])
                picture[:, *common.slices_in(region)] = sheet.picture(own)
                free[common.slices_in(region)] = ~sheet.known(own)
        if free.any():
            rows, cols = (np.arange(axis.first, axis.last + 1) for axis in (region.rows, region.cols))
            self._copy(picture, free, rows, cols)
            picture += self._toned(rows, cols) * free
        return picture

    def _copy(self, picture: np.ndarray, free: np.ndarray, rows: np.ndarray, cols: np.ndarray) -> None:
        """Give the free pixels of a picture their colours: those of one offset at a time."""
        y, x = (each[free] for each in self._places(rows, cols))
        row, col = np.nonzero(free)
        place, x = np.divmod(x, self.factor * self.width)
        span = 2 * max(*self.size, *(edge for sheet in self.sheets for edge in sheet.size))
        offset = (place * span + y - rows[row]) * span + x - cols[col]
        order = np.argsort(offset, kind="stable")
        for own in np.split(order, np.flatnonzero(np.diff(offset[order])) + 1):
            sheet, v, u = self.sheets[place[own[0]] // 2], y[own], x[own]
            if place[own[0]] % 2:
                u = sheet.size[1] // self.factor * self.factor - 1 - u
            box = Region(*(Interval(int(axis.min()), int(axis.max())) for axis in (v, u)))
            picture[:, row[own], col[own]] = sheet.picture(box)[:, v - box.rows.first, u - box.cols.first]

    def _nodes(self, rows: np.ndarray, cols: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The rows and columns of the nodes of pixels, and of the pixels in them; at the rim the last ones count on."""
        nodes, inner = [], []
        for axis, edge in zip((rows, cols), self._montage[0].shape[1:], strict=True):
            nodes.append(np.minimum(axis // self.factor, edge - 1))
            inner.append(np.minimum(axis - self.factor * nodes[-1], self.factor - 1))
        return nodes, inner

    def _places(self, rows: np.ndarray, cols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Row and column [h, w], among the pixels of the sources, of what pixels of the canvas are copied from."""
        nodes, (down, right) = self._nodes(rows, cols)
        y, x = self.factor * self._montage[0][:, *np.ix_(*nodes)].astype(np.int64)
        return y + down[:, None], x + right

    def _toned(self, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
        """What is added to the colours [3, h, w] of pixels: linear between the nodes of a piece.

        Beyond its seams a piece goes on with the tone of the node.
        """
        place, tones = self._montage
        nodes, inner = self._nodes(rows, cols)
        own = [np.arange(axis[0], axis[-1] + 1) for axis in nodes]
        of = np.ix_(*(axis - axis[0] for axis in nodes))
        away = [(each + 0.5) / self.factor - 0.5 for each in inner]
        result = np.zeros((COLOURS, len(rows), len(cols)), np.float32)
        for step in np.ndindex(3, 3):
            shares = [np.maximum(1 - np.abs(each - (k - 1)), 0) for each, k in zip(away, step, strict=True)]
            if min(share.max() for share in shares) > 0:
                axes = zip(own, step, place.shape[1:], strict=True)
                beside = np.ix_(*(np.clip(node + k - 1, 0, edge - 1) for node, k, edge in axes))
                goes_on = place[:, *beside] - place[:, *np.ix_(*own)] == np.array(step)[:, None, None] - 1
                tone = np.where(goes_on.all(0), tones[:, *beside], tones[:, *np.ix_(*own)])
                result += np.outer(*shares).astype(np.float32) * tone[:, *of]
        return result

    @cached_property
    def _montage(self) -> tuple[np.ndarray, np.ndarray]:
        """Place [2, h, w] among the sources of each open node, and what is added to its colours [3, h, w]."""
        features, known, usable = zip(*(sheet.describe(self.factor) for sheet in self.sheets), strict=True)
        copied = np.concatenate([each[where] for each, where in zip(features, usable, strict=True)])
        if not len(copied):
            raise UserError(NOTHING)
        mean, deviation = copied.mean(0), copied.std(0)
        mean[SLOPES] = 0
        scale = deviation / SHARES
        scale[:COLOURS] = np.sqrt(deviation[:COLOURS] * deviation[0])  # whitens in part
        scale = np.maximum(scale, SMALLEST)
        features = [((each - mean) / scale).astype(np.float32) for each in features]
        pieces = compose(self._canvas(features, known), self._sources(features, usable), self.costs, self.seed)
        tones = pieces.tones(COLOURS, HELD * self.factor**2) * scale[:COLOURS, None, None]
        return pieces.place.astype(np.int32), tones.astype(np.float32)

    def _rows(self) -> tuple[float, float]:
        """The rows of the canvas that correspond to the height of a photograph: first, and how many, in nodes."""
        first = min(sheet.at[0] for sheet in self._placed)
        height = max(sheet.at[0] + sheet.size[0] for sheet in self._placed) - first
        return first / self.factor, height / self.factor

    def _canvas(self, features: Sequence[np.ndarray], seen: Sequence[np.ndarray]) -> Canvas:
        """What is known of the canvas, by features [h, w, F] of the sheets, and where these are known [h, w].

        The rim of a photograph, beside which it goes on, counts as what is next inside where it is unlike that.
        """
        height, width = (edge // self.factor for edge in self.size)
        known, values = np.zeros((height, width), bool), np.zeros((height, width, len(SHARES)), np.float32)
        for sheet, each, own in zip(self._placed, features, seen, strict=False):
            top, left = (at // self.factor for at in sheet.at)
            part = np.s_[top : top + own.shape[0], left : left + own.shape[1]]
            deep = sheet.hidden is None and min(own.shape) * self.factor > 4 * RIM
            rims = _rims(each, -(-RIM // self.factor)) if deep else ((0, 0), (0, 0))
            inside = np.ix_(*(np.clip(np.arange(n), a, n - 1 - b) for n, (a, b) in zip(own.shape, rims, strict=True)))
            known[part], values[part] = own, each[inside] * own[..., None]
        first, size = self._rows()
        down = (np.arange(height, dtype=np.float32) - first) / size
        beyond = np.maximum(np.maximum(-down, down - 1), 0)
        wanted, slack = (
            np.broadcast_to(each[:, None], known.shape)
            for each in (np.clip(down, 0, 1), SLACK[0] + np.minimum(beyond, SLACK[1]))
        )
        return Canvas(values, known, ~known, wanted, slack)

    def _sources(self, features: Sequence[np.ndarray], may: Sequence[np.ndarray]) -> Sources:
        """The sheets beside each other, each as it is and mirrored; `may`: which of their nodes are copied [h, w]."""
        height, width, (first, size) = max(len(each) for each in features), self.width, self._rows()
        shape = height, 2 * len(features) * width
        values = np.zeros((*shape, len(SHARES)), np.float32)
        usable, down, rare = np.zeros(shape, bool), np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        original = np.zeros(shape, np.int64)
        at = np.full((2, *shape), NOWHERE, np.float32)
        for n, (sheet, each, copied) in enumerate(zip(self.sheets, features, may, strict=True)):
            unlike, (h, w) = np.zeros(copied.shape, np.float32), copied.shape
            if self.costs.unusual:
                unlike = np.maximum(*(unusual(each, copied, most) for most in PATCHES))
            top, left = (NOWHERE, NOWHERE) if sheet.at is None else (edge // self.factor for edge in sheet.at)
            rows = np.arange(h) / h if sheet.at is None else (top + np.arange(h) - first) / size
            for mirrored, step in enumerate((1, -1)):
                box = np.s_[:h, (start := (2 * n + mirrored) * width) : start + w]
                values[box] = each[:, ::-1] * MIRRORED if mirrored else each
                usable[box], rare[box], down[box] = copied[:, ::step], unlike[:, ::step], rows[:, None]
                original[box] = (n * height + np.arange(h)[:, None]) * width + np.arange(w)[::step]
                at[0][box], at[1][box] = (top + np.arange(h))[:, None], left + np.arange(w)[::step]
        reach = REACH * min(min(each.shape[:2]) for each in features)
        return Sources(values, usable, down, rare, at, reach, original)


def _features(colours: np.ndarray, known: np.ndarray) -> np.ndarray:
    """[h, w, F] of colours [3, h, w], where they are known [h, w]: colours, slopes, roots of their strength around."""
    seen, square = known.astype(np.float32), (2 * RADIUS + 1, 2 * RADIUS + 1)

    def around(values: np.ndarray) -> np.ndarray:
        return cv2.boxFilter(values, -1, square, normalize=False, borderType=cv2.BORDER_CONSTANT)

    slopes = []
    for axis in (0, 1):  # means of the steps to both neighbours that are known
        before, after = ([(0, 0)] * axis + [pad] + [(0, 0)] * (1 - axis) for pad in ((1, 0), (0, 1)))
        both = np.minimum(*(np.delete(seen, end, axis) for end in (0, -1)))
        step = np.diff(colours[0], axis=axis) * both
        count = np.pad(both, before) + np.pad(both, after)
        slopes.append((np.pad(step, before) + np.pad(step, after)) / np.maximum(count, 1))
    counted = np.maximum(around(seen), 1)
    return np.stack([*colours, *slopes, *(np.sqrt(around(np.abs(each) * seen) / counted) for each in slopes)], -1)


def _rims(features: np.ndarray, depth: int) -> list[tuple[int, ...]]:
    """How many rows [h, w, F] at the top and the bottom, and columns at the left and right, are unlike those inside.

    That is `depth` or 0.
    """
    found = []
    for axis in (features[..., 0], features[..., 0].T):
        ends = (lines[: 3 * depth : depth] for lines in (axis, axis[::-1]))
        found.append(tuple(depth * _unlike(*each) for each in ends))
    return found


def _unlike(border: np.ndarray, inside: np.ndarray, further: np.ndarray) -> bool:
    return bool(np.abs(border - inside).mean() > UNLIKE * np.abs(inside - further).mean())


def _means(values: np.ndarray, factor: int) -> np.ndarray:
    """Over squares of `factor` x `factor`; what is left at the rim is left out."""
    height, width = (edge // factor for edge in values.shape[:2])
    cut = values[: height * factor, : width * factor]
    return cut.reshape(height, factor, width, factor, *values.shape[2:]).mean((1, 3), dtype=np.float32)
