"""The verbs of edit.py: what each makes of its options and of the images that it is given.

A verb reads its options once (`prepare`), and gives its edits: functions of sources, by what ends the names of their
results. To add one: a function in a module of its own, its options in `utils/schema.py`, and an entry of VERBS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from editing.completion import FitOptions
from editing.content import Content
from editing.fill import fill
from editing.fuse import fuse, positions
from editing.inbetween import canvas_size, inbetween
from editing.masks import read_labels, read_mask
from editing.outpaint import outpaint, place
from editing.resample import check_inside, resample
from editing.sources import Source
from images.reading import open_photograph
from inversion.commands import seeds_of
from inversion.inverter import PatchInverter
from inversion.latents import SUFFIXES, Latents
from inversion.styles import Style, StyleMap
from inversion.weight_maps import Boxes, LabelImage
from utils.errors import UserError
from utils.log import progress
from utils.schema import FillConfig, FuseConfig, InbetweenConfig, OutpaintConfig, ResampleConfig

OWN = "own"  # the style of the input

Edits = dict[str, Callable[..., Latents]]  # end of a result's name -> (source, ...) -> latents


@dataclass(frozen=True)
class Verb:
    """What edit.py can do."""

    help: str
    command: type  # the class of the sections that it reads
    prepare: Callable[[PatchInverter, dict], Edits]  # (model, config) -> edits
    images: int = 1  # that an edit takes

    @property
    def generates(self) -> bool:
        """Whether it works on generated images, where there is no --input."""
        return "generate" in self.command.model_fields


def prepare_fuse(model: PatchInverter, config: dict) -> Edits:
    """Several styles in one image."""
    options, labels = config.fuse, None
    if options.centres is not None and options.mask is not None:
        raise UserError("fuse.centres and fuse.mask are both set; allowed: one of them")
    if options.mask is not None:
        labels = read_labels(Path(options.mask), len(options.styles), config.infer.max_pixels)
    centres = positions(options.centres, len(options.styles))
    styles = {item: _style(model, item, config.infer.max_pixels) for item in options.styles if item != OWN}

    def make(source: Source) -> Latents:
        latents = source.latents()
        chosen = [latents.style if item == OWN else styles[item] for item in options.styles]
        where = centres if labels is None else LabelImage(labels, source.size)
        return fuse(model, latents, chosen, where, blur=options.blur, exact=options.modulation == "exact")

    return {"fused": make}


def prepare_outpaint(model: PatchInverter, config: dict) -> Edits:
    """A photograph on a larger canvas."""
    options, content = config.outpaint, _content(model, config)
    asked = (options.height, options.width), (options.top, options.left)

    def make(seed: int, source: Source) -> Latents:
        size, at = place(model.cell, source.size, *asked)
        return outpaint(model, source.latents(), size, at, seed, content=content(source.name))

    return _by_seed("outpaint", options, "seed", make)


def prepare_inbetween(model: PatchInverter, config: dict) -> Edits:
    """What may lie between two photographs."""
    options, content = config.inbetween, _content(model, config)

    def make(seed: int, left: Source, right: Source) -> Latents:
        size = canvas_size(model.cell, [left.size, right.size], (options.height, options.width))
        made = content(f"{left.name}-{right.name}")
        return inbetween(model, left.latents(), right.latents(), size, seed, content=made)

    return _by_seed("inbetween", options, "seed", make)


def prepare_resample(model: PatchInverter, config: dict) -> Edits:
    """A part of an image made anew."""
    options, content = config.resample, _content(model, config)
    if (options.mask is None) == (options.region is None):
        raise UserError("resample.mask, resample.region: one of them says where the image is made anew")
    white = None if options.mask is None else read_mask(Path(options.mask), config.infer.max_pixels)

    def make(seed: int, source: Source) -> Latents:
        where = Boxes([options.region]) if white is None else LabelImage(white, source.size)
        check_inside(where, source.size, "resample.region")
        structure = options.what == "structure"
        return resample(model, source.latents(), where, seed, structure=structure, content=content(source.name))

    return _by_seed("resample", options, "resampled", make)


def prepare_fill(model: PatchInverter, config: dict) -> Edits:
    """Something taken out of an image."""
    options, content = config.fill, _content(model, config)
    if (options.mask is None) == (options.box is None):
        raise UserError("fill.mask, fill.box: one of them says what is taken out")
    white = None if options.mask is None else read_mask(Path(options.mask), config.infer.max_pixels)

    def make(seed: int, source: Source) -> Latents:
        where = Boxes([options.box]) if white is None else LabelImage(white, source.size)
        check_inside(where, source.size, "fill.box")
        return fill(model, source.latents(), where, seed, content=content(source.name))

    return _by_seed("fill", options, "filled", make)


def _style(model: PatchInverter, item: int | str, max_pixels: int) -> Style | StyleMap:
    """The style that an item of fuse.styles names: a seed, an image or a latent file."""
    if isinstance(item, int):
        return model.style(item)
    if item.endswith(SUFFIXES):
        return _latents(model, Path(item), max_pixels).style
    return model.style(open_photograph(Path(item), max_pixels))


def _content(model: PatchInverter, config: dict) -> Callable[[str], Content]:
    """How what is new is made, by the section `complete`, for the image of a name."""
    options = config.complete
    fit = FitOptions(**{key: options[key] for key in FitOptions.__dataclass_fields__})
    sources = [_latents(model, Path(path), config.infer.max_pixels) for path in options.sources]
    avoid = None if options.avoid is None else read_mask(Path(options.avoid), config.infer.max_pixels)
    noise = None if options.noise is None else options.noise == "field"
    content = Content(options.source, sources, avoid, noise, fit)
    return lambda name: replace(content, progress=partial(progress, name=f"{name}: fit", unit="step"))


def _latents(model: PatchInverter, path: Path, max_pixels: int) -> Latents:
    """Of an image, or a latent file."""
    if path.suffix not in SUFFIXES:
        return model.invert(open_photograph(path, max_pixels))
    latents = Latents.load(path)
    model.check(latents, str(path))
    return latents


def _by_seed(section: str, options: dict, word: str, make: Callable[..., Latents]) -> Edits:
    """An edit (seed, source, ...) -> latents, with each seed that the options of a section ask for."""
    return {f"{word}-{seed}": partial(make, seed) for seed in seeds_of(section, options)}


VERBS = {
    "fill": Verb("something taken out, and the hole closed from the rest", FillConfig, prepare_fill),
    "fuse": Verb("several styles in one image", FuseConfig, prepare_fuse),
    "outpaint": Verb("a photograph on a larger canvas", OutpaintConfig, prepare_outpaint),
    "inbetween": Verb("what may lie between two photographs", InbetweenConfig, prepare_inbetween, images=2),
    "resample": Verb("a part of an image made anew", ResampleConfig, prepare_resample),
}
