"""The inverter stage: what its losses compare, and that no cell of the reciprocal loss reads beyond the patch."""

import pytest
import torch

from models import patch_pixels
from models.geometry import Interval
from models.weights import load_inverter
from training.context import TrainContext
from training.inverter import GENERATED, InverterStage, shrink
from utils.config import load_config
from utils.distributed import ProcessGroup
from utils.errors import UserError
from utils.schema import TrainConfig

CPU = torch.device("cpu")
GENERATED_TERMS = {"reciprocal", "global_latent", "preservation"}


@pytest.fixture
def stage(tiny, stage_arguments):
    def stage(*overrides):
        config = load_config(TrainConfig, tiny, [*stage_arguments["inverter"], *overrides])
        torch.manual_seed(config.seed)
        stage = InverterStage(config, TrainContext(config.seed, config.train.batch, CPU, torch.float32, ProcessGroup()))
        stage.load_files()
        return stage

    return stage


class TrueEncoder(torch.nn.Module):
    """Stands in for the patch encoder: knows the generated patches, and returns their true structure latents."""

    def __init__(self, stage, step):
        super().__init__()
        self.rule = stage.trained.patch.rule
        self.pixels = stage.pixels
        latents = stage.latents(step)
        self.image, self.z_s = stage.generator(latents.z_l, latents.z_g, latents.coordinates, latents.noise)

    def forward(self, image):
        """The cells whose context is `image`, found by looking for it in the patches."""
        size = image.shape[-1]
        starts = [
            start for start in range(self.image.shape[-1] - size + 1)
            if torch.equal(self.image[..., start : start + size, start : start + size], image)
        ]  # fmt: skip
        assert len(starts) == 1
        first = self.pixels.first + starts[0]
        cells = self.rule.valid_output(Interval(first, first + size - 1))
        return self.z_s[..., cells.first : cells.last + 1, cells.first : cells.last + 1]


@pytest.mark.parametrize("cells", [8, 9, 11])
@pytest.mark.parametrize("kind", ["shifted", "valid"])
def test_the_true_structure_is_encoded_to_itself(stage, cells, kind):
    if kind == "valid":
        cells += 3
    stage = stage(f"train.patch_cells={cells}", f"model.encoder.convolution={kind}")
    stage.trained.patch = TrueEncoder(stage, step=5)
    tensors = stage._reciprocate(5)
    assert tensors["true_structure"].numel() > 0
    assert torch.equal(tensors["true_structure"], tensors["encoded_structure"])
    assert stage.losses.terms["reciprocal"](tensors["encoded_structure"], tensors["true_structure"]) == 0


@pytest.mark.parametrize("kind", ["shifted", "valid"])
def test_encoded_cells_are_those_that_see_generated_pixels_only(stage, kind):
    """Encoded on a canvas that is unknown outside of the patch, these cells are known, and no others."""
    stage = stage("train.patch_cells=13", f"model.encoder.convolution={kind}")
    rule, pixels, margin = stage.trained.patch.rule, stage.pixels, 64
    latents = stage.latents(0)
    with torch.no_grad():
        image, z_s = stage.generator(latents.z_l, latents.z_g, latents.coordinates, latents.noise)
        canvas = torch.nn.functional.pad(image, [margin] * 4, value=torch.nan)
        seen = Interval(pixels.first - margin, pixels.last + margin)
        origin = rule.valid_output(seen).first  # the first cell that the canvas gives
        canvas = canvas[..., rule.receptive_field(Interval(origin, origin)).first - seen.first :, :]
        canvas = canvas[..., rule.receptive_field(Interval(origin, origin)).first - seen.first :]
        encoded = stage.trained.patch(canvas)
    known = torch.nonzero(encoded[0, 0].isfinite())
    first, last = (known.min(0).values + origin).tolist(), (known.max(0).values + origin).tolist()
    assert first[0] == first[1] and last[0] == last[1]
    assert len(known) == (last[0] - first[0] + 1) ** 2
    assert Interval(first[0], last[0]) == stage._inner_cells()

    tensors = stage._reciprocate(0)
    here, there = (slice(first[0] - start, last[0] - start + 1) for start in (origin, 0))
    assert torch.allclose(tensors["encoded_structure"], encoded[..., here, here], atol=1e-5)
    assert torch.equal(tensors["true_structure"], z_s[..., there, there])
    assert torch.equal(tensors["true_global"], latents.z_g)


