"""Edits, cycles and scores: with inversions whose result is known, and with tiny discriminators."""

import math

import numpy as np
import PIL.Image
import pytest
import torch

import infer
from datasets.image import Image, open_image
from evaluation.edits import Critic, draw_edits, edit_consistency, invert_in_cycles, patch_of
from evaluation.inversions import Inversions, invert_images, spread
from inversion.latents import LatentStore
from inversion.outputs import Record, write_figures
from models import build_discriminator
from models.geometry import Interval, texture
from models.weights import export
from tests.conftest import lines
from tests.evaluation.tiny import tiny_tool
from utils.config import load_config
from utils.errors import UserError, run_command
from utils.schema import TrainConfig

SIZE = 40, 51


def read(path):
    return open_image(path, 10**6)


def record(name):
    return Record(name, *SIZE, 20.0, 0.5, 1.0, 1.0, 1.0)


@pytest.fixture
def photographs(tmp_path):
    """Three photographs, by name; one lies in a folder."""
    random, paths = np.random.default_rng(0), {}
    for name in ("a", "b", "folder/c"):
        paths[name] = tmp_path / "photographs" / f"{name}.png"
        paths[name].parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(random.integers(0, 200, (*SIZE, 3), np.uint8)).save(paths[name])
    return paths


def brighter(inputs, output, options):
    """Stands in for infer.py: each inversion is brighter by 10, and an image `b` that is bright enough fails."""
    records, failed = [], {}
    for path in sorted(inputs.rglob("*.png")):
        name, pixels = str(path.relative_to(inputs).with_suffix("")), np.asarray(PIL.Image.open(path))
        if name == "b" and pixels.min() > 15:
            failed[name] = "too bright"
            continue
        result = output / "reconstruction" / f"{name}.png"
        result.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(pixels + 10).save(result)
        records.append(record(name))
    write_figures(output, records, failed, {"options": list(options)})


def test_inversions_go_by_the_names_of_the_images(photographs, tmp_path):
    found = invert_images(brighter, photographs, tmp_path / "new", ["infer.block=64"])
    assert list(found.rows) == list(photographs) and found.failed == {}
    assert found.rows["a"]["psnr"] == 20.0
    for name, path in photographs.items():
        result = np.asarray(PIL.Image.open(found.reconstruction(name)))
        assert (result == np.asarray(PIL.Image.open(path)) + 10).all()


def test_cycles_invert_the_result_of_the_one_before(photographs, tmp_path):
    first = invert_images(brighter, photographs, tmp_path / "first")
    cycles = invert_in_cycles(brighter, photographs, first, 4, tmp_path / "cycles", read)
    assert [cycle["cycle"] for cycle in cycles] == [1, 2, 3, 4]
    assert cycles[0]["psnr"] == 20.0  # as infer.py measured it
    expected = [20 * math.log10(255 / (10 * count)) for count in (2, 3, 4)]
    assert [cycle["psnr"] for cycle in cycles[1:]] == pytest.approx(expected)
    assert 1 > cycles[1]["ssim"] > cycles[2]["ssim"] > 0
    assert list(Inversions(tmp_path / "cycles" / "4" / "output").rows) == ["a", "folder/c"]


def test_cycles_end_where_no_image_is_left(photographs, tmp_path):
    only = {"b": photographs["b"]}
    first = invert_images(brighter, only, tmp_path / "first")
    cycles = invert_in_cycles(brighter, only, first, 5, tmp_path / "cycles", read)
    assert [cycle["psnr"] is None for cycle in cycles] == [False, False, True]


@pytest.mark.parametrize(
    ("total", "count", "expected"), [(9, 3, [0, 4, 8]), (4, 9, [0, 1, 2, 3]), (3, 0, []), (0, 5, [])]
)
def test_details_are_spread_evenly(total, count, expected):
    assert spread([str(k) for k in range(total)], count) == [str(k) for k in expected]


@pytest.fixture
def inverted(checkpoint, photographs, tmp_path):
    """A tool, the inversions of the photographs, and what inverts."""

    def invert(inputs, output, options):
        places = ["--checkpoint", str(checkpoint), "--input", str(inputs), "--output", str(output)]
        assert infer.main([*places, "infer.device=cpu", "infer.dtype=float32", *options]) == 0

    return tiny_tool(checkpoint), invert_images(invert, photographs, tmp_path / "inverted"), invert


