"""Moves along a direction of styles: a principal component, a direction of the modulations, or one that was fitted.

Directions are straight lines in the features of styles (`models.statistics.to_features`); their unit is the deviation
of the images that they come from. Structure latents have none of their own: a direction of their channels that is the
same in all cells only moves the means, which the style holds.

Letters: K channels, F features, S length of a style.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from editing.masks import refuse_panorama
from editing.style_files import load_vector, save_vector
from inversion.inverter import PatchInverter
from inversion.latents import FILE, Latents
from inversion.styles import Style, StyleMap, each_style, layer_styles
from inversion.synthesis import GeneratedStructure
from inversion.weight_maps import LabelMap
from models.layers import ModulatedConv2d
from models.statistics import COVARIANCE, StatisticsMapping, from_features, to_features, within_gamut
from models.trunk import COLOURS, Trunk
from models.weights import SHIPPED
from utils.errors import UserError

FOLDER = SHIPPED.with_name("directions")
NUMBERED = re.compile(r"(pca|sefa):(\d{1,6})")


@dataclass(frozen=True, eq=False)
class Direction:
    """What one deviation adds to the features of a style."""

    name: str
    step: Tensor  # [F], float64

    def save(self, path: Path, model: PatchInverter, about: dict[str, str]) -> None:
        """Write a safetensors file; `about`: what its metadata say besides. UserError where the disk refuses."""
        save_vector(model, "direction", self.step, path, **about)

    def moved(self, style: Style | StyleMap, strength: float, trunk: Trunk) -> Style | StyleMap:
        """A measured style, or each of several, so many deviations further on, as far as pictures can show it."""

        def moved(one: Style) -> Style:
            own = one.global_latent[None]
            features = to_features(own, trunk.channels) + strength * self.step
            found = from_features(features, own, trunk.channels)[0]
            return replace(one, global_latent=within_gamut(found, own[0], trunk).float())

        return each_style(moved, style)


def move(
    model: PatchInverter,
    latents: Latents,
    direction: Direction,
    strength: float = 1.0,  # deviations, -3 to 3 look like photographs
    mask: LabelMap | None = None,  # two kinds: the second one is moved, as far as its weight says
) -> Latents:
    """The image further along a direction; strength 0 is the same to the last bit.

    A generated image is generated in the moved style, a photograph keeps its structure and takes the style. What is
    further from the mask than `PatchInverter.reach` keeps its bits. UserError for a panorama in part, which would no
    longer close.
    """
    model.check(latents)
    require_styles(model)
    if strength == 0:
        return latents
    trunk, structure = model.generator.texture.trunk, latents.structure
    style = direction.moved(latents.style, strength, trunk)
    if not isinstance(structure, GeneratedStructure) or latents.own is not None:
        return latents.with_style(style, mask=mask)
    if mask is not None:
        refuse_panorama(latents, "direction with a mask")
        style = layer_styles(latents.style, style, mask)
    return replace(latents, structure=structure.with_style(style), style=style)


def find_direction(model: PatchInverter, source: str, layers: tuple[int, int] | None = None) -> Direction:
    """The direction that a text names: pca:K, sefa:K (of `layers`, as `factorised`), NAME of a shipped one, or a file.

    UserError for what is not there, or belongs to another model.
    """
    require_styles(model)
    if layers is not None and not source.startswith("sefa:"):
        raise UserError(f"direction.layers: {list(layers)}, but {source} has none; only sefa:K reads them")
    if match := NUMBERED.fullmatch(source):
        number = int(match[2])
        return principal(model, number) if match[1] == "pca" else factorised(model, number, layers)
    path = Path(source) if source.endswith(FILE) else FOLDER / f"{source}{FILE}"
    if not path.exists() and path.parent == FOLDER:
        names = ", ".join(sorted(each.stem for each in FOLDER.glob(f"*{FILE}")))
        raise UserError(f"direction.direction: {source!r}; allowed: pca:K, sefa:K, a {FILE} file, or one of {names}")
    return Direction(path.stem, load_vector(model, "direction", path))


def principal(model: PatchInverter, number: int) -> Direction:
    """The principal component, from 1 on, of the styles of the training images that the checkpoint holds.

    GANSpace (Haerkoenen et al., NeurIPS 2020): of means and deviations, in units of what they change in pixels; all
    other features follow as they do in these images. Its sign is that which makes images brighter.
    """
    features, trunk = _training_features(model), model.generator.texture.trunk
    scale = trunk.scale[: trunk.channels].cpu().double()
    weight = torch.cat([scale, scale * features[:, len(scale) : 2 * len(scale)].exp().mean(0)])
    centred = (features - features.mean(0))[:, : len(weight)] * weight
    axes = torch.linalg.svd(centred, full_matrices=False)[2]
    _check_number("pca", number, len(axes))
    return _signed(f"pca-{number}", following(features, centred @ axes[number - 1]))


def factorised(model: PatchInverter, number: int, layers: tuple[int, int] | None = None) -> Direction:
    """The direction, from 1 on, that changes the modulations most: SeFa (Shen and Zhou, CVPR 2021).

    In closed form, from the weights that lead from the standardised features of a style, at those of the mean one, to
    the modulations of some layers: the first and the last one, counted from 0 on over the structure synthesizer, then
    over the texture synthesizer; None: all of the structure synthesizer.
    """
    structure, texture = model.generator.structure, model.generator.texture
    pairs = zip(structure.layers, structure.heads, strict=True)
    parts = [(structure.mapping, [layer.conv, head]) for layer, head in pairs]
    for stage in texture.synthesis:
        parts += [(texture.mapping, [stage.up.conv]), (texture.mapping, [stage.conv.conv, stage.to_rgb.conv])]
    first, last = (0, len(structure.layers) - 1) if layers is None else layers
    if not first <= last < len(parts):
        allowed = f"first and last of 0 to {len(parts) - 1}, of which {len(structure.layers)} draw the structure"
        raise UserError(f"direction.layers: {[first, last]}; allowed: {allowed}")
    weights = torch.cat([_modulations(mapping, convolutions) for mapping, convolutions in parts[first : last + 1]])
    spread, channels = structure.mapping.spread.double().cpu(), structure.local_dim
    axes = torch.linalg.svd(weights * spread, full_matrices=False)[2]
    _check_number("sefa", number, len(axes))
    axis = axes[number - 1]
    standardised = _training_features(model)[:, : 2 * channels] / spread
    change = spread * axis * (standardised @ axis).std(correction=0)
    step = torch.zeros(2 * channels + COVARIANCE, dtype=torch.float64)
    step[: 2 * channels] = change
    rows, cols = torch.triu_indices(COLOURS, COLOURS)
    variances = 2 * channels + torch.nonzero(rows == cols)[:, 0]
    step[variances] = 2 * change[channels : channels + COLOURS]  # they follow the deviations
    return _signed(f"sefa-{number}", step)


def following(features: Tensor, score: Tensor) -> Tensor:
    """How features [N, F] change as a score [N] of the same images grows by its deviation: [F], by regression.

    What moves so keeps to what images look like, as the normal of a boundary does not (Haufe et al., NeuroImage 2014).
    """
    score = score - score.mean()
    return score @ features / len(score) / score.std(correction=0).clamp(min=1e-12)


def require_styles(model: PatchInverter) -> None:
    """UserError for a model whose styles are not measured."""
    if not model.measured:
        raise UserError("direction: needs a checkpoint with a trunk, whose styles are measured (model.trunk)")


def _training_features(model: PatchInverter) -> Tensor:
    """The features [N, F] of the styles of training images that a checkpoint holds. UserError where it holds none."""
    structure = model.generator.structure
    features = to_features(structure.styles.cpu(), structure.local_dim)
    if not bool((features.std(0) > 0).any()):
        raise UserError(f"{model.networks.path}: holds no styles of training images, which pca and sefa need")
    return features


def _modulations(mapping: StatisticsMapping, convolutions: Sequence[ModulatedConv2d]) -> Tensor:
    """How modulations change with the features of a style, at the mean one: [M, 2K], float64."""

    def scales(standardised: Tensor) -> Tensor:
        w = mapping.layers(standardised)
        return torch.cat([convolution.modulation(w) for convolution in convolutions], 1)

    jacobian = torch.autograd.functional.jacobian(scales, torch.zeros_like(mapping.centre)[None])
    return (jacobian[0, :, 0] / mapping.spread).double().cpu()


def _check_number(kind: str, number: int, count: int) -> None:
    if not 1 <= number <= count:
        raise UserError(f"direction.direction: {kind}:{number}; allowed: {kind}:1 to {kind}:{count}")


def _signed(name: str, step: Tensor) -> Direction:
    """The direction whose first feature, the mean brightness, grows."""
    return Direction(name, -step if step[0] < 0 else step)
