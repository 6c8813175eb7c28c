"""The baseline of every inverter: a linear transform of as many values, the lapped one of `models.trunk`."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from evaluation.fidelity import as_tensor
from images.reading import ImageError, open_image
from images.writing import to_eight_bit
from inversion import PatchInverter
from models.trunk import COLOURS, Trunk

FITTED, EDGE = 200, 512  # photographs that it is fitted to, and pixels along an edge of these at most


@torch.inference_mode()
def redraw(trunk: Trunk, image: np.ndarray, channels: int) -> np.ndarray:
    """An image, uint8 [H, W, 3], by the first K (`channels`) coefficients of each cell."""
    m, (height, width) = trunk.cell, image.shape[:2]
    pads = [(m, m + -length % m) for length in (height, width)]  # whole cells, and one around them
    mode = "reflect" if min(height, width) > 2 * m else "edge"
    pixels = as_tensor(np.pad(image, (*pads, (0, 0)), mode)[None], torch.device("cpu"))
    drawn = trunk.synthesise(trunk.analyse(pixels, min(channels, trunk.every)))[0, :, :height, :width]
    return to_eight_bit(drawn.permute(1, 2, 0)).numpy()


def linear_transform(model: PatchInverter, files: Iterable[Path], infer: dict) -> Trunk | None:
    """The trunk of a model, which was fitted to its training images; without one, it is fitted to the photographs.

    None where no photograph has 2 x 2 cells.
    """
    trunk, images = model.generator.texture.trunk, []
    if trunk is not None:
        return copy.deepcopy(trunk).cpu()
    trunk = Trunk(COLOURS, model.cell)
    for path in list(files)[:FITTED]:
        try:
            image = open_image(path, infer.max_pixels, by_window=True)
        except ImageError:
            continue
        images.append(image.window_float(0, 0, min(image.height, EDGE), min(image.width, EDGE)))
    try:
        trunk.fit(torch.from_numpy(each).permute(2, 0, 1) for each in images)
    except ValueError:
        return None
    return trunk
