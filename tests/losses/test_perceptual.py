"""Perceptual losses on random weights in the layout of the public files; no test needs the internet."""

from unittest import mock
from urllib.error import URLError

import pytest
import torch
from torch.nn import functional as F

from losses.perceptual import ALEXNET_CHANNELS, LPIPS, LPIPS_SCALE, LPIPS_SHIFT, Identity
from utils.errors import UserError


@pytest.fixture(scope="module")
def files(torchvision, tmp_path_factory):
    """Paths of random AlexNet, LPIPS and ResNet-50 weights."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    linear = {f"lin{k}.model.1.weight": torch.rand(1, c, 1, 1) for k, c in enumerate(ALEXNET_CHANNELS)}
    states = {
        "alexnet": torchvision.models.AlexNet().features.state_dict(prefix="features."),
        "resnet50": torchvision.models.resnet50().state_dict(),
        "lpips": linear,
    }
    for name, state in states.items():
        torch.save(state, folder / f"{name}.pth")
    return {name: str(folder / f"{name}.pth") for name in states}


@pytest.fixture(scope="module")
def terms(files):
    return {"lpips": LPIPS(files["alexnet"], files["lpips"]), "identity": Identity(files["resnet50"])}


def batch(height, width, seed=0):
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def reference_lpips(x, y, alexnet, linear):
    """One scale of LPIPS, straight from the definition."""
    shift, scale = (torch.tensor(v).view(1, 3, 1, 1) for v in (LPIPS_SHIFT, LPIPS_SCALE))
    maps = []
    for image in (x, y):
        features = (image - shift) / scale
        for layer in alexnet.features[:12]:
            features = layer(features)
            if isinstance(layer, torch.nn.ReLU):
                maps.append(features / features.norm(dim=1, keepdim=True))
    return sum(F.conv2d((maps[k] - maps[k + 5]) ** 2, linear[f"lin{k}.model.1.weight"]).mean() for k in range(5))


@torch.no_grad()
def test_lpips_is_the_definition_summed_over_three_scales(files, terms, torchvision):
    alexnet = torchvision.models.AlexNet()
    alexnet.load_state_dict(torch.load(files["alexnet"], weights_only=True), strict=False)
    linear = torch.load(files["lpips"], weights_only=True)
    x, y = batch(130, 140), batch(130, 140, seed=1)
    expected = 0
    for _ in range(3):
        expected += reference_lpips(x, y, alexnet, linear)
        x, y = (F.interpolate(v, scale_factor=0.5, mode="bilinear", align_corners=False) for v in (x, y))
    assert torch.isclose(terms["lpips"](batch(130, 140), batch(130, 140, seed=1)), expected, rtol=1e-4)


@pytest.mark.parametrize("name", ["lpips", "identity"])
def test_equal_images_of_any_patch_size_are_at_no_distance(terms, name):
    for size in ((5, 5), (31, 60)):
        same, other = (terms[name](batch(*size), batch(*size, seed=seed)) for seed in (0, 1))
        assert 0 <= same < 1e-6 < other <= 5


@pytest.mark.parametrize(("name", "mixed"), [("lpips", False), ("lpips", True), ("identity", True)])
def test_gradient_reaches_the_reconstruction_alone(terms, name, mixed):
    """And is finite for flat images."""
    term, x, y = terms[name], batch(48, 48), batch(48, 48, seed=1).requires_grad_()
    x = (x * torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
        loss = term(x, y)
    loss.backward()
    assert loss.dtype == torch.float32
    assert x.grad.isfinite().all() and x.grad.abs().max() > 0
    assert y.grad is None and all(p.grad is None for p in term.parameters())
    assert not any(module.training for part, module in term.named_modules() if part)


def test_identity_takes_a_moco_checkpoint(files, terms, tmp_path):
    state = torch.load(files["resnet50"], weights_only=True)
    moco = {f"module.encoder_q.{k}": v for k, v in state.items() if not k.startswith("fc.")}
    moco |= {"module.encoder_q.fc.0.weight": torch.zeros(4, 4), "module.queue": torch.zeros(3)}
    torch.save({"epoch": 800, "arch": "resnet50", "state_dict": moco}, tmp_path / "moco.pth.tar")
    x, y = batch(32, 32), batch(32, 32, seed=1)
    assert Identity(str(tmp_path / "moco.pth.tar"))(x, y) == terms["identity"](x, y)


def test_files_that_are_missing_or_of_another_network_are_named(files, monkeypatch, torchvision):
    refuse = mock.Mock(side_effect=URLError("no route to host"))
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    with pytest.raises(UserError, match=r"^losses\.weights\.alexnet: .*alexnet-owt.*set this key.*$"):
        LPIPS(None, files["lpips"])
    with pytest.raises(UserError, match=r"losses\.weights\.resnet50: .*no 'conv1\.weight'"):
        Identity(files["alexnet"])
    with pytest.raises(UserError, match=r"losses\.weights\.lpips: .*lin0\.model\.1\.weight"):
        LPIPS(files["alexnet"], files["alexnet"])


def test_linear_layers_come_with_their_package(files, monkeypatch):
    """Without it, and without a file, one line says so."""
    own = LPIPS(files["alexnet"])
    assert own.linear.shape[1] == sum(ALEXNET_CHANNELS) and (own.linear >= 0).all()
    monkeypatch.setattr("losses.perceptual.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^losses\.weights\.lpips: not set, and the package lpips, .* not installed$"):
        LPIPS(files["alexnet"])
