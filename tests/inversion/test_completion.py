"""New structure beside known structure: what the fit brings near, and what it leaves alone."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inversion.completion import Completion, FitOptions
from inversion.generation import GeneratedStructure, LocalField
from inversion.scenes import Fusion, structure_of
from inversion.stylemaps import Passage
from models.geometry import Interval, Region

CPU = torch.device("cpu")
TOLERANCE = 1e-5
CELLS = Region.at(-3, -2, 20, 44)  # of the canvas; reaches over the edge of a tile at column 32
AROUND = Region.at(-96, -96, 192, 224)  # every cell that is asked for, with the tiles that hold it
KNOWN = Region.at(4, 6, 9, 29)
OPTIONS = FitOptions(steps=0, lr=0.15, style_lr=0.0, fidelity=10.0, band=3, fade=0)
STYLE = torch.linspace(-1, 1, 6)
LAYERS_REACH = 2  # cells, of the tiny structure synthesizer


@dataclass
class Known:
    """The structure of another seed, plus a constant, inside a region."""

    generator: torch.nn.Module
    style: object = STYLE
    region: Region = KNOWN
    seed: int = 8
    offset: float = 0.0

    def __post_init__(self):
        self.all = generated(self.generator, self.seed, self.style).read(AROUND) + self.offset
        self.all *= torch.from_numpy(self.held(AROUND))

    def held(self, region):
        rows, cols = (np.arange(axis.first, axis.last + 1) for axis in (region.rows, region.cols))
        inside = [
            (index >= axis.first) & (index <= axis.last)
            for index, axis in ((rows, self.region.rows), (cols, self.region.cols))
        ]
        return inside[0][:, None] & inside[1]

    def read(self, region):
        return self.all[:, *region.slices_in(AROUND)].clone()


def generated(generator, seed, style=STYLE):
    return GeneratedStructure(generator, CELLS, LocalField(5, seed, CPU), style)


def complete(generator, pieces=None, seed=1, style=STYLE, **options):
    pieces = pieces or Known(generator, style)
    completion = Completion(generator, pieces, CELLS, style, LocalField(5, seed, CPU), replace(OPTIONS, **options))
    reports = []
    completion.fit(lambda: reports.append(None))
    assert len(reports) == options.get("steps", 0)
    return completion


def distance(pieces, region):
    """Of each cell [h, w] to the nearest known one, in cells; Euclidean."""
    cells = np.argwhere(pieces.held(CELLS)) + (CELLS.rows.first, CELLS.cols.first)
    rows, cols = np.indices(region.shape)
    here = np.stack([rows + region.rows.first, cols + region.cols.first], -1)
    return np.sqrt(((here[:, :, None] - cells) ** 2).sum(-1)).min(-1)


def whole_local(completion):
    """Every local latent of the canvas [C, h, w] with its region, as drawn and as fitted."""
    region = CELLS.receptive_field(completion.generator.structure.rule)
    drawn = completion.local.read(region)
    fitted = drawn.clone()
    for tile, values in completion.fitted.items():
        for k, row in enumerate(range(tile.rows.first, tile.rows.last + 1)):
            for j, col in enumerate(range(tile.cols.first, tile.cols.last + 1)):
                y, x = row - region.rows.first, col - region.cols.first
                if 0 <= y < region.rows.size and 0 <= x < region.cols.size:
                    fitted[:, y, x] = values[:, k, j]
    return region, drawn, fitted


def error_of(completion):
    """Mean squared error of the synthesizer's structure to the known, over the band beside the border."""
    region, _, fitted = whole_local(completion)
    grid = completion.generator.structure.grid
    synthesize = structure_of(completion.generator, completion.style)
    with torch.no_grad():
        coordinates = grid.of_canvas(region, region)
        drawn = synthesize(fitted[None], coordinates, (region.rows.first, region.cols.first))[0]
    inner = Region(*(Interval(axis.first + 3, axis.last - 3) for axis in (KNOWN.rows, KNOWN.cols)))
    band = completion.pieces.held(CELLS)
    band[inner.slices_in(CELLS)] = False
    return float((drawn - completion.pieces.read(CELLS)).square().mean(0)[torch.from_numpy(band)].mean())


@pytest.mark.parametrize("mixed", [False, True], ids=["one style", "two styles"])
def test_the_fit_comes_near_to_the_known_structure(inverters, mixed):
    style = Fusion(torch.stack([STYLE, -STYLE]), Passage(Interval(80, 200))) if mixed else STYLE
    errors = [error_of(complete(inverters().generator, style=style, steps=steps)) for steps in (0, 3, 30)]
    assert errors[1] < 0.95 * errors[0]
    assert errors[2] < 0.4 * errors[0]


def test_fidelity_weighs_the_known_against_the_draw(inverters):
    generator = inverters().generator
    moved, errors = [], []
    for fidelity in (0.0, 1.0, 100.0):
        completion = complete(generator, steps=20, fidelity=fidelity)
        _, drawn, fitted = whole_local(completion)
        moved.append(float((fitted - drawn).square().mean()))
        errors.append(error_of(completion))
    assert moved[0] == 0 and moved[1] < moved[2]
    assert errors[0] > errors[1] > errors[2]


