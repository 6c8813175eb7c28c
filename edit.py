"""Edit photographs, saved latents and generated images of any size, block by block.

    python edit.py VERB --output FOLDER [--input PATH ...] [--checkpoint FILE] [--config FILE] [key=value ...]
    python edit.py fuse --output fused/ --input photo.jpg "styles=[own,3,other.jpg]"
    python edit.py style --output styled/ --input photo.jpg styles=other.jpg strength=0.7
    python edit.py outpaint --output outpainted/ --input photos/ count=3
    python edit.py inbetween --output between/ --input left.jpg right.jpg
    python edit.py fill --output filled/ --input photo.jpg box=16,24,48,64
    python edit.py resample --output resampled/ generate.seed=11 box=0,96,192,192 what=noise

`python edit.py VERB --help` says more of a verb, configs/edit/ has an example of each. Writes NAME.png into the output
folder, latents/NAME for further edits (or NAME.mp4), and the photographs' own latents into inversions/; with
infer.region only a picture of that part.
Exit code: 0 all done; 1 some images of a folder failed, the others are done; 2 the command itself was wrong.
"""

from __future__ import annotations

from utils.processors import share_processor
from utils.signals import exit_at_once

if __name__ == "__main__":  # before PyTorch is loaded
    exit_at_once()
    share_processor()

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

from editing.film import FILM, WIDEST, Film, strip
from editing.sources import Job, jobs_of
from editing.verbs import VERBS, Edits, Verb, inputs_of
from images.listing import find_images
from images.writing import SUFFIXES as PICTURES
from images.writing import TILES, picture_kind, write_picture
from inversion import commands
from inversion.inverter import PatchInverter
from inversion.latents import FILE, SUFFIXES, Latents, latents_suffix
from inversion.runs import file_version
from utils import log
from utils.arguments import add_paths, parse_arguments
from utils.config import files_read, load_config
from utils.device import release_freed_memory
from utils.errors import UserError, failures, naming, run_command
from utils.files import lock_folder, refuse_overwriting

