"""The refinement of latents: gradients by blocks against autograd through the whole image, and what the steps do."""

import math
from functools import partial
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from inversion.blocks import blocks
from inversion.generation import GeneratedStructure, LocalField
from inversion.passes import Decoder, Encoder

from images.reading import Image
from inversion import refinement
from inversion.cost import refine_cost
from inversion.refinement import MOMENTUM, Prior, Refiner, curvature_window, fit_style, largest_eigenvalue
from models import layers, winograd
from models.generator import Generator
from models.geometry import Interval, Region
from models.noise import NoiseField
from models.texture import TextureSynthesizer

CPU = torch.device("cpu")
RELATIVE = 1e-5
STYLE = torch.linspace(-1, 1, 6)
edges = st.integers(1, 90)


def picture(height, width, seed=0):
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (4, 4, 3), np.uint8)
    return Image(np.asarray(PIL.Image.fromarray(small).resize((width, height), PIL.Image.Resampling.BICUBIC)))


def target(image):
    """[3, H, W] in [-1, 1]."""
    return torch.from_numpy(image.window_float(0, 0, image.height, image.width)).permute(2, 0, 1)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def reader(z_s, cells):
    """Reads the latents [C, h, w] of all cells by region."""
    return lambda region: z_s[:, *region.slices_in(cells)]


def encoded(inverter, image):
    cells = Decoder(inverter.generator, CPU, torch.float32).cells(image.height, image.width)
    ((_, z_s),) = Encoder(inverter, CPU, torch.float32).encode(image, [cells])
    return z_s.clone()


class Case:
    """The refinement of an image from given latents [C, h, w], or those of the encoder."""

    def __init__(self, inverter, image, z_s=None, seed=None, prior=0.0, dtype=torch.float32, measured=False):
        decoder = Decoder(inverter.generator, CPU, dtype)
        self.image, self.pixels = image, Region.at(0, 0, image.height, image.width)
        self.cells = decoder.cells(image.height, image.width)
        self.z_s = encoded(inverter, image) if z_s is None else z_s(self.cells)
        self.noise = None if seed is None else NoiseField(seed)
        with pytest.MonkeyPatch.context() as patch:
            if not measured:  # what is measured takes time, and does not matter
                patch.setattr(Refiner, "_measure", unmeasured)
            self.refiner = Refiner(decoder, image, STYLE, self.noise, reader(self.z_s, self.cells), prior)

    def step(self, z_s, momentum, shape):
        """One step of all cells, in blocks of a shape."""
        following = torch.full((2, *z_s.shape), math.nan)
        around = momentum if momentum is None else reader(momentum, self.cells)
        for region in blocks(self.cells, shape):
            *values, _ = self.refiner.step(reader(z_s, self.cells), around, region)
            following[:, :, *region.slices_in(self.cells)] = torch.stack(values)
        return following

    def steps(self, count, shape=(1000, 1000)):
        """The latents after some steps."""
        z_s, momentum = self.z_s, None
        for _ in range(count):
            z_s, momentum = self.step(z_s, momentum, shape)
        return z_s

    def drawn(self, z_s):
        return self.refiner.draw(z_s[None], self.noise, self.pixels)[0]

    def error(self, z_s):
        return float((self.drawn(z_s) - target(self.image)).square().mean())


def unmeasured(refiner, z_s, cells, pixels):
    refiner.preconditioner, refiner.rate = torch.eye(len(z_s)) + 0.1 * torch.ones(len(z_s), len(z_s)), 0.01


def random_latents(seed, channels=5):
    return lambda cells: normal(channels, *cells.shape, seed=seed)


@pytest.mark.parametrize("stages", [3, 4])
@settings(max_examples=12)
@given(data=st.data())
def test_the_gradient_of_any_block_is_that_through_the_whole_image(inverters, stages, data):
    """In double precision: in single precision, a value that is nearly 0 may have another sign in a block."""
    image = picture(data.draw(edges, "height"), data.draw(edges, "width"))
    seed = data.draw(st.none() | st.integers(0, 2**40), "seed")
    case = Case(inverters(stages), image, random_latents(data.draw(st.integers(0, 99))), seed, dtype=torch.float64)
    z_s = case.z_s.clone().requires_grad_()
    half = (case.drawn(z_s) - target(image)).square().sum() / 2
    (expected,) = torch.autograd.grad(half, z_s)
    rows, cols = (draw_interval(data, axis) for axis in (case.cells.rows, case.cells.cols))
    region = Region(rows, cols)
    found, _ = case.refiner._gradient(reader(case.z_s, case.cells), region)
    assert (found - expected[:, *region.slices_in(case.cells)]).abs().max() <= RELATIVE * expected.abs().max()


def draw_interval(data, axis):
    first = data.draw(st.integers(axis.first, axis.last))
    return Interval(first, data.draw(st.integers(first, axis.last)))


