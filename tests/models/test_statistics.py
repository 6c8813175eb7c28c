"""Styles as statistics of latents, and the map from one to another."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.statistics import (
    COLOURS,
    StatisticsMapping,
    StyleTransfer,
    bands,
    from_features,
    measure,
    style_length,
    take_bands,
    to_features,
    within_gamut,
)
from tests.models.test_trunk import fitted


@pytest.fixture(scope="module")
def trunk():
    return fitted(24, 4)


def latents(trunk, seed, gain=1.0, size=(20, 22)):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(COLOURS, COLOURS, generator=generator)
    z = gain * torch.randn(trunk.channels, *size, generator=generator)
    z[:COLOURS] = torch.einsum("ij,jhw->ihw", mix, z[:COLOURS].sign() * z[:COLOURS].square()) + mix[:, :1, None]
    return z


def style_of(z):
    """[S], float32."""
    return measure(z.flatten(1)[None])[0].float()


def test_the_vector_of_a_style():
    z = torch.randn(2, 5, 400, dtype=torch.float64)
    style = measure(z)
    assert style.shape == (2, style_length(5)) and style.dtype == torch.float64
    assert torch.allclose(style[:, :5], z.mean(2))
    assert torch.allclose(style[:, 5:10], z.std(2, correction=0))
    assert torch.allclose(style[1, 10:16], torch.cov(z[1, :3], correction=0)[*torch.triu_indices(3, 3)])
    assert torch.allclose(style[0, 16:].reshape(3, 8).mean(1), torch.zeros(3).double(), atol=0.1)


def test_statistics_become_those_of_the_other_style(trunk):
    a, b, n = latents(trunk, 1), latents(trunk, 2, gain=1.3), trunk.channels
    own, other = style_of(a), style_of(b)
    assert torch.allclose(StyleTransfer(own, own, trunk, n)(a), a, atol=1e-4)
    found = style_of(StyleTransfer(own, other, trunk, n)(a))
    for part, share in (slice(0, COLOURS), 0.15), (slice(n, n + COLOURS), 0.35):
        assert (found - other)[part].norm() < share * (own - other)[part].norm()


def test_each_cell_is_mapped_by_itself_and_first_channels_alone(trunk):
    a, b = latents(trunk, 3), latents(trunk, 4)
    whole = StyleTransfer(style_of(a), style_of(b), trunk, trunk.channels)(a)
    part = StyleTransfer(style_of(a), style_of(b), trunk, trunk.channels)(a[:, 3:9, 5:17])
    assert torch.equal(part, whole[:, 3:9, 5:17])
    few = StyleTransfer(style_of(a), style_of(b), trunk, COLOURS)(a[:COLOURS])
    assert few.shape[0] == COLOURS and torch.equal(few, whole[:COLOURS])


def test_flat_latents_and_styles_beyond_any_image_stay_finite(trunk):
    usual, faint, flat = latents(trunk, 5), latents(trunk, 6, gain=0.2), torch.zeros(trunk.channels, 4, 4) + 0.5
    own, other, even = map(style_of, (usual, faint, flat))
    beyond = [torch.lerp(own, other, strength) for strength in (-1.0, 3.0)]
    for one, to, z in *((own, each, usual) for each in (*beyond, even)), (even, own, flat):
        assert torch.isfinite(to).all() and torch.isfinite(StyleTransfer(one, to, trunk, trunk.channels)(z)).all()


def test_the_mapping_is_standardised_by_the_styles_of_training():
    styles = measure(3 + torch.rand(50, 4, 1) * torch.randn(50, 4, 64)).float()
    mapping = StatisticsMapping(4, 7, layers=2, lr_multiplier=1.0)
    mapping.fit(styles)
    features = (mapping._features(styles) - mapping.centre) / mapping.spread
    assert torch.allclose(features.mean(0), torch.zeros(8), atol=1e-5)
    assert torch.allclose(features.std(0, correction=0), torch.ones(8), atol=1e-4)
    assert mapping(styles).shape == (50, 7)


def parts(style, channels):
    """Mean, deviation, covariance and quantiles of a style [S]."""
    mean, deviation, upper, quantiles = style.tensor_split([channels, 2 * channels, 2 * channels + 6])
    covariance = torch.zeros(3, 3).double()
    rows, cols = torch.triu_indices(3, 3)
    covariance[rows, cols] = covariance[cols, rows] = upper.double()
    return mean, deviation, covariance, quantiles.reshape(3, 8)


@given(st.integers(0, 99), st.floats(0.3, 4), st.floats(-1.5, 1.5), st.integers(0, 99))
def test_styles_are_found_again_in_features_and_moved_ones_are_styles(trunk, seed, gain, far, where):
    style = measure(latents(trunk, seed, gain).flatten(1)[None])
    features = to_features(style, trunk.channels)
    assert torch.allclose(from_features(features, style, trunk.channels), style, rtol=1e-6, atol=1e-7)
    step = torch.randn(features.shape, generator=torch.Generator().manual_seed(where), dtype=torch.float64)
    moved = from_features(features + far * step, style, trunk.channels)
    assert torch.allclose(to_features(moved, trunk.channels), features + far * step, atol=1e-6)
    for each in (moved[0], within_gamut(moved[0], style[0], trunk)):
        _, deviation, covariance, quantiles = parts(each, trunk.channels)
        assert bool((deviation > 0).all()) and bool((torch.linalg.eigvalsh(covariance) > 0).all())
        assert torch.equal(quantiles, parts(style[0], trunk.channels)[3])


@given(st.integers(0, 99), st.floats(-6, 6), st.floats(-3, 3))
def test_moved_colours_stay_where_pictures_can_show_them(trunk, seed, brighter, wider):
    """Or where the image's own are; what needs no change gets none."""
    own = measure(latents(trunk, seed, 0.5).flatten(1)[None])[0]
    assert torch.allclose(within_gamut(own, own, trunk), own, atol=1e-9)
    moved = own.clone()
    moved[0] += brighter
    moved[trunk.channels : 2 * trunk.channels] *= 2.0**wider
    moved[2 * trunk.channels : 2 * trunk.channels + 6] *= 4.0**wider
    to_rgb = (trunk.axes.T * trunk.scale[:3] / trunk.cell).double()
    shown = []
    for each in (own, within_gamut(moved, own, trunk)):
        mean, _, covariance, _ = parts(each, trunk.channels)
        centre, spread = to_rgb @ mean[:3].double(), (to_rgb @ covariance @ to_rgb.T).diagonal().sqrt()
        shown.append((centre - 1.1 * spread, centre + 1.6 * spread))
    (low, high), (lowest, highest) = shown
    assert bool((lowest >= low.clamp(max=-1) - 1e-6).all()) and bool((highest <= high.clamp(min=1) + 1e-6).all())


