"""Inception against torchvision's network with the pooling of the original graph; no test needs the public weights."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from evaluation.inception import ADDRESS, EDGE, WEIGHTS, Inception, resized
from utils.errors import UserError

CPU = torch.device("cpu")


class Pooling:
    """torch.nn.functional where means leave out the padding, or are maxima."""

    largest = False

    def __getattr__(self, name):
        return getattr(F, name)

    def avg_pool2d(self, x, **window):
        return F.max_pool2d(x, **window) if self.largest else F.avg_pool2d(x, count_include_pad=False, **window)


@pytest.fixture(scope="module")
def network(torchvision):
    """torchvision's network with random weights whose features neither vanish nor explode."""
    network = torchvision.models.inception_v3(num_classes=1008, aux_logits=False, init_weights=False).eval()
    random = torch.Generator().manual_seed(0)
    for name, value in network.named_parameters():
        if value.dim() == 4:
            torch.nn.init.kaiming_normal_(value, generator=random)
        elif ".bn." in name:
            value.data += torch.rand(value.shape, generator=random) / 10
    for name, value in network.named_buffers():
        if "running" in name:
            value += torch.rand(value.shape, generator=random) / 10
    return network


@pytest.fixture(scope="module")
def inception(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.save(network.state_dict(), path)
    return Inception(path, CPU)


def pictures(count, size):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def test_features_are_those_of_torchvision_with_other_pooling(network, inception, monkeypatch):
    pooling, images, expected = Pooling(), pictures(2, EDGE), []
    found = inception(images)
    monkeypatch.setattr("torchvision.models.inception.F", pooling)
    hooks = [
        network.Mixed_7c.register_forward_pre_hook(lambda *_: setattr(pooling, "largest", True)),
        network.fc.register_forward_pre_hook(lambda _, inputs: expected.extend(inputs)),
    ]
    with torch.no_grad():
        network((torch.from_numpy(images).permute(0, 3, 1, 2).float() - 128) / 128)
    for hook in hooks:
        hook.remove()
    assert found.shape == (2, 2048) and found.dtype == np.float64
    assert np.abs(found - expected[0].numpy()).max() < 1e-4 * expected[0].std()
    assert inception(images[:0]).shape == (0, 2048)


def test_images_are_resized_from_the_corner():
    image = np.random.default_rng(0).uniform(0, 255, (7, 400))

    def along_first(values):
        places = np.arange(EDGE) * len(values) / EDGE
        return np.stack([np.interp(places, np.arange(len(values)), column) for column in values.T], axis=1)

    found = resized(torch.from_numpy(image).float()[None, None])[0, 0]
    assert np.allclose(found, along_first(along_first(image).T).T, atol=0.01)


def test_other_weights_are_refused_in_one_line(network, tmp_path):
    """torchvision's own weights have another number of classes."""
    torch.save(network.state_dict() | {"fc.weight": torch.zeros(1000, 2048)}, tmp_path / "other.pth")
    for name, words in ("other", "no '"), ("none", f"No such file.*{WEIGHTS}"):
        with pytest.raises(UserError, match=rf"^evaluate\.inception: .*{name}\.pth: {words}") as raised:
            Inception(tmp_path / f"{name}.pth", CPU)
        assert ADDRESS in str(raised.value) and "\n" not in str(raised.value)
