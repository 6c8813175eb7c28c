"""The verbs of edit.py: what each makes of its options and of the images that it is given.

A verb reads its options once (`prepare`), and gives its edits: functions of sources, by what ends the names of their
results. To add one: a function in a module of its own, its options in `utils/schema.py`, and an entry of VERBS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from editing.completion import FitOptions
from editing.direction import find_direction, move
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
from inversion.weight_maps import Boxes, LabelImage, LabelMap
from utils.config import complete_config
from utils.errors import UserError
from utils.log import progress
from utils.schema import ChainConfig, DirectionConfig, FuseConfig, InbetweenConfig, OutpaintConfig, ResampleConfig

OWN = "own"  # the style of the input

Edits = dict[str, Callable[..., Latents]]  # end of a result's name -> (source, ...) -> latents


@dataclass(frozen=True)
class Verb:
    """What edit.py can do."""

    help: str
    command: type  # the class of the sections that it reads
    prepare: Callable[[PatchInverter, dict], Edits]  # (model, config) -> edits
    images: int = 1  # that an edit takes
    strip: bool = False  # whether several results of an image are also shown side by side

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


def prepare_direction(model: PatchInverter, config: dict) -> Edits:
    """A move along a direction of styles."""
    options, white = config.direction, None
    if options.direction is None:
        raise UserError("direction.direction: null; allowed: pca:K, sefa:K, a name or a file")
    direction = find_direction(model, options.direction, options.layers)
    if options.mask is not None:
        white = read_mask(Path(options.mask), config.infer.max_pixels)

    def make(strength: float, source: Source) -> Latents:
        size, mask = source.size, None
        if white is not None:
            mask = LabelMap(LabelImage(white, size), 2, size, options.soften)
        return move(model, source.latents(), direction, strength, mask)

    strengths = options.strengths or [options.strength]
    return {f"{direction.name}{strength + 0.0:+g}": partial(make, strength) for strength in strengths}


def prepare_outpaint(model: PatchInverter, config: dict) -> Edits:
    """A photograph on a larger canvas."""
    options = config.outpaint
    asked = (options.height, options.width), (options.top, options.left)

    def make(seed: int, source: Source) -> Latents:
        size, at = place(model.cell, source.size, *asked)
        return outpaint(model, source.latents(), size, at, seed, **_fit(config, source.name))

    return _by_seed("outpaint", options, "seed", make)


def prepare_inbetween(model: PatchInverter, config: dict) -> Edits:
    """What may lie between two photographs."""
    options = config.inbetween

    def make(seed: int, left: Source, right: Source) -> Latents:
        size = canvas_size(model.cell, [left.size, right.size], (options.height, options.width))
        fit = _fit(config, f"{left.name}-{right.name}")
        return inbetween(model, left.latents(), right.latents(), size, seed, **fit)

    return _by_seed("inbetween", options, "seed", make)


def prepare_resample(model: PatchInverter, config: dict) -> Edits:
    """A part of an image made anew."""
    options = config.resample
    if (options.mask is None) == (options.box is None):
        raise UserError("resample.mask, resample.box: one of them says where the image is made anew")
    white = None if options.mask is None else read_mask(Path(options.mask), config.infer.max_pixels)

    def make(seed: int, source: Source) -> Latents:
        where = Boxes([options.box]) if white is None else LabelImage(white, source.size)
        check_inside(where, source.size)
        structure = options.what == "structure"
        return resample(model, source.latents(), where, seed, structure=structure, **_fit(config, source.name))

    return _by_seed("resample", options, "resampled", make)


def prepare_chain(model: PatchInverter, config: dict) -> Edits:
    """Several edits, one after the other."""
    if not config.edits:
        raise UserError("edits: none given; allowed: a list of edits, each {verb: {key: value, ...}}")
    steps = [_step(model, config, edit, f"edits[{number}]") for number, edit in enumerate(config.edits)]

    def make(source: Source) -> Latents:
        latents = None
        for step in steps:
            latents = step(source)
            source = Source(source.name, latents.size, partial(_given, latents))
        return latents

    return {"edited": make}


def _given(latents: Latents) -> Latents:
    return latents


def _step(model: PatchInverter, config: dict, edit: dict, where: str) -> Callable[[Source], Latents]:
    """One edit of a chain."""
    chained = {name: verb for name, verb in VERBS.items() if verb.images == 1 and name != "chain"}
    names = [name for name in edit if name in chained]
    if len(names) != 1 or "infer" in edit or "generate" in edit:
        given, verbs = ", ".join(map(str, edit)) or "nothing", ", ".join(chained)
        allowed = f"one of {verbs}, and further sections that it reads, but infer and generate"
        raise UserError(f"{where}: {given}; allowed: {allowed}")
    verb = chained[names[0]]
    values = {name: {} if value is None else value for name, value in edit.items()}
    complete = complete_config(verb.command, values, where)
    complete.infer = config.infer
    edits = verb.prepare(model, complete)
    if len(edits) != 1:
        raise UserError(f"{where}: {names[0]} gives {len(edits)} results; allowed in a chain: one")
    return next(iter(edits.values()))


def _style(model: PatchInverter, item: int | str, max_pixels: int) -> Style | StyleMap:
    """The style that an item of fuse.styles names: a seed, an image or a latent file."""
    if isinstance(item, int):
        return model.style(item)
    if item.endswith(SUFFIXES):
        latents = Latents.load(item)
        model.check(latents, item)
        return latents.style
    return model.style(open_photograph(Path(item), max_pixels))


def _fit(config: dict, name: str) -> dict:
    """The arguments of functions that fit new structure, of the section `complete`."""
    values = {key: value for key, value in config.complete.items() if key != "noise"}
    shown = partial(progress, name=f"{name}: fit", unit="step")
    return {"fit": FitOptions(**values), "noise": config.complete.noise == "field", "progress": shown}


def _by_seed(section: str, options: dict, word: str, make: Callable[..., Latents]) -> Edits:
    """An edit (seed, source, ...) -> latents, with each seed that the options of a section ask for."""
    return {f"{word}-{seed}": partial(make, seed) for seed in seeds_of(section, options)}


VERBS = {
    "fuse": Verb("several styles in one image", FuseConfig, prepare_fuse),
    "outpaint": Verb("a photograph on a larger canvas", OutpaintConfig, prepare_outpaint),
    "inbetween": Verb("what may lie between two photographs", InbetweenConfig, prepare_inbetween, images=2),
    "direction": Verb("further along a direction of styles", DirectionConfig, prepare_direction, strip=True),
    "resample": Verb("a part of an image made anew", ResampleConfig, prepare_resample),
    "chain": Verb("several edits, one after the other", ChainConfig, prepare_chain),
}
