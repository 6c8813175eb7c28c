"""The refinement of latents: gradients by blocks against autograd through the whole image, and what the steps do."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from images.reading import Image
from inversion import refinement
from inversion.refinement import MOMENTUM, Refiner, fit_style, largest_eigenvalue
from models.geometry import Interval, Region, blocks
from models.noise import NoiseField
from tests.inversion.conftest import CPU, photograph, tiny_model

RELATIVE = 1e-5
WHOLE = (1000, 1000)
STYLE = torch.linspace(-1, 1, 6)
UNMEASURED = {"WINDOW_CELLS": 1, "SAMPLES": 1, "LANCZOS_STEPS": 1}  # where what is measured does not matter
edges = st.integers(1, 70)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def target(image):
    """[3, H, W] in [-1, 1]."""
    return torch.from_numpy(image.window_float(0, 0, image.height, image.width)).permute(2, 0, 1)


class Case:
    """The refinement of an image from given latents (cells -> [C, h, w]), or from those of the encoder.

    `measured`: constants of the measurement to change; None: preconditioner and rate are fixed ones.
    """

    def __init__(self, networks, image, z_s=None, seed=None, prior=0.0, dtype=torch.float32, measured=None):
        size, double = (image.height, image.width), dtype == torch.float64
        model = tiny_model(networks, dtype=torch.float32 if double else dtype)
        self.image, self.texture = image, networks.generator.texture
        self.pixels, self.cells = Region.at(0, 0, *size), model.cells(size)
        encoded = torch.from_numpy(model.encode(image).structure) if z_s is None else z_s(self.cells)
        self.noise = None if seed is None else NoiseField(seed)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in (UNMEASURED if measured is None else measured).items():
                patch.setattr(refinement, name, value)
            self.refiner = Refiner(
                networks.generator, model.dtype, CPU, image, STYLE, self.noise, encoded.numpy(), prior
            )  # fmt: skip
        channels = len(encoded)
        if measured is None:
            self.refiner.preconditioner, self.refiner.rate = torch.eye(channels) + 0.1, 0.01
        if double:
            self.refiner.draw = self.texture.bake(self.texture.mapping(STYLE[None])[0], dtype)
            self.refiner.preconditioner = self.refiner.preconditioner.to(dtype)
        self.z_s = encoded.to(dtype if double else torch.float32)

    def gradient(self, block, z_s=None):
        """Of half the squared error by the latents of a block, and that error: a step without preconditioner."""
        self.refiner.preconditioner = torch.eye(len(self.z_s), dtype=self.z_s.dtype)
        _, moved, error = self.refiner.step_block((self.z_s if z_s is None else z_s).numpy(), None, block)
        return moved, error

    def whole_gradient(self):
        """The same of all cells, through the whole image."""
        z_s = self.z_s.clone().requires_grad_()
        return torch.autograd.grad((self.drawn(z_s) - target(self.image)).square().sum() / 2, z_s)[0]

    def step(self, z_s, momentum, shape=WHOLE):
        """One step of all cells, in blocks of a shape."""
        following = torch.full((2, *z_s.shape), math.nan, dtype=z_s.dtype)
        for block in blocks(self.cells, shape):
            index = slice(None), *block.slices_in(self.cells)
            *values, _ = self.refiner.step_block(z_s.numpy(), momentum if momentum is None else momentum[index], block)
            following[(slice(None), *index)] = torch.stack(values)
        return following

    def steps(self, count):
        """The latents after some steps."""
        z_s, momentum = self.z_s, None
        for _ in range(count):
            z_s, momentum = self.step(z_s, momentum)
        return z_s

    def drawn(self, z_s):
        return self.refiner.draw(z_s[None], self.noise, self.pixels)[0]

    def error(self, z_s):
        return float((self.drawn(z_s) - target(self.image)).square().mean())


def picture(height, width):
    return Image(photograph(height, width))


def random_latents(seed, channels=5):
    return lambda cells: normal(channels, *cells.shape, seed=seed)


def draw_interval(data, axis):
    first = data.draw(st.integers(axis.first, axis.last))
    return Interval(first, data.draw(st.integers(first, axis.last)))


@pytest.mark.parametrize("stages", [3])
@settings(max_examples=8)
@given(data=st.data())
def test_the_gradient_of_any_block_is_that_through_the_whole_image(inverters, stages, data):
    """In double precision: in single precision, a value that is nearly 0 may have another sign in a block."""
    image = picture(data.draw(edges, "height"), data.draw(edges, "width"))
    seed = data.draw(st.none() | st.integers(0, 2**40), "seed")
    case = Case(inverters(stages), image, random_latents(data.draw(st.integers(0, 99))), seed, dtype=torch.float64)
    expected = case.whole_gradient()
    block = Region(*(draw_interval(data, axis) for axis in (case.cells.rows, case.cells.cols)))
    found, _ = case.gradient(block)
    assert (found - expected[:, *block.slices_in(case.cells)]).abs().max() <= RELATIVE * expected.abs().max()


def test_a_step_is_nesterovs_with_the_prior(inverters):
    case = Case(inverters(), picture(40, 40), prior=0.5)
    refiner, z_s, momentum = case.refiner, case.z_s, normal(*case.z_s.shape)
    gradient = case.whole_gradient() + 0.5 * (z_s - refiner.prior.mean) / refiner.prior.variance
    direction = (refiner.preconditioner @ gradient.flatten(1)).view_as(z_s)
    moved = MOMENTUM * momentum + direction
    found = case.step(z_s, momentum)
    assert torch.allclose(found[1], moved, rtol=1e-4, atol=1e-6 * float(moved.abs().max()))
    assert torch.allclose(found[0], z_s - refiner.rate * (direction + MOMENTUM * moved), rtol=1e-4, atol=1e-5)
    assert torch.equal(case.step(z_s, None), case.step(z_s, torch.zeros_like(z_s)))


@pytest.mark.parametrize(
    ("size", "dtype", "seed"),
    [((1, 1), torch.float32, None), ((1, 90), torch.bfloat16, 3), ((50, 70), torch.float32, 3)],
)
def test_steps_lower_the_error_of_any_size(inverters, size, dtype, seed):
    case = Case(inverters(), picture(*size), seed=seed, dtype=dtype, measured={"WINDOW_CELLS": 1})
    errors = [case.error(case.steps(count)) for count in (0, 1, 4, 12)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.95 * errors[0]


def test_a_strong_prior_draws_latents_to_the_generators(inverters):
    cases = [Case(inverters(), picture(24, 30), prior=prior, measured={"WINDOW_CELLS": 1}) for prior in (0.0, 1e4)]
    prior, start = cases[1].refiner.prior, cases[1].z_s
    free, drawn = (case.steps(12) for case in cases)

    def distance(z_s):
        return float(((z_s - prior.mean).square() / prior.variance).mean())

    assert distance(drawn) < 0.1 * min(distance(start), distance(free))
    assert cases[0].error(free) < cases[0].error(drawn)


def dead(network):
    """The network with weights of 0."""
    network = copy.deepcopy(network)
    for parameter in network.parameters():
        parameter.data.zero_()
    return network


def test_networks_that_give_the_same_whatever_they_read_are_left_alone(inverters):
    """Their structure has no variance, or pixels do not depend on it."""
    networks = copy.copy(inverters())
    object.__setattr__(networks, "generator", dead(networks.generator))
    case = Case(networks, picture(20, 20), prior=1.0, measured={})
    assert (case.refiner.prior.variance > 0).all() and torch.isfinite(case.steps(2)).all()
    free = Case(networks, picture(20, 20), measured={})
    assert math.isfinite(free.refiner.rate) and torch.equal(free.steps(2), free.z_s)


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6))
def test_the_largest_eigenvalue_of_a_large_matrix_is_nearly_found_and_from_below(seed):
    root = normal(60, 60, seed=seed)
    matrix, true = root @ root.T, float(torch.linalg.matrix_norm(root, 2)) ** 2
    found = largest_eigenvalue(lambda v: (matrix @ v.flatten()).view_as(v), normal(3, 4, 5, seed=seed + 1))
    assert 0.8 * true <= found <= 1.0001 * true


@pytest.mark.parametrize("size", [(1, 1), (40, 7), (170, 180)])
def test_fitting_the_style_lowers_the_error(inverters, monkeypatch, size):
    monkeypatch.setattr(refinement, "WINDOW_CELLS", 10)
    case, asked = Case(inverters(), picture(*size)), []

    def encode(region):
        asked.append(region.common(case.cells) == region)
        return case.z_s[:, *region.slices_in(case.cells)]

    options = case.texture, torch.float32, CPU, case.image, STYLE, None, encode, 8
    fitted = fit_style(*options)
    assert asked == (4 if size == (170, 180) else 1) * [True] and not fitted.requires_grad
    assert torch.equal(fitted, fit_style(*options))
    before = case.error(case.z_s)
    case.refiner.draw = case.texture.bake(case.texture.mapping(fitted[None])[0], torch.float32)
    assert case.error(case.z_s) < before


@pytest.mark.parametrize(("larger", "told"), [(1.1, ""), (1e-3, "squared error"), (1e-30, "nan")])
def test_a_refinement_that_leaves_the_photograph_is_told_and_undone(model, monkeypatch, capsys, larger, told):
    monkeypatch.setattr(refinement, "LARGER", larger)
    image = picture(30, 40)
    refined, encoded = model.invert(image, refine=4), model.encode(image, refined=True)
    said = capsys.readouterr().err
    assert told in said and bool(said) == bool(told)
    assert (refined.structure == encoded.structure).all() == bool(told)
    assert not told or said.startswith("note: image: refinement went away") and said.count("\n") == 1
