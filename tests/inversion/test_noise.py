"""Texture noise as plain values: that it survives a latent file, and what each kind stands for."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inversion.noise import DEEPEST, FieldNoise, MixedNoise, ShiftedNoise, mix_noise, parse_noise
from inversion.weight_maps import Boxes, HorizontalBlend, LabelMap
from models.noise import NoiseField
from tests.inversion.conftest import CPU

SIZE = (40, 60)
WINDOW = (5, -3, 2, 20, 25)  # the last layer of three stages: its features are pixels
WHOLE = (5, 0, 0, *SIZE)


@pytest.fixture(scope="module")
def values(inverters):
    """The values [h, w] that plain values stand for, in a window of a layer."""
    texture = inverters().generator.texture

    def get(noise, window=WINDOW):
        return parse_noise(json.loads(json.dumps(noise.describe()))).build(texture, CPU)(*window)[0, 0]

    return get


def by_boxes(kinds, *boxes, blur=0, size=SIZE):
    return mix_noise(kinds, LabelMap(Boxes(boxes), len(kinds), size, blur))


def test_a_field_is_that_of_its_seed(values):
    assert torch.equal(values(FieldNoise(7)), NoiseField(7)(*WINDOW)[0, 0])
    assert parse_noise(None) is None and mix_noise([None, None], HorizontalBlend(0, 1)) is None


@pytest.mark.parametrize("stages", [3, 4])
def test_the_noise_of_a_panorama_repeats_after_its_width(inverters, stages):
    """Each layer's after its own number of features, and not before."""
    noise = FieldNoise(7, period=48).build(inverters(stages).generator.texture, CPU)
    for layer in range(2 * stages):
        width = 48 // 2 ** (stages - 1 - layer // 2)
        once = NoiseField(7)(layer, -3, 0, 4, width)
        assert torch.equal(noise(layer, -3, 0, 4, 2 * width), torch.cat([once, once], dim=-1))


@pytest.mark.parametrize("layer", range(6))
def test_shifted_noise_goes_with_its_image(values, layer):
    spacing = (4, 4, 2, 2, 1, 1)[layer]
    here = values(ShiftedNoise(FieldNoise(7), 16, 8), (layer, 16 // spacing, 8 // spacing, 9, 7))
    assert torch.equal(here, values(FieldNoise(7), (layer, 0, 0, 9, 7)))


def test_kinds_by_boxes(values):
    drawn = values(by_boxes([FieldNoise(1), FieldNoise(2), None], (0, 0, 10, 30), (5, 10, 40, 60)), WHOLE)
    first, second = (values(FieldNoise(seed), WHOLE) for seed in (1, 2))
    assert torch.equal(drawn[:10, :30], second[:10, :30])
    assert (drawn[10:, 10:] == 0).all() and (drawn[5:10, 30:] == 0).all()
    assert torch.equal(drawn[10:, :10], first[10:, :10])


def test_noise_within_noise(values):
    inner = by_boxes([None, FieldNoise(4)], (0, 0, 9, 9), blur=2, size=(20, 20))
    outer = by_boxes([FieldNoise(5), ShiftedNoise(inner, 8, 16)], (8, 16, 28, 36))
    drawn = values(outer, WHOLE)
    assert torch.equal(drawn[8:28, 16:36], values(inner, (5, 0, 0, 20, 20)))
    assert torch.equal(drawn[:8], values(FieldNoise(5), WHOLE)[:8])


@given(st.integers(0, 5), st.integers(0, 60), st.integers(1, 50), st.integers(-40, 40), st.integers(1, 30))
def test_mixed_noise_is_weighted_by_the_position_of_features(values, layer, first, gap, left, width):
    """Where a kind has all the weight, it is that kind to the last bit."""
    window, blend = (layer, -3, left, 2, width), HorizontalBlend(first, first + gap)
    mixed = values(MixedNoise([FieldNoise(1), FieldNoise(2)], blend), window)
    one, two = (values(FieldNoise(seed), window) for seed in (1, 2))
    cols = (4 >> layer // 2) * torch.arange(left, left + width)  # pixels, of three stages
    share = ((cols - first) / gap).clamp(0, 1)
    share = share * share * (3 - 2 * share)
    assert torch.allclose(mixed, one * (1 - share) + two * share, atol=1e-5)
    assert torch.equal(mixed[:, share == 0], one[:, share == 0])
    assert torch.equal(mixed[:, share == 1], two[:, share == 1])


BLEND = {"blend": [0, 9]}


@pytest.mark.parametrize(
    "found",
    [{}, [1], "field", {"field": 1}, {"field": "x", "period": None}, {"field": 1, "period": 0}, {"shift": [1]},
     {"shift": [1, 2], "noise": {"field": "x"}}, {"shift": [8, 8], "noise": None}, {"kinds": [None], "weights": BLEND},
     {"kinds": [None, None], "weights": BLEND}, {"kinds": [{"field": 1, "period": None}], "weights": BLEND},
     {"kinds": [None, {"field": 1, "period": None}], "weights": {"blend": [9, 9]}},
     {"kinds": [None, {"field": 1, "period": None}], "weights": {"labels": {"image": "bm8gUE5H", "size": [2, 2]}}}],
)  # fmt: skip
def test_what_is_no_noise_is_an_error(found):
    with pytest.raises((ValueError, KeyError, TypeError, OSError)):
        parse_noise(found)


def test_noise_is_no_deeper_than_its_limit():
    noise = FieldNoise(1)
    for _ in range(DEEPEST - 1):
        noise = ShiftedNoise(noise, 8, 8)
    assert parse_noise(noise.describe()) == noise
    with pytest.raises(ValueError, match="without end"):
        parse_noise(replace(noise, noise=noise).describe())
