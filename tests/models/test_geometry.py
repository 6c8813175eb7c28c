"""The padding-free geometry: known sizes and positions, and the laws that every rule obeys."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.encoder import PatchEncoder
from models.geometry import (
    TEXTURE_STAGE,
    Chain,
    Interval,
    Region,
    Translate,
    Upsample,
    Window,
    convolution,
    partition,
    reflect,
    structure,
    texture,
)

positions = st.integers(-10_000, 10_000)
intervals = st.builds(lambda first, size: Interval(first, first + size - 1), positions, st.integers(1, 500))


@st.composite
def windows(draw):
    first = draw(st.integers(-5, 5))
    return Window(first, first + draw(st.integers(0, 6)), draw(st.integers(1, 4)), padded=draw(st.booleans()))


rules = st.recursive(
    st.one_of(windows(), st.just(Upsample()), st.builds(Translate, positions)),
    lambda inner: st.lists(inner, max_size=5).map(lambda parts: Chain(tuple(parts))),
    max_leaves=8,
)


# Every input is read by some output: what a chain's outputs read has no gaps.
gapless = st.recursive(
    st.one_of(
        windows().filter(lambda window: window.padded or window.last - window.first + 1 >= window.stride),
        st.just(Upsample()),
        st.builds(Translate, st.integers(-50, 50)),
    ),
    lambda inner: st.lists(inner, max_size=4).map(lambda parts: Chain(tuple(parts))),
    max_leaves=6,
)
places = st.builds(lambda first, size: Interval(first, first + size - 1), st.integers(-30, 30), st.integers(1, 20))


def depending(rule, held, around):
    """The outputs near some place whose input meets an interval, one by one."""
    needed = ((output, rule.receptive_field(Interval(output, output))) for output in range(around[0], around[1] + 1))
    return [output for output, read in needed if read.first <= held.last and held.first <= read.last]


def inside(inner, outer):
    return outer.first <= inner.first and inner.last <= outer.last


def encoder_rule(scales, depth=1, kind="shifted", shift=1):
    return PatchEncoder(1, [1] * scales, depth, kind, shift).rule


def test_sizes_of_the_texture_synthesizer():
    sizes, size = [], 11
    for _ in range(4):
        for rule in (Chain((Upsample(), convolution(1))), convolution(1)):
            size = rule.valid_output(Interval(0, size - 1)).size
            sizes.append(size)
    assert sizes == [19, 17, 31, 29, 55, 53, 103, 101]


@pytest.mark.parametrize(("stages", "pixels"), [(4, 101), (5, 197), (6, 389), (7, 773), (8, 1541)])
def test_pixels_of_eleven_cells(stages, pixels):
    assert texture(stages).valid_output(Interval(0, 10)).size == pixels


def test_positions_of_pixels():
    assert texture(4).valid_output(Interval(0, 10)) == (30, 130)


@given(intervals.filter(lambda cells: cells.size >= 5))
def test_cells_draw_sixteen_pixels_each_less_seventy_five(cells):
    assert texture(4).valid_output(cells).size == 16 * cells.size - 75


@given(intervals)
def test_a_texture_stage_in_closed_form(pixels):
    first, last = pixels
    assert TEXTURE_STAGE.receptive_field(pixels) == ((first - 2) // 2, -(-(last + 2) // 2))
    assert inside(Upsample().receptive_field(pixels), TEXTURE_STAGE.receptive_field(pixels))  # the ToRGB skip is crop-able


@given(intervals)
def test_the_structure_synthesizer_needs_twelve_cells_around(cells):
    assert structure(4, 3).receptive_field(cells) == (cells.first - 12, cells.last + 12)


@given(positions)
def test_what_a_cell_of_the_encoder_reads(cell):
    pixels = encoder_rule(4).receptive_field(Interval(cell, cell))
    assert pixels == (16 * cell - 22, 16 * cell + 23)
    drawn = texture(4).valid_output(Interval(cell, cell + 10))
    centre_drawn, centre_read = sum(drawn) / 2, sum(encoder_rule(4).receptive_field(Interval(cell, cell + 10))) / 2
    assert abs(centre_drawn - centre_read) <= 0.5


@given(st.integers(3, 6), st.integers(1, 3), st.sampled_from(["shifted", "valid"]), st.integers(1, 3))
def test_the_encoder_is_centred_on_what_is_drawn(scales, depth, kind, shift):
    pixels = encoder_rule(scales, depth, kind, shift).receptive_field(Interval(0, 0))
    assert abs(sum(pixels)) <= 1  # cell 0 draws around pixel 0


@given(st.integers(1, 64))
def test_pixels_that_cells_of_the_encoder_need(cells):
    assert encoder_rule(4).receptive_field(Interval(0, cells - 1)).size == 16 * cells + 30


@given(rules, intervals)
def test_output_of_the_needed_input_contains_what_was_asked(rule, asked):
    assert inside(asked, rule.valid_output(rule.receptive_field(asked)))


@given(rules, intervals)
def test_the_input_of_what_is_given_lies_inside(rule, held):
    given_back = rule.valid_output(held)
    assert given_back.size < 1 or inside(rule.receptive_field(given_back), held)


@given(rules, intervals)
def test_the_output_is_the_largest(rule, held):
    given_back = rule.valid_output(held)
    if given_back.size >= 1:
        for wider in (given_back._replace(first=given_back.first - 1), given_back._replace(last=given_back.last + 1)):
            assert not inside(rule.receptive_field(wider), held)


@given(windows() | gapless, places)
def test_what_depends_on_an_interval(rule, held):
    influenced = rule.affected_output(held)
    near = min(influenced) - 9, max(influenced) + 9
    assert depending(rule, held, near) == list(range(influenced.first, influenced.last + 1))


@given(gapless, places, places)
def test_what_depends_on_a_region(rule, rows, cols):
    assert Region(rows, cols).affected_output(rule) == Region(rule.affected_output(rows), rule.affected_output(cols))


@pytest.mark.parametrize("stages", [1, 3, 5])
@given(held=places)
def test_pixels_that_cells_touch(stages, held):
    touched = texture(stages).affected_output(held)
    assert inside(texture(stages).valid_output(held), touched)
    assert inside(held, texture(stages).receptive_field(touched))
    for beyond in (touched.first - 1, touched.last + 1):
        read = texture(stages).receptive_field(Interval(beyond, beyond))
        assert read.last < held.first or held.last < read.first


@given(st.integers(2, 40), st.data())
def test_reflection_is_numpys_where_that_is_defined(size, data):
    before, after = (data.draw(st.integers(0, 100)) for _ in range(2))
    assert np.array_equal(
        reflect(np.arange(-before, size + after), size), np.pad(np.arange(size), (before, after), mode="reflect")
    )


@given(st.integers(1, 10**9), st.lists(st.integers(-(10**12), 10**12), min_size=1))
def test_reflection_of_any_index_into_any_size(size, indices):
    indices = np.array(indices)
    result = reflect(indices, size)
    assert ((result >= 0) & (result < size)).all()
    assert np.array_equal(result, reflect(-indices, size)) and np.array_equal(reflect(result, size), result)


def test_reflection_refuses_nothing():
    with pytest.raises(ValueError, match="size of 0"):
        reflect(np.arange(3), 0)


@given(intervals, st.integers(1, 600))
def test_a_partition_covers_once_and_in_order(interval, size):
    parts = partition(interval, size)
    assert [i for part in parts for i in range(part.first, part.last + 1)] == list(
        range(interval.first, interval.last + 1)
    )
    assert all(part.size == size for part in parts[:-1]) and 1 <= parts[-1].size <= size


def test_a_partition_refuses_empty_blocks():
    with pytest.raises(ValueError, match="block of 0"):
        partition(Interval(0, 9), 0)


@given(intervals, st.data())
def test_a_slice_picks_its_interval(outer, data):
    first = data.draw(st.integers(outer.first, outer.last))
    inner = Interval(first, data.draw(st.integers(first, outer.last)))
    held = np.arange(outer.first, outer.last + 1)
    assert np.array_equal(held[inner.slice_in(outer)], np.arange(inner.first, inner.last + 1))


@pytest.mark.parametrize("inner", [(-1, 3), (0, 5), (7, 9)])
def test_a_slice_of_what_is_not_held_is_refused(inner):
    with pytest.raises(ValueError, match="not inside"):
        Interval(*inner).slice_in(Interval(0, 4))


@given(rules, intervals, intervals)
def test_a_region_is_two_intervals(rule, rows, cols):
    region = Region(rows, cols)
    assert region.receptive_field(rule) == Region(rule.receptive_field(rows), rule.receptive_field(cols))
    assert region.valid_output(rule) == Region(rule.valid_output(rows), rule.valid_output(cols))
    assert Region.at(rows.first, cols.first, *region.shape) == region