def test_the_global_latent_moves_along(inverters):
    """The structure's own: it lowers the error further, and the one that was given stays."""
    generator, given = inverters().generator, STYLE.clone()
    known = Known(generator, style=STYLE.flip(0))
    still, moving = (complete(generator, known, style=given, steps=30, style_lr=rate) for rate in (0.0, 0.05))
    assert (still.style == STYLE).all() and (given == STYLE).all()
    assert (moving.style != STYLE).all() and not moving.style.requires_grad
    assert error_of(moving) < 0.9 * error_of(still)
    assert (moving.read(CELLS) == still.read(CELLS))[:, torch.from_numpy(still.pieces.held(CELLS))].all()


def test_latents_beyond_the_reach_of_the_band_stay_as_drawn(inverters):
    completion = complete(inverters().generator, steps=5)
    region, drawn, fitted = whole_local(completion)
    held = completion.pieces.held(Region.at(-50, -50, 100, 150))
    # the band: known cells with an unknown one of the canvas within three cells
    counts = np.zeros(region.shape, bool)
    for y, x in np.argwhere(held) - 50:
        around = completion.pieces.held(Region.at(y - 3, x - 3, 7, 7))
        counts[y - region.rows.first, x - region.cols.first] = not around.all()
    near = np.zeros_like(counts)
    for y, x in np.argwhere(counts):
        near[y - LAYERS_REACH : y + LAYERS_REACH + 1, x - LAYERS_REACH : x + LAYERS_REACH + 1] = True
    changed = (fitted != drawn).any(0).numpy()
    assert not changed[~near].any()
    assert changed[near].all() and 0 < near.mean() < 0.9


def test_only_unknown_cells_of_the_canvas_call_for_a_fit(inverters):
    """Where everything on the canvas is known, nothing is fitted and all stays."""
    generator = inverters().generator
    known = Known(generator, region=CELLS)
    completion = complete(generator, known, steps=0)
    assert not completion.fitted
    assert (completion.read(CELLS) == known.read(CELLS)).all()


def test_without_fade_new_cells_are_the_synthesizers(inverters):
    generator = inverters().generator
    completion = complete(generator, steps=4)
    region, _, fitted = whole_local(completion)
    with torch.no_grad():
        coordinates = generator.structure.grid.of_canvas(region, region)
        synthesized = generator.structure(fitted[None], STYLE[None], coordinates)[0]
    read, held = completion.read(CELLS), torch.from_numpy(completion.pieces.held(CELLS))
    assert (read == completion.pieces.read(CELLS))[:, held].all()
    assert abs(read - synthesized)[:, ~held].max() <= TOLERANCE
    plain = complete(generator).read(CELLS)
    assert abs(plain - generated(generator, 1).read(CELLS))[:, ~held].max() <= TOLERANCE
    assert abs(plain - read)[:, ~held].max() > 0.01


@pytest.mark.parametrize("fade", [1, 4, 9])
def test_what_the_fit_leaves_fades_out(inverters, fade):
    """A constant left over is continued as itself, times a smooth step of the distance."""
    generator = inverters().generator
    known = Known(generator, seed=1, offset=0.7)
    completion = complete(generator, known, fade=fade)
    left = completion.read(CELLS) - generated(generator, 1).read(CELLS)
    share = np.clip(1 - distance(known, CELLS) / (fade + 1), 0, 1)
    expected = 0.7 * share**2 * (3 - 2 * share)
    assert abs(left.numpy() - expected).max() <= TOLERANCE
    held = torch.from_numpy(known.held(CELLS))
    assert (completion.read(CELLS) == known.read(CELLS))[:, held].all()


def test_what_is_left_is_the_nearest_cells_most(inverters):
    """The mean over the known cells within the fade, by 1 / distance^4, times the step."""
    generator, fade = inverters().generator, 4
    known = Known(generator, seed=1)
    left = torch.randn(AROUND.shape, generator=torch.Generator().manual_seed(0))
    known.all += left * torch.from_numpy(known.held(AROUND))
    found = complete(generator, known, fade=fade).read(CELLS) - generated(generator, 1).read(CELLS)
    cells = np.argwhere(known.held(AROUND))
    steps = distance(known, CELLS)
    offset = np.array([CELLS.rows.first - AROUND.rows.first, CELLS.cols.first - AROUND.cols.first])
    for y, x in np.argwhere((steps > 0) & (steps <= fade)):
        apart = cells - (y, x) - offset
        near = abs(apart).max(1) <= fade
        weights = (apart[near] ** 2).sum(1) ** -2.0
        mean = (weights * left.numpy()[tuple(cells[near].T)]).sum() / weights.sum()
        share = 1 - steps[y, x] / (fade + 1)
        assert found[:, y, x].numpy() == pytest.approx(mean * share**2 * (3 - 2 * share), abs=TOLERANCE)


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_windows_equal_the_whole(inverters, data):
    completion = complete(inverters().generator, steps=2, style_lr=0.05, fade=data.draw(st.integers(0, 5), "fade"))
    whole = completion.read(CELLS)
    top, left = data.draw(st.integers(0, 19), "top"), data.draw(st.integers(0, 43), "left")
    height, width = data.draw(st.integers(1, 20 - top), "height"), data.draw(st.integers(1, 44 - left), "width")
    window = Region.at(top + CELLS.rows.first, left + CELLS.cols.first, height, width)
    assert abs(completion.read(window) - whole[:, top : top + height, left : left + width]).max() <= TOLERANCE


def test_each_seed_goes_on_otherwise(inverters):
    generator = inverters().generator
    one, again, other = (complete(generator, seed=seed, steps=3).read(CELLS) for seed in (1, 1, 2))
    held = torch.from_numpy(Known(generator).held(CELLS))
    assert (one == again).all()
    assert (one == other)[:, held].all() and (one != other)[:, ~held].all()
