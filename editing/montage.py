"""A montage: open cells of a canvas are filled with cells of sources, in large pieces whose seams do not show.

A label is an offset: the cell at (row, column) takes what the sources hold at (row, column) + offset. Labels are chosen
by graph cuts, as in Kwatra et al., "Graphcut textures" (SIGGRAPH 2003), and Pritch et al., "Shift-map image editing"
(ICCV 2009), which minimise

    sum over open cells U(cell, source)  +  sum over neighbours p, q  |A(p) - B(p)|^2 + |A(q) - B(q)|^2,

where A and B are what the labels of p and q have at a position: 0 inside a piece. U keeps rows near rows, and, around
photographs, away from what is beside the cell already and from what occurs only once; on the coarsest canvas a source
costs more the more cells take it. Expansions (Boykov et al., PAMI 2001) take the whole
canvas where it is coarse, and then piece by piece, with offsets that differ by a cell.

Letters: H/W cells of the canvas, h/w of the sources, F features.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow
from scipy.sparse.linalg import cg

RADII = 1, 3, 5  # of the patches that are compared, in cells
CHUNK = 4096  # sources that are compared at a time
MATCHED = 70  # patches at the border of what is open, whose nearest sources are offsets to try
NEAREST = 3  # of them for each patch
RANDOM = 100  # offsets at random
SWEEPS = 2  # of all offsets
SMALL = 150  # cells of a piece, below which only its seams move
WINDOW = 5000  # cells around a piece, up to which its offset is tried anew
TILE = 48  # cells along the edge of what is cut at a time in larger ones
MARGIN = 4  # cells around a piece that may join it
SIDES = (0, 1), (0, -1), (1, 0), (-1, 0)
STEPS = (0, 0), *SIDES
EMPTY = 1e3  # cost of a cell without a source
UNSEEN = 12.0  # cost of a seam where neither label has something at the other side
BORDER = 2.0  # weight of seams to what is known, which are straight and long
MOST = 12.0  # of the squared distance at a cell
LARGEST = 2.0  # step of a tone that is evened out
UNITS = 100  # of a cost of 1, for cuts in integers

Offset = tuple[int, int]
Box = tuple[slice, slice]


@dataclass(frozen=True)
class Costs:
    """What a source's place costs."""

    rows: float  # of the squared difference of rows, as shares of the height, beyond the slack
    near: float  # of a source that lies where the cell itself lies; falls to 0 over a distance
    unusual: float  # of a source that occurs once
    used: float  # of a source for each other cell that takes it
    nodes: int  # open cells of the coarsest canvas, at most

    def halved(self) -> Costs:
        """At twice the resolution, where there are four times as many cells, but seams are twice as long."""
        return Costs(self.rows / 2, self.near / 2, self.unusual / 2, self.used, self.nodes)


# for the surroundings of a photograph, without its landmarks again; for holes, where what is beside them goes on
AROUND = Costs(rows=400, near=1, unusual=12, used=1, nodes=2500)
INSIDE = Costs(rows=8, near=0, unusual=0, used=0.2, nodes=1000)


@dataclass(frozen=True)
class Canvas:
    """What is to be filled, and what lies around."""

    values: np.ndarray  # [H, W, F] float32, where they are known
    known: np.ndarray  # bool [H, W]
    open: np.ndarray  # bool [H, W]: to be filled; what is neither is no part of the image
    rows: np.ndarray  # [H, W]: height in the photograph, 0 to 1, that sources shall have
    slack: np.ndarray  # [H, W]: by how much they may differ

    def halved(self) -> Canvas:
        """At half the resolution: known are cells of which all is known, open those of which anything is."""
        known, open_ = _pooled(self.known) == 1, _pooled(self.open) > 0
        return Canvas(_pooled(self.values), known, open_, _pooled(self.rows), _pooled(self.slack))


