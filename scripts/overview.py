"""One picture of what a checkpoint does: photographs, their inversions, these in another style, and generated images.

python -m scripts.overview --checkpoint FILE --input FILE_OR_FOLDER ... --output overview.png
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image

from images.listing import find_images
from images.reading import open_image
from inversion import PatchInverter
from inversion.commands import IMAGES, find_files
from utils.arguments import add_paths, parse_arguments
from utils.errors import run_command
from utils.files import atomic_path, refuse_overwriting
from utils.log import info

SHOWN = 3  # photographs
HEIGHT, GAP = 256, 4  # pixels of a row, and between pictures
MOST_PIXELS = 2**28
WHITE = 255


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the rows, and write them below each other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="weights that train.py exported")
    add_paths(parser, "--input", "images, and folders of images; the first three are shown", required=True)
    parser.add_argument("--output", type=Path, required=True, help="file of the picture")
    arguments = parse_arguments(parser, argv)
    files = list(find_files("--input", arguments.input, find_images, IMAGES))[:SHOWN]
    refuse_overwriting([arguments.checkpoint, *files], [arguments.output])
    model = PatchInverter.from_pretrained(arguments.checkpoint)
    rows = [inversions(model, pixels_of(file), seed) for seed, file in enumerate(files)]
    rows.append([model.draw(model.generate(HEIGHT, 2 * HEIGHT, seed)) for seed in range(2)])
    page = stack([stack([scaled(each) for each in row], axis=1) for row in rows], axis=0)
    with atomic_path(arguments.output) as path:
        PIL.Image.fromarray(page).save(path, "PNG")
    info(f"wrote {arguments.output}")
    return 0


def inversions(model: PatchInverter, photograph: np.ndarray, seed: int) -> list[np.ndarray]:
    """A photograph, its inversion, and the same in the style of a seed."""
    latents = model.invert(photograph)
    return [photograph, model.draw(latents), model.draw(latents.with_style(model.style(seed)))]


def pixels_of(file: Path) -> np.ndarray:
    """uint8 [H, W, 3]."""
    image = open_image(file, MOST_PIXELS)
    return image.window(0, 0, image.height, image.width)


def scaled(picture: np.ndarray) -> np.ndarray:
    """A picture of HEIGHT rows."""
    width = max(1, round(picture.shape[1] * HEIGHT / picture.shape[0]))
    return np.asarray(PIL.Image.fromarray(picture).resize((width, HEIGHT), PIL.Image.Resampling.LANCZOS))


def stack(pictures: Sequence[np.ndarray], axis: int) -> np.ndarray:
    """Pictures beside (axis 1) or below (axis 0) each other, on white."""
    length = max(each.shape[1 - axis] for each in pictures)
    parts = []
    for each in pictures:
        pads = [(0, GAP), (0, length - each.shape[1 - axis])]
        parts.append(np.pad(each, (*(pads if axis == 0 else pads[::-1]), (0, 0)), constant_values=WHITE))
    return np.concatenate(parts, axis)


if __name__ == "__main__":
    sys.exit(run_command(main))
