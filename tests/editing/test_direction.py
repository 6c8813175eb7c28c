"""Moves along directions: strength 0, masks, blocks and the whole, units, files, what is refused."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from editing import find_direction, move
from editing.boundary import describe, fit_boundary
from editing.direction import factorised, principal
from inversion import Latents, PatchInverter
from inversion.noise import FieldNoise
from inversion.styles import StyleMap
from inversion.weight_maps import Boxes, HorizontalBlend, LabelMap
from models.statistics import to_features
from tests.inversion.conftest import CPU, photograph, tiny_model, trunk_inverter
from utils.checkpoint import save_weights
from utils.errors import UserError

SIZE = 41, 66


@pytest.fixture(scope="module")
def images(trunk_model):
    """A photograph, a generated image, a photograph in styles that vary over space, and a restyled one."""
    photo = replace(trunk_model.encode(photograph(*SIZE)), noise=FieldNoise(2))
    varied = StyleMap([photo.style, trunk_model.style(1)], HorizontalBlend(20, 60))
    restyled = photo.with_style(trunk_model.style(4))
    return [photo, trunk_model.generate(*SIZE, seed=3), photo.with_style(varied), restyled]


def draw(model, latents):
    return model.draw(latents, dtype=np.float32)


CASES = [  # number of an image, direction, strength; a box, and pixels over which its edge is soft
    (0, "pca:1", -2, (0, 0, 12, 9), 7),
    (1, "sefa:1", 3, (30, 50, 41, 66), 0),
    (2, "pca:3", 0.5, (8, 20, 17, 30), 0),
    (3, "sefa:2", -1, (40, 0, 41, 30), 7),
]


@pytest.mark.parametrize(("number", "source", "strength", "box", "soften"), CASES)
def test_blocks_equal_the_whole_and_masks_hold(trunk_model, images, number, source, strength, box, soften):
    """What a mask does not reach keeps its bits."""
    latents, direction = images[number], find_direction(trunk_model, source)
    plain, blocks = draw(trunk_model, latents), PatchInverter(trunk_model.networks, CPU, torch.float32, 24)
    (top, left, bottom, right), away = box, trunk_model.reach + soften
    far = np.ones(SIZE, bool)
    far[max(0, top - away) : bottom + away, max(0, left - away) : right + away] = False
    for mask in (None, LabelMap(Boxes([box]), 2, SIZE, soften)):
        moved = move(trunk_model, latents, direction, strength, mask)
        whole = draw(trunk_model, moved)
        assert np.abs(draw(blocks, moved) - whole).max() < 1e-5 and (whole != plain).any()
    assert far.any() and (whole[far] == plain[far]).all()


def test_no_strength_is_the_same_and_moves_follow_each_other(trunk_model, images, tmp_path):
    """Files keep what was moved."""
    mask = LabelMap(Boxes([(0, 0, 40, 40)]), 2, SIZE)
    for latents, source in zip(images, ["pca:2", "sefa:1"] * 2, strict=True):
        direction, plain = find_direction(trunk_model, source), draw(trunk_model, latents)
        for where in (None, mask):
            assert (draw(trunk_model, move(trunk_model, latents, direction, 0.0, where)) == plain).all()
        moved = move(trunk_model, latents, direction, 1.5)
        drawn = draw(trunk_model, moved)
        moved.save(tmp_path / "moved.safetensors")
        loaded = Latents.load(tmp_path / "moved.safetensors")
        assert (drawn != plain).any() and np.abs(draw(trunk_model, loaded) - drawn).max() < 1e-5
        assert (draw(trunk_model, move(trunk_model, loaded, direction, -1.5)) != drawn).any()


def test_a_generated_image_gets_structure_of_the_moved_style(trunk_model, images):
    moved = move(trunk_model, images[1], find_direction(trunk_model, "pca:2"), 1.0)
    again = trunk_model.generate(*SIZE, seed=3, style=moved.style)
    assert (draw(trunk_model, moved) == draw(trunk_model, again)).all()


def test_components_are_those_of_the_covariance(trunk_model):
    """Written a second way; one step is one deviation of the training images, and makes images brighter."""
    structure, trunk = trunk_model.generator.structure, trunk_model.generator.texture.trunk
    k, features = structure.local_dim, to_features(structure.styles, structure.local_dim)
    scale = trunk.scale[:k].double()
    weight = torch.cat([scale, scale * features[:, k : 2 * k].exp().mean(0)])
    values, axes = torch.linalg.eigh(torch.cov(features[:, : 2 * k].T * weight[:, None], correction=0))
    for number in (1, 2, 5):
        step, axis = principal(trunk_model, number).step, axes[:, -number]
        along = (step[: 2 * k] * weight) @ axis
        assert step[0] >= 0 and torch.isclose(along.abs(), values[-number].sqrt(), rtol=1e-4)
        assert torch.allclose(step[: 2 * k] * weight, along * axis, atol=1e-4 * float(along.abs()))


@pytest.mark.parametrize("layers", [None, (2, 4)])
def test_a_factorised_direction_changes_modulations_most(trunk_model, layers):
    """Of its layers, by finite differences, more than directions at random."""
    structure, texture = trunk_model.generator.structure, trunk_model.generator.texture
    convolutions = [[layer.conv, head] for layer, head in zip(structure.layers, structure.heads, strict=True)]
    for stage in texture.synthesis:
        convolutions += [[stage.up.conv], [stage.conv.conv, stage.to_rgb.conv]]
    first, last = layers or (0, 1)
    mapping, k = structure.mapping, structure.local_dim

    @torch.no_grad()
    def change(standardised):
        total = 0.0
        for number in range(first, last + 1):
            own = mapping if number < 2 else texture.mapping
            start = torch.zeros_like(own.centre)[None]
            there = start + 1e-2 * standardised * mapping.spread / own.spread
            for convolution in convolutions[number]:
                scales = convolution.modulation(own.layers(there)) - convolution.modulation(own.layers(start))
                total += float(scales.square().sum())
        return total

    step = factorised(trunk_model, 1, layers).step[: 2 * k].float() / mapping.spread
    generator = torch.Generator().manual_seed(1)
    others = [torch.randn(2 * k, generator=generator) for _ in range(20)]
    assert change(step / step.norm()) > max(change(other / other.norm()) for other in others)


def photographs(count, seed, low, high):
    """Pictures between two grey values."""
    return [(low + photograph(32, 40, seed + k) / 255.0 * (high - low)).astype(np.uint8) for k in range(count)]


@pytest.fixture(scope="module")
def sets(trunk_model):
    """Dark and bright photographs, described."""
    return [[describe(trunk_model, each) for each in photographs(8, 10 * k, *ends)]
            for k, ends in enumerate([(30, 170), (80, 225)])]  # fmt: skip


def test_a_fitted_direction_does_what_its_sets_say(trunk_model, sets, tmp_path):
    """It tells held-out photographs apart, and the attribute goes up along it, step by step."""
    boundary = fit_boundary(*sets)
    assert boundary.accuracy > 0.9
    direction = boundary.direction([*sets[0], *sets[1]], "brighter")
    direction.save(tmp_path / "brighter.safetensors", trunk_model, {})
    loaded = find_direction(trunk_model, str(tmp_path / "brighter.safetensors"))
    assert loaded.name == "brighter" and torch.equal(loaded.step, direction.step)
    for image in photographs(2, 50, 70, 190):
        latents = trunk_model.encode(image)
        means = [draw(trunk_model, move(trunk_model, latents, loaded, s)).mean() for s in np.linspace(-3, 3, 7)]
        assert (np.diff(means) > 0).all()


def test_nothing_is_learnt_of_sets_that_do_not_differ(trunk_model):
    values = [describe(trunk_model, each) for each in photographs(12, 100, 0, 255)]
    assert fit_boundary(values[::2], values[1::2]).accuracy < 0.8


def test_what_tells_photographs_apart_does_not_depend_on_blocks(trunk_model):
    blocks = PatchInverter(trunk_model.networks, CPU, torch.float32, 24)
    image = photograph(80, 50)
    assert np.allclose(describe(trunk_model, image), describe(blocks, image), atol=1e-4)


def test_a_direction_belongs_to_a_trunk(tmp_path):
    """And not to the structure synthesizer, which may be trained on."""
    inverter, path = trunk_inverter(), tmp_path / "a.safetensors"
    principal(tiny_model(inverter), 1).save(path, tiny_model(inverter), {})
    next(inverter.generator.structure.layers.parameters()).data += 1
    assert find_direction(tiny_model(inverter), str(path)).name == "a"
    inverter.generator.texture.trunk.scale[0] *= 2
    with pytest.raises(UserError, match=r"a\.safetensors: a direction of another model"):
        find_direction(tiny_model(inverter), str(path))
    inverter.generator.structure.styles.zero_()
    for source in ("pca:1", "sefa:1"):
        with pytest.raises(UserError, match="holds no styles of training images"):
            find_direction(tiny_model(inverter), source)


def test_what_is_refused(trunk_model, model, sets, tmp_path):
    save_weights(tmp_path / "other.safetensors", {"step": torch.zeros(3)}, {"format": "another"})
    for source, layers, said in (
        ("pca:0", None, "pca:0; allowed: pca:1 to pca:"),
        ("sefa:99", None, "sefa:99; allowed: sefa:1 to sefa:"),
        ("dask", None, "'dask'; allowed: pca:K, sefa:K, a .safetensors file, or one of clear-hazy, day-dusk"),
        (str(tmp_path / "none.safetensors"), None, "none.safetensors: No such file"),
        (str(tmp_path / "other.safetensors"), None, "other.safetensors: no direction"),
        ("sefa:1", (2, 8), r"direction.layers: \[2, 8\]; allowed: first and last of 0 to 7, of which 2"),
        ("pca:1", (0, 1), "only sefa:K reads them"),
    ):
        with pytest.raises(UserError, match=said):
            find_direction(trunk_model, source, layers)
    with pytest.raises(UserError, match="needs a checkpoint with a trunk"):
        find_direction(model, "pca:1")
    panorama = trunk_model.generate(48, 80, panorama=True)
    mask = LabelMap(Boxes([(0, 0, 9, 9)]), 2, (48, 80))
    with pytest.raises(UserError, match="panorama would no longer close"):
        move(trunk_model, panorama, principal(trunk_model, 1), 1.0, mask)
    for second, said in (
        (sets[0][:2] + sets[1], "2 photographs are in both sets"),
        ([], "a set of 0 different"),
        ([sets[1][0]] * 3, "a set of 1 different"),
    ):
        with pytest.raises(UserError, match=said):
            fit_boundary(sets[0], second)


def test_without_scikit_learn_a_line_says_so(sets, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(UserError, match="needs the package scikit-learn: pip install scikit-learn"):
        fit_boundary(*sets)


def test_the_shipped_directions_are_those_of_the_shipped_model():
    found = PatchInverter.from_pretrained(device="cpu")
    for name in ("day-dusk", "clear-hazy", "summer-snow"):
        assert find_direction(found, name).step.isfinite().all()
