"""Hidden squares of photographs, filled by `edit.py fill` and by what libraries offer.

    python -m benchmarks.filling --input FOLDER [--count 50] [--size 64]

One square of SIZE pixels in each of COUNT photographs, evenly spread over the folder, at places that follow from their
number. Windows of the same size, centred on the four edges of each square, are compared with as many windows at random
places of the photographs: the Frechet distance of the features of checkpoints/scenes.safetensors. PSNR is inside the
squares (which nothing can know), and the gradient ratio is how steep luminance is across their edges, over how steep it
is there in the photographs. `photograph` are the original windows: the floor.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from skimage.restoration import inpaint_biharmonic

from editing import Content, fill
from evaluation.fidelity import pixelwise
from evaluation.hidden import Box, beside, elsewhere, square, steepness
from images.listing import find_images
from images.reading import open_image
from inversion import PatchInverter
from inversion.weight_maps import Boxes
from losses.frechet import frechet_distance
from models.scenes import SceneFeatures
from utils.errors import UserError, run_command
from utils.log import info, progress

RADIUS = 5  # pixels that OpenCV looks at

Method = Callable[[np.ndarray, Box], np.ndarray]  # photograph [H, W, 3] uint8, what is hidden -> the same, filled


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True, help="folder of photographs, all larger than twice SIZE")
    parser.add_argument("--count", type=int, default=50, help="photographs")
    parser.add_argument("--size", type=int, default=64, help="edge of the squares, pixels")
    options = parser.parse_args(argv)
    paths = find_images(options.input)
    paths = [paths[k * len(paths) // options.count] for k in range(min(options.count, len(paths)))]
    images = [open_image(path, 2**28) for path in paths]
    photographs = [image.window(0, 0, image.height, image.width) for image in images]
    for path, each in zip(paths, images, strict=True):
        if min(each.height, each.width) < 2 * options.size:
            raise UserError(f"--input: {path}; allowed: {2 * options.size} pixels or more each way")
    boxes = [square(photograph, options.size, number) for number, photograph in enumerate(photographs)]
    features = SceneFeatures(torch.device("cpu"))
    seen = zip(photographs, range(len(photographs)), strict=True)
    wanted = features(np.concatenate([elsewhere(photograph, options.size, number) for photograph, number in seen]))
    info(f"{'method':<24} {'Frechet':>8} {'PSNR, dB':>9} {'gradients':>10} {'seconds':>8}")
    for name, method in {"photograph": lambda photograph, box: photograph, **methods()}.items():
        results, started = [], time.process_time()
        for photograph, box in progress(list(zip(photographs, boxes, strict=True)), name, "square"):
            results.append(method(photograph, box))
        taken = (time.process_time() - started) / len(results)
        windows = [beside(result, box, options.size) for result, box in zip(results, boxes, strict=True)]
        distance = frechet_distance(features(np.concatenate(windows)), wanted)
        inside = [np.s_[top:bottom, left:right] for top, left, bottom, right in boxes]
        pairs = zip(photographs, results, inside, strict=True)
        fidelity = np.mean([pixelwise(photograph[box], result[box])["psnr"] for photograph, result, box in pairs])
        steep = [sum(map(steepness, images, boxes)) for images in (results, photographs)]
        info(f"{name:<24} {distance:8.2f} {fidelity:9.2f} {steep[0] / steep[1]:10.2f} {taken:8.2f}")
    return 0


def methods() -> dict[str, Method]:
    """What fills a hidden square, by name."""
    model = PatchInverter.from_pretrained()

    def ours(source: str) -> Method:
        def method(photograph: np.ndarray, box: Box) -> np.ndarray:
            return model.draw(fill(model, model.invert(photograph), Boxes([box]), content=Content(source)))

        return method

    def mask(photograph: np.ndarray, box: Box) -> np.ndarray:
        hidden = np.zeros(photograph.shape[:2], np.uint8)
        hidden[box[0] : box[2], box[1] : box[3]] = 1
        return hidden

    def opencv(flag: int) -> Method:
        return lambda photograph, box: cv2.inpaint(photograph, mask(photograph, box), RADIUS, flag)

    def biharmonic(photograph: np.ndarray, box: Box) -> np.ndarray:
        top, left = (max(0, edge - 2 * RADIUS) for edge in box[:2])  # what is further away does not count
        part = np.s_[top : box[2] + 2 * RADIUS, left : box[3] + 2 * RADIUS]
        filled = inpaint_biharmonic(photograph[part], mask(photograph, box)[part], channel_axis=2)
        result = photograph.copy()
        result[part] = np.rint(filled.clip(0, 1) * 255)
        return result

    return {
        "this, photograph": ours("photograph"),
        "this, generator": ours("generator"),
        "OpenCV, Navier-Stokes": opencv(cv2.INPAINT_NS),
        "OpenCV, Telea": opencv(cv2.INPAINT_TELEA),
        "scikit-image, biharmonic": biharmonic,
    }


if __name__ == "__main__":
    sys.exit(run_command(main))
