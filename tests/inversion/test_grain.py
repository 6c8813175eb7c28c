"""Texture noise as plain values: that it survives a latent file, and what each form stands for."""

import json

import numpy as np
import pytest
import torch

from inversion.grain import field, mixed, moved, noise_of
from models.noise import NoiseField
from tests.inversion.conftest import tiny_inverter

CPU = torch.device("cpu")
SIZE = (40, 60)
WINDOW = (5, -3, 2, 20, 25)  # the last layer of three stages: its features are pixels
MASK = np.arange(24).reshape(4, 6) % 5 == 0


def values(grain, size=SIZE, window=WINDOW):
    noise = noise_of(json.loads(json.dumps(grain)), size, tiny_inverter().generator.texture, CPU)
    return noise(*window)[0, 0]


def test_no_grain_is_no_noise():
    assert noise_of(None, SIZE, tiny_inverter().generator.texture, CPU) is None
    assert moved(None, (8, 8), SIZE) is None and mixed([None, None], 4, [(0, 0, 8, 8)]) is None


def test_a_field_is_that_of_its_seed():
    assert torch.equal(values(field(7)), NoiseField(7)(*WINDOW)[0, 0])
    layer, top, left, height, width = WINDOW
    panorama = values(field(7, 64))
    assert torch.equal(panorama, values(field(7, 64), window=(layer, top, left + 64, height, width)))


@pytest.mark.parametrize("layer", range(6))
def test_a_moved_grain_goes_with_its_photograph(layer):
    spacing = (4, 4, 2, 2, 1, 1)[layer]
    here = values(moved(field(7), (16, 8), SIZE), window=(layer, 16 // spacing, 8 // spacing, 9, 7))
    assert torch.equal(here, values(field(7), window=(layer, 0, 0, 9, 7)))


def test_kinds_by_boxes():
    grain = mixed([field(1), field(2), None], 0, [(0, 0, 10, 30), (5, 10, 40, 60)])
    drawn = values(grain, window=(5, 0, 0, *SIZE))
    first, second = (values(field(seed), window=(5, 0, 0, *SIZE)) for seed in (1, 2))
    assert torch.equal(drawn[:10, :30], second[:10, :30])
    assert (drawn[10:, 10:] == 0).all() and (drawn[5:10, 30:] == 0).all()
    assert torch.equal(drawn[10:, :10], first[10:, :10])


def test_kinds_by_a_mask():
    drawn = values(mixed([None, field(3)], 0, mask=MASK), window=(5, 0, 0, *SIZE))
    inside = torch.from_numpy(MASK.repeat(10, 0).repeat(10, 1))
    assert torch.equal(drawn[inside], values(field(3), window=(5, 0, 0, *SIZE))[inside])
    assert (drawn[~inside] == 0).all()


def test_grains_hold_each_other():
    inner = mixed([None, field(4)], 2, [(0, 0, 9, 9)])
    outer = mixed([field(5), moved(inner, (8, 16), (20, 20))], 0, [(8, 16, 28, 36)])
    drawn = values(outer, window=(5, 0, 0, *SIZE))
    assert torch.equal(drawn[8:28, 16:36], values(inner, (20, 20), (5, 0, 0, 20, 20)))
    assert torch.equal(drawn[:8], values(field(5), window=(5, 0, 0, *SIZE))[:8])


@pytest.mark.parametrize(
    "grain", [{}, {"field": 1}, {"kinds": [None], "blur": 0}, {"moved": [1], "size": [2, 2], "grain": {"field": "x"}},
              {"kinds": [None, None], "mask": "bm8gUE5H", "blur": 0}, [1], "field"],
)  # fmt: skip
def test_what_is_no_grain_is_an_error(grain):
    with pytest.raises(ValueError, match="no grain|invalid"):
        values(grain)
