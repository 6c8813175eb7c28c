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

# Blocks by name: chains of layers side by side, and beside them a layer on the mean or the largest of 3 x 3 neighbours;
# halve: the largest, at every second place, without a layer. Kinds of layers: see `_chain`.
A = ("1x1", "5x5_1 5x5_2", "3x3dbl_1 3x3dbl_2 3x3dbl_3"), "mean"
C = ("1x1", "7x7_1 7x7_2 7x7_3", "7x7dbl_1 7x7dbl_2 7x7dbl_3 7x7dbl_4 7x7dbl_5"), "mean"
E = "1x1", "3x3_1 3x3_2a", "3x3_1 3x3_2b", "3x3dbl_1 3x3dbl_2 3x3dbl_3a", "3x3dbl_1 3x3dbl_2 3x3dbl_3b"
MIXED = (
    *((f"Mixed_5{letter}", *A) for letter in "bcd"),
    ("Mixed_6a", ("3x3/2", "3x3dbl_1 3x3dbl_2 3x3dbl_3/2"), "halve"),
    *((f"Mixed_6{letter}", *C) for letter in "bcde"),
    ("Mixed_7a", ("3x3_1 3x3_2/2", "7x7x3_1 7x7x3_2 7x7x3_3 7x7x3_4/2"), "halve"),
    ("Mixed_7b", E, "mean"),
    ("Mixed_7c", E, "largest"),
)


class Inception:
    """Called with uint8 images [N, H, W, 3] of any size, gives their features [N, 2048], float64."""

    def __init__(self, path: str | Path, device: torch.device) -> None:
        """`path`: of a state dict in torchvision's names. UserError if it is missing, damaged, or of another network."""
        self.device, wanted = device, f"evaluate.inception takes a local copy of {ADDRESS}"
        try:
            state = load_pretrained(path)
            names = [key.removesuffix(".conv.weight") for key in state if key.endswith(".conv.weight")]
            self.layers = {name: _with_normalisation(state, name, device) for name in names}
            features = self._features(torch.zeros(1, 3, EDGE, EDGE, device=device))
            fits = features.shape == (1, FEATURES) and state["fc.weight"].shape == (CLASSES, FEATURES)
        except UserError as error:
            raise UserError(f"{error}; {wanted}") from error
        except (KeyError, RuntimeError, TypeError, AttributeError):
            fits = False
        if not fits:
            raise UserError(f"{path}: not the weights {WEIGHTS}; {wanted}")

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
        for name, branches, pool in MIXED:
            if pool == "mean":
                pooled = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
            else:
                pooled = F.max_pool2d(x, 3, 1, 1) if pool == "largest" else F.max_pool2d(x, 3, 2)
            pooled = pooled if pool == "halve" else self._chain(pooled, "pool", f"{name}.branch_")
            x = torch.cat([*(self._chain(x, branch, f"{name}.branch") for branch in branches), pooled], dim=1)
        return x.mean((2, 3))

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
