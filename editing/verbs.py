"""The verbs of edit.py: what each makes of its options and of the images that it is given.

A verb reads its options once (`prepare`), and gives its edits: functions of sources, by what ends the names of their
results. To add one: a function in a module of its own, its options in `utils/schema.py`, and here a `prepare_`
function and an entry of VERBS.
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
from editing.outpaint import outpaint, place
from editing.pan import frames_of, pan
from editing.resample import check_inside, resample
from editing.restyle import last_band, mix, restyle
from editing.sources import Source
from editing.style_files import find_style, read_style, save_mean_style
from images.reading import open_photograph
from inversion.commands import seeds_of
from inversion.inverter import PatchInverter
from inversion.jobs import load_latents
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
    collect: Callable[..., int] | None = None  # in place of edits: see `edit.collect`

    @property
    def generates(self) -> bool:
        """Whether it works on generated images, where there is no --input."""
        return "generate" in self.command.model_fields

    @property
    def chained(self) -> bool:
        """Whether it may stand in a chain: an edit of one image into another one, which the next one takes."""
        edits = self.command.model_fields["infer"].annotation is schema.Edited
        return edits and self.images == 1 and self.prepare is not prepare_chain


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
        where = centres if labels is None else LabelImage(labels, source.size)
        return fuse(model, latents, styles(latents), where, blur=options.blur, exact=options.modulation == "exact")

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
    options = config.direction
    if options.direction is None:
        raise UserError("direction.direction: null; allowed: pca:K, sefa:K, a name or a file")
    direction, mask = find_direction(model, options.direction, options.layers), _mask(config, "direction")

    def make(strength: float, source: Source) -> Latents:
        latents, where = source.latents(), mask(source)
        soft = where and soft_mask(model, latents, where, options.soften)
        return move(model, latents, direction, strength, soft)

    strengths = options.strengths or [options.strength]
    return {f"{direction.name}{strength + 0.0:+g}": partial(make, strength) for strength in strengths}


def prepare_outpaint(model: PatchInverter, config: dict) -> Edits:
    """A photograph on a larger canvas."""
    options = config.outpaint
    asked = (options.height, options.width), (options.top, options.left)
    return _anew(model, config, "outpaint", "seed", outpaint, lambda source: place(model.cell, source.size, *asked))


def prepare_inbetween(model: PatchInverter, config: dict) -> Edits:
    """What may lie between two photographs."""
    asked = config.inbetween.height, config.inbetween.width

    def where(*sources: Source) -> tuple[tuple[int, int]]:
        return (canvas_size(model.cell, [source.size for source in sources], asked),)

    return _anew(model, config, "inbetween", "seed", inbetween, where)


def prepare_fill(model: PatchInverter, config: dict) -> Edits:
    """Something taken out of an image."""
    return _anew(model, config, "fill", "filled", fill, _where(config, "fill", "what is taken out"))


def prepare_resample(model: PatchInverter, config: dict) -> Edits:
    """A part of an image made anew."""
    edit = partial(resample, structure=config.resample.what == "structure")
    where = _where(config, "resample", "where the image is made anew")
    return _anew(model, config, "resample", "resampled", edit, where)


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
    options, mask = config[section], _mask(config, section)
    count, weights = len(options.styles), options.weights
    if weights is not None and (len(weights) != count or sum(weights) == 0):
        raise UserError(f"{section}.weights: {weights} for {count} styles; allowed: one for each, not all 0")
    styles = _styles(model, options.styles, config)

    def make(source: Source) -> Latents:
        latents = source.latents()
        chosen = styles(latents)
        style = chosen[0] if count == 1 else mean_style(chosen, weights)
        return edit(model, latents, style, where=mask(source), soften=options.soften, **arguments)

    return make


def _anew(
    model: PatchInverter,
    config: dict,
    section: str,
    word: str,  # before the seed, in the names of results
    edit: Callable[..., Latents],  # (model, latents ..., what `where` gives ..., seed, content=...)
    where: Callable[..., Sequence],  # of sources: it refuses what does not fit before anything is inverted
) -> Edits:
    """An edit that makes something new, with each seed that a section asks for."""
    content = _content(model, config)

    def make(seed: int, *sources: Source) -> Latents:
        found, name = where(*sources), "-".join(source.name for source in sources)
        latents = [source.latents() for source in sources]
        return edit(model, *latents, *found, seed, content=content(name))

    return {f"{word}-{seed}": partial(make, seed) for seed in seeds_of(section, config[section])}


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


def _mask(config: dict, section: str) -> Callable[[Source], LabelImage | None]:
    """A function that gives the mask of a section on an image; None where it has none."""
    if config[section].mask is None:
        return lambda source: None
    white = read_mask(Path(config[section].mask), config.infer.max_pixels)
    return lambda source: LabelImage(white, source.size)


def _where(config: dict, section: str, what: str) -> Callable[[Source], tuple[Boxes | LabelImage]]:
    """A function that gives the box, or the mask, of a section, on an image. UserError unless it has one of them."""
    box, mask = config[section].box, _mask(config, section)
    if (config[section].mask is None) == (box is None):
        raise UserError(f"{section}.mask, {section}.box: one of them says {what}")

    def where(source: Source) -> tuple[Boxes | LabelImage]:
        found = Boxes([box]) if box else mask(source)
        check_inside(found, source.size, f"{section}.box")
        return (found,)

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
    sources = [_latents(model, Path(path), config.infer) for path in options.sources]
    avoid = None if options.avoid is None else read_mask(Path(options.avoid), config.infer.max_pixels)
    noise = None if options.noise is None else options.noise == "field"
    content = Content(options.source, sources, avoid, noise, fit)
    return lambda name: replace(content, progress=partial(progress, name=f"{name}: fit", unit="step"))


def _latents(model: PatchInverter, path: Path, options: dict) -> Latents:
    """Of an image, or a latent file, by `infer` options."""
    if path.suffix in SUFFIXES:
        return load_latents(model, path, options)
    return model.invert(open_photograph(path, options.max_pixels))


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
    "interpolate": Verb("a film from each image to the next", schema.InterpolateConfig, prepare_interpolate, None),
    "pan": Verb("a film along an image, or a generated one without end", schema.PanConfig, prepare_pan),
    "chain": Verb("several edits, one after the other", schema.ChainConfig, prepare_chain),
}
