"""Winograd's convolutions against direct ones."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from models import winograd
from models.geometry import Region
from models.layers import ModulatedConv2d
from models.winograd import WinogradConv2d, is_faster
from tests.models.small import TOLERANCE, largest_block_error, normal, texture_synthesizer


@given(
    layout=st.sampled_from([torch.contiguous_format, torch.channels_last]),
    batch=st.integers(1, 2), height=st.integers(3, 40), width=st.integers(3, 40), part=st.integers(4, 900),
    inputs=st.integers(1, 5), outputs=st.integers(1, 5), biased=st.booleans(),
)  # fmt: skip
def test_any_size_equals_the_direct_convolution(layout, batch, height, width, part, inputs, outputs, biased):
    x, weight = normal(batch, inputs, height, width).contiguous(memory_format=layout), normal(outputs, inputs, 3, 3)
    bias, before = normal(outputs, seed=1) if biased else None, x.clone()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, "PART", part)
        found = WinogradConv2d(weight, bias)(x)
    expected = F.conv2d(x.double(), weight.double(), None if bias is None else bias.double())
    assert found.shape == expected.shape and torch.equal(x, before)
    assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max()


def test_it_is_taken_where_it_pays():
    wide = torch.zeros(256, 256, 3, 3)
    assert is_faster(wide, torch.float32)
    assert not is_faster(wide, torch.bfloat16)  # too short for its sums
    for other in (torch.zeros(256, 128, 3, 3), torch.zeros(256, 256, 1, 1), wide.to("meta")):
        assert not is_faster(other, torch.float32)
    plain, up = (ModulatedConv2d(256, 256, 3, 4, upsample=upsample) for upsample in (False, True))
    baked = plain.bake(normal(1, 4), torch.float32)
    assert plain.baked_values(torch.float32) == sum(plane.numel() for row in baked.planes for plane in row)
    assert plain.baked_values(torch.bfloat16) == up.baked_values(torch.float32) == 9 * 256 * 256
    for layer, dtype, differentiable in (
        (plain, torch.bfloat16, False), (up, torch.float32, False), (plain, torch.float32, True)
    ):  # fmt: skip
        assert not isinstance(layer.bake(normal(1, 4), dtype, differentiable=differentiable), WinogradConv2d)


def test_wide_networks_draw_as_they_do_unbaked_and_blocks_as_the_whole():
    texture, pixels, w = texture_synthesizer(2, (256, 256), local_dim=16), Region.at(3, -5, 41, 52), normal(6)
    cells = pixels.receptive_field(texture.rule)
    z_s, synthesize = normal(1, 16, *cells.shape), texture.bake(w, torch.float32)
    unbaked = texture(z_s, w[None], None, (cells.rows.first, cells.cols.first))
    whole = unbaked[(..., *pixels.slices_in(cells.valid_output(texture.rule)))]
    assert (synthesize(z_s, None, pixels) - whole).abs().max() <= TOLERANCE

    def drawn(region):
        return synthesize(z_s[(..., *region.receptive_field(texture.rule).slices_in(cells))], None, region)

    assert largest_block_error(pixels, 17, 24, drawn) <= TOLERANCE
