"""How an image is cut into blocks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from inversion.blocks import LARGEST, blocks, count_blocks, even, pixels_per_cell, plan, refined_edge

from inversion import blocks as module
from inversion.cost import decode_cost, encode_cost, refine_cost
from models.geometry import Region
from utils.config import load_config
from utils.errors import UserError
from utils.schema import InferConfig

places = st.builds(Region.at, st.integers(-90, 90), st.integers(-90, 90), st.integers(1, 200), st.integers(1, 200))
shapes = st.tuples(st.integers(10, 250), st.integers(10, 250))


def options(*overrides):
    return load_config(InferConfig, None, overrides).infer


@given(region=places, shape=shapes)
def test_blocks_cover_a_region_once(region, shape):
    parts = list(blocks(region, shape))
    assert len(parts) == count_blocks(region, shape)
    assert sum(part.rows.size * part.cols.size for part in parts) == region.rows.size * region.cols.size
    assert all(part.common(region) == part and part.rows.size <= shape[0] for part in parts)
    assert all(a.common(b) is None for a, b in zip(parts, parts[1:], strict=False))


@given(length=st.integers(1, 5000), edge=st.integers(1, 64).map(lambda cells: 8 * cells))
def test_even_blocks(length, edge):
    found = even(length, edge, 8)
    assert found % 8 == 0 and found <= edge
    assert -(-length // found) == -(-length // edge)  # no more of them
    assert found == 8 or (found - 8) * -(-length // edge) < length  # and no longer than they must be


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(height=st.integers(1, 9000), width=st.integers(1, 9000), mib=st.integers(1, 5000), held=st.integers(0, 10**9))
def test_a_block_fits_the_budget(inverters, dtype, height, width, mib, held):
    inverter = inverters()
    texture, encoder = inverter.generator.texture, inverter.encoder
    chosen = plan(options(f"infer.memory_mib={mib}"), (height, width), texture, dtype, encoder, held)
    drawn = decode_cost(texture, Region.at(0, 0, *chosen.pixels), dtype).bytes
    encoded = encode_cost(encoder, Region.at(0, 0, *chosen.cells), dtype).bytes
    smallest = chosen.pixels == (8, 8)
    assert smallest or max(drawn, encoded) + held <= mib * 2**20
    assert max(chosen.pixels) <= LARGEST and max(chosen.cells) <= LARGEST // 8


@given(height=st.integers(1, 500), width=st.integers(1, 500))
def test_no_slivers_of_latents_are_encoded(inverters, height, width):
    texture = inverters().generator.texture
    cells = Region.at(0, 0, height, width).receptive_field(texture.rule)
    chosen = plan(options(), (height, width), texture, torch.float32)
    assert count_blocks(cells, chosen.cells) == -(-cells.rows.size // 64) * -(-cells.cols.size // 64)


def test_more_memory_gives_larger_blocks(inverters):
    texture = inverters().generator.texture
    edges = [
        plan(options(f"infer.memory_mib={mib}"), (4096, 4096), texture, torch.float32).pixels[0]
        for mib in (113, 114, 118, 1024)
    ]
    assert sorted(set(edges)) == edges and edges[-1] == LARGEST


def test_blocks_as_asked_for(inverters):
    texture = inverters().generator.texture
    whole = plan(options("infer.block=whole"), (100, 70), texture, torch.float32)
    assert whole.pixels == (100, 70) and whole.cells == Region.at(0, 0, 100, 70).receptive_field(texture.rule).shape
    given_edge = plan(options("infer.block=29"), (100, 70), texture, torch.float32)
    assert (given_edge.pixels, given_edge.cells) == ((29, 29), (3, 3))
    with pytest.raises(UserError, match="infer.block: 7 px .* at least 8"):
        plan(options("infer.block=7"), (100, 70), texture, torch.float32)


@settings(max_examples=25)
@given(
    size=st.tuples(st.integers(1, 2000), st.integers(1, 2000)), block=st.sampled_from(["whole", 8, 29, 512]),
    mib=st.integers(120, 4000), steps=st.integers(1, 100), held=st.integers(0, 10**9),
)  # fmt: skip
def test_blocks_that_are_refined_follow_from_the_network_alone(inverters, size, block, mib, steps, held):
    texture, encoder = inverters().generator.texture, inverters().encoder
    chosen = (f"infer.block={block}", f"infer.memory_mib={mib}")
    plain, refined = (
        plan(options(*chosen, f"infer.refine={count}"), size, texture, torch.float32, encoder, held)
        for count in (0, steps)
    )
    assert refined.cells == plan(options("infer.refine=1"), size, texture, torch.float32).cells
    assert refined.pixels == plain.pixels


@pytest.mark.parametrize("stages", [3, 4, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_largest_blocks_whose_gradients_fit_are_refined(inverters, stages, dtype, monkeypatch):
    texture = inverters(stages).generator.texture
    largest = LARGEST // pixels_per_cell(texture)

    def needed(edge):
        return refine_cost(texture, Region.at(0, 0, edge, edge).affected_output(texture.rule), dtype).bytes

    found = []
    for limit in (0, 2**22, 2**24, 2**26, 2**40):
        monkeypatch.setattr(module, "REFINED", limit)
        edge = refined_edge(texture, dtype)
        assert edge == 1 or needed(edge) <= limit
        assert edge == largest or needed(edge + 1) > limit
        found.append(edge)
    assert found == sorted(found) and (found[0], found[-1]) == (1, largest)
