"""Styles from wherever they come: a seed, an image, a latent file, or a file of a style that was saved by name.

A file of a style is safetensors: the tensor `style` [S] in float32, and metadata that say which models it belongs to.
Those of directions (`editing.direction`) are of the same kind.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import safetensors
import torch
from torch import Tensor

from images.reading import open_photograph
from inversion.inverter import PatchInverter
from inversion.latents import FILE, SUFFIXES, WRONG, Latents
from inversion.styles import Style, StyleMap, mean_style
from utils import log
from utils.checkpoint import load_weights, save_weights
from utils.errors import UserError, failures, naming

TENSORS = {"style": "style", "direction": "step"}  # what a file of each kind holds
FOLDER = Path("styles")  # where names are looked up


def save_style(model: PatchInverter, style: Style, path: str | Path) -> None:
    """Write a style into a file, which appears whole or not at all. UserError for another suffix than .safetensors."""
    path = Path(path)
    if path.suffix != FILE:
        raise UserError(f"{path}: styles are saved as {FILE}")
    save_vector(model, "style", style.global_latent, path)


def load_style(model: PatchInverter, path: str | Path) -> Style:
    """A saved style. UserError for what is none, of other weights, of another length, or not finite."""
    values, length = load_vector(model, "style", path), model.generator.structure.global_dim
    if values.shape != (length,) or values.dtype != torch.float32:
        raise UserError(f"{path}: {values.dtype} {list(values.shape)}; a style has {length} finite numbers of float32")
    return Style(values, model.measured)


def save_vector(model: PatchInverter, kind: str, values: Tensor, path: Path, **about: str) -> None:
    """Write a style, or a direction, of a model; `about`: what its metadata say besides."""
    save_weights(path, {TENSORS[kind]: values}, {"format": _format(kind), "space": model.style_space, **about})


def load_vector(model: PatchInverter, kind: str, path: str | Path) -> Tensor:
    """The values of a style, or of a direction, all finite. UserError for what is none, or of another model."""
    tensors, metadata = load_weights(path)
    if metadata.get("format") != _format(kind) or set(tensors) != {TENSORS[kind]}:
        raise UserError(f"{path}: no {kind} (format {metadata.get('format')!r}, not {_format(kind)!r})")
    if (found := metadata.get("space")) != model.style_space:
        raise UserError(f"{path}: a {kind} of another model ({found}; the checkpoint has {model.style_space})")
    return tensors[TENSORS[kind]]


def read_style(model: PatchInverter, item: int | str, max_pixels: int) -> Style | StyleMap:
    """The style that an option names: a seed, an image, a latent file or a saved style. UserError for anything else."""
    if isinstance(item, int):
        return model.style(item)
    path = find_style(item)
    if not path.name.endswith(SUFFIXES):
        return model.style(open_photograph(path, max_pixels))
    if path.is_file() and _is_style(path):
        return load_style(model, path)
    latents = Latents.load(path)
    model.check(latents, str(path))
    return latents.style


def save_mean_style(model: PatchInverter, max_pixels: int, sets: Sequence[Sequence[Path]], output: Path) -> int:
    """The mean of the styles of images, in a file; the exit code: 1 where some of several could not be read."""
    styles, failed, paths = [], {}, list(dict.fromkeys(chain(*sets)))
    for path in paths:
        with failures(path, failed) if len(paths) > 1 else naming(path):
            styles.append(read_style(model, str(path), max_pixels))
    if styles:
        save_style(model, mean_style(styles), output)
        log.info(f"the style of {len(styles)} of {len(paths)} images is in {output}")
    return 1 if failed else 0


def find_style(item: str) -> Path:
    """The path of a style: as it stands, or that of a name in the folder of styles. UserError lists what is there."""
    path, named = Path(item), FOLDER / f"{item}{FILE}"
    if os.path.lexists(path) or path.suffix or path.parent != Path():
        return path
    if not named.is_file():
        names = ", ".join(sorted(each.stem for each in FOLDER.glob(f"*{FILE}"))) or "none"
        raise UserError(f"{item}: neither a file nor a saved style; those in {FOLDER}{os.sep}: {names}")
    return named


def _is_style(path: Path) -> bool:
    """Whether a file says that it is a saved style."""
    try:
        with safetensors.safe_open(path, framework="np") as file:
            return (file.metadata() or {}).get("format") == _format("style")
    except WRONG:
        return False


def _format(kind: str) -> str:
    return f"patch-inverter-{kind}-1"
