"""The images that edit.py works on: photographs, which are inverted first, saved latents, and generated images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from images.metadata import Metadata
from images.reading import open_photograph
from inversion import jobs
from inversion.commands import seeds_of
from inversion.inverter import PatchInverter
from inversion.latents import SUFFIXES, Latents, latents_suffix
from utils.files import scratch_folder


@dataclass(frozen=True)
class Source:
    """An image to edit: its latents are made when they are asked for, so what is wrong with its size is said before."""

    name: str
    size: tuple[int, int]  # height, width, pixels
    latents: Callable[[], Latents]
    metadata: Metadata | None = None  # of a photograph
    generated: bool = False  # whether it goes on beyond its edges


@dataclass(frozen=True)
class Job:
    """What is edited at a time: an image, or several; they are opened when it is their turn."""

    name: str  # that the names of the results begin with
    images: Sequence[Path | str]  # as errors name them
    open: Callable[[], list[Source]]


def jobs_of(
    files: Sequence[tuple[Path, str]],  # image and latent files, with the names of their results
    together: bool,  # whether all are edited at once
    model: PatchInverter,
    config: dict,  # its sections `infer` and, for the generated images without files, `generate`
    output: Path,  # folder; the photographs' own latents go into its inversions/
) -> list[Job]:
    """What is edited: files, or generated images where there are none."""
    if files:
        images = [(*file, partial(open_source, model, config.infer, *file, output)) for file in files]
    else:
        named = ((f"seed-{seed}", seed) for seed in seeds_of("generate", config.generate))
        images = [(name, name, partial(generate, model, config.generate, seed)) for name, seed in named]
    jobs = []
    for group in [images] if together else [[image] for image in images]:
        shown, names, opens = zip(*group, strict=True)
        name = names[0] if len(names) == 1 else f"{names[0]}-{names[-1]}"
        jobs.append(Job(name, shown, lambda opens=opens: [each() for each in opens]))
    return jobs


def open_source(model: PatchInverter, options: dict, path: Path, name: str, output: Path) -> Source:
    """Latents, or a photograph, which is inverted once, when its latents are asked for. UserError if there is none."""
    if path.suffix in SUFFIXES:
        latents = jobs.load_latents(model, path, options)
        return Source(name, latents.size, lambda: latents)
    image = open_photograph(path, options.max_pixels, options.memory_mib)
    size = image.height, image.width

    @cache
    def invert() -> Latents:
        target = output / "inversions" / f"{name}{latents_suffix('auto', model.structure_shape(size))}"
        with scratch_folder(target) as folder:
            jobs.invert(model, jobs.Job(path, name, output, folder), image, options).save(target)
        return Latents.load(target)

    return Source(name, size, invert, image.metadata)


def generate(model: PatchInverter, options: dict, seed: int) -> Source:
    """The generated image of a seed, by the section `generate`."""
    latents = model.generate(options.height, options.width, seed, noise=options.noise == "field")
    return Source(f"seed-{seed}", latents.size, lambda: latents, generated=True)
