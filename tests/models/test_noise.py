"""The noise field: addressed by position, normally distributed, independent in all that addresses it."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.noise import NoiseField, gaussian_field

SEEDS = st.integers(0, 2**62 - 1)
SAMPLES = 512  # edge of the fields whose moments are taken


def plane(seed=0, channel=0, top=0, left=0, height=SAMPLES, width=SAMPLES):
    return NoiseField(seed)(channel, top, left, height, width)[0, 0]


@given(
    SEEDS, st.integers(0, 20), st.integers(-(10**6), 10**6), st.integers(-(10**6), 10**6),
    st.lists(st.integers(0, 9), min_size=4, max_size=4), st.integers(1, 20), st.integers(1, 20),
)  # fmt: skip
def test_any_window_is_a_part_of_any_larger_one(seed, channel, top, left, margin, height, width):
    above, below, before, after = margin
    part = plane(seed, channel, top, left, height, width)
    whole = plane(seed, channel, top - above, left - before, above + height + below, before + width + after)
    assert torch.equal(part, whole[above : above + height, before : before + width])


@given(st.lists(SEEDS, min_size=1, max_size=5), st.integers(-3, 3), st.integers(1, 4))
def test_a_batch_is_its_samples_one_by_one(seeds, channel, channels):
    channels = range(channel, channel + channels)
    batch = gaussian_field(torch.tensor(seeds), channels, -2, 3, 5, 7)
    assert batch.shape == (len(seeds), len(channels), 5, 7) and batch.dtype == torch.float32
    for sample, seed in zip(batch, seeds, strict=True):
        for field, number in zip(sample, channels, strict=True):
            alone = gaussian_field(torch.tensor([seed]), range(number, number + 1), -2, 3, 5, 7)
            assert torch.equal(field, alone[0, 0])


def test_values_never_change():
    """A seed must mean the same picture in every release."""
    expected = torch.tensor([[0.7336923, 0.1158777, -2.6663501], [-0.0277484, 0.3043261, 1.3962835]])
    assert torch.allclose(plane(1, 2, -1, -1, 2, 3), expected, atol=1e-6)


@pytest.mark.parametrize("origin", [(0, 0), (-256, -256), (10**6, -(10**6))])
def test_the_distribution_is_normal(origin):
    x = plane(5, 3, *origin).flatten().double().sort().values
    error = 1 / SAMPLES  # standard deviation of the mean of all values
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((x**power).mean() - moment) < 4 * math.sqrt(variance) * error
    empirical = (torch.arange(len(x)) + 0.5) / len(x)
    expected = 0.5 * (1 + torch.erf(x / math.sqrt(2)))
    assert (empirical - expected).abs().max() < 1.95 / math.sqrt(len(x))  # Kolmogorov-Smirnov, p = 0.001


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 8}, {"seed": 7 + 2**32}, {"channel": 1}, {"channel": -1},
        {"top": 1}, {"left": 1}, {"top": 1, "left": 1}, {"top": -1}, {"left": 64}, {"top": SAMPLES},
    ],
    ids=str,
)  # fmt: skip
def test_fields_are_independent(other):
    """Also a field and itself displaced: neighbouring rows and columns do not correlate."""
    a, b = plane(seed=7), plane(**{"seed": 7} | other)
    assert len(a.unique(dim=0)) == len(a.unique(dim=1)) == SAMPLES and not torch.allclose(a, a.T)
    assert abs((a * b).mean()) < 4 / SAMPLES
    assert abs(((a**2 - 1) * (b**2 - 1)).mean() / 2) < 4 / SAMPLES


@given(SEEDS, st.integers(1, 60), st.integers(-200, 200), st.integers(1, 90), st.integers(-3, 3))
def test_a_period_repeats_the_columns_from_zero(seed, period, left, width, turns):
    seeds = torch.tensor([seed])
    field = gaussian_field(seeds, range(2), -1, left, 3, width, period)
    assert torch.equal(field, gaussian_field(seeds, range(2), -1, left + turns * period, 3, width, period))
    columns = torch.arange(left, left + width) % period
    assert torch.equal(field, gaussian_field(seeds, range(2), -1, 0, 3, period)[..., columns])


def test_each_layer_has_its_own_period():
    noise, plain = NoiseField(3, periods=[4, 8, 6]), NoiseField(3)
    for layer, period in enumerate((4, 8, 6)):
        once = plain(layer, -2, 0, 5, period)
        assert torch.equal(noise(layer, -2, -period, 5, 3 * period), once.repeat(1, 1, 1, 3))
    assert noise.seeds.tolist() == [3] and not torch.equal(noise(0, 0, 0, 2, 4), noise(1, 0, 0, 2, 4))
