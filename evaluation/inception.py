"""The Inception v3 network of 2015, whose pooled features the Frechet Inception distance is defined by.

Letters: N images, B batch, C channels, H/W pixels or features.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from losses.perceptual import backbone, select
from utils.checkpoint import load_pretrained
from utils.errors import UserError
from utils.log import progress

WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"
ADDRESS = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{WEIGHTS}"
FEATURES, CLASSES = 2048, 1008  # torchvision's weights, which are other ones, have 1,000 classes
EDGE = 299  # pixels
BATCH = 32


class Inception:
    """Called with uint8 images [N, H, W, 3] of any size, gives their features [N, 2048], float64.

    torchvision's network with the pooling of TensorFlow's graph, from which the public weights were taken: means are of
    what is inside alone, and the last block takes maxima. torch-fidelity, pytorch-fid and clean-fid, which hold the
    same network, unpickle or download the weights; here a local file is read as plain tensors.
    """

    def __init__(self, path: str | Path, device: torch.device) -> None:
        """UserError if the file of weights is missing, damaged, or of another network."""
        where, needed = f"evaluate.inception: {path}", f"a local copy of {ADDRESS}"
        try:
            state = load_pretrained(path)
        except UserError as error:
            raise UserError(f"evaluate.inception: {error}; needs {needed}") from error
        select(state, {"fc.weight": (CLASSES, FEATURES)}, where, needed)
        network = backbone("inception_v3", state, where, needed, aux_logits=False, init_weights=False)
        _pool_like_tensorflow(network)
        self.network, self.device = network.to(device), device

    @torch.inference_mode()
    def __call__(self, images: np.ndarray) -> np.ndarray:
        features = [np.empty((0, FEATURES))]
        for start in progress(range(0, len(images), BATCH), "inception", "batch"):
            batch = torch.from_numpy(images[start : start + BATCH]).to(self.device).permute(0, 3, 1, 2)
            features.append(self.network((resized(batch.float()) - 128) / 128).double().cpu().numpy())
        return np.concatenate(features)


def resized(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, C, 299, 299], bilinear as in TensorFlow 1: pixel i is taken at i H / 299, from the corner."""
    enlarged = F.pad(x, (0, 1, 0, 1), mode="replicate")  # its corners are places 0 and H of the image
    return F.interpolate(enlarged, size=EDGE + 1, mode="bilinear", align_corners=True)[..., :EDGE, :EDGE]


def _pool_like_tensorflow(network: nn.Module) -> None:
    """Give the layers behind poolings of 3 x 3 other inputs than torchvision's means, to which zeros outside count."""

    def inside(_: nn.Module, pooled: tuple[Tensor]) -> Tensor:
        return pooled[0] / F.avg_pool2d(torch.ones_like(pooled[0][:1, :1]), 3, 1, 1)

    for block in network.children():
        if hasattr(block, "branch_pool"):
            block.branch_pool.register_forward_pre_hook(inside)
    last, inputs = network.Mixed_7c, []
    last.register_forward_pre_hook(lambda _, x: inputs.extend(x))
    last.branch_pool.register_forward_pre_hook(lambda *_: F.max_pool2d(inputs.pop(), 3, 1, 1))