def test_textures_come_nearer_but_not_noise(trunk):
    """Bands whose deviations differ are scaled by 2/3 to 3/2; cells without texture are not."""
    a = latents(trunk, 8)
    b = a.clone()
    fine = bands(trunk)[: trunk.channels] == 2
    b[fine] *= 1.3
    b[bands(trunk)[: trunk.channels] == 1] *= 9
    a[:, :4] *= 1e-4
    own, other = style_of(a), style_of(b)
    other[trunk.channels * 2 :] = own[trunk.channels * 2 :]  # its own colours
    other[: trunk.channels] = own[: trunk.channels]
    transfer = StyleTransfer(own, other, trunk, trunk.channels)
    ratio = transfer(a)[3:] / a[3:]
    assert (ratio[:, :4] - 1).abs().max() < 1e-4 and ratio.min() > 0.99 and ratio.max() <= 1.5
    assert ratio[fine[3:], 5:].mean() > 1.1


@pytest.mark.parametrize(("first", "last"), [(1, 2), (0, 1)])
def test_bands_that_are_not_taken_stay(trunk, first, last):
    own, other = (style_of(latents(trunk, seed)) for seed in (9, 10))
    style, band = take_bands(own, other, trunk, first, last), bands(trunk)[: trunk.channels]
    gain, whole = (StyleTransfer(own, each, trunk, trunk.channels).gain for each in (style, other))
    left = (band > 0) & ((band < first) | (band > last))
    assert torch.allclose(gain[left], torch.ones(int(left.sum())), atol=1e-5)
    assert first > 0 or torch.allclose(gain[~left], whole[~left])
    assert torch.equal(style[2 * trunk.channels :], (own if first else other)[2 * trunk.channels :])
    assert torch.equal(take_bands(own, own, trunk, first, last), own)