@dataclass(frozen=True)
class Sources:
    """What the canvas is filled with."""

    values: np.ndarray  # [h, w, F] float32
    usable: np.ndarray  # bool [h, w]
    rows: np.ndarray  # [h, w]: height in their photograph, 0 to 1
    unusual: np.ndarray  # [h, w]: 0 for what occurs more than once
    at: np.ndarray  # [2, h, w]: row and column of the canvas where they lie themselves; far outside: nowhere
    reach: float  # cells over which the cost of being near falls
    original: np.ndarray  # [h, w]: a number that a source has in common with its mirror image

    def halved(self) -> Sources:
        """At half the resolution: usable are cells of which all is usable."""
        rows, rare, *at = (_pooled(each) for each in (self.rows, self.unusual, *self.at))
        at = (np.stack(at) - 0.5) / 2
        usable, original = _pooled(self.usable) == 1, self.original[::2, ::2]
        return Sources(_pooled(self.values), usable, rows, rare, at, self.reach / 2, original)


def compose(canvas: Canvas, sources: Sources, costs: Costs, seed: int) -> Pieces:
    """The canvas, filled."""
    levels = [(canvas, sources)]
    while levels[-1][0].open.sum() > costs.nodes:
        half = tuple(each.halved() for each in levels[-1])
        if not half[1].usable.any():
            break
        levels.append(half)
    pieces = Pieces(*levels.pop(), costs)
    pieces.settle(np.random.default_rng(seed))
    pieces.refine()
    for level in reversed(levels):
        pieces = Pieces(*level, costs.halved(), pieces.place)
        costs = pieces.costs
        pieces.refine()
    return pieces


