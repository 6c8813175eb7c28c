"""How an image is cut into blocks."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inversion import tiling
from inversion.cost import decode_cost, encode_cost, refine_cost
from inversion.tiling import LARGEST, Tiling, even
from models.geometry import Region, blocks
from utils.errors import UserError

places = st.builds(Region.at, st.integers(-90, 90), st.integers(-90, 90), st.integers(1, 200), st.integers(1, 200))
shapes = st.tuples(st.integers(10, 250), st.integers(10, 250))
@pytest.fixture(scope="module")
def planner(inverters):
    """Three stages: cells of 8 pixels."""
    networks = inverters()
    return Tiling(networks.generator.texture, networks.encoder, torch.float32, "auto", 1024)


@given(region=places, shape=shapes)
def test_blocks_cover_a_region_once(region, shape):
    parts = list(blocks(region, shape))
    assert sum(part.rows.size * part.cols.size for part in parts) == region.rows.size * region.cols.size
    assert all(part.common(region) == part and part.rows.size <= shape[0] for part in parts)
    assert all(part.cols.size <= shape[1] for part in parts)
    assert not any(a.common(b) for k, a in enumerate(parts[:40]) for b in parts[k + 1 : 40])


@given(length=st.integers(1, 5000), edge=st.integers(1, 64).map(lambda cells: 8 * cells))
def test_even_blocks(length, edge):
    found = even(length, edge, 8)
    assert found % 8 == 0 and found <= edge
    assert -(-length // found) == -(-length // edge)  # no more of them
    assert found == 8 or (found - 8) * -(-length // edge) < length  # and no longer than they must be


@given(height=st.integers(1, 9000), width=st.integers(1, 9000), mib=st.integers(1, 5000), held=st.integers(0, 10**9))
def test_a_block_fits_the_budget(inverters, height, width, mib, held):
    texture, encoder, dtype = inverters().generator.texture, inverters().encoder, torch.bfloat16
    chosen = Tiling(texture, encoder, dtype, "auto", mib).plan((height, width), held)
    drawn = decode_cost(texture, Region.at(0, 0, *chosen.pixels), dtype).bytes
    encoded = encode_cost(encoder, Region.at(0, 0, *chosen.cells), dtype).bytes
    assert chosen.pixels == (8, 8) or max(drawn, encoded) + held <= mib * 2**20
    assert max(chosen.pixels) <= LARGEST and max(chosen.cells) <= LARGEST // 8


def test_more_memory_gives_larger_blocks(planner):
    """What is held takes of it."""
    edges = [replace(planner, memory_mib=mib).plan((4096, 4096)).pixels[0] for mib in (113, 114, 118, 1024)]
    assert sorted(set(edges)) == edges and edges[-1] == LARGEST
    assert planner.plan((4096, 4096), held=(1024 - 118) * 2**20).pixels[0] == edges[2]


def test_blocks_as_asked_for(planner):
    whole = replace(planner, block="whole").plan((100, 70))
    assert whole.pixels == (100, 70)
    assert whole.cells == Region.at(0, 0, 100, 70).receptive_field(planner.texture.rule).shape
    given_edge = replace(planner, block=29).plan((100, 70))
    assert (given_edge.pixels, given_edge.cells) == ((29, 29), (3, 3))
    with pytest.raises(UserError, match="infer.block: 7; .* from 8 on"):
        replace(planner, block=7).plan((100, 70))


@given(
    size=st.tuples(st.integers(1, 2000), st.integers(1, 2000)), block=st.sampled_from(["whole", 8, 29, 512]),
    mib=st.integers(120, 4000), held=st.integers(0, 10**9),
)  # fmt: skip
def test_blocks_that_are_refined_follow_from_the_network_alone(planner, size, block, mib, held):
    asked = replace(planner, block=block, memory_mib=mib)
    refined = asked.plan(size, held, refined=True)
    assert refined.cells == planner.plan(size, refined=True).cells
    assert refined.pixels == asked.plan(size, held).pixels


@pytest.mark.parametrize(("stages", "dtype"), [(3, torch.float32), (5, torch.bfloat16)])
def test_the_largest_blocks_whose_gradients_fit_are_refined(inverters, stages, dtype, monkeypatch):
    planner = Tiling(inverters(stages).generator.texture, None, dtype, "auto", 1024)
    largest, found = LARGEST // planner.cell, []

    def needed(edge):
        return refine_cost(planner.texture, Region.at(0, 0, edge, edge).affected_output(planner.texture.rule), dtype)

    for limit in (0, 2**22, 2**24, 2**26, 2**40):
        monkeypatch.setattr(tiling, "REFINED", limit)
        edge = planner.refined_edge()
        assert edge == 1 or needed(edge).bytes <= limit
        assert edge == largest or needed(edge + 1).bytes > limit
        found.append(edge)
    assert found == sorted(found) and (found[0], found[-1]) == (1, largest)
