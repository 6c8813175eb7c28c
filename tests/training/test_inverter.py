"""The inverter stage: what its losses compare, and that no cell of the reciprocal loss reads beyond the patch."""

from functools import partial

import pytest
import torch

from models import patch_pixels
from models.geometry import Interval
from models.weights import load_inverter
from training.inverter import GENERATED
from utils.config import load_config
from utils.errors import UserError
from utils.schema import TrainConfig

JUDGING = {"adversarial", "feature_matching"}
GENERATED_TERMS = {"reciprocal", "global_latent", "preservation"}


@pytest.fixture
def stage(loaded, stage_arguments):
    return partial(loaded, *stage_arguments["inverter"])


def random_batch(stage):
    random, size = torch.Generator().manual_seed(1), stage.window.size
    return {name: torch.rand(4, 3, n, n, generator=random) for name, n in (("window", size), ("thumbnail", 16))}


def without(*terms):
    """Overrides that switch losses off."""
    return [f"losses.inverter.{name}=0" for name in sorted(terms)]


def same(network, other):
    """Whether two networks have the same values."""
    state = other.state_dict()
    return all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def changed(network, action):
    """Names of the values that an action changes."""
    before = {name: value.clone() for name, value in network.state_dict().items()}
    action()
    return {name for name, value in network.state_dict().items() if not torch.equal(before[name], value)}


@pytest.mark.parametrize("kind", ["shifted", "valid"])
def test_encoded_cells_are_those_that_see_generated_pixels_only(stage, kind):
    """Encoded on a canvas that is unknown outside of the patch, these cells are known, and no others.

    What is encoded is compared with the structure latents of the same cells.
    """
    stage = stage("train.patch_cells=13", f"model.encoder.convolution={kind}")
    rule, pixels, margin = stage.trained["encoder"].rule, stage.pixels, 64
    latents = stage.latents(0, stage.context)
    with torch.no_grad():
        image, z_s = latents.generate(stage.generator)
        canvas = torch.nn.functional.pad(image, [margin] * 4, value=torch.nan)
        seen = Interval(pixels.first - margin, pixels.last + margin)
        origin = rule.valid_output(seen).first  # the first cell that the canvas gives
        start = rule.receptive_field(Interval(origin, origin)).first - seen.first
        encoded = stage.trained["encoder"](canvas[..., start:, start:])
    known = torch.nonzero(encoded[0, 0].isfinite())
    first, last = (known.min(0).values + origin).tolist(), (known.max(0).values + origin).tolist()
    assert first[0] == first[1] and last[0] == last[1] and len(known) == (last[0] - first[0] + 1) ** 2
    assert Interval(first[0], last[0]) == stage.inner_cells
    tensors = stage.encode_generated(0, stage.context)
    here, there = (slice(first[0] - start, last[0] - start + 1) for start in (origin, 0))
    assert torch.allclose(tensors["encoded_structure"], encoded[..., here, here], atol=1e-5)
    assert torch.equal(tensors["true_structure"], z_s[..., there, there])
    assert torch.equal(tensors["true_global"], latents.z_g)


def test_the_window_is_what_the_encoder_reads(stage):
    """Cells 0 .. n - 1, and the pixels that they draw in the middle."""
    stage = stage()
    patch, before, after = stage.window
    size = before + patch + after
    assert stage.window.size == size and stage.trained["encoder"](torch.zeros(1, 3, size, size)).shape[-2:] == (8, 8)
    window = torch.zeros(1, 3, size, size)
    window[..., before : before + patch, before : before + patch] = 1
    tensors = stage.reconstruct(stage.trained, {"window": window, "thumbnail": torch.zeros(1, 3, 16, 16)}, None)
    assert tensors["target"].shape == tensors["reconstruction"].shape == (1, 3, patch, patch)
    assert tensors["target"].min() == 1
    assert stage.pixels == patch_pixels(stage.generator, 8)


def test_only_what_a_loss_needs_is_computed(stage):
    """Few cells are enough where none is encoded from generated pixels alone."""
    terms = JUDGING | GENERATED_TERMS
    plain = stage(*without(*terms))
    assert plain.discriminator is None and not plain.needs & GENERATED
    for term in terms:
        other = stage(*without(*terms - {term}))
        assert (other.discriminator is not None) == (term in JUDGING)
        assert bool(other.needs & GENERATED) == (term in GENERATED_TERMS)
    few = stage("train.patch_cells=6", *without("reciprocal"))
    assert few.inner_cells.size < 1 and few.step(0, random_batch(few))["inverter/preservation"].isfinite()


