"""Losses between the features that pretrained, frozen networks see in a reconstruction and in its target.

Both images are [B, 3, H, W] in [-1, 1]; C channels of a feature map. Nothing is downloaded and torchvision is not
imported before a loss is built.
"""

from collections.abc import Mapping

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
HEADS = {"alexnet": "classifier", "resnet50": "fc"}  # of torchvision's networks, whose outputs nobody needs


class LPIPS(nn.Module):
    """LPIPS v0.1 on AlexNet (Zhang et al. 2018), summed over the image and its bilinear halves and quarters.

    An image under 31 pixels, too small for AlexNet, is enlarged to 31. Raises UserError where weights are missing.
    """

    inputs = ("reconstruction", "target")
    pretrained = ("alexnet", "lpips")

    def __init__(
        self,
        alexnet: str | None = None,  # torchvision's AlexNet weights; None: torchvision's download
        lpips: str | None = None,    # linear layers of LPIPS v0.1 (alex.pth); there is no download
    ):  # fmt: skip
        super().__init__()
        linear = _lpips_linear(lpips)
        self.features = _backbone("alexnet", alexnet).features[: ALEXNET_TAPS[-1] + 1].eval()
        for tap, weight in enumerate(linear):
            self.register_buffer(f"linear{tap}", weight)
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
        total = 0
        for tap, (found, true) in enumerate(zip(self._unit_features(reconstruction), wanted, strict=True)):
            weight = getattr(self, f"linear{tap}")  # [1, C, 1, 1]
            total = total + ((found - true).square() * weight).sum(1).mean()
        return total

    def _unit_features(self, image: Tensor) -> list[Tensor]:
        """The five ReLU maps of an image, each position divided by its length over the channels, in float32."""
        x = (_at_least(image, ALEXNET_SMALLEST) - self.shift) / self.scale
        taps = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in ALEXNET_TAPS:
                taps.append(_unit(x.float()))
        return taps


class Identity(nn.Module):
    """1 - cosine of ResNet-50's pooled features of images resized (nearest) to 224 pixels.

    As published, the images stay in [-1, 1], without ImageNet's normalisation. Takes weights in torchvision's layout or
    a MoCo checkpoint. Raises UserError where weights are missing.
    """

    inputs = ("reconstruction", "target")
    pretrained = ("resnet50",)

    def __init__(self, resnet50: str | None = None):  # None: torchvision's download
        super().__init__()
        self.network = _backbone("resnet50", resnet50)

    def forward(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self._features(target)
        cosine = F.cosine_similarity(self._features(reconstruction), wanted, dim=1, eps=1e-8)
        return (1 - cosine.clamp(-1, 1)).mean()

    def _features(self, image: Tensor) -> Tensor:
        return self.network(F.interpolate(image, size=IDENTITY_EDGE, mode="nearest")).float()  # [B, 2048]


def _unit(x: Tensor) -> Tensor:
    # The constant stands inside the root: where a whole ReLU column is zero, the slope of a bare root is infinite.
    return x * (x.square().sum(1, keepdim=True) + 1e-10).rsqrt()


def _at_least(image: Tensor, edge: int) -> Tensor:
    """Enlarge (bilinear) the axes that are shorter than `edge`."""
    size = [max(edge, length) for length in image.shape[-2:]]
    enlarged = size != list(image.shape[-2:])
    return F.interpolate(image, size=size, mode="bilinear", align_corners=False) if enlarged else image


def _backbone(name: str, path: str | None) -> nn.Module:
    """torchvision's network without its head, frozen, with the weights of `path`; of its own download where it is None.

    Takes MoCo's checkpoints, too. UserError where weights are missing, or of another network.
    """
    try:
        # imported late: only these losses need it, and beside another torch the import fails
        from torchvision import models
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"losses.inverter: 'lpips' and 'identity' need a torchvision that fits this torch ({error}); "
            "set both to 0 to go without"
        ) from error
    published = models.get_model_weights(name).DEFAULT
    state = _without_moco_prefix(_download(name, published) if path is None else load_pretrained(path))
    with torch.device("meta"):
        network = models.get_model(name)
    setattr(network, HEADS[name], nn.Identity())
    wanted = network.state_dict()
    for key, like in wanted.items():
        if key not in state or state[key].shape != like.shape:
            raise UserError(
                f"losses.weights.{name}: {path or 'the download'}: no '{key}' of shape {list(like.shape)}; "
                f"needs torchvision's weights of {name}"
            )
    network.load_state_dict({key: state[key].to(like.dtype) for key, like in wanted.items()}, assign=True)
    # bfloat16 convolutions are several times as fast in this layout
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def _download(name: str, published) -> Mapping[str, Tensor]:
    """torchvision's weights of a network, from the internet or from its cache."""
    try:
        return published.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"losses.weights.{name}: cannot download {published.url} ({error}); "
            "set this key to a local copy of that file"
        ) from error


def _without_moco_prefix(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The query encoder of a MoCo checkpoint in torchvision's names; other states as they are."""
    state, prefix = state.get("state_dict", state), "module.encoder_q."
    if any(name.startswith(prefix) for name in state):
        return {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _lpips_linear(path: str | None) -> list[Tensor]:
    """The five weightings of channels, each float32 [1, C, 1, 1]."""
    if path is None:
        raise UserError(
            "losses.weights.lpips: the loss 'lpips' has no download; set this key to a local file with the linear "
            "layers of LPIPS v0.1 (the Python package lpips has it: lpips/weights/v0.1/alex.pth)"
        )
    state = load_pretrained(path)
    names = [f"lin{tap}.model.1.weight" for tap in range(len(ALEXNET_CHANNELS))]
    for name, channels in zip(names, ALEXNET_CHANNELS, strict=True):
        if name not in state or tuple(state[name].shape) != (1, channels, 1, 1):
            raise UserError(
                f"losses.weights.lpips: {path}: no '{name}' of shape [1, {channels}, 1, 1]; needs LPIPS v0.1's alex.pth"
            )
    return [state[name].float() for name in names]
