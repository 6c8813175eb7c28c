"""The padding-free geometry: known sizes and positions, and the laws that every rule obeys."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.geometry import (
    TEXTURE_STAGE,
    UPSAMPLE,
    Chain,
    Interval,
    Region,
    Window,
    partition,
    reflect,
    regions_from,
    regions_to,
    structure,
    texture,
)
from tests.models.small import patch_encoder

positions = st.integers(-10_000, 10_000)
intervals = st.builds(lambda first, size: Interval(first, first + size - 1), positions, st.integers(1, 500))
places = st.builds(lambda first, size: Interval(first, first + size - 1), st.integers(-30, 30), st.integers(1, 20))


@st.composite
def windows(draw):
    first = draw(st.integers(-5, 5))
    return Window(first, first + draw(st.integers(0, 6)), draw(st.integers(1, 4)), padded=draw(st.booleans()))


def chains(layers):
    """One of these rules, or some one after the other."""
    layers = layers | st.just(UPSAMPLE)
    return st.recursive(layers, lambda inner: st.lists(inner, max_size=4).map(lambda rules: Chain(tuple(rules))))


rules = chains(windows())
# every input is read by some output: what a chain's outputs read has no gaps
gapless = chains(windows().filter(lambda window: window.padded or window.last - window.first + 1 >= window.stride))


def inside(inner, outer):
    return outer.first <= inner.first and inner.last <= outer.last


def test_pixels_of_eleven_cells():
    """Published sizes, and the features in between."""
    sizes = [texture(stages).valid_output(Interval(0, 10)).size for stages in range(4, 9)]
    assert sizes == [101, 197, 389, 773, 1541]
    assert texture(4).valid_output(Interval(0, 10)) == (30, 130)
    stages = regions_from(Region(Interval(0, 10), Interval(3, 13)), 4)
    assert [region.shape[1] for stage in stages for region in stage.outputs] == [19, 17, 31, 29, 55, 53, 103, 101]


@given(intervals)
def test_networks_in_closed_form(interval):
    first, last = interval
    assert TEXTURE_STAGE.receptive_field(interval) == ((first - 2) // 2, -(-(last + 2) // 2))
    assert interval.size < 5 or texture(4).valid_output(interval).size == 16 * interval.size - 75
    assert structure(3, [1] * 4).receptive_field(interval) == (first - 12, last + 12)
    assert patch_encoder(scales=4).rule.receptive_field(interval) == (16 * first - 22, 16 * last + 23)


@given(st.integers(1, 4), st.integers(0, 3), st.sampled_from(["shifted", "valid"]), st.integers(1, 3))
def test_the_encoder_is_centred_on_what_is_drawn(scales, depth, kind, shift):
    pixels = patch_encoder(kind, scales, depth, shift).rule.receptive_field(Interval(0, 0))
    assert abs(sum(pixels)) <= 1  # cell 0 draws around pixel 0


@given(st.integers(1, 6), places, places)
def test_stages_read_what_pixels_need_and_no_more(count, rows, cols):
    pixels = Region(rows, cols)
    stages = regions_to(pixels, count)
    assert stages[0].given == stages[0].input_region == pixels.receptive_field(texture(count))
    pixels.slices_in(stages[-1].output_region)
    for before, stage in zip(stages, stages[1:], strict=False):
        assert stage.given == before.output_region
        stage.input_region.slices_in(stage.given)
        stage.output_region.slices_in(stage.given.valid_output(UPSAMPLE))  # the image so far covers the colours
        assert all(one - other <= 2 for one, other in zip(stage.given.shape, stage.input_region.shape, strict=True))


@given(rules, intervals)
def test_the_output_is_the_largest_that_the_input_gives(rule, interval):
    assert inside(interval, rule.valid_output(rule.receptive_field(interval)))
    given_back = rule.valid_output(interval)
    if given_back.size >= 1:
        assert inside(rule.receptive_field(given_back), interval)
        for wider in (given_back._replace(first=given_back.first - 1), given_back._replace(last=given_back.last + 1)):
            assert not inside(rule.receptive_field(wider), interval)


@given(windows() | gapless, places)
def test_what_depends_on_an_interval(rule, held):
    """The outputs near it whose input meets it, one by one."""
    affected = rule.affected_output(held)
    near = range(min(affected) - 9, max(affected) + 10)
    read = {output: rule.receptive_field(Interval(output, output)) for output in near}
    depending = [output for output in near if read[output].first <= held.last and held.first <= read[output].last]
    assert depending == list(range(affected.first, affected.last + 1))


@given(st.integers(1, 40), st.integers(0, 100), st.integers(0, 100), st.integers(-(10**12), 10**12))
def test_reflection_is_numpys_and_goes_on_for_any_index(size, before, after, far):
    expected = np.pad(np.arange(size), (before, after), mode="reflect" if size > 1 else "edge")
    assert np.array_equal(reflect(np.arange(-before, size + after), size), expected)
    (result,) = reflect(np.array([far]), size)
    assert 0 <= result < size and result == reflect(np.array([-far]), size)


@given(intervals, st.integers(1, 600))
def test_a_partition_covers_once_and_in_order(interval, size):
    cut, held = partition(interval, size), np.arange(interval.first, interval.last + 1)
    assert np.array_equal(np.concatenate([held[part.slice_in(interval)] for part in cut]), held)
    assert all(part.size == size for part in cut[:-1]) and 1 <= cut[-1].size <= size


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: Interval(-1, 3).slice_in(Interval(0, 4)), "not inside"),
        (lambda: Interval(0, 5).slice_in(Interval(0, 4)), "not inside"),
        (lambda: partition(Interval(0, 9), 0), "block of 0"),
        (lambda: reflect(np.arange(3), 0), "size of 0"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        wrong()