def test_the_window_is_what_the_encoder_reads(stage):
    """Cells 0 .. n - 1, and the pixels that they draw in the middle."""
    stage = stage()
    patch, before, after = stage.window
    assert stage.trained.patch(torch.zeros(1, 3, *[before + patch + after] * 2)).shape[-2:] == (8, 8)
    window = torch.zeros(1, 3, before + patch + after, before + patch + after)
    window[..., before : before + patch, before : before + patch] = 1
    tensors = stage._reconstruct(stage.trained, {"window": window, "thumbnail": torch.zeros(1, 3, 16, 16)}, None)
    assert tensors["target"].shape == tensors["reconstruction"].shape == (1, 3, patch, patch)
    assert tensors["target"].min() == 1
    assert stage.pixels == patch_pixels(stage.generator, 8)


def test_only_what_a_loss_needs_is_computed(stage):
    judging = ("adversarial", "feature_matching")
    generating = ("reciprocal", "global_latent", "preservation")
    none = {term: f"losses.inverter.{term}=0" for term in (*judging, *generating)}
    plain = stage(*none.values())
    assert plain.discriminator is None and not plain.needs & GENERATED
    for term in none:
        other = stage(*(override for name, override in none.items() if name != term))
        assert (other.discriminator is not None) == (term in judging)
        assert bool(other.needs & GENERATED) == (term in generating)


def only(*terms):
    """Overrides that leave these losses alone, each with a weight of its own."""
    names = load_config(TrainConfig).losses.inverter
    return [f"losses.inverter.{name}={0.5 + terms.index(name) if name in terms else 0}" for name in names]


def total_of(scalars, weights):
    """The weighted sum of the logged terms, beside the logged total."""
    terms = {name.partition("/")[2]: value for name, value in scalars.items() if name.startswith("inverter/")}
    total = terms.pop("total")
    return total, sum(weights[name] * value for name, value in terms.items())


def test_generated_images_come_every_few_steps_with_as_much_more_weight(stage, tiny, monkeypatch):
    stage = stage("losses.generated_every=3")
    batch, drawn = random_batch(stage), []
    reciprocate = stage._reciprocate
    monkeypatch.setattr(stage, "_reciprocate", lambda step: (drawn.append(step), reciprocate(step))[1])
    given = load_config(TrainConfig, tiny).losses.inverter
    photographs = {name for name, weight in given.items() if weight} - GENERATED_TERMS
    for step in range(7):
        scalars = stage.step(step, batch)
        logged = {name.partition("/")[2] for name in scalars if name.startswith("inverter/")} - {"total"}
        assert logged == photographs | (GENERATED_TERMS if step % 3 == 0 else set())
        more = {name: 3 * weight if name in GENERATED_TERMS else weight for name, weight in given.items()}
        assert torch.allclose(*total_of(scalars, more))
    assert drawn == [0, 3, 6]


def test_a_step_between_learns_from_photographs_alone(stage):
    """As a run does that has no losses of generated images."""
    without = [f"losses.inverter.{name}=0" for name in sorted(GENERATED_TERMS)]
    one, other = stage("losses.generated_every=2"), stage(*without)
    for each in (one, other):
        each.step(1, random_batch(each))
    for name, value in one.trained.state_dict().items():
        assert torch.equal(value, other.trained.state_dict()[name]), name


def test_steps_without_a_loss_are_refused(stage):
    with pytest.raises(UserError, match=r"^losses\.generated_every: the steps between would have no loss; set it to 1"):
        stage(*only("reciprocal", "global_latent"), "losses.generated_every=2")
    stage(*only("reciprocal", "global_latent"), "losses.generated_every=1")
    stage(*only("reciprocal", "distribution"), "losses.generated_every=2")
    with pytest.raises(UserError, match=r"^losses\.inverter: every weight is 0"):
        stage(*only(), "losses.generated_every=2")


def test_a_global_latent_at_random_trains_the_others(stage, tmp_path):
    """There is nothing to train, to average, to save or to load, but what is exported can be loaded."""
    stage = stage("model.global_encoder.widths=[]")
    before = {name: value.clone() for name, value in stage.trained.state_dict().items()}
    stage.step(0, random_batch(stage))
    after = stage.trained.state_dict()
    assert {name.split(".")[0] for name in after if not torch.equal(before[name], after[name])} == {"patch", "texture"}
    assert not any(name.startswith("whole.") for name in after)
    stage.load_state_dict(stage.state_dict())
    (path,) = stage.export(tmp_path, 1)
    thumbnail = random_batch(stage)["thumbnail"]
    assert torch.equal(load_inverter(path).global_encoder(thumbnail), stage.trained.whole(thumbnail))


