"""Scores of images by tiny discriminators."""

import numpy as np
import pytest
import torch

from evaluation.discriminator_score import DiscriminatorScore, patch_of
from models import build_discriminator
from models.geometry import Interval, texture
from models.weights import export
from tests.evaluation.tiny import noise
from utils.config import load_config
from utils.errors import UserError
from utils.schema import TrainConfig

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def discriminator(tmp_path_factory):
    """The file of a tiny discriminator for patches of 21 pixels, 7 latent cells, and its network."""
    options = ["model.stages=3", "model.texture.widths=[4,4,4]", "model.encoder.widths=[4,4,4]"]
    model = load_config(TrainConfig, None, [*options, "model.discriminator.widths=[3,4,5]"]).model
    torch.manual_seed(0)
    network = build_discriminator(model, 21)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
    path = tmp_path_factory.mktemp("weights") / "discriminator.safetensors"
    export(path, model, {"discriminator": network}, step=0)
    return path, network


def test_the_patches_of_the_configs():
    for stages, cells, halvings in (3, 11, 4), (3, 15, 4), (4, 11, 5), (5, 11, 5), (6, 11, 6):
        patch = texture(stages).valid_output(Interval(0, cells - 1)).size
        model = {"stages": stages, "discriminator": {"widths": [8] * (halvings + 1)}}
        assert patch_of(8 * (patch >> halvings) ** 2, model) == patch


@torch.inference_mode()
def test_scores_are_means_over_crops(discriminator):
    """Of images as large as a patch all crops are the image; those judged together are of different images."""
    path, network = discriminator
    score = DiscriminatorScore(path, CPU)
    assert score.patch == 21 and score.group == 4
    images = [noise(21, 21, seed) for seed in range(3)]
    batch = torch.from_numpy(np.stack(images * 4)).permute(0, 3, 1, 2).float() / 127.5 - 1
    expected = torch.cat([network(part)[0] for part in batch.split(4)]).mean().item()
    assert score(images, 0) == pytest.approx(expected, rel=1e-4)


def test_crops_are_drawn_by_the_seed(discriminator):
    score, large = DiscriminatorScore(discriminator[0], CPU), [noise(50, 60, seed) for seed in range(2)]
    assert score(large, 1) == score(large, 1) != score(large, 2)
    assert score([noise(20, 60)], 0) is None and score([], 0) is None


def test_other_weights_are_refused(checkpoint):
    with pytest.raises(UserError, match="holds no discriminator"):
        DiscriminatorScore(checkpoint, CPU)
    with pytest.raises(UserError, match="none"):
        DiscriminatorScore(checkpoint.parent / "none", CPU)
