"""The files that a command works on, one after the other; one that fails is named, and the others are done."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from images.reading import find_images
from inversion.latents import FILE, FOLDER
from utils import log
from utils.errors import UserError, out_of_memory
from utils.files import remove_all_stale, remove_stale
from utils.signals import exit_on_terminate


def find_files(option: str, path: Path, search: Callable[[Path], list[Path]], kind: str) -> dict[Path, str]:
    """The file that an option names, or what `search` finds in the folder, with the names of the results."""
    if not path.is_dir() or path.suffix == FOLDER:
        if not path.exists():
            raise UserError(f"{option} {path}: no such file or folder")
        return {path: path.stem}
    files = search(path)
    if not files:
        raise UserError(f"{option} {path}: no {kind} in this folder")
    return unique_names(files, path)


def find_photographs(folder: Path, output: Path) -> list[Path]:
    """The images of a folder, without the results of an earlier run in an output folder inside it."""
    if output.resolve() == folder.resolve():
        raise UserError(f"--output {output}: is the input folder; results need a folder of their own")
    files = find_images(folder)
    if output.resolve().is_relative_to(folder.resolve()):
        files = [file for file in files if not file.resolve().is_relative_to(output.resolve())]
    return files


def find_latents(folder: Path) -> list[Path]:
    """The latent files and latent folders of a folder, without hidden ones."""
    found = []
    for where, folders, files in os.walk(folder):
        found += [Path(where, name) for name in files if name.endswith(FILE)]
        found += [Path(where, name) for name in folders if name.endswith(FOLDER)]
        folders[:] = [name for name in folders if not name.startswith(".") and not name.endswith(FOLDER)]
    return sorted(path for path in found if not path.name.startswith("."))


def unique_names(files: list[Path], folder: Path) -> dict[Path, str]:
    """a/b.jpg -> a/b, but a/b.jpg and a/b.png keep their suffixes; in a hopeless case all files do."""
    whole = [str(file.relative_to(folder)) for file in files]
    stems = [str(Path(name).with_suffix("")) for name in whole]
    count = Counter(stems)
    names = [stem if count[stem] == 1 else name for stem, name in zip(stems, whole, strict=True)]
    return dict(zip(files, names if len(set(names)) == len(names) else whole, strict=True))


def begin(output: Path, kinds: Sequence[str] = ()) -> None:
    """Make the folder of the results, clear away what a killed run left there, and let SIGTERM end this one cleanly.

    `kinds`: folders below it that are searched, too. UserError if the folder cannot be made.
    """
    exit_on_terminate()
    make_folder(output)
    remove_stale(output)
    for kind in kinds:
        remove_all_stale(output / kind)


def make_folder(output: Path) -> None:
    """Make the folder of the results. UserError if it cannot be made."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {output}: {error.strerror}") from error


def refuse_unread(options: dict) -> None:
    """UserError if an `infer` option is set that only infer.py reads."""
    unread = {"region": None, "save_float": False, "comparison": "auto"}
    for key, default in unread.items():
        if options[key] != default:
            raise UserError(f"infer.{key}: {options[key]}; only infer.py reads it")
    if options.latents == "none":
        raise UserError("infer.latents: none; only infer.py does without; allowed: auto, safetensors, zarr")


def refuse_refinement(options: dict, source: str) -> None:
    """UserError if `infer` options ask for a refinement of what `source` names, which has no photograph."""
    if options.refine or options.refine_style:
        raise UserError(f"infer.refine: latents are refined against their photograph, and {source} have none")


@contextmanager
def failures(path: Path, name: str, failed: dict[str, str]) -> Iterator[None]:
    """Enters into `failed`, and names in one line, an image that cannot be done; other errors are ours and go on."""
    try:
        with memory_errors(path):
            yield
    except UserError as error:
        failed[name] = str(error)
        log.error(f"failed: {failed[name]}")


@contextmanager
def memory_errors(path: Path) -> Iterator[None]:
    """Turns a lack of memory into a UserError that names the image."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        torch.cuda.empty_cache()
        raise UserError(f"{path}: out of memory; smaller blocks need less (infer.block, infer.memory_mib)") from error
