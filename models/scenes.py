"""A small classifier of photographs, whose features tell generated and edited images from photographs.

It is trained by `scripts/train_scenes.py` on folders of labelled images; checkpoints/scenes.safetensors is one.

Letters: N images, B batch, H/W pixels, F features.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import EqualizedConv2d, EqualizedLinear
from utils.checkpoint import load_weights
from utils.errors import UserError

SCENES = Path(__file__).parents[1] / "checkpoints" / "scenes.safetensors"
FORMAT = "patch-inverter-scenes-2"
EDGE = 128  # pixels that images are resized to
WIDTHS = (16, 48, 96, 128)
TURNS = 4  # quarter turns, which it tells apart too
DISTORTIONS = 6  # kinds of damage that it tells apart as well, "none" among them
BATCH = 64


class SceneClassifier(nn.Module):
    """Images -> features, and from these the label and quarter turn of each, and what was done to a part of it."""

    def __init__(self, labels: int) -> None:
        super().__init__()
        layers = []
        for inputs, outputs in zip((3, *WIDTHS[:-1]), WIDTHS, strict=True):
            layers.append(EqualizedConv2d(inputs, outputs, 4, stride=2, padding=1))
            layers.append(EqualizedConv2d(outputs, outputs, 3, padding=1))
        self.layers = nn.Sequential(*layers)
        self.scene = EqualizedLinear(WIDTHS[-1], labels * TURNS)
        self.distortion = EqualizedLinear(WIDTHS[-1], DISTORTIONS)

    def features(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] in [-1, 1], of any size -> [B, F]: means over space, float32."""
        resized = F.interpolate(images, size=(EDGE, EDGE), mode="bilinear", antialias=True, align_corners=False)
        return self.layers(resized.contiguous(memory_format=torch.channels_last)).float().mean((2, 3))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 3, H, W] in [-1, 1] -> scores [B, labels * 4] of each label and turn, and of each distortion [B, 6]."""
        features = self.features(images)
        return self.scene(features), self.distortion(features)


class SceneFeatures:
    """Called with uint8 images [N, H, W, 3], gives their features [N, F], float64, scaled to a deviation of 1."""

    def __init__(self, device: torch.device, path: Path = SCENES) -> None:
        """UserError if the file is missing, damaged, or none of a classifier."""
        tensors, metadata = load_weights(path)
        if metadata.get("format") != FORMAT:
            raise UserError(f"{path}: no classifier of scenes")
        self.mean, self.deviation = tensors.pop("mean").double(), tensors.pop("deviation").double()
        self.network = SceneClassifier(len(tensors["scene.bias"]) // TURNS)
        self.network.load_state_dict(tensors)
        self.network.eval().requires_grad_(False).to(device)
        self.device = device

    @torch.inference_mode()
    def __call__(self, images: np.ndarray) -> np.ndarray:
        found = [torch.empty(0, WIDTHS[-1], dtype=torch.float64)]
        for start in range(0, len(images), BATCH):
            batch = torch.from_numpy(images[start : start + BATCH]).to(self.device).permute(0, 3, 1, 2)
            found.append(self.network.features(batch.float() / 127.5 - 1).double().cpu())
        return ((torch.cat(found) - self.mean) / self.deviation).numpy()
