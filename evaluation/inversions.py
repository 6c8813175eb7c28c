"""The results of infer.py in a folder, and inversions of further images by the same program."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from images.writing import SUFFIXES
from inversion.latents import SUFFIXES as LATENTS

PICTURES = tuple(SUFFIXES.values())
# infer.py in this process: inverts the images of a folder into another folder, with further options
Invert = Callable[[Path, Path, Sequence[str]], object]


@dataclass(frozen=True)
class Inversions:
    """What infer.py wrote into a folder. Images go by the names of their results."""

    folder: Path

    @cached_property
    def rows(self) -> dict[str, dict[str, float]]:
        """metrics.csv: a row for each image, without those that failed."""
        with open(self.folder / "metrics.csv", newline="", encoding="utf-8") as file:
            return {row.pop("name"): {key: float(value) for key, value in row.items()} for row in csv.DictReader(file)}

    @cached_property
    def failed(self) -> dict[str, str]:
        """The reasons of failures."""
        return json.loads((self.folder / "summary.json").read_text(encoding="utf-8"))["failed"]

    def reconstruction(self, name: str) -> Path:
        """The picture of an image."""
        return existing(self.folder / "reconstruction", name, PICTURES)

    def latents(self, name: str) -> Path:
        """The latent file or folder of an image."""
        return existing(self.folder / "latents", name, LATENTS)


def invert_images(invert: Invert, images: Mapping[str, Path], folder: Path, options: Sequence[str] = ()) -> Inversions:
    """Invert images, by the names that their results get, into a new folder."""
    inputs, output = folder / "input", folder / "output"
    for name, path in images.items():
        link = inputs / f"{name}{path.suffix}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())
    invert(inputs, output, options)
    return Inversions(output)


def spread(names: Sequence[str], count: int) -> list[str]:
    """At most `count` of the names, evenly spread over all."""
    return [names[k] for k in np.unique(np.linspace(0, len(names) - 1, min(count, len(names))).astype(int))]


def existing(folder: Path, name: str, suffixes: Sequence[str]) -> Path:
    """The file of a name, with the suffix that it has of these."""
    return next(path for path in (folder / f"{name}{suffix}" for suffix in suffixes) if path.exists())
