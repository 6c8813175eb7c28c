"""Edit photographs, saved latents and generated images of any size, block by block.

    python edit.py VERB --output FOLDER [--input ...] [--checkpoint FILE] [--config FILE] [key=value ...]
    python edit.py fuse --output fused/ --input photo.jpg "styles=[own,3,other.jpg]"
    python edit.py outpaint --output outpainted/ --input photos/ count=3
    python edit.py inbetween --output between/ --input left.jpg right.jpg
    python edit.py resample --output resampled/ generate.seed=11 "region=[0,96,192,192]" what=noise

`python edit.py VERB --help` says more of a verb, configs/edit/ has an example of each. Writes NAME.png into the output
folder, latents/NAME for further edits, and the photographs' own latents into inversions/.
Exit code: 0 all done; 1 some images failed, the others are done; 2 the command itself was wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from functools import cache, partial
from pathlib import Path

from images.writing import SUFFIXES as PICTURES

from editing.verbs import VERBS, Edits, Source, Verb
from inversion import runs
from inversion.commands import (
    IMAGES,
    command_parser,
    failures,
    find_files,
    find_photographs,
    load_latents,
    load_model,
    memory_errors,
    open_photograph,
    save_picture,
)
from inversion.inverter import PatchInverter
from inversion.latents import SUFFIXES, Latents, latents_suffix
from utils import log
from utils.config import load_config
from utils.distributed import SINGLE
from utils.errors import UserError, run_command
from utils.files import lock_folder, refuse_overwriting, remove_all_stale, scratch_folder
from utils.signals import exit_on_terminate


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, load, and edit one image after the other."""
    arguments = parse(sys.argv[1:] if argv is None else argv)
    verb = VERBS[arguments.verb]
    config = load_config(verb.config, arguments.config, arguments.overrides)
    files = find_inputs(verb, arguments)
    model = load_model(arguments.checkpoint, config.infer)
    if any(path.suffix not in SUFFIXES for path in files):
        model.require_encoder()
    edits = verb.prepare(model, config)
    exit_on_terminate()
    output = arguments.output
    inputs = [arguments.checkpoint, *filter(None, [arguments.config]), *files]
    with lock_folder(output):
        remove_all_stale(output)
        if verb.images == 2:
            sources = [open_source(model, config.infer, path, name, output) for path, name in files.items()]
            make(model, config, edits(*sources), inputs, output)
            return 0
        if not files:
            for source in generated(model, config):
                make(model, config, edits(source), inputs, output)
            return 0
        return edit_files(model, config, edits, files, arguments)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments, of which the first one is the verb."""
    verbs = "\n".join(f"  {name:<10} {verb.help}" for name, verb in VERBS.items())
    if not argv or argv[0] in ("-h", "--help"):
        parser = argparse.ArgumentParser(
            description=f"{__doc__}\nverbs:\n{verbs}", formatter_class=argparse.RawDescriptionHelpFormatter
        )
        parser.add_argument("verb", choices=VERBS)
        parser.parse_args(argv)
    if argv[0] not in VERBS:
        raise UserError(f"edit.py: {argv[0]!r} is no edit; allowed: {', '.join(VERBS)}, as the first argument")
    verb = VERBS[argv[0]]
    parser = command_parser(f"{verb.help}; options: `{argv[0]}` in configs/default.yaml", "seed=1")
    parser.prog = f"edit.py {argv[0]}"
    paths = {"nargs": 2, "metavar": ("LEFT", "RIGHT")} if verb.images == 2 else {"nargs": 1}
    parser.add_argument(
        "--input", type=Path, required=not verb.generates, default=[], **paths,
        help="an image, a latent file, or a folder of images" + ("; without it, generated" if verb.generates else ""),
    )  # fmt: skip
    arguments = parser.parse_intermixed_args(argv[1:])
    arguments.verb = argv[0]
    return arguments


def find_inputs(verb: Verb, arguments: argparse.Namespace) -> dict[Path, str]:
    """The images that the command names, with the names of their results. UserError for what is not there."""
    if verb.images == 2:
        for path in arguments.input:
            find_files("--input", path, lambda folder: [], "single image")
        if arguments.input[0] == arguments.input[1]:
            raise UserError(f"--input {arguments.input[0]}: is given twice; allowed: two images")
        return {path: path.stem for path in arguments.input}
    if not arguments.input:
        return {}
    return find_files("--input", arguments.input[0], partial(find_photographs, output=arguments.output), IMAGES)


def edit_files(model: PatchInverter, config: dict, edits, files: dict[Path, str], arguments: argparse.Namespace) -> int:
    """Edit an image, or each image of a folder; the command's exit code.

    UserError for what is wrong with a single file; in a folder, the others are done.
    """
    output, failed = arguments.output, {}
    inputs = [arguments.checkpoint, *filter(None, [arguments.config]), *files]
    for path, name in files.items():
        with memory_errors(path) if list(files) == arguments.input else failures(path, failed):
            source = open_source(model, config.infer, path, name, output)
            make(model, config, edits(source), inputs, output, name if path.suffix not in SUFFIXES else None)
    if len(files) > 1:
        log.info(f"{len(files) - len(failed)} of {len(files)} images done; results in {output}")
    return 1 if failed else 0


def make(
    model: PatchInverter, config: dict, edits: Edits, inputs: Sequence[Path], output: Path, inverted: str | None = None
) -> None:
    """Make, save and draw the edits of an image. UserError, before anything is computed, if a result is an input."""
    results = [output / f"{name}{suffix}" for name, _ in edits for suffix in set(PICTURES.values())]
    results += [output / "latents" / f"{name}{suffix}" for name, _ in edits for suffix in SUFFIXES]
    results += [output / "inversions" / f"{inverted}{suffix}" for suffix in SUFFIXES if inverted is not None]
    refuse_overwriting(inputs, [path for path in results if path.exists() or path.is_symlink()])
    for name, edit in edits:
        latents = edit()
        path = output / "latents" / f"{name}{latents_suffix('auto', latents.structure.shape)}"
        latents.save(path)
        save_picture(model, Latents.load(path), output / f"{name}.png", config.infer.format)


def open_source(model: PatchInverter, options: dict, path: Path, name: str, output: Path) -> Source:
    """Latents, or an image file, whose latents will be encoded into the output folder's inversions/."""
    if path.suffix in SUFFIXES:
        latents = load_latents(model, path, options)
        return Source(name, latents.size, lambda: latents)
    image = open_photograph(path, options.max_pixels)
    size = image.height, image.width

    @cache
    def invert() -> Latents:
        target = output / "inversions" / f"{name}{latents_suffix('auto', model.structure_shape(size))}"
        with scratch_folder(target) as folder:
            runs.invert(model, runs.Job(path, name, output, folder, SINGLE), image, options).save(target)
        return Latents.load(target)

    return Source(name, size, invert)


def generated(model: PatchInverter, config: dict) -> Iterator[Source]:
    """The generated images that the section `generate` names."""
    options = config.generate
    for seed in range(options.seed, options.seed + options.count):
        latents = model.generate(options.height, options.width, seed, noise=options.noise == "field")
        yield Source(f"seed-{seed}", latents.size, lambda latents=latents: latents)


if __name__ == "__main__":
    sys.exit(run_command(main))
