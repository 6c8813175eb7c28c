"""Inversion by optimisation: the image that it draws, its progress, and what it leaves as it was."""

import math
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.optimization import (
    Search,
    autocorrelation,
    learning_rate,
    marked_steps,
    mean_style,
    optimize,
    peak_signal_to_noise,
    renormalize,
)
from evaluation.sets import generated_image
from images.metrics import ImageMetrics
from inversion.generation import generated_style
from inversion.grain import field
from inversion.outputs import Pixels
from models.geometry import Region
from tests.evaluation.tiny import tiny_tool


@pytest.fixture(scope="module")
def tool(checkpoint):
    return tiny_tool(checkpoint, "infer.save_float=true")


def target_of(height, width, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (1, 3, height, width), dtype=np.uint8)
    return torch.from_numpy(values)


def drawn_by(tool, size, seed):
    """The generated image of a seed, [1, 3, H, W]."""
    scene, region = tool.generated(size, seed, field(seed)), Region.at(0, 0, *size)
    pixels = Pixels.open(region, None, size, save_float=True)
    tool.draw(scene, pixels, tool.plan(size), lambda _: None)
    return torch.from_numpy(pixels.read(region)).permute(2, 0, 1)[None]


@settings(max_examples=8)
@given(height=st.integers(1, 40), width=st.integers(1, 40))
def test_it_starts_from_the_generated_image_of_its_seed_but_for_the_styles(tool, height, width):
    search = Search(tool, target_of(height, width), seed=4, perceptual=None)
    style = tool.generator.texture.mapping(generated_style(tool.generator, 4)[None])
    with torch.no_grad():
        search.latents.styles.copy_(style[:, None])
    assert torch.allclose(search.draw(), drawn_by(tool, (height, width), 4), atol=1e-4)


