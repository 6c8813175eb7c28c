"""What the commands share: arguments, the model, the files that they work on, and pictures of latents."""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, count
from pathlib import Path

import torch
import zarr

from images.headers import READ
from images.listing import find_images, walk
from images.metadata import Metadata
from images.writing import SUFFIXES as PICTURES
from images.writing import TILES, Rounded, picture_kind, write_picture
from inversion import jobs
from inversion.inverter import PatchInverter, region_of
from inversion.latents import FOLDER, SUFFIXES, Latents
from models.weights import SHIPPED
from utils import log
from utils.arguments import one_path
from utils.errors import UserError
from utils.files import refusals, require_space, scratch_folder
from utils.schema import LARGEST_SEED

IMAGES = f"{', '.join(READ[:-1])} or {READ[-1]} image"
LONGEST = 200  # bytes of a name, of 255 that file systems take


def command_parser(description: str, example: str, output: str = "folder of the results") -> argparse.ArgumentParser:
    """A parser of --output, --checkpoint, --config and key=value; `example`: one of these."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=one_path, required=True, help=output)
    parser.add_argument("--checkpoint", type=one_path, default=SHIPPED, help="weights that train.py exported")
    parser.add_argument("--config", help="YAML file with options")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=f"single options, as {example}")
    return parser


def load_model(checkpoint: Path, options: dict, device: torch.device | None = None) -> PatchInverter:
    """The networks of a checkpoint, as `infer` options say; `device`: in place of that of the options.

    UserError for options of inversion, if there are any, that the checkpoint cannot do.
    """
    zarr.config.set({"async.concurrency": 1})  # chunks that are at hand at a time, which take memory
    model = PatchInverter.from_pretrained(
        checkpoint, device=device or options.device, dtype=options.dtype,
        memory_mib=options.memory_mib, block=options.block,
    )  # fmt: skip
    if "depth" in options:
        picture_kind(options.format, (1, 1), options.depth)
    if "channels" in options:
        model.check_options(options.channels, options.refine, options.refine_style)
    return model


def find_files(
    option: str, paths: Iterable[Path], search: Callable[[Path], list[Path]], kind: str
) -> dict[Path, str]:
    """The files that an option names, or that `search` finds in its folders, with the names of their results.

    A file that is named twice is there once. UserError for what is not there, or a folder without any.
    """
    found = {}
    for path in paths:
        files, folder = [path], path.parent
        try:
            os.lstat(path)
        except OSError as error:
            missing = isinstance(error, FileNotFoundError | NotADirectoryError)
            raise UserError(f"{option} {path}: {'no such file or folder' if missing else error.strerror}") from error
        if os.path.isdir(path) and path.suffix != FOLDER:
            files, folder = search(path), path
        if not files:
            raise UserError(f"{option} {path}: no {kind} in this folder")
        for file in files:
            found.setdefault((os.path.realpath(file.parent), file.name), (file, folder))
    files, folders = zip(*found.values(), strict=True)
    return unique_names(files, *folders)


def find_photographs(folder: Path, output: Path) -> list[Path]:
    """The images of a folder, without the results of an earlier run in an output folder inside it."""
    if os.path.isdir(output) and output.samefile(folder):
        raise UserError(f"--output {output}: is the input folder; results need a folder of their own")
    return find_images(folder, without=output)


def find_latents(folder: Path) -> list[Path]:
    """The latent files and latent folders of a folder, without hidden ones."""
    found = walk(folder, None, Counter())
    return sorted(path for path in found if path.suffix in SUFFIXES and (path.suffix == FOLDER) == path.is_dir())


def unique_names(files: Sequence[Path], *folders: Path) -> dict[Path, str]:
    """Names of results, which no file system takes for one another; `folders`: each file's, or one for all.

    a/b.jpg -> a/b, below the folder. Where files would share a name, they keep their suffixes (b.jpg, b.png); where
    that is not enough, the folders below the one that all have in common; in a hopeless case they are numbered.
    """
    folders = folders * len(files) if len(folders) == 1 else folders
    below = [str(file.relative_to(folder)) for file, folder in zip(files, folders, strict=True)]
    names = [os.path.splitext(name)[0] for name in below]
    if len({*map(_folded, names)}) < len(names):
        common = os.path.commonpath(list(map(os.path.abspath, folders)))
        longer = [os.path.relpath(file, common) for file in files]
        for others in (below, [os.path.splitext(name)[0] for name in longer], longer):
            shared = Counter(map(_folded, names))
            names = [other if shared[_folded(name)] > 1 else name for name, other in zip(names, others, strict=True)]
    result, taken = {}, set()
    folders = {_folded(str(folder)) for name in names for folder in Path(name).parents}  # no image's tiles
    for file, name in zip(files, names, strict=True):
        numbered = chain([name], (f"{name}-{number}" for number in count(2)))
        result[file] = next(
            each for each in numbered if _folded(each) not in taken and _folded(f"{each}{TILES}") not in folders
        )
        taken.add(_folded(result[file]))
    return {file: _file_name(name) for file, name in result.items()}


def _folded(name: str) -> str:
    """The same for names that some file system takes for one: whatever the case, or the form of accents."""
    return unicodedata.normalize("NFC", log.printable(name)).casefold()


def _file_name(name: str) -> str:
    """A name of results as a path of this system: UTF-8, whatever its locale, and not too long to get a suffix."""
    parts = []
    for part in log.printable(name).split(os.sep):
        if len(part.encode()) > LONGEST:
            start = part.encode()[:LONGEST].decode(errors="ignore")
            part = f"{start}-{hashlib.sha256(part.encode()).hexdigest()[:8]}"
        parts.append(part)
    return os.fsdecode(os.sep.join(parts).encode())


def seeds_of(section: str, options: dict) -> Sequence[int]:
    """`seeds`, or `count` of them from `seed` on. UserError where the last one could not be given again."""
    if options.get("seeds"):
        return options.seeds
    seeds = range(options.seed, options.seed + options.count)
    if seeds[-1] > LARGEST_SEED:
        raise UserError(f"{section}.count: {options.count} from seed {options.seed} on; seeds end at {LARGEST_SEED}")
    return seeds


def require_room(output: Path, latents: Latents, options: dict, region: Sequence[int] | None, stored: bool) -> None:
    """UserError where the disk has no room for an image that is drawn on it (see `save_picture`), and, where they are
    `stored`, for its latents.
    """
    pixels = math.prod(latents.size if region is None else region_of(region, latents.size).shape)
    needed = pixels * 3 * (1 if options.depth == 8 else 4) if pixels > jobs.HELD else 0
    require_space(output, needed + stored * 4 * math.prod(latents.structure.shape))


def save_picture(
    model: PatchInverter,
    latents: Latents,
    path: Path,
    options: dict,  # `infer.format` and `infer.depth`
    scale: int = 1,
    metadata: Metadata | None = None,  # that it keeps
    region: Sequence[int] | None = None,  # top, left, bottom, right: only this part
) -> None:
    """Draw an image into a picture, with a progress bar; the path's suffix becomes that of its format.

    It is `scale` times smaller than the image. Large ones are drawn into a scratch folder first. UserError where the
    format does not hold them, or for a scale that `PatchInverter.preview` refuses.
    """
    window = jobs.window_of(model, latents, region, scale)
    kind = picture_kind(options.format, window.shape, options.depth)
    path = path.with_name(f"{path.stem}{PICTURES[kind]}")
    with scratch_folder(path) as folder, refusals(path):
        job = jobs.Job(path, path.stem, path.parent, folder)
        pixels = jobs.draw(model, job, latents, window, options.depth > 8, job.on_disk(window.shape), scale)
        write_picture(path, Rounded(pixels, options.depth), kind, metadata)
    log.info(f"wrote {path}")
