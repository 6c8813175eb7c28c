"""Inversion by optimisation: the image that it draws, its progress, and what it leaves as it was."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.optimization import Search, autocorrelation, learning_rate, optimize
from tests.evaluation.tiny import noise, tiny_model


@pytest.fixture(scope="module")
def model(checkpoint):
    return tiny_model(checkpoint)


def generated(model, height, width, seed=9, dtype=np.uint8):
    return model.draw(model.generate(height, width, seed), dtype=dtype)


@settings(max_examples=4)
@given(height=st.integers(1, 40), width=st.integers(1, 40))
def test_it_starts_from_the_generated_image_of_its_seed_but_for_the_styles(model, height, width):
    search = Search(model, noise(height, width), steps=9, seed=4, perceptual=None)
    with torch.no_grad():
        search.styles.copy_(model.generator.texture.mapping(model.style(4).global_latent[None])[:, None])
    found = search.draw()[0].detach().permute(1, 2, 0).numpy()
    assert np.allclose(found, generated(model, height, width, 4, np.float32), atol=1e-4)


def test_the_result_comes_closer_to_the_image(model):
    """And the networks stay as they are."""
    before = {name: value.clone() for name, value in model.generator.state_dict().items()}
    points = optimize(model, generated(model, 21, 15), steps=40)
    assert all(torch.equal(value, before[name]) for name, value in model.generator.state_dict().items())
    assert [point["step"] for point in points] == [0, 1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 40]
    psnr, seconds = ([point[key] for point in points] for key in ("psnr", "seconds"))
    assert psnr[-1] == max(psnr) > psnr[0] + 3
    assert seconds == sorted(seconds) and seconds[0] > 0


def test_a_perceptual_term_counts(model):
    image, seen = generated(model, 8, 9), []

    def grey(reconstruction, target):
        seen.append(target)
        return 1000 * reconstruction.square().mean()

    search = Search(model, image, steps=9, seed=0, perceptual=grey)
    darker = [search.step().square().mean() for _ in range(5)]
    assert darker[-1] < darker[0]
    assert torch.allclose(seen[-1][0].permute(1, 2, 0), torch.from_numpy(image) / 127.5 - 1, atol=1e-5)


def test_noise_keeps_its_mean_and_deviation_and_every_latent_moves(model):
    search = Search(model, noise(20, 20), steps=20, seed=0, perceptual=None)
    after = [search.local, search.global_, search.styles, *search.maps]
    before = [values.detach().clone() for values in after]
    assert search.styles.shape[1:] == (model.generator.texture.style_count, model.generator.structure.global_dim)
    for _ in range(3):
        search.step()
    for each in after[3:]:
        assert abs(each.mean().item()) < 1e-5 and each.std().item() == pytest.approx(1, abs=1e-5)
    assert len(after) > 6 and not any(torch.allclose(*pair, atol=1e-3) for pair in zip(before, after, strict=True))


def test_autocorrelation_is_the_squared_mean_product_of_neighbours_at_all_scales():
    def products(values):
        down, right = (np.mean(values * np.roll(values, 1, axis)) for axis in (0, 1))
        return down**2 + right**2

    first, second = (np.random.default_rng(seed).normal(0, 1, shape) for seed, shape in ((0, (20, 18)), (1, (8, 90))))
    half = first.reshape(10, 2, 9, 2).mean((1, 3))
    quarter = half[:, :8].reshape(5, 2, 4, 2).mean((1, 3))
    expected = products(first) + products(half) + products(quarter) + products(second)
    maps = [torch.from_numpy(each)[None, None] for each in (first, second)]
    assert autocorrelation(maps).item() == pytest.approx(expected)


def test_the_learning_rate_rises_stays_and_falls():
    rates = [learning_rate(progress) for progress in (0, 0.01, 0.025, 0.05, 0.4, 0.75, 0.875, 1)]
    assert rates == pytest.approx([0, 0.2, 0.5, 1, 1, 1, 0.5, 0])
