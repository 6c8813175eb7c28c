"""New structure beside known structure: what the fit brings near, and what it leaves alone."""

from copy import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from editing.completion import Completion, FitOptions
from inversion.styles import Style, StyleMap
from inversion.synthesis import GeneratedStructure, LocalField
from inversion.weight_maps import HorizontalBlend
from models.geometry import Region
from tests.inversion.conftest import CPU
from utils.errors import UserError

TOLERANCE = 1e-5
CELLS = Region.at(-3, -2, 20, 44)  # of the canvas; reaches over the edge of a tile at column 32
AROUND = Region.at(-96, -96, 192, 224)  # every cell that is asked for, with the tiles that hold it
KNOWN = Region.at(4, 6, 9, 29)
OPTIONS = FitOptions(steps=0, lr=0.15, style_lr=0.0, fidelity=10.0, band=3, fade=0)
STYLE = Style(torch.linspace(-1, 1, 6))
OTHER = Style(STYLE.global_latent.flip(0))
LAYERS_REACH = 2  # cells, of the tiny structure synthesizer


class Known:
    """The structure of seed 8, or another one, inside a region."""

    def __init__(self, model, style=STYLE, region=KNOWN, seed=8):
        self.region = region
        self.all = generated(model, seed, style).read(AROUND) * torch.from_numpy(self.where(AROUND))

    def where(self, region):
        mask = np.zeros(region.shape, bool)
        if common := region.common(self.region):
            mask[common.slices_in(region)] = True
        return mask

    def read(self, region):
        return self.all[:, *region.slices_in(AROUND)].clone()


def generated(model, seed, style=STYLE):
    return GeneratedStructure(model.generator, style, LocalField(5, seed, CPU), CELLS)


def complete(model, known=None, seed=1, style=STYLE, **options):
    known, steps = known or Known(model, style), []
    completion = Completion(model, known, CELLS, style, seed, replace(OPTIONS, **options))
    completion.fit(lambda todo: (steps.append(step) or step for step in todo))
    assert len(steps) == options.get("steps", 0)
    return completion


def canvas(completion, region=CELLS):
    """Structure latents [C, h, w]."""
    with torch.no_grad():
        return completion.compute(region)


def synthesized(completion):
    """What the structure synthesizer gives of the fitted latents on the canvas, where nothing is known [C, h, w]."""
    completion = copy(completion)
    completion.known = Known(completion, region=Region.at(80, 0, 1, 1))
    return canvas(completion)


def error_of(completion):
    """Mean squared error of the synthesizer's structure to the known, over the band beside the border."""
    band = completion.known.where(CELLS)
    band[KNOWN.grown(-3).slices_in(CELLS)] = False
    errors = (synthesized(completion) - completion.known.read(CELLS)).square().mean(0)
    return float(errors[torch.from_numpy(band)].mean())


@pytest.mark.parametrize("mixed", [False, True], ids=["one style", "two styles"])
def test_the_fit_comes_near_to_the_known_structure(model, mixed):
    style = StyleMap([STYLE, OTHER], HorizontalBlend(80, 200)) if mixed else STYLE
    errors = [error_of(complete(model, style=style, steps=steps)) for steps in (0, 3, 30)]
    assert errors[1] < 0.95 * errors[0]
    assert errors[2] < 0.4 * errors[0]


def test_fidelity_weighs_the_known_against_the_draw(model):
    stays, less, more = (complete(model, steps=20, fidelity=fidelity) for fidelity in (0.0, 1.0, 100.0))
    assert all((values == stays.local.read(tile)).all() for tile, values in stays.fitted.items())
    assert error_of(stays) > error_of(less) > error_of(more)


def test_the_global_latent_moves_along(model):
    """The structure's own: it lowers the error further, and the one that was given stays."""
    given, known = STYLE.global_latent.clone(), Known(model, style=OTHER)
    still, moving = (complete(model, known, steps=30, style_lr=rate) for rate in (0.0, 0.05))
    assert (still.z_g == given).all() and (STYLE.global_latent == given).all()
    assert (moving.z_g != given).all() and error_of(moving) < 0.9 * error_of(still)
    assert (canvas(moving) == canvas(still))[:, torch.from_numpy(known.where(CELLS))].all()


def test_a_fit_that_diverges_is_one_line(model):
    with pytest.raises(UserError, match=r"the fit diverged, from .* lower complete\.lr may help"):
        complete(model, steps=3, lr=1e3)


def test_a_draw_that_gives_what_is_known_stays(model):
    completion = Completion(model, Known(model), CELLS, STYLE, 8, replace(OPTIONS, steps=5))
    completion.fit(iter)
    assert all(torch.equal(values, completion.local.read(tile)) for tile, values in completion.fitted.items())


def test_latents_beyond_the_reach_of_the_known_stay_as_drawn(model):
    completion = complete(model, steps=5)
    for tile, values in completion.fitted.items():
        near = np.zeros(tile.shape, bool)
        near[KNOWN.grown(LAYERS_REACH).common(tile).slices_in(tile)] = True
        assert ((values != completion.local.read(tile)).any(0).numpy() == near).all()


def test_without_fade_new_cells_are_the_synthesizers(model):
    completion = complete(model, steps=4)
    found, known = canvas(completion), torch.from_numpy(completion.known.where(CELLS))
    assert (found == completion.known.read(CELLS))[:, known].all()
    assert abs(found - synthesized(completion))[:, ~known].max() <= TOLERANCE
    plain = canvas(complete(model))
    assert abs(plain - generated(model, 1).read(CELLS))[:, ~known].max() <= TOLERANCE < abs(plain - found).max()


@pytest.mark.parametrize("fade", [1, 4])
def test_what_the_fit_leaves_fades_out(model, fade):
    """The mean over the known cells within the fade, by 1 / distance^4, times a smooth step of the distance."""
    known = Known(model, seed=1)
    left = torch.randn(AROUND.shape, generator=torch.Generator().manual_seed(0))
    known.all += left * torch.from_numpy(known.where(AROUND))
    found = (canvas(complete(model, known, fade=fade)) - generated(model, 1).read(CELLS)).numpy()
    cells, first = np.argwhere(known.where(AROUND)), [axis.start for axis in CELLS.slices_in(AROUND)]
    for y, x in np.argwhere(~known.where(CELLS)):
        apart = cells - first - (y, x)
        near, step = abs(apart).max(1) <= fade, np.sqrt((apart**2).sum(1).min()) / (fade + 1)
        if step >= 1:
            assert abs(found[:, y, x]).max() <= TOLERANCE
            continue
        weights = (apart[near] ** 2).sum(1) ** -2.0
        mean, share = (weights * left.numpy()[tuple(cells[near].T)]).sum() / weights.sum(), 1 - step
        assert found[:, y, x] == pytest.approx(mean * share**2 * (3 - 2 * share), abs=TOLERANCE)


def test_tiles_equal_the_whole(model):
    completion = complete(model, steps=2, style_lr=0.05, fade=5)
    parts = [canvas(completion, Region.at(-3, left, 20, width)) for left, width in ((-2, 34), (32, 10))]
    assert abs(torch.cat(parts, 2) - canvas(completion)).max() <= TOLERANCE
