"""Winograd's convolutions against direct ones."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from models import winograd
from models.geometry import Region, partition
from models.layers import ModulatedConv2d
from models.texture import TextureSynthesizer

TOLERANCE = 1e-5


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@settings(deadline=None)
@given(
    batch=st.integers(1, 2), height=st.integers(3, 40), width=st.integers(3, 40), part=st.integers(4, 900),
    inputs=st.integers(1, 5), outputs=st.integers(1, 5), biased=st.booleans(),
)  # fmt: skip
def test_any_size_equals_the_direct_convolution(layout, batch, height, width, part, inputs, outputs, biased):
    x, weight = normal(batch, inputs, height, width).contiguous(memory_format=layout), normal(outputs, inputs, 3, 3)
    bias = normal(outputs, seed=1) if biased else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, "PART", part)
        found = winograd.WinogradConv2d(weight, bias)(x)
    expected = F.conv2d(x.double(), weight.double(), None if bias is None else bias.double())
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max()


def test_the_input_stays_as_it_is():
    x = normal(1, 4, 20, 20)
    before = x.clone()
    winograd.WinogradConv2d(normal(4, 4, 3, 3), normal(4))(x)
    assert torch.equal(x, before)


def test_it_is_taken_where_it_pays():
    wide, narrow = torch.zeros(256, 256, 3, 3), torch.zeros(256, 128, 3, 3)
    assert winograd.is_faster(wide, torch.float32)
    assert not winograd.is_faster(wide, torch.bfloat16)  # too short for its sums
    assert not winograd.is_faster(narrow, torch.float32)
    assert not winograd.is_faster(torch.zeros(256, 256, 1, 1), torch.float32)
    assert not winograd.is_faster(wide.to("meta"), torch.float32)
    plain, up = (ModulatedConv2d(256, 256, 3, 4, upsample=upsample) for upsample in (False, True))
    assert plain.baked_values(torch.float32) == 16 * 256 * 256
    assert plain.baked_values(torch.bfloat16) == up.baked_values(torch.float32) == 9 * 256 * 256


def test_wide_networks_draw_as_they_do_unfolded_and_blocks_as_the_whole():
    torch.manual_seed(0)
    texture = TextureSynthesizer(16, 8, [256, 256], mapping_layers=1, mapping_lr_multiplier=0.01).requires_grad_(False)
    for stage in texture.synthesis:
        stage.to_rgb.conv.weight *= 0.2
    pixels = Region.at(3, -5, 41, 52)
    cells = pixels.receptive_field(texture.rule)
    z_s, w = normal(1, 16, *cells.shape), normal(8)
    synthesize = texture.bake(w, torch.float32)
    whole = synthesize(z_s, None, pixels)
    unfolded = texture(z_s, w[None], None, (cells.rows.first, cells.cols.first))
    assert (whole - unfolded[(..., *pixels.slices_in(cells.valid_output(texture.rule)))]).abs().max() <= TOLERANCE
    for rows in partition(pixels.rows, 17):
        for cols in partition(pixels.cols, 24):
            block = Region(rows, cols)
            part = synthesize(z_s[(..., *block.receptive_field(texture.rule).slices_in(cells))], None, block)
            assert (part - whole[(..., *block.slices_in(pixels))]).abs().max() <= TOLERANCE
