"""What a model with a trunk takes from its training images without learning: the trunk itself, and their styles."""

from __future__ import annotations

import torch
from torch import Tensor

from datasets import CropDataset
from models.statistics import measure
from models.structure import StyledStructure
from models.texture import TextureSynthesizer
from models.trunk import Trunk
from utils.errors import UserError

IMAGES, EDGE = 1024, 512  # that it is fitted to, and pixels along an edge of these at most


def fit_trunk(trunk: Trunk, images: CropDataset) -> None:
    """Set colour axes, channels and scales. UserError where no image is large enough."""
    try:
        trunk.fit(images.middles(IMAGES, EDGE))
    except ValueError as error:
        raise UserError(f"data.train: {error}") from error


@torch.no_grad()
def fit_styles(trunk: Trunk, networks: list[TextureSynthesizer | StyledStructure], images: CropDataset) -> None:
    """Set what standardises styles, and in a structure synthesizer those that seeds choose from."""
    cell, styles = trunk.cell, []
    for image in images.middles(IMAGES, EDGE):
        height, width = (length // cell * cell for length in image.shape[-2:])
        if min(height, width) >= 2 * cell:
            z: Tensor = trunk.analyse(image[None, :, :height, :width].to(trunk.axes))
            styles.append(measure(z.flatten(2)).float())
    styles = torch.cat(styles)
    for network in networks:
        network.mapping.fit(styles)
        if isinstance(network, StyledStructure):
            count = len(network.styles)
            network.styles.copy_(styles[torch.arange(count) * len(styles) // count])
