"""Edit photographs, saved latents and generated images of any size, block by block.

    python edit.py VERB --output FOLDER [--input ...] [--checkpoint FILE] [--config FILE] [key=value ...]
    python edit.py fuse --output fused/ --input photo.jpg "styles=[own,3,other.jpg]"
    python edit.py outpaint --output outpainted/ --input photos/ count=3
    python edit.py inbetween --output between/ --input left.jpg right.jpg
    python edit.py resample --output resampled/ generate.seed=11 "region=[0,96,192,192]" what=noise

`python edit.py VERB --help` says more of a verb, configs/edit/ has an example of each. Writes NAME.png into the output
folder, latents/NAME for further edits, and the photographs' own latents into inversions/.
Exit code: 0 all done; 1 some images of a folder failed, the others are done; 2 the command itself was wrong.
"""

from __future__ import annotations

from utils.processors import share_processor

if __name__ == "__main__":  # before PyTorch is loaded
    share_processor()

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

from editing.sources import Job, file_jobs, generated_jobs
from editing.verbs import VERBS, Verb
from images.writing import SUFFIXES as PICTURES
from images.writing import TILES, picture_kind
from inversion import commands
from inversion.inverter import PatchInverter
from inversion.latents import SUFFIXES, Latents, latents_suffix
from utils import log
from utils.config import load_config
from utils.device import release_freed_memory
from utils.errors import failures, naming, run_command
from utils.files import lock_folder, refuse_overwriting, remove_stale
from utils.signals import exit_on_terminate


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, load, and edit one image after the other."""
    verb, arguments = parse(sys.argv[1:] if argv is None else argv)
    config = load_config(verb.command, arguments.config, arguments.overrides)
    files, output = find_inputs(verb, arguments), arguments.output
    photographs = [name for path, name in files if path.suffix not in SUFFIXES]
    model = commands.load_model(arguments.checkpoint, config.infer)
    if photographs:
        model.require_encoder()
    edits = verb.prepare(model, config)
    if files:
        jobs = file_jobs(files, verb.images == 2, model, config.infer, output)
    else:
        jobs = generated_jobs(model, config.generate)
    paths = [path for path, _ in files]
    options = [value if isinstance(value, list) else [value] for value in config[verb.command.own].values()]
    named = [Path(item) for item in chain(*options) if isinstance(item, str) and os.path.exists(item)]  # styles, masks
    inputs = [arguments.checkpoint, *filter(None, [arguments.config]), *paths, *named]
    names = [f"{job.name}-{ending}" for job in jobs for ending in edits]
    refuse_overwriting(inputs, places(names, photographs, output))
    exit_on_terminate()
    in_folder, failed = paths != arguments.input, {}
    with lock_folder(output):
        remove_stale(output)
        for job in jobs:
            with failures(job.images[0], failed) if in_folder else naming(*job.images):
                run(model, job, edits, output, config.infer)
    if in_folder:
        log.info(f"{len(jobs) - len(failed)} of {len(jobs)} images done; results in {output}")
    return 1 if failed else 0


def parse(argv: Sequence[str]) -> tuple[Verb, argparse.Namespace]:
    """The verb, which is the first argument, and the others."""
    verbs = "\n".join(f"  {name:<10} {verb.help}" for name, verb in VERBS.items())
    parser = argparse.ArgumentParser(
        "edit.py", description=__doc__, epilog=f"verbs:\n{verbs}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("verb", choices=VERBS, metavar="VERB", help=", ".join(VERBS))
    name = parser.parse_args(argv[:1]).verb
    verb = VERBS[name]
    parser = commands.command_parser(f"{verb.help}; options: `{name}` in configs/default.yaml", "infer.format=tiff")
    parser.prog = f"edit.py {name}"
    paths = {"nargs": 2, "metavar": ("LEFT", "RIGHT")} if verb.images == 2 else {"nargs": 1}
    parser.add_argument(
        "--input", type=Path, required=not verb.generates, default=[], **paths,
        help="an image, a latent file, or a folder of images" + ("; without it, generated" if verb.generates else ""),
    )  # fmt: skip
    return verb, parser.parse_intermixed_args(argv[1:])


def find_inputs(verb: Verb, arguments: argparse.Namespace) -> list[tuple[Path, str]]:
    """The images that the command names, each with a name for its results. UserError for what is not there."""
    search, kind = partial(commands.find_photographs, output=arguments.output), commands.IMAGES
    if verb.images == 2:
        search, kind = lambda folder: [], "single image"
    found = [commands.find_files("--input", path, search, kind).items() for path in arguments.input]
    files = list(chain(*found))
    if verb.images == 2 and files[0][1] == files[1][1]:
        return [(path, f"{name}-{side}") for (path, name), side in zip(files, ("left", "right"), strict=True)]
    return files


def places(names: Iterable[str], photographs: Iterable[str], output: Path) -> Iterator[Path]:
    """Wherever results of these names, and the latents of photographs, may be written."""
    for name in names:
        yield from (output / f"{name}{suffix}" for suffix in {*PICTURES.values(), TILES})
        yield from (output / f"latents/{name}{suffix}" for suffix in SUFFIXES)
    yield from (output / f"inversions/{name}{suffix}" for name in photographs for suffix in SUFFIXES)


def run(model: PatchInverter, job: Job, edits: dict[str, Callable[..., Latents]], output: Path, options: dict) -> None:
    """Make, save and draw the edits of a job, as pictures that `infer` options ask for."""
    sources = job.open()
    metadata = sources[0].metadata if len(sources) == 1 and options.get("metadata") else None
    for ending, edit in edits.items():
        name, latents = f"{job.name}-{ending}", edit(*sources)
        picture_kind(options.format, latents.size, options.depth)
        path = output / "latents" / f"{name}{latents_suffix('auto', latents.structure.shape)}"
        latents.save(path)
        release_freed_memory()
        commands.save_picture(model, Latents.load(path), output / f"{name}.png", options, metadata=metadata)


if __name__ == "__main__":
    sys.exit(run_command(main))
