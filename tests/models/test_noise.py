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
    st.lists(st.integers(0, 9), min_size=4, max_size=4),
)  # fmt: skip
def test_any_window_is_a_part_of_any_larger_one(seed, channel, top, left, margin):
    above, below, before, after = margin
    part = plane(seed, channel, top, left, 5, 7)
    whole = plane(seed, channel, top - above, left - before, above + 5 + below, before + 7 + after)
    assert torch.equal(part, whole[above : above + 5, before : before + 7])


@given(st.lists(SEEDS, min_size=1, max_size=5), st.integers(-3, 3))
def test_a_batch_is_its_samples_one_by_one(seeds, channel):
    batch = gaussian_field(torch.tensor(seeds), range(channel, channel + 2), -2, 3, 5, 7)
    assert batch.shape == (len(seeds), 2, 5, 7) and batch.dtype == torch.float32
    for sample, seed in zip(batch, seeds, strict=True):
        assert torch.equal(sample[1], plane(seed, channel + 1, -2, 3, 5, 7))


def test_values_never_change():
    """A seed must mean the same picture in every release."""
    expected = torch.tensor([[0.7336923, 0.1158777, -2.6663501], [-0.0277484, 0.3043261, 1.3962835]])
    assert torch.allclose(plane(1, 2, -1, -1, 2, 3), expected, atol=1e-6)


def test_the_distribution_is_normal():
    x = plane(5, 3, 10**6, -(10**6)).flatten().double().sort().values
    error = 1 / SAMPLES  # standard deviation of the mean of all values
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((x**power).mean() - moment) < 4 * math.sqrt(variance) * error
    empirical = (torch.arange(len(x)) + 0.5) / len(x)
    expected = 0.5 * (1 + torch.erf(x / math.sqrt(2)))
    assert (empirical - expected).abs().max() < 1.95 / math.sqrt(len(x))  # Kolmogorov-Smirnov, p = 0.001


@pytest.mark.parametrize(
    "other",
    [{"seed": 8}, {"seed": 7 + 2**32}, {"channel": -1}, {"top": 1}, {"left": 1}, {"left": 64}, {"top": SAMPLES}],
    ids=str,
)
def test_fields_are_independent(other):
    """Also a field and itself displaced: neighbouring rows and columns do not correlate."""
    a, b = plane(seed=7), plane(**{"seed": 7} | other)
    assert not torch.allclose(a, a.T)
    assert abs((a * b).mean()) < 4 / SAMPLES
    assert abs(((a**2 - 1) * (b**2 - 1)).mean() / 2) < 4 / SAMPLES


@given(SEEDS, st.integers(1, 60), st.integers(-200, 200), st.integers(1, 90))
def test_a_period_repeats_the_columns_from_zero(seed, period, left, width):
    """Each layer of noise has its own one."""
    once, columns = plane(seed, 1, -1, 0, 3, period), torch.arange(left, left + width) % period
    assert torch.equal(NoiseField(seed, periods=[4, period])(1, -1, left, 3, width)[0, 0], once[:, columns])
