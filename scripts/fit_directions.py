"""Fit the directions that the program ships, to landscapes that are told apart by what is measured of their colours.

    python -m scripts.fit_directions --train landscapes/train --val landscapes/val [--output FOLDER] [--checkpoint FILE]

The folders hold one folder for each kind of landscape. The photographs at both ends of a criterion are the two sets,
as many of each kind, and of each third of what should not change. Prints how well the sets of `val`, chosen in the same
way, are told apart, and how the criterion goes along the direction on some photographs of it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from editing.boundary import describe, fit_boundary
from editing.direction import FOLDER, Direction, move
from images.listing import find_images
from inversion import PatchInverter
from scripts.overview import pixels_of
from utils.arguments import one_path
from utils.errors import run_command
from utils.log import info, progress

SMALL = 30  # pixels along the edges of what criteria are measured of
END = 0.1  # share of the photographs at either end of a criterion
THIRDS = np.linspace(0, 1, 4)
CHECKED = 20  # photographs along whose strengths the criterion is measured
STRENGTHS = range(-3, 4)


@dataclass(frozen=True)
class Criterion:
    """What tells two sets of photographs apart: a sum of standardised attributes."""

    weights: Mapping[str, float]
    balanced: str  # attribute that should not change
    without: Sequence[str] = ()  # kinds of landscapes that say nothing of it

    def of(self, attributes: Mapping[str, np.ndarray], standard: Mapping[str, np.ndarray]) -> np.ndarray:
        """Of photographs [n], with what standardises."""
        return sum(
            weight * (attributes[name] - standard[name].mean()) / standard[name].std()
            for name, weight in self.weights.items()
        )


CRITERIA = {
    "day-dusk": Criterion({"sky warmth": 1.5, "brightness": -1}, "contrast"),
    "clear-hazy": Criterion({"contrast": -1, "saturation": -1}, "brightness"),
    "summer-snow": Criterion({"white ground": 1, "green ground": -1}, "sky brightness", without=["sea"]),
}


def attributes_of(pixels: np.ndarray) -> dict[str, float]:
    """What is measured of a photograph, uint8 [H, W, 3]; ground is its lower half, sky its upper one."""
    small = cv2.resize(pixels, (SMALL, SMALL), interpolation=cv2.INTER_AREA).astype(np.float64) / 255
    sky, ground = np.split(small, 2)
    luminance, highest, lowest = small @ (0.299, 0.587, 0.114), small.max(2), small.min(2)
    return {
        "brightness": luminance.mean(),
        "contrast": luminance.std(),
        "saturation": ((highest - lowest) / (highest + 1e-3)).mean(),
        "sky brightness": luminance[: SMALL // 2].mean(),
        "sky warmth": (sky[..., 0] - sky[..., 2]).mean(),
        "white ground": ground.min(2).mean(),
        "green ground": (ground[..., 1] > ground[..., 2] + 0.02).mean(),
    }


@dataclass(frozen=True)
class Photographs:
    """What is known of the photographs of a folder."""

    files: Sequence[Path]
    values: np.ndarray  # as `describe`
    attributes: Mapping[str, np.ndarray]

    @staticmethod
    def of(model: PatchInverter, folder: Path) -> Photographs:
        """All that lie in a folder's folders."""
        files, values, attributes = find_images(folder), [], []
        for file in progress(files, folder.name, "photograph"):
            values.append(describe(model, file))
            attributes.append(attributes_of(pixels_of(file)))
        return Photographs(files, np.stack(values), {n: np.array([a[n] for a in attributes]) for n in attributes[0]})

    def ends(self, criterion: Criterion, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the photographs at the lower and at the upper end of the score."""
        kinds, found = np.array([file.parent.name for file in self.files]), ([], [])
        other = self.attributes[criterion.balanced]
        third = np.digitize(other, np.quantile(other, THIRDS[1:-1]))
        for kind in sorted(set(kinds) - set(criterion.without)):
            for number in range(3):
                members = np.flatnonzero((kinds == kind) & (third == number))
                members = members[score[members].argsort()]
                count = round(END * len(members))
                found[0].extend(members[:count])
                found[1].extend(members[len(members) - count :])
        return np.array(found[0], int), np.array(found[1], int)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure all photographs, and fit, check and write each direction."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=one_path, required=True, help="folder with a folder for each kind")
    parser.add_argument("--val", type=one_path, required=True, help="the same, of other photographs")
    parser.add_argument("--output", type=one_path, default=FOLDER, help="folder of the directions")
    parser.add_argument("--checkpoint", type=one_path, help="weights that train.py exported")
    arguments = parser.parse_args(argv)
    model = PatchInverter.from_pretrained(arguments.checkpoint)
    train, val = (Photographs.of(model, folder) for folder in (arguments.train, arguments.val))
    for name, criterion in CRITERIA.items():
        ends = train.ends(criterion, criterion.of(train.attributes, train.attributes))
        boundary = fit_boundary(*(train.values[numbers] for numbers in ends))
        direction = boundary.direction(train.values, name)
        held_out = val.ends(criterion, criterion.of(val.attributes, train.attributes))
        right = [(boundary.classifier.predict(val.values[n]) == label).mean() for label, n in enumerate(held_out)]
        counts = f"{sum(map(len, ends))} photographs, {sum(map(len, held_out))} held out"
        accuracy = float(np.mean(right))
        direction.save(arguments.output / f"{name}.safetensors", model, {"accuracy": f"{accuracy:.3f}"})
        rising = monotony(model, direction, criterion, train.attributes, val.files)
        info(f"{name}: {counts}: {accuracy:.1%} right; along it {rising:.1%} of the steps go up")
    return 0


def monotony(
    model: PatchInverter,
    direction: Direction,
    criterion: Criterion,
    standard: Mapping[str, np.ndarray],
    files: Sequence[Path],
) -> float:
    """The share of the steps from strength -3 to 3 along which the criterion grows, on some of the photographs."""
    steps = []
    for file in files[:: max(1, len(files) // CHECKED)][:CHECKED]:
        latents = model.invert(file)
        drawn = (attributes_of(model.draw(move(model, latents, direction, strength))) for strength in STRENGTHS)
        steps.append(np.diff([criterion.of(attributes, standard) for attributes in drawn]))
    return float((np.stack(steps) > 0).mean())


if __name__ == "__main__":
    sys.exit(run_command(main))
