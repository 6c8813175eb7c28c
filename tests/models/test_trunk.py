"""The linear trunk: orthonormal, exact in both directions where it can be, fitted to images, alike in blocks."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.geometry import Interval, Region
from models.trunk import COLOURS, Trunk, analysis, lapped_basis, synthesis


def fitted(channels, cell, seed=0):
    torch.manual_seed(seed)
    trunk = Trunk(channels, cell)
    trunk.fit([torch.randn(3, 4 * cell, 5 * cell).cumsum(1).cumsum(2) / 40 for _ in range(4)])
    return trunk


@pytest.mark.parametrize("m", [2, 8, 16])
def test_the_basis_is_orthonormal_with_its_neighbours(m):
    basis = lapped_basis(m)
    assert np.allclose(basis @ basis.T, np.eye(m), atol=1e-12)
    assert np.allclose(basis[:, m:] @ basis[:, :m].T, 0, atol=1e-12)


def test_coefficients_are_nearer_the_more_up_to_the_image_itself():
    """And a smooth image is nearly that of the first ones; what is left over has none of them."""
    trunk, image = fitted(20, 8), torch.randn(1, 3, 48, 56)
    inner, errors = image[..., 8:-8, 8:-8], []
    for count in (20, 60, 192):
        z = trunk.analyse(image, count)
        assert torch.allclose(z[:, :20], trunk.analyse(image), atol=1e-5)
        errors.append(float((trunk.synthesise(z) - inner).square().mean()))
        assert torch.allclose(trunk.impose(torch.zeros_like(image), z), trunk.synthesise(z), atol=1e-5)
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-8
    trunk, ramp = fitted(48, 8), torch.linspace(-1, 1, 64).expand(1, 3, 64, 64)
    rest = ramp[..., 8:-8, 8:-8] - trunk.synthesise(trunk.analyse(ramp))
    assert rest.abs().max() < 0.02 and trunk.analyse(rest).abs().max() < 1e-5


def test_what_is_imposed_is_found_again():
    trunk = fitted(20, 8)
    image, z = torch.randn(1, 3, 48, 56), torch.randn(1, 20, 5, 6)
    drawn = trunk.impose(image, z)
    assert drawn.shape == (1, 3, 32, 40)
    assert torch.allclose(trunk.analyse(drawn), z[..., 1:-1, 1:-1], atol=1e-4)
    assert torch.allclose(trunk.impose(image, trunk.analyse(image)), image[..., 8:-8, 8:-8], atol=1e-4)


def test_the_first_channels_are_the_mean_colours_and_the_others_fall():
    trunk = fitted(30, 8)
    flat = torch.tensor([0.5, -0.25, 0.125])[:, None, None].expand(3, 24, 24)
    z = trunk.analyse(flat[None])
    assert z[0, COLOURS:].abs().max() < 0.02 * z[0, :COLOURS].abs().max()
    expected = trunk.axes @ flat[:, 0, 0] * trunk.cell / trunk.scale[:COLOURS]
    assert torch.allclose(z[0, :COLOURS, 0, 0], expected, rtol=0.01)
    assert (trunk.scale[COLOURS:].diff() <= 0).all() and sorted(trunk.order.tolist()) == list(range(192))
    assert torch.allclose(trunk.axes @ trunk.axes.T, torch.eye(3), atol=1e-6)


@given(st.integers(-40, 40), st.integers(1, 30), st.sampled_from([2, 4, 8]))
def test_rules_of_both_directions(first, count, cell):
    cells = Interval(first, first + count - 1)
    pixels = analysis(cell).receptive_field(cells)
    assert pixels.size == (count + 1) * cell and analysis(cell).valid_output(pixels) == cells
    drawn = synthesis(cell).valid_output(cells)
    assert drawn.size == (count - 1) * cell
    assert drawn.size == 0 or synthesis(cell).receptive_field(drawn) == cells
    assert synthesis(cell).affected_output(cells).size == (count + 1) * cell


def test_parts_equal_the_whole():
    trunk, cell = fitted(24, 4), 4
    image, whole = torch.randn(1, 3, 60, 60), Region.at(-8, 4, 60, 60)
    cells, part = whole.valid_output(analysis(cell)), Region.at(1, 5, 6, 7)
    z = trunk.analyse(image[..., *cells.receptive_field(analysis(cell)).slices_in(whole)])
    own = trunk.analyse(image[..., *part.receptive_field(analysis(cell)).slices_in(whole)])
    assert torch.allclose(own, z[..., *part.slices_in(cells)], atol=1e-5)


def test_what_does_not_fit():
    with pytest.raises(ValueError, match="channels; cells of 4 x 4 pixels have 3 to 48"):
        Trunk(49, 4)
    trunk = Trunk(8, 8)
    with pytest.raises(ValueError, match="no image of at least 16 x 16 pixels"):
        trunk.fit([torch.zeros(3, 15, 40)])
    trunk.fit([torch.zeros(3, 32, 32)])  # flat
    assert torch.isfinite(trunk.analyse(torch.randn(1, 3, 32, 32))).all()
