"""The verbs of edit.py: what each makes of its options and of the images that it is given.

A verb reads its options once (`prepare`), and gives its edits: functions of sources, by what ends the names of their
results. To add one: a function in a module of its own, its options in `utils/schema.py`, and an entry of VERBS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from editing.boundary import fit_direction
from editing.completion import FitOptions
from editing.content import Content
from editing.direction import find_direction, move
from editing.fill import fill
from editing.film import Film, load_encoder
from editing.fuse import fuse, positions
from editing.inbetween import canvas_size, inbetween
from editing.interpolate import common_size, film, interpolate
from editing.masks import read_labels, read_mask, soft_mask
from editing.mix import mix
from editing.outpaint import outpaint, place
from editing.pan import frames_of, pan
from editing.resample import check_inside, resample
from editing.restyle import last_band, restyle
from editing.sources import Source
from editing.style_files import find_style, read_style, save_mean_style
from images.reading import open_photograph
from inversion.commands import seeds_of
from inversion.inverter import PatchInverter
from inversion.latents import SUFFIXES, Latents
from inversion.styles import Style, StyleMap, mean_style
from inversion.weight_maps import Boxes, LabelImage
from utils import schema
from utils.config import complete_config, files_read
from utils.errors import UserError
from utils.log import progress

OWN = "own"  # the style of the input

Edits = dict[str, Callable[..., Latents | Film]]  # end of a result's name -> (source, ...) -> latents, or a film


@dataclass(frozen=True)
class Verb:
    """What edit.py can do."""

    help: str
    command: type  # the class of the sections that it reads
    prepare: Callable[[PatchInverter, dict], Edits] | None = None  # (model, config) -> edits
    images: int | None = 1  # that an edit takes; None: all that there are, at once
    strip: bool = False  # whether several results of an image are also shown side by side
    film: bool = False  # whether its edits give films
    collect: Callable[..., int] | None = None  # in place of edits: see `edit.collect`

    @property
    def generates(self) -> bool:
        """Whether it works on generated images, where there is no --input."""
        return "generate" in self.command.model_fields

    @property
    def chained(self) -> bool:
        """Whether it may stand in a chain: an edit of one image, which the next one takes."""
        return self.images == 1 and not self.film and not self.collect and self.prepare is not prepare_chain


def prepare_fuse(model: PatchInverter, config: dict) -> Edits:
    """Several styles in one image."""
    options, labels = config.fuse, None
    if options.centres is not None and options.mask is not None:
        raise UserError("fuse.centres and fuse.mask are both set; allowed: one of them")
    if options.mask is not None:
        labels = read_labels(Path(options.mask), len(options.styles), config.infer.max_pixels)
    centres = positions(options.centres, len(options.styles))
    styles = _styles(model, options.styles, config)

    def make(source: Source) -> Latents:
        latents = source.latents()
        chosen = styles(latents)
        where = centres if labels is None else LabelImage(labels, source.size)
        return fuse(model, latents, chosen, where, blur=options.blur, exact=options.modulation == "exact")

    return {"fused": make}


def prepare_style(model: PatchInverter, config: dict) -> Edits:
    """An image in another style."""
    layers = None
    if config.style.what != "both":
        layers = (0, 0) if config.style.what == "colours" else (1, last_band(model))
    return {"styled": _in_style(model, config, "style", restyle, strength=config.style.strength, layers=layers)}


def prepare_mix(model: PatchInverter, config: dict) -> Edits:
    """Some layers of an image in another style."""
    return {"mixed": _in_style(model, config, "mix", mix, layers=config.mix.layers)}


def prepare_direction(model: PatchInverter, config: dict) -> Edits:
    """A move along a direction of styles."""
    options, white = config.direction, None
    if options.direction is None:
        raise UserError("direction.direction: null; allowed: pca:K, sefa:K, a name or a file")
    direction = find_direction(model, options.direction, options.layers)
    if options.mask is not None:
        white = read_mask(Path(options.mask), config.infer.max_pixels)

    def make(strength: float, source: Source) -> Latents:
        latents, mask = source.latents(), None
        if white is not None:
            mask = soft_mask(model, latents, LabelImage(white, source.size), options.soften)
        return move(model, latents, direction, strength, mask)

    strengths = options.strengths or [options.strength]
    return {f"{direction.name}{strength + 0.0:+g}": partial(make, strength) for strength in strengths}


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


def prepare_fill(model: PatchInverter, config: dict) -> Edits:
    """Something taken out of an image."""
    content, where = _content(model, config), _where(config, "fill", "what is taken out")

    def make(seed: int, source: Source) -> Latents:
        return fill(model, source.latents(), where(source), seed, content=content(source.name))

    return _by_seed("fill", config.fill, "filled", make)


def prepare_resample(model: PatchInverter, config: dict) -> Edits:
    """A part of an image made anew."""
    content, where = _content(model, config), _where(config, "resample", "where the image is made anew")
    structure = config.resample.what == "structure"

    def make(seed: int, source: Source) -> Latents:
        place = where(source)
        return resample(model, source.latents(), place, seed, structure=structure, content=content(source.name))

    return _by_seed("resample", config.resample, "resampled", make)


def prepare_chain(model: PatchInverter, config: dict) -> Edits:
    """Several edits, one after the other."""
    steps = []
    for number, (name, step) in enumerate(chained_edits(config)):
        edits = VERBS[name].prepare(model, step)
        if len(edits) != 1:
            raise UserError(f"edits[{number}]: {name} gives {len(edits)} results; allowed in a chain: one")
        steps += edits.values()

    def make(source: Source) -> Latents:
        latents = None
        for step in steps:
            latents = step(source)
            source = Source(source.name, latents.size, lambda latents=latents: latents)
        return latents

    return {"edited": make}


def chained_edits(config: dict) -> list[tuple[str, dict]]:
    """The verb, and the complete config, of each edit of a chain. UserError for what is none."""
    if not config.edits:
        raise UserError("edits: none given; allowed: a list of edits, each {verb: {key: value, ...}}")
    chained, found = {name: verb for name, verb in VERBS.items() if verb.chained}, []
    for number, edit in enumerate(config.edits):
        names = [name for name in edit if name in chained]
        if len(names) != 1 or "infer" in edit or "generate" in edit:
            given, verbs = ", ".join(map(str, edit)) or "nothing", ", ".join(chained)
            allowed = f"one of {verbs}, and further sections that it reads, but infer and generate"
            raise UserError(f"edits[{number}]: {given}; allowed: {allowed}")
        values = {name: {} if value is None else value for name, value in edit.items()}
        complete = complete_config(chained[names[0]].command, values, f"edits[{number}]")
        complete.infer = config.infer
        found.append((names[0], complete))
    return found


def prepare_interpolate(model: PatchInverter, config: dict) -> Edits:
    """A film from each image to the next."""
    options = config.interpolate
    load_encoder()

    def make(*sources: Source) -> Film:
        load_encoder(common_size([source.size for source in sources]))
        path = interpolate(model, [source.latents() for source in sources], options.what)
        return film(model, path, len(sources), options.frames, options.fps, options.loop)

    return {"interpolated": make}


def prepare_pan(model: PatchInverter, config: dict) -> Edits:
    """A film along an image, or along a generated one without end."""
    options, vertical = config.pan, config.pan.axis == "vertical"
    to = None if options.to is None else model.style(options.to)
    load_encoder()

    def make(source: Source) -> Film:
        length, count = frames_of(source.size, options.length, options.step, options.frames, vertical, source.generated)
        load_encoder((length, source.size[1]) if vertical else (source.size[0], length))
        latents = source.latents()
        return pan(model, latents, length, options.step, count, vertical=vertical, to=to, fps=options.fps)

    return {"pan": make}


def _in_style(
    model: PatchInverter, config: dict, section: str, edit: Callable[..., Latents], **arguments: object
) -> Callable[[Source], Latents]:
    """An edit by the mean of styles, inside a mask, as a section says."""
    options = config[section]
    count, weights = len(options.styles), options.weights
    if weights is not None and (len(weights) != count or sum(weights) == 0):
        raise UserError(f"{section}.weights: {weights} for {count} styles; allowed: one for each, not all 0")
    white = None if options.mask is None else read_mask(Path(options.mask), config.infer.max_pixels)
    styles = _styles(model, options.styles, config)

    def make(source: Source) -> Latents:
        latents = source.latents()
        chosen, where = styles(latents), None if white is None else LabelImage(white, source.size)
        style = chosen[0] if count == 1 else mean_style(chosen, weights)
        return edit(model, latents, style, where=where, soften=options.soften, **arguments)

    return make


def inputs_of(verb: Verb, config: dict, path: str | None) -> list[Path]:
    """The files that a command reads by its config, in a chain by those of its edits, and those of named styles.

    UserError for a name that stands for none.
    """
    if verb.prepare is prepare_chain:
        steps = (inputs_of(VERBS[name], step, None) for name, step in chained_edits(config))
        return files_read(verb.command, config, path) + sum(steps, [])
    items = config[verb.command.own].get("styles", ())
    styles = [find_style(item) for item in items if item != OWN and isinstance(item, str)]
    return files_read(verb.command, config, path) + styles


def _where(config: dict, section: str, what: str) -> Callable[[Source], Boxes | LabelImage]:
    """A function that gives the box, or the mask, of a section, on an image. UserError unless it has one of them."""
    options = config[section]
    if (options.mask is None) == (options.box is None):
        raise UserError(f"{section}.mask, {section}.box: one of them says {what}")
    white = None if options.mask is None else read_mask(Path(options.mask), config.infer.max_pixels)

    def where(source: Source) -> Boxes | LabelImage:
        if white is not None:
            return LabelImage(white, source.size)
        check_inside(boxes := Boxes([options.box]), source.size, f"{section}.box")
        return boxes

    return where


def _styles(
    model: PatchInverter, items: Sequence[int | str], config: dict
) -> Callable[[Latents], list[Style | StyleMap]]:
    """A function that gives the styles that are named, for latents whose own may be among them."""
    found = {item: read_style(model, item, config.infer.max_pixels) for item in items if item != OWN}
    return lambda latents: [latents.style if item == OWN else found[item] for item in items]


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
    "fuse": Verb("several styles in one image", schema.FuseConfig, prepare_fuse),
    "style": Verb("an image in the style of another one", schema.StyleConfig, prepare_style),
    "mix": Verb("some layers of an image in another style", schema.MixConfig, prepare_mix),
    "save-style": Verb("the mean style of images, as a file", schema.CollectConfig, collect=save_mean_style),
    "direction": Verb("further along a direction of styles", schema.DirectionConfig, prepare_direction, strip=True),
    "fit-direction": Verb("the direction between two sets of images", schema.CollectConfig, collect=fit_direction),
    "outpaint": Verb("a photograph on a larger canvas", schema.OutpaintConfig, prepare_outpaint),
    "inbetween": Verb("what may lie between two photographs", schema.InbetweenConfig, prepare_inbetween, images=2),
    "fill": Verb("something taken out, and the hole closed from the rest", schema.FillConfig, prepare_fill),
    "resample": Verb("a part of an image made anew", schema.ResampleConfig, prepare_resample),
    "interpolate": Verb(
        "a film from each image to the next", schema.InterpolateConfig, prepare_interpolate, None, film=True
    ),
    "pan": Verb("a film along an image, or a generated one without end", schema.PanConfig, prepare_pan, film=True),
    "chain": Verb("several edits, one after the other", schema.ChainConfig, prepare_chain),
}
