"""The images that edit.py works on: photographs, which are inverted first, saved latents, and generated images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from images.metadata import Metadata
from images.reading import open_photograph
from inversion import runs
from inversion.commands import load_latents, seeds_of
from inversion.inverter import PatchInverter
from inversion.latents import SUFFIXES, Latents, latents_suffix
from utils.distributed import SINGLE
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


def file_jobs(
    files: Sequence[tuple[Path, str]],  # with the names of the results
    together: bool,  # whether all are edited at once
    model: PatchInverter,
    options: dict,  # the section `infer`
    output: Path,
) -> list[Job]:
    """Image and latent files; the photographs' own latents go into the output folder's inversions/."""
    opened = (partial(open_source, model, options, path, name, output) for path, name in files)
    return _jobs([(*file, each) for file, each in zip(files, opened, strict=True)], together)


def open_source(model: PatchInverter, options: dict, path: Path, name: str, output: Path) -> Source:
    """Latents, or a photograph, which is inverted once, when its latents are asked for. UserError if there is none."""
    if path.suffix in SUFFIXES:
        latents = load_latents(model, path, options)
        return Source(name, latents.size, lambda: latents)
    image = open_photograph(path, options.max_pixels, options.memory_mib)
    size = image.height, image.width

    @cache
    def invert() -> Latents:
        target = output / "inversions" / f"{name}{latents_suffix('auto', model.structure_shape(size))}"
        with scratch_folder(target) as folder:
            runs.invert(model, runs.Job(path, name, output, folder, SINGLE), image, options).save(target)
        return Latents.load(target)

    return Source(name, size, invert, image.metadata)


def generated_jobs(model: PatchInverter, together: bool, options: dict) -> list[Job]:
    """The generated images of the section `generate`; `together`: whether all are edited at once."""

    def generate(seed: int) -> Source:
        latents = model.generate(options.height, options.width, seed, noise=options.noise == "field")
        return Source(f"seed-{seed}", latents.size, lambda: latents, generated=True)

    names = ((seed, f"seed-{seed}") for seed in seeds_of("generate", options))
    return _jobs([(name, name, partial(generate, seed)) for seed, name in names], together)


def _jobs(images: Sequence[tuple[Path | str, str, Callable[[], Source]]], together: bool) -> list[Job]:
    """Of images: how errors name them, what their results are called, and what opens them."""
    jobs = []
    for group in [images] if together else [[image] for image in images]:
        shown, names, opens = zip(*group, strict=True)
        name = names[0] if len(names) == 1 else f"{names[0]}-{names[-1]}"
        jobs.append(Job(name, shown, lambda opens=opens: [each() for each in opens]))
    return jobs