def test_gradients_in_single_precision(inverters):
    image = picture(61, 83)
    case = Case(inverters(), image, random_latents(1), seed=4)
    z_s = case.z_s.clone().requires_grad_()
    (expected,) = torch.autograd.grad((case.drawn(z_s) - target(image)).square().sum() / 2, z_s)
    for region in blocks(case.cells, (3, 5)):
        found, error = case.refiner._gradient(reader(case.z_s, case.cells), region)
        assert (found - expected[:, *region.slices_in(case.cells)]).abs().max() <= RELATIVE * expected.abs().max()
        touched = region.affected_output(case.refiner.texture.rule).common(case.pixels)
        residual = (case.drawn(case.z_s) - target(image))[:, *touched.slices_in(case.pixels)]
        assert error == pytest.approx(float(residual.square().sum()), rel=1e-4)


@settings(max_examples=12)
@given(height=edges, width=edges, shape=st.tuples(*[st.integers(1, 9)] * 2), prior=st.sampled_from([0, 0.3]))
def test_steps_in_blocks_are_those_of_the_whole(inverters, height, width, shape, prior):
    case = Case(inverters(), picture(height, width), random_latents(2), prior=prior, dtype=torch.float64)
    whole, _ = case.step(*case.step(case.z_s, None, (1000, 1000)), (1000, 1000))
    parts, _ = case.step(*case.step(case.z_s, None, shape), shape)
    assert (whole - parts).abs().max() <= RELATIVE * (whole - case.z_s).abs().max()