def test_generated_images_come_every_few_steps_with_as_much_more_weight(stage, tiny):
    stage = stage("losses.generated_every=3")
    given = load_config(TrainConfig, tiny).losses.inverter
    photographs = {name for name, weight in given.items() if weight} - GENERATED_TERMS
    for step in range(4):
        scalars = stage.step(step, random_batch(stage))
        terms = {name.partition("/")[2]: value for name, value in scalars.items() if name.startswith("inverter/")}
        total = terms.pop("total")
        assert terms.keys() == photographs | (GENERATED_TERMS if step % 3 == 0 else set())
        weights = {name: 3 * weight if name in GENERATED_TERMS else weight for name, weight in given.items()}
        assert torch.allclose(total, sum(weights[name] * value for name, value in terms.items()))


def test_steps_without_a_loss_are_refused(stage):
    def alone(*terms):
        others = without(*load_config(TrainConfig).losses.inverter.keys() - set(terms))
        return stage(*others, *(f"losses.inverter.{name}=1" for name in terms), "losses.generated_every=2")

    with pytest.raises(UserError, match=r"^losses\.generated_every: the steps between would have no loss"):
        alone("reciprocal", "global_latent")
    with pytest.raises(UserError, match=r"^losses\.inverter: every weight is 0"):
        alone()
    alone("reciprocal", "distribution")


def test_a_global_latent_at_random_trains_the_others(stage, tmp_path):
    """There is nothing to train, to average, to save or to load, but what is exported can be loaded."""
    stage = stage("model.global_encoder.widths=[]")
    trained = changed(stage.trained, lambda: stage.step(0, random_batch(stage)))
    assert {name.split(".")[0] for name in trained} == {"encoder", "texture"}
    assert not any(name.startswith("global_encoder.") for name in stage.trained.state_dict())
    for part in stage.state.values():
        part.load_state_dict(part.state_dict())
    (path,) = stage.export(tmp_path, 1)
    thumbnail = random_batch(stage)["thumbnail"]
    assert torch.equal(load_inverter(path).global_encoder(thumbnail), stage.trained["global_encoder"](thumbnail))


@pytest.mark.parametrize("tuned", [False, True])
def test_the_generator_is_frozen(stage, tuned):
    """Also where a copy of its texture synthesizer is tuned."""
    stage = stage() if tuned else stage("train.tune_texture=false", *without("preservation"))
    assert ("texture" in stage.networks) == tuned
    batch = random_batch(stage)
    assert changed(stage.generator, lambda: stage.step(0, batch)) == set()
    trained = changed(stage.trained, lambda: stage.step(1, batch))
    assert {name for name in stage.trained.state_dict() if "encoder." in name} <= trained
    assert any(name.startswith("texture.") for name in trained) == tuned
    assert all(parameter.grad is None for parameter in stage.generator.parameters())


def test_the_tuned_texture_draws_and_is_compared_with_the_generator_as_it_was(stage):
    stage = stage()
    batch = random_batch(stage)
    before, generated = stage.reconstruct(stage.trained, batch, None), stage.encode_generated(0, stage.context)
    assert torch.allclose(generated["redrawn"], generated["generated"], atol=1e-6)
    brighten(stage.trained["texture"], 0.25)
    after, redrawn = stage.reconstruct(stage.trained, batch, None), stage.encode_generated(0, stage.context)["redrawn"]
    assert torch.allclose(after["reconstruction"], before["reconstruction"] + 0.25, atol=1e-5)
    assert torch.allclose(redrawn, generated["generated"] + 0.25, atol=1e-5)


def brighten(texture, amount):
    """Add to every pixel that a texture synthesizer draws."""
    draw = texture.forward
    texture.forward = lambda *arguments: draw(*arguments) + amount


def test_what_is_exported_has_the_tuned_texture_and_is_gone_on_from(stage, generator_run, tmp_path):
    first = stage()
    first.step(0, random_batch(first))
    (path,) = first.export(tmp_path, 1)
    inverter, mean = load_inverter(path), first.average
    assert same(inverter.generator.structure, first.generator.structure)
    assert same(inverter.generator.texture, mean["texture"]) and not same(mean["texture"], first.generator.texture)
    assert same(inverter.encoder, mean["encoder"]) and same(inverter.global_encoder, mean["global_encoder"])
    discriminator = generator_run / "discriminator.safetensors"
    second = stage(f"train.encoders={path}", f"train.discriminator={discriminator}", "seed=5")
    assert same(mean["encoder"], second.trained["encoder"]) and second.trained["encoder"].training
    assert same(mean["global_encoder"], second.trained["global_encoder"])
    assert second.discriminator.training and not same(second.discriminator, stage("seed=5").discriminator)
