"""The Inception v3 network of 2015, whose pooled features the Frechet Inception distance is defined by.

The graph is that of TensorFlow's file, from which the public weights were taken, in the names of torchvision: against
torchvision's own network it resizes otherwise, averages only over what is inside, and takes maxima in its last block.
Widths and kernels come from the weights. torch-fidelity, pytorch-fid and clean-fid hold the same network, but import
torchvision's compiled operators, and unpickle or download the weights; here a local file is read as plain tensors.

Letters: N images, B batch, C channels, H/W pixels or features.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from inversion.commands import progress
from utils.checkpoint import load_pretrained
from utils.errors import UserError

WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"
ADDRESS = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{WEIGHTS}"
FEATURES, CLASSES = 2048, 1008  # torchvision's weights, which are other ones, have 1,000 classes
EDGE = 299  # pixels
EPSILON = 1e-3  # of the batch normalisation
BATCH = 32


class Inception:
    """Called with uint8 images [N, H, W, 3] of any size, gives their features [N, 2048], float64."""

    def __init__(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """`state`: as torchvision's state dict. KeyError or RuntimeError if it is of another network."""
        names = [key.removesuffix(".conv.weight") for key in state if key.endswith(".conv.weight")]
        self.device, self.layers = device, {name: _with_normalisation(state, name, device) for name in names}
        shape = self._features(torch.zeros(1, 3, EDGE, EDGE, device=device)).shape
        if tuple(shape) != (1, FEATURES) or tuple(state["fc.weight"].shape) != (CLASSES, FEATURES):
            raise RuntimeError(f"features {tuple(shape)}, classifier {tuple(state['fc.weight'].shape)}")

    @staticmethod
    def load(path: str | Path, device: torch.device) -> Inception:
        """The network with the weights of a local file. UserError if that is missing, damaged, or of another one."""
        wanted = f"evaluate.inception takes a local copy of {ADDRESS}"
        try:
            return Inception(load_pretrained(path), device)
        except UserError as error:
            raise UserError(f"{error}; {wanted}") from error
        except (KeyError, RuntimeError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: not the weights {WEIGHTS}; {wanted}") from error

    def __call__(self, images: np.ndarray) -> np.ndarray:
        features = [np.empty((0, FEATURES))]
        for start in progress(range(0, len(images), BATCH), "inception", "batch"):
            batch = torch.from_numpy(images[start : start + BATCH]).to(self.device).permute(0, 3, 1, 2)
            features.append(self._features(resized(batch.float())).double().cpu().numpy())
        return np.concatenate(features)

    @torch.inference_mode()
    def _features(self, x: Tensor) -> Tensor:
        """[B, 3, 299, 299] in 0 to 255 -> [B, 2048]."""
        x = self._chain((x - 128) / 128, "Conv2d_1a_3x3/2 Conv2d_2a_3x3/v Conv2d_2b_3x3")
        x = self._chain(F.max_pool2d(x, 3, stride=2), "Conv2d_3b_1x1 Conv2d_4a_3x3/v")
        x = F.max_pool2d(x, 3, stride=2)
        for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
            x = self._mixed(x, name, "1x1", "5x5_1 5x5_2", "3x3dbl_1 3x3dbl_2 3x3dbl_3")
        x = self._mixed(x, "Mixed_6a", "3x3/2", "3x3dbl_1 3x3dbl_2 3x3dbl_3/2", pool="halve")
        for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
            long = "7x7dbl_1 7x7dbl_2 7x7dbl_3 7x7dbl_4 7x7dbl_5"
            x = self._mixed(x, name, "1x1", "7x7_1 7x7_2 7x7_3", long)
        x = self._mixed(x, "Mixed_7a", "3x3_1 3x3_2/2", "7x7x3_1 7x7x3_2 7x7x3_3 7x7x3_4/2", pool="halve")
        wide = "1x1", "3x3_1 3x3_2a", "3x3_1 3x3_2b", "3x3dbl_1 3x3dbl_2 3x3dbl_3a", "3x3dbl_1 3x3dbl_2 3x3dbl_3b"
        x = self._mixed(x, "Mixed_7b", *wide)
        return self._mixed(x, "Mixed_7c", *wide, pool="largest").mean((2, 3))

    def _mixed(self, x: Tensor, name: str, *branches: str, pool: str = "mean") -> Tensor:
        """Chains of layers side by side, and a layer on the mean or the largest of 3 x 3 neighbours.

        `pool`: mean | largest | halve: the largest, at every second place, without a layer.
        """
        if pool == "mean":
            pooled = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        else:
            pooled = F.max_pool2d(x, 3, 1, 1) if pool == "largest" else F.max_pool2d(x, 3, 2)
        chains = [self._chain(x, branch, f"{name}.branch") for branch in branches]
        return torch.cat([*chains, pooled if pool == "halve" else self._chain(pooled, f"{name}.branch_pool")], dim=1)

    def _chain(self, x: Tensor, layers: str, prefix: str = "") -> Tensor:
        """Convolutions with ReLU, padded to keep the size; `/v` is not padded, `/2` is not and has stride 2."""
        for layer in layers.split():
            name, _, kind = layer.partition("/")
            weight, bias = self.layers[prefix + name]
            padding = 0 if kind else tuple(edge // 2 for edge in weight.shape[2:])
            x = F.relu_(F.conv2d(x, weight, bias, stride=2 if kind == "2" else 1, padding=padding))
        return x


def resized(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, C, 299, 299], bilinear as in TensorFlow 1: pixel i is taken at i H / 299, from the corner."""
    for axis in (2, 3):
        size = x.shape[axis]
        places = torch.arange(EDGE, device=x.device) * (size / EDGE)
        first = places.long().clamp(max=size - 1)
        share = (places - first).reshape(-1, *(1,) * (3 - axis))
        x = torch.lerp(x.index_select(axis, first), x.index_select(axis, (first + 1).clamp(max=size - 1)), share)
    return x


def _with_normalisation(state: Mapping[str, Tensor], name: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution and the batch normalisation after it."""
    keys = ("weight", "bias", "running_mean", "running_var")
    scale, shift, mean, variance = (state[f"{name}.bn.{key}"].double() for key in keys)
    scale = scale * torch.rsqrt(variance + EPSILON)
    weight, bias = state[f"{name}.conv.weight"] * scale[:, None, None, None], shift - mean * scale
    return weight.float().to(device, memory_format=torch.channels_last), bias.float().to(device)
