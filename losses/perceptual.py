"""Losses between the features that pretrained, frozen networks see in a reconstruction and in its target.

Both images are [B, 3, H, W] in [-1, 1]; C channels of a feature map. Nothing is downloaded and torchvision is not
imported before a loss is built.
"""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils.checkpoint import load_pretrained
from utils.errors import UserError

ALEXNET_CHANNELS = (64, 192, 384, 256, 256)
ALEXNET_TAPS = (1, 4, 7, 9, 11)  # children of its `features` whose outputs are compared: the five ReLUs
ALEXNET_SMALLEST = 31  # edge below which the second pooling has nothing to pool
LPIPS_SCALES = 3
LPIPS_SHIFT = (-0.030, -0.088, -0.188)  # v0.1: from [-1, 1] to the normalisation of ImageNet
LPIPS_SCALE = (0.458, 0.448, 0.450)
IDENTITY_EDGE = 224
# Of torchvision's networks, whose outputs nobody needs.
HEADS = {"alexnet": "classifier", "resnet50": "fc", "inception_v3": "fc"}


class LPIPS(nn.Module):
    """LPIPS v0.1 on AlexNet (Zhang et al. 2018), summed over the image and its bilinear halves and quarters.

    An image under 31 pixels, too small for AlexNet, is enlarged to 31. UserError where weights are missing.
    """

    def __init__(
        self,
        alexnet: str | None = None,  # torchvision's AlexNet weights; None: torchvision's download
        lpips: str | None = None,    # linear layers of LPIPS v0.1 (alex.pth); None: those of the package lpips
    ):  # fmt: skip
        super().__init__()
        lpips = linear_layers() if lpips is None else lpips
        shapes = {f"lin{tap}.model.1.weight": (1, count, 1, 1) for tap, count in enumerate(ALEXNET_CHANNELS)}
        linear = select(load_pretrained(lpips), shapes, f"losses.weights.lpips: {lpips}", "LPIPS v0.1's alex.pth")
        self.features = _pretrained("alexnet", alexnet).features[: ALEXNET_TAPS[-1] + 1].eval()
        self.register_buffer("linear", torch.cat(list(linear.values()), 1).float())  # [1, C of all taps, 1, 1]
        self.register_buffer("shift", torch.tensor(LPIPS_SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(LPIPS_SCALE).view(1, 3, 1, 1))

    def forward(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        total = self.distance(reconstruction, target)
        for _ in range(LPIPS_SCALES - 1):
            # The mean of 2 x 2 pixels is what bilinear sampling of half the size gives.
            reconstruction, target = F.avg_pool2d(reconstruction, 2), F.avg_pool2d(target, 2)
            total = total + self.distance(reconstruction, target)
        return total

    def distance(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        """LPIPS at one scale, averaged over the batch."""
        with torch.no_grad():
            wanted = self._unit_features(target)
        taps = zip(self.linear.split(ALEXNET_CHANNELS, 1), self._unit_features(reconstruction), wanted, strict=True)
        return sum(((found - true).square() * weight).sum(1).mean() for weight, found, true in taps)

    def _unit_features(self, image: Tensor) -> list[Tensor]:
        """The five ReLU maps of an image, each position divided by its length over the channels, in float32."""
        size = [max(ALEXNET_SMALLEST, length) for length in image.shape[-2:]]
        x = (F.interpolate(image, size=size, mode="bilinear", align_corners=False) - self.shift) / self.scale
        taps = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in ALEXNET_TAPS:
                # The constant is inside the root: where a whole column is zero, the slope of a bare root is infinite.
                taps.append(x.float() * (x.float().square().sum(1, keepdim=True) + 1e-10).rsqrt())
        return taps


def linear_layers() -> str:
    """The file of LPIPS v0.1's linear layers in the package lpips, which is not imported. UserError without it."""
    package = find_spec("lpips")
    if package is None:
        raise UserError("losses.weights.lpips: not set, and the package lpips, which has the file, is not installed")
    return str(Path(package.submodule_search_locations[0], "weights", "v0.1", "alex.pth"))


class Identity(nn.Module):
    """1 - cosine of ResNet-50's pooled features of images resized (nearest) to 224 pixels.

    As published, the images stay in [-1, 1], without ImageNet's normalisation. Takes weights in torchvision's layout or
    a MoCo checkpoint. UserError where weights are missing.
    """

    def __init__(self, resnet50: str | None = None):  # None: torchvision's download
        super().__init__()
        self.network = _pretrained("resnet50", resnet50)

    def forward(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self._features(target)
        cosine = F.cosine_similarity(self._features(reconstruction), wanted, dim=1, eps=1e-8)
        return (1 - cosine.clamp(-1, 1)).mean()

    def _features(self, image: Tensor) -> Tensor:
        return self.network(F.interpolate(image, size=IDENTITY_EDGE, mode="nearest")).float()  # [B, 2048]


def backbone(name: str, state: Mapping, where: str, needed: str, **options: object) -> nn.Module:
    """torchvision's network, built with `options`, without its head, frozen, with the weights of a state dict.

    UserError, which begins with `where` and says what is `needed`, if these are of another network.
    """
    with torch.device("meta"):
        network = _torchvision_models().get_model(name, **options)
    setattr(network, HEADS[name], nn.Identity())
    # a count of batches is in newer files alone, and means nothing here
    wanted = {key: x.shape for key, x in network.state_dict().items() if not key.endswith("num_batches_tracked")}
    network.load_state_dict(select(state, wanted, where, needed), assign=True)
    # bfloat16 convolutions are several times as fast in this layout
    return network.float().eval().requires_grad_(False).to(memory_format=torch.channels_last)


def _pretrained(name: str, path: str | None) -> nn.Module:
    """A backbone with the weights of a file, which may be a MoCo checkpoint; None: of torchvision's download.

    UserError where weights are missing, or of another network.
    """
    if path is None:
        published = _torchvision_models().get_model_weights(name).DEFAULT
        try:
            state = published.get_state_dict(progress=False, check_hash=True, weights_only=True)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"losses.weights.{name}: cannot download {published.url} ({error}); "
                "set this key to a local copy of that file"
            ) from error
    else:
        state = load_pretrained(path)
        state = {key.removeprefix("module.encoder_q."): value for key, value in state.get("state_dict", state).items()}
    where = f"losses.weights.{name}: {path or 'the download'}"
    return backbone(name, state, where, f"torchvision's weights of {name}")


def _torchvision_models() -> ModuleType:
    """torchvision.models, imported late: beside another torch the import fails. UserError then."""
    try:
        from torchvision import models
    except (ImportError, RuntimeError) as error:
        message = f"LPIPS, FID and the loss 'identity' need a torchvision that fits this torch ({error})"
        raise UserError(message) from error
    return models


def select(state: Mapping, shapes: Mapping[str, Sequence[int]], where: str, needed: str) -> dict[str, Tensor]:
    """The tensors of these names and shapes. UserError if the state has not all of them."""
    for name, shape in shapes.items():
        if tuple(getattr(state.get(name), "shape", ())) != tuple(shape):
            raise UserError(f"{where}: no '{name}' of shape {list(shape)}; needs {needed}")
    return {name: state[name] for name in shapes}