def random_batch(stage):
    torch.manual_seed(1)
    patch, before, after = stage.window
    size = before + patch + after
    return {"window": torch.rand(4, 3, size, size), "thumbnail": torch.rand(4, 3, 16, 16)}


def changed(network, action):
    """Names of the values that an action changes."""
    before = {name: value.clone() for name, value in network.state_dict().items()}
    action()
    return {name for name, value in network.state_dict().items() if not torch.equal(before[name], value)}


@pytest.mark.parametrize("tuned", [False, True])
def test_the_generator_is_frozen(stage, tuned):
    """Also where a copy of its texture synthesizer is tuned."""
    overrides = [] if tuned else ["train.tune_texture=false", "losses.inverter.preservation=0"]
    stage = stage(*overrides)
    assert ("texture" in stage.networks) == tuned
    batch = random_batch(stage)
    assert changed(stage.generator, lambda: stage.step(0, batch)) == set()
    trained = changed(stage.trained, lambda: stage.step(1, batch))
    assert {name for name in stage.trained.state_dict() if name.startswith(("patch.", "whole."))} <= trained
    assert any(name.startswith("texture.") for name in trained) == tuned
    assert all(parameter.grad is None for parameter in stage.generator.parameters())


@pytest.mark.parametrize("terms", [{"reciprocal": 0}, {"reciprocal": 0, "global_latent": 0}])
def test_few_cells_are_enough_without_the_reciprocal_loss(stage, terms):
    """Thumbnails and preserved patches need no cell whose context lies inside the patch."""
    stage = stage("train.patch_cells=6", *(f"losses.inverter.{name}={weight}" for name, weight in terms.items()))
    assert stage._inner_cells().size < 1
    scalars = stage.step(0, random_batch(stage))
    assert "inverter/preservation" in scalars and all(value.isfinite() for value in scalars.values())


def test_reconstructions_are_drawn_by_the_tuned_texture(stage):
    stage = stage()
    batch = random_batch(stage)
    before = stage._reconstruct(stage.trained, batch, None)["reconstruction"]
    with torch.no_grad():
        stage.trained.texture.synthesis[-1].to_rgb.bias += 0.25
    after = stage._reconstruct(stage.trained, batch, None)["reconstruction"]
    assert torch.allclose(after, before + 0.25, atol=1e-5)


def test_preservation_compares_with_the_generator_as_it_was(stage):
    stage = stage()
    tensors = stage._reciprocate(0)
    assert torch.allclose(tensors["redrawn"], tensors["generated"], atol=1e-6)
    with torch.no_grad():
        stage.trained.texture.synthesis[-1].to_rgb.bias += 0.25
    redrawn = stage._reciprocate(0)["redrawn"]
    assert torch.allclose(redrawn, tensors["generated"] + 0.25, atol=1e-5)


def test_the_exported_generator_has_the_tuned_texture(stage, tmp_path):
    stage = stage()
    stage.step(0, random_batch(stage))
    (path,) = stage.export(tmp_path, 1)
    inverter = load_inverter(path)
    for exported, trained in (
        (inverter.generator.structure, stage.generator.structure),
        (inverter.generator.texture, stage.average.copy.texture),
        (inverter.encoder, stage.average.copy.patch),
        (inverter.global_encoder, stage.average.copy.whole),
    ):
        assert all(torch.equal(value, trained.state_dict()[name]) for name, value in exported.state_dict().items())


def test_the_encoders_of_a_run_are_gone_on_from(stage, tmp_path):
    first = stage()
    (path,) = first.export(tmp_path, 0)
    second = stage(f"train.encoders={path}", "seed=5")
    for name in ("patch", "whole"):
        loaded = getattr(second.trained, name).state_dict()
        assert all(torch.equal(value, loaded[key]) for key, value in getattr(first.trained, name).state_dict().items())
    assert second.trained.patch.training


def test_the_discriminator_of_a_run_is_gone_on_from(stage, generator_run):
    path = generator_run / "discriminator.safetensors"
    loaded, fresh = stage(f"train.discriminator={path}").discriminator, stage().discriminator
    assert loaded.training
    assert not torch.equal(loaded.from_rgb.weight, fresh.from_rgb.weight)


def test_thumbnails_keep_the_mean():
    image = torch.rand(2, 3, 29, 41)
    small = shrink(image, 16)
    assert small.shape == (2, 3, 16, 16) and torch.allclose(small.mean(), image.mean(), atol=1e-5)
