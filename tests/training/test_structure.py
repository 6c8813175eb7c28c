"""The structure stage: what it compares, and that a critic which sees no difference asks for none."""

from functools import partial

import numpy as np
import pytest
import torch

from inversion import PatchInverter
from models.geometry import Interval, Region
from models.weights import read_weights
from training.context import Stream


@pytest.fixture
def stage(loaded, stage_arguments):
    return partial(loaded, *stage_arguments["structure"])


def batch_of(stage, count=4):
    random, size = torch.Generator().manual_seed(1), stage.window.size
    window = torch.rand(count, 3, size, size, generator=random) * 2 - 1
    return {"window": window, "row": torch.linspace(-1, 1, count), "id": torch.arange(count)}


def test_drawn_latents_are_a_function_of_seed_and_style(stage):
    """Without what its heads give, of the style's means alone."""
    stage = stage()
    _, style, row = stage.encode(batch_of(stage))
    seeds = stage.context.seeds(Stream.LATENTS, 0)
    with torch.no_grad():
        one, again = (stage.draw(stage.structure, seeds, style, row) for _ in range(2))
        assert torch.equal(one, again) and one.shape == (4, 8, 6, 6)
        assert not torch.allclose(one, stage.draw(stage.structure, seeds + 1, style, row))
        larger = stage.draw(stage.structure, seeds, style, row, margin=2)
        assert larger.shape[2:] == (10, 10)
        for head in stage.structure.heads:
            head.weight.zero_()
        flat = stage.draw(stage.structure, seeds, style, row)
        assert torch.allclose(flat, style[:, :8, None, None].expand(-1, -1, 6, 6))


def test_rows_are_those_of_images(stage):
    """A grid in the middle of an image has the coordinates that generation gives the middle of a canvas."""
    stage = stage()
    grid, middle = stage.structure.grid, torch.zeros(1)
    seen, structure = [], lambda z_l, style, coordinates: seen.append(coordinates)
    structure.grid, structure.rule, structure.local_dim = grid, stage.structure.rule, 8
    for row in (0.0, -1.0):
        stage.draw(structure, torch.zeros(1, dtype=torch.int64), torch.zeros(1, 50), middle + row)
    around = Interval(0, 5), stage.structure.rule.receptive_field(Interval(0, 5))
    canvas = grid.of_canvas(*[Region(around[1], around[1])] * 2)
    jitter = 0.5 * grid.vertical_slope
    assert (seen[0][0, 0] - canvas[0, 0]).abs().max() <= jitter
    assert (seen[1][0, 0] < seen[0][0, 0]).all()


def test_both_networks_learn_and_the_inverter_stays(stage):
    stage = stage()
    before = {name: {key: value.clone() for key, value in each.state_dict().items()} for name, each in
              (("structure", stage.structure), ("critic", stage.critic), ("texture", stage.texture))}  # fmt: skip
    for step in range(2):
        scalars = stage.step(step, batch_of(stage))
    scores = {"whole", "local", "texture"}
    assert {f"{network}/{name}" for network in ("critic", "structure") for name in scores} <= scalars.keys()
    changed = {
        name: [key for key, value in getattr(stage, name).state_dict().items() if not torch.equal(value, state[key])]
        for name, state in before.items()
    }
    assert len(changed["structure"]) > 5 and len(changed["critic"]) > 10 and not changed["texture"]


def test_the_best_weights_are_kept(stage, monkeypatch, tmp_path):
    """By the distance of generated images from photographs; before a validation the last ones are."""
    stage, values = stage(), iter([3.0, 2.0, 5.0])
    monkeypatch.setattr("training.structure.frechet_distance", lambda drawn, real: next(values))
    first = stage.average.layers[0].bias
    batches = [batch_of(stage), batch_of(stage)]
    for step, expected in enumerate([0.0, 1.0, 1.0]):
        first.data.fill_(step)
        assert stage.validate(batches)["validation/coverage"] >= 0
        assert (stage.best.structure.layers[0].bias == expected).all()
    stage.export(tmp_path, 0)
    written = read_weights(tmp_path / "inverter.safetensors").tensors["generator.structure.layers.0.bias"]
    assert (written == 1).all()
    stage.best.distance.fill_(float("inf"))
    stage.export(tmp_path, 0)
    written = read_weights(tmp_path / "inverter.safetensors").tensors["generator.structure.layers.0.bias"]
    assert (written == 2).all()


def test_what_it_exports_inverts_generates_and_goes_on(run, stage_arguments, tmp_path, loaded):
    assert run(*stage_arguments["structure"], f"train.output={tmp_path}", "train.steps=3") == 0
    model = PatchInverter.from_pretrained(tmp_path / "inverter.safetensors", device="cpu", dtype="float32")
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    assert model.draw(model.invert(image)).shape == image.shape
    assert model.draw(model.generate(40, 50, seed=1)).std() > 0
    assert model.generator.structure.styles.abs().sum() > 0
    files = [f"train.generator={tmp_path}/inverter.safetensors", f"train.discriminator={tmp_path}/critic.safetensors"]
    stage = loaded(*stage_arguments["structure"], *files)
    tensors = read_weights(tmp_path / "inverter.safetensors").tensors
    for name, value in stage.structure.state_dict().items():
        assert torch.equal(value, tensors[f"generator.structure.{name}"])


def test_an_inverter_with_a_trunk_goes_on_from_another(loaded, stage_arguments, trunk_run):
    """With its trunk on both sides: images without what networks add are nearly themselves."""
    stage = loaded(*stage_arguments["trunk"], f"train.generator={trunk_run}/inverter.safetensors")
    stage.prepare(None)
    trunks = stage.trained["encoder"].trunk, stage.trained["texture"].trunk
    assert all(torch.equal(value, trunks[1].state_dict()[name]) for name, value in trunks[0].state_dict().items())
    assert trunks[0].scale.min() < 1
    batch = batch_of(stage)
    batch["window"] = torch.nn.functional.avg_pool2d(batch["window"], 9, 1, 4)
    tensors = stage.reconstruct(stage.average, batch, None)
    error = (tensors["reconstruction"] - tensors["target"]).square().mean()
    assert error < 0.3 * tensors["target"].var()
