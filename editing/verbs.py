"""The verbs of edit.py: what each makes of its options and of the images that it is given.

A verb reads its options once (`prepare`), and gives a function of sources, which names the results and says how to make
each. To add one: a function in a module of its own, its options in `utils/schema.py`, and an entry of VERBS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from editing.completion import FitOptions
from editing.fuse import fuse
from editing.inbetween import canvas_size, inbetween
from editing.masks import read_labels, read_mask
from editing.outpaint import canvas_size as outpainted_size
from editing.outpaint import offset_of, outpaint
from editing.resample import resample
from inversion.commands import open_photograph, progress
from inversion.inverter import PatchInverter
from inversion.latents import SUFFIXES, Latents, Style, StyleMap
from inversion.weight_maps import Boxes, LabelImage
from utils.errors import UserError
from utils.schema import FuseConfig, InbetweenConfig, OutpaintConfig, ResampleConfig

OWN = "own"  # the style of the input


@dataclass(frozen=True)
class Source:
    """An image to edit: its size at once, its latents when they are asked for."""

    name: str
    size: tuple[int, int]  # height, width, pixels
    latents: Callable[[], Latents]


Edits = list[tuple[str, Callable[[], Latents]]]  # names of results, and how to make each


@dataclass(frozen=True)
class Verb:
    """What edit.py can do."""

    help: str
    config: type  # the sections that it reads
    prepare: Callable[[PatchInverter, dict], Callable[..., Edits]]  # (model, config) -> (source, ...) -> edits
    images: int = 1  # that an edit takes
    generates: bool = False  # whether it works on generated images, where there is no --input


def prepare_fuse(model: PatchInverter, config: dict) -> Callable[[Source], Edits]:
    """Several styles in one image."""
    options, labels = config.fuse, None
    if options.centres is not None and options.mask is not None:
        raise UserError("fuse.centres and fuse.mask are both set; allowed: one of them")
    if options.mask is not None:
        labels = read_labels(Path(options.mask), len(options.styles), config.infer.max_pixels)
    styles = {item: _style(model, item, config.infer.max_pixels) for item in options.styles if item != OWN}

    def make(source: Source) -> Latents:
        latents = source.latents()
        chosen = [latents.style if item == OWN else styles[item] for item in options.styles]
        where = options.centres if labels is None else LabelImage(labels, source.size)
        return fuse(model, latents, chosen, where, blur=options.blur, exact=options.modulation == "exact")

    return lambda source: [(f"{source.name}-fused", partial(make, source))]


def prepare_outpaint(model: PatchInverter, config: dict) -> Callable[[Source], Edits]:
    """A photograph on a larger canvas."""
    options = config.outpaint

    def edits(source: Source) -> Edits:
        size = outpainted_size(source.size, (options.height, options.width))
        places = zip(("top", "left"), source.size, size, (options.top, options.left), strict=True)
        at = tuple(offset_of(*place, model.cell) for place in places)

        def make(seed: int) -> Latents:
            fitted = _fitted(config, f"{source.name}-seed-{seed}")
            return outpaint(model, source.latents(), size, at, seed, **fitted)

        return [(f"{source.name}-seed-{seed}", partial(make, seed)) for seed in _seeds(options)]

    return edits


def prepare_inbetween(model: PatchInverter, config: dict) -> Callable[[Source, Source], Edits]:
    """What may lie between two photographs."""
    options = config.inbetween

    def edits(left: Source, right: Source) -> Edits:
        size = canvas_size(model.cell, [left.size, right.size], (options.height, options.width))
        names = f"{left.name}-left-{right.name}-right" if left.name == right.name else f"{left.name}-{right.name}"

        def make(seed: int) -> Latents:
            fitted = _fitted(config, f"{names}-seed-{seed}")
            return inbetween(model, left.latents(), right.latents(), size, seed, **fitted)

        return [(f"{names}-seed-{seed}", partial(make, seed)) for seed in _seeds(options)]

    return edits


def prepare_resample(model: PatchInverter, config: dict) -> Callable[[Source], Edits]:
    """A part of an image made anew."""
    options = config.resample
    if (options.mask is None) == (options.region is None):
        raise UserError("resample.mask, resample.region: one of them says where the image is made anew")
    white = None if options.mask is None else read_mask(Path(options.mask), config.infer.max_pixels)

    def edits(source: Source) -> Edits:
        if white is None and (options.region[2] > source.size[0] or options.region[3] > source.size[1]):
            size = "{} x {}".format(*source.size)
            raise UserError(f"resample.region: {options.region}, but {source.name} has {size} pixels")
        where = Boxes([options.region]) if white is None else LabelImage(white, source.size)

        def make(seed: int) -> Latents:
            fitted = _fitted(config, f"{source.name}-resampled-{seed}")
            return resample(model, source.latents(), where, seed, structure=options.what == "structure", **fitted)

        return [(f"{source.name}-resampled-{seed}", partial(make, seed)) for seed in _seeds(options)]

    return edits


def _style(model: PatchInverter, item: int | str, max_pixels: int) -> Style | StyleMap:
    """The style that an item of fuse.styles names: a seed, an image or a latent file."""
    if isinstance(item, int):
        return model.style(item)
    if item.endswith(SUFFIXES):
        latents = Latents.load(item)
        model.check(latents, item)
        return latents.style
    return model.style(open_photograph(Path(item), max_pixels))


def _fitted(config: dict, name: str) -> dict:
    """What functions that fit new structure take of the section `complete`."""
    values = {key: value for key, value in config.complete.items() if key != "noise"}

    def shown(steps: Iterable[int]) -> Iterable[int]:
        return progress(steps, f"{name}: fit", "step")

    return {"fit": FitOptions(**values), "noise": config.complete.noise == "field", "progress": shown}


def _seeds(options: dict) -> range:
    return range(options.seed, options.seed + options.count)


VERBS = {
    "fuse": Verb("several styles in one image", FuseConfig, prepare_fuse, generates=True),
    "outpaint": Verb("a photograph on a larger canvas", OutpaintConfig, prepare_outpaint),
    "inbetween": Verb("what may lie between two photographs", InbetweenConfig, prepare_inbetween, images=2),
    "resample": Verb("a part of an image made anew", ResampleConfig, prepare_resample, generates=True),
}
