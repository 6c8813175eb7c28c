"""Texture noise as plain values: that it survives a latent file, and what each kind stands for."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inversion.latents import NOISE
from inversion.noise import FieldNoise, MixedNoise, ShiftedNoise, blend_noise, mix_noise
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
        return NOISE.validate_json(NOISE.dump_json(noise)).build(texture, CPU)(*window)[0, 0]

    return get


def test_a_field_is_that_of_its_seed(values):
    assert torch.equal(values(FieldNoise(7)), NoiseField(7)(*WINDOW)[0, 0])
    assert NOISE.validate_json("null") is None and mix_noise([None, None], HorizontalBlend(0, 1)) is None


@pytest.mark.parametrize("stages", [4])
def test_the_noise_of_a_panorama_repeats_after_its_width(inverters, stages):
    """Each layer's after its own number of features, and not before."""
    noise = FieldNoise(7, period=48).build(inverters(stages).generator.texture, CPU)
    for layer in range(2 * stages):
        width = 48 // 2 ** (stages - 1 - layer // 2)
        once = NoiseField(7)(layer, -3, 0, 4, width)
        assert torch.equal(noise(layer, -3, 0, 4, 2 * width), torch.cat([once, once], dim=-1))


@pytest.mark.parametrize("layer", [0, 3, 5])
def test_shifted_noise_goes_with_its_image(values, layer):
    spacing = (4, 4, 2, 2, 1, 1)[layer]
    here = values(ShiftedNoise(FieldNoise(7), 16, 8), (layer, 16 // spacing, 8 // spacing, 9, 7))
    assert torch.equal(here, values(FieldNoise(7), (layer, 0, 0, 9, 7)))


@given(st.floats(0, 1))
def test_noise_on_the_way_keeps_its_variance(values, share):
    a, b = FieldNoise(7), ShiftedNoise(FieldNoise(8), 8, 8)
    found = values(blend_noise(a, b, share), WHOLE)
    near, far = math.cos(share * math.pi / 2), math.sin(share * math.pi / 2)
    assert torch.allclose(found, near * values(a, WHOLE) + far * values(b, WHOLE), atol=1e-6)
    assert 0.9 < found.std() < 1.1
    assert torch.allclose(values(blend_noise(None, a, share), WHOLE), far * values(a, WHOLE), atol=1e-6)
    assert blend_noise(a, FieldNoise(7), share) == a and blend_noise(None, None, share) is None


def test_kinds_by_boxes_and_noise_within_noise(values):
    inner = MixedNoise([None, FieldNoise(4)], LabelMap(Boxes([(0, 0, 9, 9)]), 2, (20, 20), blur=2))
    kinds = FieldNoise(1), ShiftedNoise(inner, 8, 16), None
    drawn = values(mix_noise(kinds, LabelMap(Boxes([(8, 16, 28, 36), (5, 10, 40, 60)]), 3, SIZE)), WHOLE)
    assert torch.equal(drawn[8:28, 16:36], values(inner, (5, 0, 0, 20, 20)))
    assert torch.equal(drawn[:5], values(FieldNoise(1), WHOLE)[:5])
    assert (drawn[28:, 10:] == 0).all() and (drawn[5:8, 10:] == 0).all()


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


BLEND = {"kind": "blend", "first": 0, "last": 8}
FIELD = {"kind": "field", "seed": 1}
LABELS = {"kind": "labels", "count": 2, "size": [4, 4]}


@pytest.mark.parametrize(
    "found",
    [{}, [1], "field", {"seed": 1}, {"kind": "field", "seed": "x"}, {"kind": "field", "seed": 1, "period": 0},
     {"kind": "shifted", "top": 8, "left": 8, "noise": None}, {"kind": "mixed", "kinds": [None], "weights": BLEND},
     {"kind": "mixed", "kinds": [None, None], "weights": BLEND}, {"kind": "mixed", "kinds": [FIELD], "weights": BLEND},
     {"kind": "mixed", "kinds": [None, FIELD], "weights": BLEND | {"last": -9}},
     {"kind": "mixed", "kinds": [None, FIELD], "weights": LABELS | {"labels": {"kind": "image", "values": "bm8"}}}],
)  # fmt: skip
def test_what_is_no_noise_is_an_error(found):
    with pytest.raises(ValueError, match="validation error"):
        NOISE.validate_python(found)


def test_noise_within_noise_without_end_is_an_error():
    with pytest.raises(ValueError, match="recursion|Invalid JSON"):
        NOISE.validate_json('{"kind": "shifted", "top": 8, "left": 8, "noise": ' * 5000)
