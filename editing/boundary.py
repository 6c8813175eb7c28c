"""Directions that are fitted to photographs: across the boundary between two sets of them.

As InterFaceGAN (Shen et al., CVPR 2020), in the features of styles beside the mean colours of some rows: pooled
structure, which helps to tell the sets apart, and is no part of a style.

Letters: F features of a style, P pooled values, n photographs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from editing.direction import Direction, following, require_styles
from images.reading import open_photograph
from inversion.inverter import PatchInverter, Source
from models.statistics import to_features
from models.trunk import COLOURS
from utils import log
from utils.errors import UserError, failures

ROWS = 4  # that the colours of a photograph are pooled into
FOLDS = 5
INVERSE_PENALTY = 0.01  # of the boundary's weights


@dataclass(frozen=True)
class Boundary:
    """What tells two sets of photographs apart."""

    classifier: Any  # of scikit-learn: [n, F + P] -> whether they are of the second set
    accuracy: float  # on photographs that were held out, the mean over both sets

    def direction(self, photographs: Sequence[np.ndarray], name: str) -> Direction:
        """From the first set to the second one, in units of the deviation of some photographs."""
        values = np.stack(photographs)
        score = torch.from_numpy(self.classifier.decision_function(values))
        return Direction(name, following(torch.from_numpy(values[:, : -ROWS * COLOURS]), score))


def fit_direction(model: PatchInverter, max_pixels: int, sets: Sequence[Sequence[Path]], output: Path) -> int:
    """A direction from one set of photographs to another, in a file, and how well they are told apart.

    The exit code: 1 where some photographs could not be read.
    """
    if len(sets) != 2:
        raise UserError(f"--input: {len(sets)} given; two folders are needed, from whose photographs it leads to whose")
    require_styles(model)
    model.require_encoder()
    failed, described = {}, ([], [])
    for number, (files, values) in enumerate(zip(sets, described, strict=True), 1):
        for file in log.progress(files, f"set {number}", "photograph"):
            with failures(file, failed):
                values.append(describe(model, open_photograph(file, max_pixels)))
    boundary = fit_boundary(*described)
    direction = boundary.direction([*described[0], *described[1]], output.stem)
    direction.save(output, model, {"accuracy": f"{boundary.accuracy:.3f}"})
    counts = " and ".join(str(len(values)) for values in described)
    log.info(f"wrote {output}: tells {counts} photographs apart, of held-out ones {boundary.accuracy:.0%}")
    return 1 if failed else 0


def describe(model: PatchInverter, image: Source) -> np.ndarray:
    """[F + P] of a photograph, which is encoded by window. UserError for an image that cannot be read."""
    require_styles(model)
    latents = model.encode(image, channels=COLOURS)
    style = to_features(latents.style.global_latent[None], model.generator.structure.local_dim)[0]
    pooled = F.adaptive_avg_pool2d(torch.from_numpy(latents.structure), (ROWS, 1))
    return torch.cat([style, pooled.flatten()]).numpy()


def fit_boundary(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> Boundary:
    """The boundary between two sets of photographs, each [F + P].

    The accuracy is cross-validated; equal photographs are held out together. UserError for sets of fewer than two
    different photographs, for photographs that are in both, or without scikit-learn.
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import StratifiedGroupKFold, cross_val_score
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise UserError("fit-direction: needs the package scikit-learn: pip install scikit-learn") from error
    kinds = [{row.tobytes() for row in each} for each in (first, second)]
    if both := len(kinds[0] & kinds[1]):
        raise UserError(f"fit-direction: {both} photographs are in both sets; allowed: sets with none in common")
    if (fewest := min(map(len, kinds))) < 2:
        raise UserError(f"fit-direction: a set of {fewest} different photographs; two or more of each are needed")
    values, labels = np.concatenate([first, second]), np.repeat([0, 1], [len(first), len(second)])
    groups = np.unique(values, axis=0, return_inverse=True)[1].reshape(-1)
    regression = LogisticRegression(C=INVERSE_PENALTY, class_weight="balanced", max_iter=1000)
    classifier = make_pipeline(StandardScaler(), regression)
    folds = StratifiedGroupKFold(min(FOLDS, fewest), shuffle=True, random_state=0)
    scores = cross_val_score(classifier, values, labels, groups=groups, cv=folds, scoring="balanced_accuracy")
    return Boundary(classifier.fit(values, labels), float(scores.mean()))