def test_a_step_is_nesterovs_with_the_prior(inverters):
    case = Case(inverters(), picture(40, 40), prior=0.5)
    refiner, z_s, momentum = case.refiner, case.z_s, normal(*case.z_s.shape)
    mean, variance = refiner.prior.mean, refiner.prior.variance
    gradient = refiner._gradient(reader(z_s, case.cells), case.cells)[0] + 0.5 * (z_s - mean) / variance
    direction = (refiner.preconditioner @ gradient.flatten(1)).view_as(z_s)
    moved = MOMENTUM * momentum + direction
    found = case.step(z_s, momentum, (1000, 1000))
    assert torch.allclose(found[1], moved, rtol=1e-4, atol=1e-6 * float(moved.abs().max()))
    assert torch.allclose(found[0], z_s - refiner.rate * (direction + MOMENTUM * moved), rtol=1e-4, atol=1e-5)
    rest = case.step(z_s, None, (1000, 1000))
    assert torch.equal(rest, case.step(z_s, torch.zeros_like(z_s), (1000, 1000)))


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (70, 2), (5, 5), (97, 131)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seed", [None, 3])
def test_steps_lower_the_error_of_any_size(inverters, size, dtype, seed):
    case = Case(inverters(), picture(*size), seed=seed, dtype=dtype, measured=True)
    errors = [case.error(case.steps(count)) for count in (0, 1, 4, 30)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.9 * errors[0]


def test_the_error_before_each_step_is_told(inverters):
    case = Case(inverters(), picture(50, 70))
    z_s = case.z_s
    for _ in range(3):
        expected = case.error(z_s) * 3 * 50 * 70
        z_s, _, error = case.refiner.step(reader(z_s, case.cells), None, case.cells)
        assert error == pytest.approx(expected, rel=1e-4)


def test_latents_that_draw_the_image_stay(inverters):
    case = Case(inverters(), picture(40, 40), random_latents(3))
    case.refiner.image = drawn_image(case)
    moved = (case.steps(5) - case.z_s).abs().max()
    case.refiner.image = case.image
    assert moved < 0.02 * (case.steps(5) - case.z_s).abs().max()


def drawn_image(case):
    """What the latents draw, as a photograph without rounding."""

    class Drawn:
        height, width = case.image.height, case.image.width

        def window_float(self, top, left, height, width):
            return case.drawn(case.z_s)[:, top : top + height, left : left + width].permute(1, 2, 0).numpy()

    return Drawn()


def test_a_strong_prior_draws_latents_to_the_generators(inverters):
    free, drawn = (Case(inverters(), picture(40, 60), prior=prior, measured=True) for prior in (0.0, 1e4))
    prior = drawn.refiner.prior

    def distance(z_s):
        return float(((z_s - prior.mean).square() / prior.variance).mean())

    assert distance(drawn.steps(30)) < 0.1 * distance(drawn.z_s)
    assert distance(drawn.steps(30)) < 0.1 * distance(free.steps(30))
    assert free.error(free.steps(30)) < drawn.error(drawn.steps(30))


def test_the_prior_is_of_generated_structure(inverters):
    generator = inverters().generator
    prior = Prior.of(generator, STYLE, 2.0)
    cells = Region.at(0, 0, 32, 32)
    other = GeneratedStructure(generator, cells, LocalField(5, 77, CPU), STYLE).read(cells)
    normalised = (other - prior.mean) / prior.variance.sqrt()
    assert normalised.mean((1, 2)).abs().max() < 0.3
    assert torch.allclose(normalised.std((1, 2)), torch.ones(5), atol=0.3)
    assert torch.allclose(prior.gradient(other), 2 * normalised / prior.variance.sqrt(), rtol=1e-4)


def test_a_constant_channel_has_a_finite_prior(inverters):
    generator = inverters().generator
    values = torch.arange(5.0)[:, None, None] * torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(refinement, "GeneratedStructure", lambda *_: SimpleNamespace(read=lambda _: values))
        prior = Prior.of(generator, STYLE, 1.0)
    assert (prior.variance > 0).all() and torch.isfinite(prior.gradient(torch.ones(5, 3, 3))).all()


@pytest.mark.parametrize("prior", [0.0, 0.1])
def test_the_preconditioner_is_the_inverse_of_the_mean_curvature(inverters, monkeypatch, prior):
    monkeypatch.setattr(refinement, "SAMPLES", 300)
    monkeypatch.setattr(refinement, "WINDOW_CELLS", 1)  # the smallest window
    monkeypatch.setattr(refinement, "DAMPING", 0.0)
    case = Case(inverters(), picture(300, 300), prior=prior, measured=True)
    refiner, texture = case.refiner, inverters().generator.texture
    cells, pixels = curvature_window(texture, torch.float32)
    inner = refinement._touching_only(pixels, cells, texture.rule)
    z_s = refinement._reflected(reader(case.z_s, case.cells), case.cells, cells.shape)
    draw = partial(refiner.draw, noise=None, pixels=pixels)

    curvature, count = torch.zeros(5, 5), 0
    for region in blocks(inner, (1, 1)):
        columns = []
        for channel in range(5):
            change = torch.zeros_like(z_s)
            change[channel, *region.slices_in(cells)] = 1
            columns.append(torch.func.jvp(lambda z: draw(z[None]), (z_s,), (change,))[1].flatten())
        curvature, count = curvature + torch.stack(columns) @ torch.stack(columns).T, count + 1
    expected = curvature / count + torch.diag(prior / refiner.prior.variance.flatten())

    found = torch.linalg.inv(refiner.preconditioner)
    assert torch.linalg.norm(found - expected) < 0.15 * torch.linalg.norm(expected)
    assert torch.allclose(found, found.T, rtol=1e-3, atol=1e-4 * float(found.abs().max()))


def test_the_preconditioner_is_symmetric_and_positive(inverters):
    preconditioner = Case(inverters(), picture(64, 64), measured=True).refiner.preconditioner
    assert (preconditioner - preconditioner.T).abs().max() <= 1e-4 * preconditioner.abs().max()
    assert torch.linalg.eigvalsh(preconditioner).min() > 0


def test_a_network_that_draws_the_same_whatever_the_latents_is_left_alone(inverters):
    refiner = Case(inverters(), picture(20, 20)).refiner
    refiner.draw = lambda z_s, noise, pixels: (0 * z_s).sum() + torch.zeros(1, 3, *pixels.shape)
    cells, pixels = curvature_window(refiner.texture, torch.float32)
    refiner._measure(normal(5, *cells.shape), cells, pixels)
    assert math.isfinite(refiner.rate) and torch.isfinite(refiner.preconditioner).all()


@settings(max_examples=40)
@given(size=st.integers(1, 6), rank=st.integers(1, 6), seed=st.integers(0, 10**6))
def test_the_largest_eigenvalue_of_a_small_matrix(size, rank, seed):
    root = normal(size, rank, seed=seed).double()
    matrix = root @ root.T
    found = largest_eigenvalue(lambda v: matrix @ v, normal(size, seed=seed + 1).double())
    assert found == pytest.approx(float(torch.linalg.eigvalsh(matrix)[-1]), rel=1e-4)


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6))
def test_the_largest_eigenvalue_of_a_large_matrix_is_nearly_found_and_from_below(seed):
    root = normal(60, 60, seed=seed)
    matrix, true = root @ root.T, float(torch.linalg.matrix_norm(root, 2)) ** 2
    found = largest_eigenvalue(lambda v: (matrix @ v.flatten()).view_as(v), normal(3, 4, 5, seed=seed + 1))
    assert 0.8 * true <= found <= 1.0001 * true


