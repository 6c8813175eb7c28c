"""The model of what a block costs, against what the networks really compute and keep."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from inversion.cost import area, decode_cost, encode_cost, refine_cost
from models.geometry import Region
from models.noise import NoiseField
from models.texture import TextureSynthesizer
from tests.models.small import patch_encoder, texture_synthesizer

places = st.builds(Region.at, st.integers(-40, 40), st.integers(-40, 40), st.integers(1, 90), st.integers(1, 90))


@pytest.mark.parametrize("stages", [3, 5])
@settings(max_examples=10)
@given(pixels=places)
def test_multiply_adds_of_drawing_are_those_of_pytorch(stages, pixels):
    texture = texture_synthesizer(stages)
    with torch.inference_mode():
        synthesize = texture.bake(torch.zeros(6), torch.float32)
        z_s = torch.zeros(1, 5, *pixels.receptive_field(texture.rule).shape)
        with FlopCounterMode(display=False) as counter:
            image = synthesize(z_s, None, pixels)
    assert image.shape[-2:] == pixels.shape
    assert decode_cost(texture, pixels, torch.float32).macs * 2 == counter.get_total_flops()


@pytest.mark.parametrize("stages", [3, 5])
@settings(max_examples=10)
@given(pixels=places)
def test_multiply_adds_of_refining_are_those_of_pytorch(stages, pixels):
    texture = texture_synthesizer(stages)
    synthesize = texture.bake(torch.zeros(6), torch.float32)
    z_s = torch.zeros(1, 5, *pixels.receptive_field(texture.rule).shape, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        image = synthesize(z_s, None, pixels)
        torch.autograd.grad(image, z_s, torch.ones_like(image))
    assert refine_cost(texture, pixels, torch.float32).macs * 2 == counter.get_total_flops()


@pytest.mark.parametrize(("widths", "dtype"), [([6, 4, 4, 3], torch.float32), ([64, 32, 16], torch.bfloat16)])
@settings(max_examples=5)
@given(pixels=places)
def test_refining_keeps_no_more_than_is_said(widths, dtype, pixels):
    texture = TextureSynthesizer(5, 6, widths, 1, 0.01).requires_grad_(False)
    layers = [*texture.layers, *(stage.to_rgb for stage in texture.synthesis)]
    weights = sum(layer.conv.weight.numel() for layer in layers) * dtype.itemsize
    kept = Counter()

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    synthesize = texture.bake(torch.zeros(6), dtype)
    z_s = torch.zeros(1, 5, *pixels.receptive_field(texture.rule).shape, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        synthesize(z_s, NoiseField(1), pixels)
    features = kept.total() - weights
    said = refine_cost(texture, pixels, dtype).bytes
    assert features <= said
    assert area(pixels) < 2000 or said <= 12 * features + 2**20


@pytest.mark.parametrize("convolution", ["shifted", "valid"])
@given(cells=st.builds(Region.at, st.integers(-9, 9), st.integers(-9, 9), st.integers(1, 12), st.integers(1, 12)))
def test_multiply_adds_of_encoding_are_those_of_pytorch(convolution, cells):
    encoder = patch_encoder(convolution)
    image = torch.zeros(1, 3, *cells.receptive_field(encoder.rule).shape)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        z_s = encoder(image)
    assert z_s.shape[-2:] == cells.shape
    assert encode_cost(encoder, cells, torch.float32).macs * 2 == counter.get_total_flops()