def test_an_edit_has_the_style_of_the_next_image(inverted, photographs, tmp_path, capsys):
    tool, inversions, _ = inverted
    edits = draw_edits(tool, inversions, list(photographs), tmp_path / "edits")
    assert list(edits) == list(photographs) and "edits" not in capsys.readouterr().out
    own, other = (tool.open_latents(inversions.latents(name)) for name in ("folder/c", "a"))
    assert not torch.equal(own.z_g, other.z_g)
    shape = own.channels, *own.cells.shape
    moved = LatentStore.create(tmp_path / "moved.safetensors", own.description, shape, other.z_g)
    moved.write(moved.cells, own.read(own.cells))
    tool.draw_picture(tool.scene(moved), tmp_path / "expected.png")
    assert (tmp_path / "expected.png").read_bytes() == edits["folder/c"].read_bytes()


def test_edit_consistency(inverted, photographs, tmp_path):
    """1 of the image itself, less of an edit that random networks encode again."""
    tool, inversions, invert = inverted
    assert edit_consistency(tool, inversions, inversions) == 1
    edited = invert_images(invert, draw_edits(tool, inversions, list(photographs), tmp_path / "e"), tmp_path / "again")
    assert edit_consistency(tool, inversions, edited) < 0.9


@pytest.fixture(scope="module")
def discriminator(tmp_path_factory):
    """The file of a tiny discriminator for patches of 21 pixels, 7 latent cells."""
    options = ["model.stages=3", "model.texture.widths=[4,4,4]", "model.encoder.widths=[4,4,4]"]
    model = load_config(TrainConfig, None, [*options, "model.discriminator.widths=[3,4,5]"]).model
    torch.manual_seed(0)
    network = build_discriminator(model, 21)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
    path = tmp_path_factory.mktemp("weights") / "discriminator.safetensors"
    export(path, model, {"discriminator": network}, step=0)
    return path, network


def picture(pixels):
    return Image(PIL.Image.fromarray(pixels))


def test_the_patch_of_a_discriminator_is_known_from_its_file(discriminator):
    path, network = discriminator
    critic = Critic.load(path, torch.device("cpu"))
    assert critic.patch == 21 and critic.group == 4
    assert all(torch.equal(a, b) for a, b in zip(critic.network.parameters(), network.parameters(), strict=True))


@pytest.mark.parametrize(("stages", "cells", "halvings"), [(3, 11, 4), (3, 15, 4), (4, 11, 5), (5, 11, 5), (6, 11, 6)])
def test_the_patches_of_the_configs(stages, cells, halvings):
    patch = texture(stages).valid_output(Interval(0, cells - 1)).size
    model = {"stages": stages, "discriminator": {"widths": [8] * (halvings + 1)}}
    assert patch_of(8 * (patch >> halvings) ** 2, model) == patch


@torch.inference_mode()
def test_scores_are_means_over_crops(discriminator):
    """Of images as large as a patch all crops are the image; those judged together are of different images."""
    path, network = discriminator
    critic, random = Critic.load(path, torch.device("cpu")), np.random.default_rng(0)
    pixels = [random.integers(0, 256, (21, 21, 3), np.uint8) for _ in range(3)]
    batch = torch.from_numpy(np.stack(pixels * 4)).permute(0, 3, 1, 2).float() / 127.5 - 1
    expected = torch.cat([network(part)[0] for part in batch.split(4)]).mean().item()
    assert critic.score(map(picture, pixels), 0) == pytest.approx(expected, rel=1e-4)


def test_crops_are_drawn_by_the_seed(discriminator):
    critic = Critic.load(discriminator[0], torch.device("cpu"))
    large = [picture(np.random.default_rng(k).integers(0, 256, (50, 60, 3), np.uint8)) for k in range(2)]
    assert critic.score(large, 1) == critic.score(large, 1) != critic.score(large, 2)
    small = picture(np.zeros((20, 60, 3), np.uint8))
    assert critic.score([small], 0) is None and critic.score([], 0) is None


def test_other_weights_are_refused(checkpoint, capsys):
    with pytest.raises(UserError, match="holds no discriminator"):
        Critic.load(checkpoint, torch.device("cpu"))
    assert run_command(lambda _: Critic.load(checkpoint.parent / "none", torch.device("cpu"))) == 2
    assert len(lines(capsys.readouterr().err)) == 1