STRIP = "strip"  # end of the name of several results side by side


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, load, and edit one image after the other."""
    verb, arguments = parse(sys.argv[1:] if argv is None else argv)
    config = load_config(verb.command, arguments.config, arguments.overrides)
    if verb.collect:
        return collect(verb, arguments, config)
    files, output = find_inputs(verb, arguments), arguments.output
    photographs = [name for path, name in files if path.suffix not in SUFFIXES]
    model = commands.load_model(arguments.checkpoint, config.infer)
    if photographs:
        model.require_encoder()
    edits = verb.prepare(model, config)
    jobs = jobs_of(files, verb.images != 1, model, config, output)
    paths = [path for path, _ in files]
    inputs = [arguments.checkpoint, *inputs_of(verb, config, arguments.config), *paths]
    endings = [*edits, STRIP] if verb.strip else edits
    names = [f"{job.name}-{ending}{part_of(config.infer)}" for job in jobs for ending in endings]
    refuse_overwriting(inputs, places(names, photographs, output))
    many, failed = verb.images == 1 and (len(paths) > 1 or paths != arguments.input), {}
    with lock_folder(output):
        for job in jobs:
            with failures(job.images[0], failed) if many else naming(*job.images):
                made = run(model, job, edits, output, config)
                if verb.strip and len(made) > 1:
                    save_strip(model, made, output / f"{job.name}-{STRIP}.png")
    if many:
        log.info(f"{len(jobs) - len(failed)} of {len(jobs)} images done; results in {output}")
    return 1 if failed else 0


def collect(verb: Verb, arguments: argparse.Namespace, config: dict) -> int:
    """What makes one file of the images of each --input."""
    output = arguments.output
    sets = [list(commands.find_files("--input", [path], find_images, commands.IMAGES)) for path in arguments.input]
    inputs = [arguments.checkpoint, *files_read(verb.command, config, arguments.config), *chain(*sets)]
    refuse_overwriting(inputs, [output])
    if output.suffix != FILE:
        raise UserError(f"--output {output}: allowed: a {FILE} file")
    model = commands.load_model(arguments.checkpoint, config.infer)
    return verb.collect(model, config.infer.max_pixels, sets, output)


def parse(argv: Sequence[str]) -> tuple[Verb, argparse.Namespace]:
    """The verb, which is the first argument, and the others."""
    verbs = "\n".join(f"  {name:<13} {verb.help}" for name, verb in VERBS.items())
    parser = argparse.ArgumentParser(
        "edit.py", description=__doc__, epilog=f"verbs:\n{verbs}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("verb", choices=VERBS, metavar="VERB", help=", ".join(VERBS))
    name = parser.parse_args(argv[:1]).verb
    verb = VERBS[name]
    about = f"{verb.help}; options: `{verb.command.own}` in configs/default.yaml"
    place = "file of the result" if verb.collect else "folder of the results"
    parser = commands.command_parser(about, "infer.memory_mib=2048", place)
    parser.prog = f"edit.py {name}"
    about = "left and right image, or latent file" if verb.images == 2 else "images, latent files, folders"
    about += "; without it, generated" if verb.generates else ""
    add_paths(parser, "--input", about, required=not verb.generates, default=[])
    arguments = parse_arguments(parser, argv[1:])
    if verb.images == 2 and len(arguments.input) != 2:
        given, options = len(arguments.input), [word for word in arguments.overrides if os.path.exists(word)]
        hint = f" (./{options[0]} is a file, {options[0]} an option)" if options else ""
        raise UserError(f"--input: {given} given; two photographs are needed, the left and the right one{hint}")
    return verb, arguments


def find_inputs(verb: Verb, arguments: argparse.Namespace) -> list[tuple[Path, str]]:
    """The images that the command names, each with a name for its results. UserError for what is not there."""
    if verb.images != 2:
        search = partial(commands.find_photographs, output=arguments.output)
        found = commands.find_files("--input", arguments.input, search, commands.IMAGES) if arguments.input else {}
        return list(found.items())
    sides = [commands.find_files("--input", [path], lambda _: [], "single image") for path in arguments.input]
    files = list(chain(*(side.items() for side in sides)))
    if files[0][1] == files[1][1]:
        return [(path, f"{name}-{side}") for (path, name), side in zip(files, ("left", "right"), strict=True)]
    return files


def places(names: Iterable[str], photographs: Iterable[str], output: Path) -> Iterator[Path]:
    """Wherever results of these names, and the latents of photographs, may be written."""
    for name in names:
        yield from (output / f"{name}{suffix}" for suffix in {*PICTURES.values(), TILES, FILM})
        yield from (output / f"latents/{name}{suffix}" for suffix in SUFFIXES)
    yield from (output / f"inversions/{name}{suffix}" for name in photographs for suffix in SUFFIXES)


def part_of(options: dict) -> str:
    """What the names of pictures of a region end with."""
    region = options.get("region")  # films have none
    return "" if region is None else f"-{'-'.join(map(str, region))}"


def run(model: PatchInverter, job: Job, edits: Edits, output: Path, config: dict) -> list[Path]:
    """Make, save and draw the edits of a job, as pictures that `infer` options ask for, or as films.

    Gives the latents that are saved: those of pictures of whole images.
    """
    sources, options, paths = job.open(), config.infer, []
    metadata = sources[0].metadata if len(sources) == 1 and options.get("metadata") else None
    for ending, edit in edits.items():
        name, latents = f"{job.name}-{ending}", edit(*sources)
        if isinstance(latents, Film):
            settings = [config, model.fingerprint, *(file_version(path) for path in job.images)]
            latents.save(output / f"{name}{FILM}", settings)
            continue
        region = options.region
        commands.require_room(output, latents, options, region, stored=region is None)
        if region is None:
            picture_kind(options.format, latents.size, options.depth)
            paths.append(output / "latents" / f"{name}{latents_suffix('auto', latents.structure.shape)}")
            latents.save(paths[-1])
            release_freed_memory()
            latents = Latents.load(paths[-1])
        path = output / f"{name}{part_of(options)}.png"
        commands.save_picture(model, latents, path, options, metadata=metadata, region=region)
    return paths


def save_strip(model: PatchInverter, paths: Sequence[Path], path: Path) -> None:
    """Small pictures of latents side by side, as PNG."""
    pictures = []
    for latents in map(Latents.load, paths):
        scale = 1
        while scale < model.cell and latents.size[1] // (2 * scale) * len(paths) >= WIDEST:
            scale *= 2
        pictures.append(model.draw(latents) if scale == 1 else model.preview(latents, scale))
    write_picture(path, strip(pictures), "png")
    log.info(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(run_command(main))