class Pieces:
    """A canvas that is filled, at one resolution."""

    def __init__(self, canvas: Canvas, sources: Sources, costs: Costs, coarse: np.ndarray | None = None) -> None:
        self.canvas, self.sources, self.costs = canvas, sources, costs
        height, width = canvas.open.shape
        self.grid = np.mgrid[:height, :width]
        self.place = np.full((2, height, width), -1)
        # what a cell's label has at the cell itself, and beside it
        self.price = np.full((height, width), np.float32(EMPTY))  # of a cell's place
        self.own = np.where(canvas.known[..., None], canvas.values, np.float32(0))
        self.beside = np.zeros((len(SIDES), *self.own.shape), np.float32)
        self.seen = np.zeros((len(SIDES), height, width), bool)
        if coarse is not None:
            fine = coarse.repeat(2, 1).repeat(2, 2)[:, :height, :width]
            rows, cols = np.nonzero(canvas.open & (fine[0] >= 0))
            self._set(rows, cols, (2 * fine + self.grid % 2)[:, rows, cols])
        self._cover()
        self.uses: np.ndarray | None = None  # how many cells take each source, mirrored or not

    def settle(self, random: np.random.Generator) -> None:
        """Choose from offsets that continue what is known, and random ones."""
        self.place[:], self.price[:] = -1, EMPTY
        self.uses = np.zeros(self.sources.original.max() + 1, np.float32)
        offsets = self._proposals(random)
        for offset in SWEEPS * offsets:
            self.expand(offset)
        for offset, _, _ in list(self._pieces()):
            self.expand(offset)
        self.uses = None
        self._cover()

    def _used(self, place: np.ndarray) -> np.ndarray:
        return self.uses[self.sources.original[*place]]

    def _count(self, place: np.ndarray, change: int) -> None:
        np.add.at(self.uses, self.sources.original[*place], change)

    def refine(self) -> None:
        """Move each piece by a cell, and its seams, as far as that helps."""
        for offset, box, size in self._pieces():
            if self.canvas.open[box].sum() <= WINDOW:
                for down, right in STEPS if size >= SMALL else STEPS[:1]:
                    self.expand((offset[0] + down, offset[1] + right), box)
            else:
                for tile in self._seams(offset, box):
                    self.expand(offset, tile)

    def expand(self, offset: Offset, box: Box | None = None) -> int:
        """Let a label take those cells of a box where that costs least; how many it took."""
        box = self._reached(offset, box)
        if box is None:
            return 0
        place = self.grid[:, *box] + np.array(offset)[:, None, None]
        new, usable = self.sources.values[*place], self.sources.usable[*place]
        now, empty = self.place[:, *box], self.place[0][box] < 0
        free = self.canvas.open[box] & usable & (now != place).any(0)
        for axis, (part, edge) in enumerate(zip(box, self.canvas.open.shape, strict=True)):  # seams beyond are not seen
            rows = np.moveaxis(free, axis, 0)
            rows[:1] &= part.start == 0
            rows[-1:] &= part.stop == edge
        if not free.any():
            return 0
        old = np.maximum(now, 0)
        cost = self.unary(self.grid[:, *box], place) - self.price[box]
        if self.uses is not None:
            held = (now == place).all(0)
            cost += self.costs.used * (self._used(place) - held - np.where(empty, 0, self._used(old) - 1))
        number = np.full(free.shape, -1)
        number[free] = np.arange(free.sum())
        cost, edges = cost[free].astype(np.float64), []
        absent = empty & ~self.canvas.known[box]
        for k in (0, 2):
            first, second, (stay, left, right) = self._seam(box, k, new, usable, absent)
            i, j = number[first], number[second]
            np.add.at(cost, i[i >= 0], (left - stay)[i >= 0])
            alone, both = (i < 0) & (j >= 0), (i >= 0) & (j >= 0)
            np.add.at(cost, j[alone], (right - stay)[alone])
            np.add.at(cost, j[both], -left[both])
            edges.append((i[both], j[both], np.maximum(left + right - stay, 0)[both]))
        taken = np.zeros(free.shape, bool)
        taken[free] = _cut(cost, *(np.concatenate(each) for each in zip(*edges, strict=True)))
        rows, cols = np.nonzero(taken)
        if self.uses is not None:
            self._count(now[:, taken & ~empty], -1)
            self._count(place[:, taken], 1)
        self._set(rows + box[0].start, cols + box[1].start, place[:, taken])
        return len(rows)

    def tones(self, channels: int, held: float) -> np.ndarray:
        """What to add to the first channels so that no step is left at seams: [channels, H, W], 0 at known cells.

        Least squares of the steps between neighbours, which shall be those that both labels have on average (Perez et
        al., "Poisson image editing", SIGGRAPH 2003), and of the tones themselves, with the weight `held`.
        """
        open_ = self.canvas.open
        number, count = np.full(open_.shape, -1), int(open_.sum())
        number[open_] = np.arange(count)
        diagonal, wanted, pairs = np.full(count, held), np.zeros((count, channels)), []
        for side in (0, 2):
            p, q, step, there = self._steps(side, channels)
            for one, other, sign in ((number[p], number[q], -1), (number[q], number[p], 1)):
                own = there & (one >= 0)
                np.add.at(diagonal, one[own], 1)
                np.add.at(wanted, one[own], sign * step[own])
                pairs.append(np.stack([one, other])[:, own & (other >= 0)])
        rows, cols = np.concatenate([np.tile(np.arange(count), (2, 1)), *pairs], 1)
        weights = np.concatenate([diagonal, np.full(len(rows) - count, -1.0)])
        matrix = csr_array((weights, (rows, cols)), shape=(count, count))
        result = np.zeros((channels, *open_.shape), np.float32)
        for n in range(channels):
            result[n][open_] = cg(matrix, wanted[:, n], rtol=1e-4, maxiter=500)[0]
        return result

    def _steps(self, side: int, channels: int) -> tuple[Box, Box, np.ndarray, np.ndarray]:
        """Of neighbours p, q: their slices, what the step of tones from p to q shall be, and where that is known."""
        down, right = SIDES[side]
        height, width = self.canvas.open.shape
        p, q = np.s_[: height - down, : width - right], np.s_[down:, right:]
        own, sees, seen = self.own[..., :channels], self.seen[side][p], self.seen[side + 1][q]
        here, there = own[p], own[q]
        of_p = (self.beside[side][p][..., :channels] - here) * sees[..., None]
        of_q = (there - self.beside[side + 1][q][..., :channels]) * seen[..., None]
        count = sees.astype(np.int8) + seen
        mean = (of_p + of_q) / np.maximum(count, 1)[..., None]
        inside = self.canvas.open | self.canvas.known
        return p, q, np.clip(mean - (there - here), -LARGEST, LARGEST), (count > 0) & inside[p] & inside[q]

    def unary(self, cells: np.ndarray, place: np.ndarray) -> np.ndarray:
        """The costs of places [2, ...] of the sources for cells [2, ...] of the canvas."""
        cells, place = tuple(cells), tuple(place)
        gap = np.abs(self.canvas.rows[cells] - self.sources.rows[place]) - self.canvas.slack[cells]
        cost = self.costs.rows * np.maximum(gap, 0) ** 2
        if self.costs.near:
            away = np.hypot(*(self.sources.at[axis][place] - cells[axis] for axis in (0, 1))) / self.sources.reach
            cost += self.costs.near * np.maximum(1 - away, 0)
        return cost + self.costs.unusual * self.sources.unusual[place] if self.costs.unusual else cost

    def _seam(
        self, box: Box, side: int, new: np.ndarray, usable: np.ndarray, absent: np.ndarray
    ) -> tuple[Box, Box, list[np.ndarray]]:
        """Of neighbours p, q in a box: their slices, and the cost of both as they are, of p anew, and of q anew."""
        down, right = SIDES[side]
        height, width = new.shape[:2]
        p, q = np.s_[: height - down, : width - right], np.s_[down:, right:]
        own, known = self.own[box], ~absent
        ahead, sees = self.beside[side][box][p], self.seen[side][box][p]  # of p at q
        back, seen = self.beside[side + 1][box][q], self.seen[side + 1][box][q]  # of q at p
        stay = _cost(_apart(own[p], back), seen, _apart(ahead, own[q]), sees)
        left = _cost(_apart(new[p], back), seen & usable[p], _apart(new[q], own[q]), usable[q])
        other = _cost(_apart(own[p], new[p]), usable[p], _apart(ahead, new[q]), sees & usable[q])
        fixed = self.canvas.known[box]
        weight = np.where(fixed[p] | fixed[q], BORDER, np.float32(1))
        there = known[p] & known[q], known[q], known[p]
        return p, q, [np.where(each, cost * weight, 0) for each, cost in zip(there, (stay, left, other), strict=True)]

    def _set(self, rows: np.ndarray, cols: np.ndarray, place: np.ndarray) -> None:
        """Give cells the places [2, n], as far as these are usable."""
        (height, width), (y, x) = self.sources.usable.shape, place
        good = self.sources.usable[y, x]
        rows, cols, y, x = rows[good], cols[good], y[good], x[good]
        self.place[:, rows, cols] = y, x
        self.price[rows, cols] = self.unary((rows, cols), (y, x))
        self.own[rows, cols] = self.sources.values[y, x]
        for k, (down, right) in enumerate(SIDES):
            v, u = y + down, x + right
            inside = (v >= 0) & (v < height) & (u >= 0) & (u < width)
            v, u = np.where(inside, v, 0), np.where(inside, u, 0)
            self.seen[k][rows, cols] = inside & self.sources.usable[v, u]
            self.beside[k][rows, cols] = self.sources.values[v, u]

    def _cover(self) -> None:
        """Give open cells that have no source the cheapest one."""
        where = np.array(np.nonzero(self.sources.usable))
        cells = np.array(np.nonzero(self.canvas.open & (self.place[0] < 0)))
        best = [self.unary(cell[:, None], where).argmin() for cell in cells.T]
        self._set(*cells, where[:, best])

    def _reached(self, offset: Offset, box: Box | None) -> Box | None:
        """The part of a box (None: the canvas) that sources at an offset can fill."""
        parts = []
        box = box or tuple(slice(0, edge) for edge in self.canvas.open.shape)
        for part, shift, edge in zip(box, offset, self.sources.usable.shape, strict=True):
            part = slice(max(part.start, -shift), min(part.stop, edge - shift))
            if part.start >= part.stop:
                return None
            parts.append(part)
        return tuple(parts)

    def _pieces(self) -> Iterator[tuple[Offset, Box, int]]:
        """The offsets that occur, those of most cells first, the boxes around their cells, and how many these are."""
        rows, cols = np.nonzero(self.place[0] >= 0)
        offsets = (self.place - self.grid)[:, rows, cols].T
        names, of, counts = np.unique(offsets, axis=0, return_inverse=True, return_counts=True)
        of = of.ravel()
        for n in np.argsort(-counts, kind="stable"):
            own = of == n
            box = tuple(
                slice(max(0, axis[own].min() - MARGIN), min(edge, axis[own].max() + MARGIN + 1))
                for axis, edge in zip((rows, cols), self.canvas.open.shape, strict=True)
            )
            yield tuple(names[n].tolist()), box, int(counts[n])

    def _seams(self, offset: Offset, box: Box) -> Iterator[Box]:
        """The tiles of a box in which a label ends."""
        for top in range(box[0].start, box[0].stop, TILE):
            for left in range(box[1].start, box[1].stop, TILE):
                corner = zip((top, left), self.canvas.open.shape, strict=True)
                tile = tuple(slice(max(0, start - 1), min(start + TILE + 1, edge)) for start, edge in corner)
                same = (self.place[:, *tile] - self.grid[:, *tile] == np.array(offset)[:, None, None]).all(0)
                if same.any() and not same[self.canvas.open[tile]].all():
                    yield tile

    def _proposals(self, random: np.random.Generator) -> list[Offset]:
        """Offsets that continue what is known at the border, and random ones, as rows want it; in random order."""
        where = np.array(np.nonzero(self.sources.usable))
        found = []
        for radius in RADII:
            for cell, centres in self._matches(random, radius):
                found += (centres - cell[:, None]).T.tolist()
        cells = np.array(np.nonzero(self.canvas.open))
        for cell in cells[:, random.integers(cells.shape[1], size=RANDOM)].T:
            cost = self.unary(cell[:, None], where)
            best = np.flatnonzero(cost <= cost.min() + 1)
            found.append((where[:, random.choice(best)] - cell).tolist())
        offsets = list(dict.fromkeys(map(tuple, found)))
        random.shuffle(offsets)
        return offsets

    def _matches(self, random: np.random.Generator, radius: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Known cells beside open ones, and the sources [2, n] around which it looks most as around them."""
        known = self.canvas.known
        cells = np.array(np.nonzero(known & _around(self.canvas.open, 1).any((2, 3))))
        centres = np.array(np.nonzero(self.sources.usable))
        cells = cells[:, random.permutation(cells.shape[1])[:MATCHED]]
        count = cells.shape[1]
        weight = _around(known, radius)[*cells].reshape(count, -1).astype(np.float32)
        wanted = _around(self.canvas.values, radius)[*cells].transpose(0, 2, 3, 1).reshape(count, weight.shape[1], -1)
        wanted = (wanted * weight[..., None]).reshape(count, -1)
        square = np.square(self.sources.values).sum(2) + UNSEEN * ~self.sources.usable
        given, square = _around(self.sources.values, radius), _around(square, radius)
        costs = np.empty((count, centres.shape[1]), np.float32)
        for start in range(0, centres.shape[1], CHUNK):
            part = np.s_[start : start + CHUNK]
            patches = given[*centres[:, part]].transpose(0, 2, 3, 1).reshape(-1, wanted.shape[1])
            squares = square[*centres[:, part]].reshape(len(patches), -1)
            costs[:, part] = (weight @ squares.T - 2 * wanted @ patches.T) / weight.sum(1, keepdims=True)
        for cell, cost in zip(cells.T, costs, strict=True):
            cost = cost + self.unary(cell[:, None], centres)
            yield cell, centres[:, np.argpartition(cost, min(NEAREST, len(cost) - 1))[:NEAREST]]


def unusual(values: np.ndarray, usable: np.ndarray, most: int) -> np.ndarray:
    """How much rarer than most each cell of sources [h, w, F] is: 0 to 1 [h, w], by the nearest patch elsewhere.

    Patches are of 3 x 3 cells, at the resolution of which at most so many are usable.
    """
    if usable.sum() > most:
        height, width = usable.shape
        half = unusual(_pooled(values), _pooled(usable) == 1, most)
        return half.repeat(2, 0).repeat(2, 1)[:height, :width]
    result = np.zeros(usable.shape, np.float32)
    centres = np.array(np.nonzero(_around(usable, 1).all((2, 3))))
    if centres.shape[1] < 2:
        return result
    patches = _around(values, 1)[*centres].reshape(centres.shape[1], -1)
    square = np.square(patches).sum(1)
    distance = square[:, None] + square - 2 * patches @ patches.T
    distance[np.abs(centres[:, :, None] - centres[:, None]).max(0) <= 2] = np.inf
    nearest = np.sqrt(np.maximum(distance.min(1), 0))
    if np.isfinite(nearest).all():
        low, high = np.quantile(nearest, [0.5, 0.95])
        result[*centres] = np.clip((nearest - low) / max(high - low, 1e-6), 0, 1)
    return result


def _cut(cost: np.ndarray, first: np.ndarray, second: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Bool [n]: which to take, at the least sum of costs, and of weights where `second` is taken and `first` not."""
    taken, left = np.zeros(len(cost), bool), np.ones(len(cost), bool)
    while True:  # what costs more than it can spare is not taken, and then its neighbours cost more
        saved = np.bincount(first, weight, len(cost))
        dear = left & (cost >= saved)
        if not dear.any():
            break
        left &= ~dear
        cost = cost + np.bincount(second, weight * dear[first], len(cost))
        kept = left[first] & left[second]
        first, second, weight = first[kept], second[kept], weight[kept]
    if left.any():
        number = left.cumsum() - 1
        taken[left] = _flow(cost[left], number[first], number[second], weight)
    return taken


def _flow(cost: np.ndarray, first: np.ndarray, second: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """As `_cut`, of all, by the largest flow."""
    count = len(cost)
    nodes, whole, between = np.arange(count), np.rint(cost * UNITS), np.rint(weight * UNITS)
    ends = np.full(count, count), np.full(count, count + 1)  # source and sink
    # each edge beside its reverse, which lets the flow have the same places
    rows = np.concatenate([second, first, ends[0], nodes, nodes, ends[1]])
    cols = np.concatenate([first, second, nodes, ends[0], ends[1], nodes])
    none = np.zeros(count)
    capacity = [between, np.zeros(len(between)), np.maximum(-whole, 0), none, np.maximum(whole, 0), none]
    order = np.argsort(rows * (count + 2) + cols, kind="stable")
    starts = np.concatenate([[0], np.bincount(rows, minlength=count + 2).cumsum()]).astype(np.int32)
    values, cols = np.concatenate(capacity)[order].astype(np.int32), cols[order].astype(np.int32)
    graph = csr_array((values, cols, starts), shape=(count + 2, count + 2))
    rest = values - maximum_flow(graph, count, count + 1).flow.data
    left = np.concatenate([[0], (rest > 0).cumsum()])[starts]
    graph = csr_array((rest[rest > 0], cols[rest > 0], left), shape=graph.shape)
    taken = np.zeros(count + 2, bool)
    taken[breadth_first_order(graph, count, return_predecessors=False)] = True
    return taken[:count]


def _cost(first: np.ndarray, sees: np.ndarray, second: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Of a seam, by the distances at its two cells, as far as both labels have something there."""
    total, count = first * sees + second * seen, sees.astype(np.int8) + seen
    return np.where(count > 0, total * (2 / np.maximum(count, 1)), 2 * UNSEEN)


def _apart(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    difference = first - second
    return np.minimum(np.einsum("...f,...f->...", difference, difference), MOST)


def _pooled(values: np.ndarray) -> np.ndarray:
    """Means over 2 x 2, float32; what is odd is filled up with 0."""
    values = np.pad(values, [(0, edge % 2) for edge in values.shape[:2]] + [(0, 0)] * (values.ndim - 2))
    height, width = (edge // 2 for edge in values.shape[:2])
    return values.reshape(height, 2, width, 2, *values.shape[2:]).mean((1, 3), dtype=np.float32)


def _around(values: np.ndarray, radius: int) -> np.ndarray:
    """The n x n cells around each, [H, W, ..., n, n] with n = 2 * radius + 1; beyond the rim 0."""
    pad = [(radius, radius), (radius, radius), *[(0, 0)] * (values.ndim - 2)]
    return sliding_window_view(np.pad(values, pad), (2 * radius + 1,) * 2, (0, 1))