@pytest.mark.parametrize("stages", [3, 4, 5])
def test_the_window_of_the_curvature(inverters, stages, monkeypatch):
    texture = inverters(stages).generator.texture
    edges = []
    for limit in (0, 2**24, refinement.WINDOW_BYTES):
        monkeypatch.setattr(refinement, "WINDOW_BYTES", limit)
        cells, pixels = curvature_window(texture, torch.float32)
        assert cells == pixels.receptive_field(texture.rule)
        inner = refinement._touching_only(pixels, cells, texture.rule)
        touched = inner.affected_output(texture.rule)
        assert touched.common(pixels) == touched
        assert inner.grown(1).affected_output(texture.rule).common(pixels) != inner.grown(1).affected_output(texture.rule)
        edges.append(pixels.rows.size // 2**stages)
        assert edges[-1] == edges[0] or refine_cost(texture, pixels, torch.float32).bytes <= limit
    assert edges == sorted(edges) and edges[0] < edges[-1] == refinement.WINDOW_CELLS


@given(height=st.integers(1, 12), width=st.integers(1, 12), rows=st.integers(1, 30), cols=st.integers(1, 30))
def test_latents_of_the_window(height, width, rows, cols):
    """The middle where there are enough, else what numpy's reflection gives."""
    cells = Region.at(-3, 5, height, width)
    z_s = normal(2, height, width)
    found = refinement._reflected(reader(z_s, cells), cells, (rows, cols)).numpy()
    expected = z_s.numpy()
    for axis, count in ((1, rows), (2, cols)):
        size = expected.shape[axis]
        start = (size - count) // 2
        if start >= 0:
            expected = np.take(expected, range(start, start + count), axis)
        else:
            pads = [(0, 0)] * 3
            pads[axis] = -start, count - size + start
            expected = np.pad(expected, pads, mode="reflect")
    assert np.array_equal(found, expected)


@given(length=st.integers(1, 900), edge=st.integers(1, 200))
def test_windows_of_the_style_lie_inside(length, edge):
    found = refinement._spread(length, edge)
    assert len(found) == (2 if length >= 2 * edge else 1)
    assert all(part.first >= 0 and part.last < length and part.size == min(edge, length) for part in found)
    assert edge < 3 or len(set(found)) == len(found)


@pytest.mark.parametrize("size", [(1, 1), (40, 7), (300, 280)])
def test_fitting_the_style_lowers_the_error(inverters, size):
    inverter, image = inverters(), picture(*size)
    case = Case(inverter, image)
    decoder, read = Decoder(inverter.generator, CPU, torch.float32), reader(case.z_s, case.cells)
    asked = []

    def spy(region):
        asked.append(region)
        return read(region)

    fitted = fit_style(decoder, image, STYLE, None, spy, 15)
    assert len(asked) == (4 if size == (300, 280) else 1) and not fitted.requires_grad
    assert torch.equal(fitted, fit_style(decoder, image, STYLE, None, read, 15))
    after = Case(inverter, image)
    after.refiner.draw = case.refiner.texture.bake(case.refiner.texture.mapping(fitted[None])[0], torch.float32)
    assert after.error(case.z_s) < case.error(case.z_s)


def wide_generator():
    """A generator whose layers are convolved by Winograd's method where nothing is differentiated."""
    torch.manual_seed(0)
    texture = TextureSynthesizer(6, 6, [256, 256], mapping_layers=1, mapping_lr_multiplier=0.01).requires_grad_(False)
    for stage in texture.synthesis:
        stage.to_rgb.conv.weight *= 0.2
    return texture


def test_wide_networks_are_differentiated_as_they_are_unfolded(inverters):
    texture = wide_generator()
    assert winograd.is_faster(texture.layers[1].conv.weight, torch.float32)
    generator = Generator(inverters().generator.structure, texture)
    decoder, image = Decoder(generator, CPU, torch.float32), picture(33, 30)
    cells = decoder.cells(33, 30)
    z_s = normal(6, *cells.shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "WinogradConv2d", None)  # its gradients take more time and memory
        patch.setattr(Prior, "of", lambda *_: Prior(torch.zeros(6, 1, 1), torch.ones(6, 1, 1), 0.0))
        patch.setattr(refinement, "WINDOW_CELLS", 1)
        refiner = Refiner(decoder, image, STYLE, NoiseField(1), reader(z_s, cells), 0.0)
        found, _ = refiner._gradient(reader(z_s, cells), cells)
    z_s.requires_grad_()
    drawn = texture(z_s[None], texture.mapping(STYLE[None]), NoiseField(1), (cells.rows.first, cells.cols.first))[0]
    given_back = cells.valid_output(texture.rule)
    drawn = drawn[:, *Region.at(0, 0, 33, 30).slices_in(given_back)]
    (expected,) = torch.autograd.grad((drawn - target(image)).square().sum() / 2, z_s)
    difference = (found - expected).abs()
    assert difference.mean() <= RELATIVE * expected.abs().mean()  # a single value may be on the other side of 0
    assert difference.max() <= 1e-3 * expected.abs().max()
