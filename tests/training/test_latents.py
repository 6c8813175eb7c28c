"""Random values: a function of (seed, purpose, step, index of the sample in the whole batch)."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models import build_generator
from training.context import Stream, TrainContext
from training.latents import draw_latents, normal
from utils.config import load_config
from utils.distributed import ProcessGroup
from utils.schema import TrainConfig

CPU = torch.device("cpu")
positions = st.tuples(st.integers(0, 2**32 - 1), st.sampled_from(Stream), st.integers(0, 10**9))


@pytest.fixture(scope="module")
def generator(tiny):
    return build_generator(load_config(TrainConfig, tiny).model)


POSITION = 0, Stream.LATENTS, 0


def context(seed=0, batch=4, rank=0, size=1):
    return TrainContext(seed, batch, CPU, torch.float32, ProcessGroup(rank, size))


def plain(position, **process):
    """Values of each kind."""
    seed, *place = position
    seeds = context(seed, **process).seeds(*place)
    return seeds, normal(seeds, 2, 3), torch.from_numpy(context(seed, **process).uniform(*place, 3))


def values(generator, position=POSITION, mixing=0.9, **process):
    """Every tensor of a batch of latents; the noise by its seeds."""
    seed, *place = position
    latents = draw_latents(context(seed, **process), *place, generator, 5, mixing)
    fields = {field.name: getattr(latents, field.name) for field in dataclasses.fields(latents)}
    return fields | {"noise": latents.noise.seeds}


@settings(max_examples=10)
@given(positions, st.integers(1, 2), st.integers(1, 3), st.floats(0, 1))
def test_processes_together_draw_what_one_draws(generator, position, pairs, size, mixing):
    processes = [{"batch": 2 * pairs, "rank": rank, "size": size} for rank in range(size)]
    parts = [plain(position, **process) for process in processes]
    for value, *own in zip(plain(position, batch=2 * pairs * size), *parts, strict=True):
        assert torch.equal(value, torch.cat(own))
    whole = values(generator, position, mixing, batch=2 * pairs * size)
    parts = [values(generator, position, mixing, **process) for process in processes]
    for name, value in whole.items():
        assert torch.equal(value, torch.cat([part[name] for part in parts])), name


@settings(max_examples=20)
@given(positions, positions)
def test_other_positions_draw_other_values(one, other):
    torch.randn(3)  # nothing depends on what was drawn before
    for value, another in zip(plain(one), plain(other), strict=True):
        assert torch.equal(value, another) == (one == other)


def test_pairs_share_all_but_local_latents_and_noise(generator):
    latents = values(generator, batch=64)
    assert latents["z_l"].shape == (64, 4, 7, 7) and latents["coordinates"].shape == (64, 3, 7, 7)
    assert latents["z_g"].shape == (64, 6) and abs(latents["z_l"].std() - 1) < 0.05 and latents["row"].abs().max() <= 1
    for name, value in latents.items():
        first, second = value[::2], value[1::2]
        if name in ("z_l", "noise"):
            assert all(not torch.equal(a, b) for a, b in zip(first, second, strict=True)), name
        else:
            assert torch.equal(first, second), name
        assert len(value[::2].unique(dim=0)) > 1, name


def test_style_mixing(generator):
    count = generator.texture.style_count
    never, always = (draw_latents(context(), *POSITION[1:], generator, 5, mixing, 64) for mixing in (0, 1))
    assert (never.mix_from == count).all()
    assert set(always.mix_from.tolist()) == set(range(1, count))
    styles = always.styles(generator)
    assert styles.shape == (64, count, 6)
    first, second = generator.texture.mapping(always.z_g), generator.texture.mapping(always.z_mix)
    for sample, start in enumerate(always.mix_from.int().tolist()):
        assert torch.equal(styles[sample, :start], first[sample].expand(start, -1))
        assert torch.equal(styles[sample, start:], second[sample].expand(count - start, -1))