def test_styles_start_from_their_mean(tool):
    draws = torch.randn(20_000, tool.generator.structure.global_dim, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = tool.generator.texture.mapping(draws).mean(0)
    found = mean_style(tool.generator, 0, tool.device)
    assert found.shape == (tool.generator.texture.style_count, tool.generator.structure.global_dim)
    assert torch.allclose(found, expected.expand_as(found), atol=0.05) and expected.abs().max() > 0.2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_result_comes_closer_to_the_image(checkpoint, dtype):
    tool = tiny_tool(checkpoint, f"infer.dtype={dtype}")
    image = generated_image(tool, 29, seed=9)[:, :21]
    points = list(optimize(tool, image, steps=60))
    assert [point.step for point in points] == [0, 1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 60]
    assert points[-1].psnr > points[0].psnr + 4
    assert points[-1].psnr == max(point.psnr for point in points)
    seconds = [point.seconds for point in points]
    assert seconds == sorted(seconds) and seconds[0] > 0


def test_the_last_point_is_that_of_the_last_update(tool):
    target = target_of(13, 9)
    points = list(optimize(tool, target[0].permute(1, 2, 0).numpy(), steps=2, seed=3))
    search = Search(tool, target, seed=3, perceptual=None)
    found = [search.step(learning_rate(step / 2)) for step in range(2)] + [search.draw()]
    assert [point.psnr for point in points] == pytest.approx([peak_signal_to_noise(each, target) for each in found])
    assert not torch.equal(found[1], found[2])


def test_a_perceptual_term_counts(tool):
    seen = []

    def grey(reconstruction, target):
        seen.append((reconstruction.detach(), target))
        return 1000 * reconstruction.square().mean()

    image = generated_image(tool, 16, seed=9)
    *_, plain = optimize(tool, image, steps=30)
    *_, pulled = optimize(tool, image, steps=30, perceptual=grey)
    *_, unmoved = optimize(tool, image, steps=30, perceptual=lambda reconstruction, _: 0 * reconstruction.sum())
    assert pulled.psnr < plain.psnr - 0.5 and unmoved.psnr == pytest.approx(plain.psnr, abs=0.1)
    reconstruction, target = seen[-1]
    assert reconstruction.shape == target.shape == (1, 3, 16, 16)
    assert torch.allclose(target[0].permute(1, 2, 0), torch.from_numpy(image) / 127.5 - 1, atol=1e-5)


def test_noise_keeps_its_mean_and_deviation_and_every_latent_moves(tool):
    search = Search(tool, target_of(20, 20), seed=0, perceptual=None)
    for noise in search.latents.noise:
        renormalize(noise)
    after = [search.latents.local, search.latents.global_, search.latents.styles, *search.latents.noise]
    before = [values.detach().clone() for values in after]
    for _ in range(3):
        search.step(1.0)
    for noise in search.latents.noise:
        assert abs(noise.mean().item()) < 1e-5 and noise.std().item() == pytest.approx(1, abs=1e-5)
    assert not any(torch.allclose(old, new, atol=1e-3) for old, new in zip(before, after, strict=True))


def test_noise_is_kept_from_drawing_the_image(tool, monkeypatch):
    def autocorrelation_after(steps=40):
        search = Search(tool, torch.from_numpy(smooth).permute(2, 0, 1)[None], seed=0, perceptual=None)
        for _ in range(steps):
            search.step(1.0)
        return autocorrelation(search.latents.noise).item()

    smooth = np.repeat(np.linspace(0, 255, 40).astype(np.uint8), 40 * 3).reshape(40, 40, 3)
    penalised = autocorrelation_after()
    monkeypatch.setattr("evaluation.optimization.NOISE_WEIGHT", 0.0)
    assert penalised < autocorrelation_after() / 2


def test_autocorrelation_is_the_squared_mean_product_of_neighbours_at_all_scales():
    def products(noise):
        down, right = (np.mean(noise * np.roll(noise, 1, axis)) for axis in (0, 1))
        return down**2 + right**2

    first, second = (np.random.default_rng(seed).normal(0, 1, shape) for seed, shape in ((0, (20, 18)), (1, (8, 90))))
    half = first.reshape(10, 2, 9, 2).mean((1, 3))
    quarter = half[:, :8].reshape(5, 2, 4, 2).mean((1, 3))
    expected = products(first) + products(half) + products(quarter) + products(second)
    maps = [torch.from_numpy(each)[None, None] for each in (first, second)]
    assert autocorrelation(maps).item() == pytest.approx(expected)


def test_the_networks_stay_as_they_are(tool):
    before = {name: value.clone() for name, value in tool.generator.state_dict().items()}
    list(optimize(tool, generated_image(tool, 12, seed=1), steps=3))
    assert all(torch.equal(value, before[name]) for name, value in tool.generator.state_dict().items())
    assert all(value.grad is None for value in tool.generator.parameters())


def test_time_between_points_does_not_count(tool, monkeypatch):
    clock = [0.0]

    def tick():
        clock[0] += 1
        return clock[0]

    monkeypatch.setattr(time, "perf_counter", tick)
    found = []
    for point in optimize(tool, generated_image(tool, 8, seed=1), steps=4):
        found.append(point.seconds)
        clock[0] += 1000
    assert found == [1, 2, 3, 4, 5]


def test_psnr_is_that_of_the_other_commands():
    target, drawn = target_of(20, 30), torch.rand(1, 3, 20, 30) * 2.4 - 1.2
    rows = [each[0].permute(1, 2, 0).numpy() for each in (target, ((drawn + 1) * 127.5).round().clamp(0, 255).byte())]
    metrics = ImageMetrics(20, 30)
    metrics.update(*rows)
    assert peak_signal_to_noise(drawn, target) == pytest.approx(metrics.result()["psnr"])
    assert peak_signal_to_noise(target / 127.5 - 1, target) == math.inf


def test_the_learning_rate_rises_stays_and_falls():
    rates = [learning_rate(progress) for progress in (0, 0.01, 0.025, 0.05, 0.4, 0.75, 0.875, 1)]
    assert rates == pytest.approx([0, 0.2, 0.5, 1, 1, 1, 0.5, 0])


@given(st.integers(0, 10_000))
def test_points_grow_apart(steps):
    marks = sorted(marked_steps(steps))
    assert marks[0] == 0 and marks[-1] == steps and len(marks) <= 2 * steps.bit_length() + 2
    assert all(later <= 1.5 * earlier for earlier, later in zip(marks[3:], marks[4:], strict=False))
