"""What the commands share: arguments, the model, the files that they work on, and pictures of latents."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import zarr

from images.metadata import Metadata
from images.reading import find_images
from images.writing import SUFFIXES, Rounded, picture_kind, write_picture
from inversion.inverter import PatchInverter
from inversion.latents import FILE, FOLDER, ChunkRows, Latents, create_zarr
from inversion.runs import HELD, noise_of
from models.geometry import Region
from models.weights import SHIPPED
from utils import log
from utils.errors import UserError
from utils.files import scratch_folder

IMAGES = "JPEG, PNG, WebP, TIFF or BMP image"


def command_parser(description: str, example: str) -> argparse.ArgumentParser:
    """A parser of --output, --checkpoint, --config and key=value; `example`: one of these."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--checkpoint", type=Path, default=SHIPPED, help="weights that train.py exported")
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


def load_latents(model: PatchInverter, path: Path, options: dict) -> Latents:
    """A latent file, drawn with the noise that `infer` options ask for, else with its own. UserError: see `check`."""
    latents = Latents.load(path)
    model.check(latents, str(path))
    return latents if options.noise is None else replace(latents, noise=noise_of(options))


def find_files(option: str, path: Path, search: Callable[[Path], list[Path]], kind: str) -> dict[Path, str]:
    """The file that an option names, or what `search` finds in the folder, with the names of the results."""
    if not path.is_dir() or path.suffix == FOLDER:
        if not path.exists():
            raise UserError(f"{option} {path}: no such file or folder")
        return {path: log.printable(path.stem)}
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


def unique_names(files: Sequence[Path], folder: Path) -> dict[Path, str]:
    """a/b.jpg -> a/b, but a/b.jpg and a/b.png keep their suffixes; in a hopeless case all files do."""
    whole = [log.printable(str(file.relative_to(folder))) for file in files]
    stems = [str(Path(name).with_suffix("")) for name in whole]
    count = Counter(stems)
    names = [stem if count[stem] == 1 else name for stem, name in zip(stems, whole, strict=True)]
    return dict(zip(files, names if len(set(names)) == len(names) else whole, strict=True))


def save_picture(
    model: PatchInverter,
    latents: Latents,
    path: Path,
    options: dict,  # `infer.format` and `infer.depth`
    scale: int = 1,
    metadata: Metadata | None = None,  # that it keeps
) -> None:
    """Draw an image into a picture, with a progress bar; the path's suffix becomes that of its format.

    It is `scale` times smaller than the image. Large ones are drawn into a scratch folder first. UserError where the
    format does not hold them, or for a scale that `PatchInverter.preview` refuses.
    """
    size = latents.size if scale == 1 else model.preview_size(latents.size, scale)
    kind, whole = picture_kind(options.format, size, options.depth), Region.at(0, 0, *size)
    blocks = list(model.pixel_blocks(whole) if scale == 1 else model.preview_blocks(whole, scale))
    path = path.with_name(f"{path.stem}{SUFFIXES[kind]}")
    with scratch_folder(path) as folder:
        shape, dtype = (*size, 3), "uint8" if options.depth == 8 else "float32"
        if size[0] * size[1] > HELD:
            out = create_zarr(folder, shape, (*blocks[0].shape, 3), dtype)
        else:
            out = np.empty(shape, dtype)
        todo = log.progress(blocks, path.stem)
        draw = model.draw if scale == 1 else partial(model.preview, scale=scale)
        draw(latents, out=out, blocks=todo)
        pixels = out if isinstance(out, np.ndarray) else ChunkRows(out)
        write_picture(path, Rounded(pixels, options.depth), kind, metadata)
    log.info(f"wrote {path}")
