"""Generated structure: fields by seed, the same bits in every window, styles, and panoramas."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inversion import Latents, Style, StyleMap
from inversion.noise import FieldNoise
from inversion.synthesis import TILE, GeneratedStructure, LocalField, TiledStructure, grid, synthesize
from inversion.weight_maps import HorizontalBlend
from models.geometry import Region
from models.noise import gaussian_field
from tests.inversion.conftest import CPU, tiny_model

TOLERANCE = 1e-5
SEEDS = st.integers(0, 2**40)
CELLS = Region.at(-3, -3, 90, 120)
places = st.builds(Region.at, *[st.integers(-70, 70)] * 2, *[st.integers(1, 80)] * 2)


# What a seed means


def test_the_style_of_a_seed_never_changes(model):
    expected = torch.tensor([-1.6955065, 1.7606322, -0.1625317, -0.9173983, -1.1436692, -0.2763318])
    assert torch.allclose(model.style(7).global_latent, expected, atol=1e-6)


def field(seed, region):
    return gaussian_field(torch.tensor([seed]), range(3), region.rows.first, region.cols.first, *region.shape)[0]


def stripes(region):
    """A mask over all cells."""
    rows, cols = (np.arange(axis.first, axis.last + 1) for axis in (region.rows, region.cols))
    return (rows[:, None] + 2 * cols) % 5 < 2


@given(SEEDS, SEEDS, places)
def test_local_latents_are_the_field_of_their_seed_and_inside_a_mask_of_another(seed, other, region):
    values = LocalField(3, seed, CPU).read(region)
    assert torch.equal(values, field(seed, region))
    mask = torch.from_numpy(stripes(region))
    mixed = LocalField(3, seed, CPU, None, ((stripes, other),)).read(region)
    assert torch.equal(mixed, torch.where(mask, field(other, region), values))


@given(SEEDS, st.integers(1, 12), places)
def test_local_latents_of_a_panorama_repeat(seed, period, region):
    once = field(seed, Region.at(region.rows.first, 0, region.rows.size, period))
    cols = torch.arange(region.cols.first, region.cols.last + 1) % period
    assert torch.equal(LocalField(3, seed, CPU, period).read(region), once[..., cols])


# Tiles


def positions(region):
    """The row and column of each cell [2, h, w]."""
    rows = torch.arange(region.rows.first, region.rows.last + 1)
    cols = torch.arange(region.cols.first, region.cols.last + 1)
    return torch.stack(torch.meshgrid(rows, cols, indexing="ij"))


@given(places)
def test_any_window_is_put_together(region):
    asked = []
    tiled = TiledStructure(lambda tile: asked.append(tile) or positions(tile), 2, CELLS)
    assert torch.equal(tiled.read(region), positions(region))
    assert all(tile.shape == (TILE, TILE) and tile.rows.first % TILE == tile.cols.first % TILE == 0 for tile in asked)
    assert asked == list(grid(region))
    inside = region.common(CELLS)
    if inside:  # it is an array of these cells
        window = slice(None), *inside.slices_in(CELLS)
        assert (tiled[window] == positions(CELLS)[window].numpy()).all() and tiled.shape == (2, *CELLS.shape)
        assert (tiled[1:, window[1]] == positions(CELLS)[1:, window[1]].numpy()).all()
    assert len(asked) == len(set(asked))  # each was kept


@settings(max_examples=12)
@given(places, st.booleans(), st.data())
def test_generated_structure_has_the_same_bits_in_every_window(inverters, region, mixed, data):
    style, other = Style(torch.linspace(-1, 1, 6)), Style(torch.ones(6))
    style = StyleMap([style, other], HorizontalBlend(-90, 300)) if mixed else style

    def read(window):  # from the beginning
        return GeneratedStructure(inverters().generator, style, LocalField(5, 3, CPU), CELLS).read(window)

    top, left = (data.draw(st.integers(0, length - 1)) for length in region.shape)
    part = Region.at(top + region.rows.first, left + region.cols.first, *region.shape).common(region)
    assert torch.equal(read(region)[:, *part.slices_in(region)], read(part))


def test_tiles_equal_the_structure_synthesizer_on_the_whole(model):
    style, local = model.style(4), LocalField(5, 3, CPU)
    tiled = GeneratedStructure(model.generator, style, local, CELLS)
    with torch.no_grad():
        whole = synthesize(model.generator, style, local.read, CELLS, CELLS)
    assert (tiled.read(CELLS) - whole).abs().max() <= TOLERANCE


def test_style_and_local_latents_are_exchanged_one_by_one(model):
    one = GeneratedStructure(model.generator, model.style(1), LocalField(5, 1, CPU), CELLS)
    two = GeneratedStructure(model.generator, model.style(2), LocalField(5, 2, CPU), CELLS)
    mixed = one.with_style(two.style)
    assert not np.allclose(mixed[:], one[:], atol=0.01) and not np.allclose(mixed[:], two[:], atol=0.01)
    assert (mixed.with_local(two.local)[:] == two[:]).all() and (mixed.with_style(one.style)[:] == one[:]).all()


# Panoramas


@pytest.mark.parametrize("stages", [3])
@settings(max_examples=8)
@given(data=st.data())
def test_a_panorama_repeats_and_its_blocks_equal_the_whole(inverters, stages, data):
    """Drawn further than its width, it begins again, without an edge."""
    model, cell = tiny_model(inverters(stages)), 2**stages
    height, width = data.draw(st.integers(1, 60), "height"), cell * data.draw(st.integers(1, 8), "cells")
    seed, size = data.draw(SEEDS, "seed"), (height, 2 * width)
    local = LocalField(5, seed, CPU, width // cell)
    structure = GeneratedStructure(model.generator, model.style(seed), local, model.cells(size))
    twice = model.draw(Latents(structure, model.style(seed), size, FieldNoise(seed, width), "tiny"), dtype=np.float32)
    assert abs(twice[:, width:] - twice[:, :width]).max() <= TOLERANCE
    edge = data.draw(st.integers(max(cell, width // 3), 200), "edge")
    panorama = tiny_model(inverters(stages), edge)
    once = panorama.draw(panorama.generate(height, width, seed, panorama=True), dtype=np.float32)
    assert abs(once - twice[:, :width]).max() <= TOLERANCE
