"""Photographs for the sample scripts: those that scikit-image brings along, so that nothing has to be downloaded.

    python -m datasets.samples FOLDER
    python -m datasets.samples FOLDER --of IMAGES --listed LMDB

The first writes seven colour photographs of different sizes into FOLDER. The second writes a single one, as PNG at full
size: the image of IMAGES (a folder or LMDB) that the first image of LMDB was made of by prepare_data.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from datasets.sources import open_source
from images.writing import encode_png
from utils import log
from utils.errors import UserError, run_command
from utils.files import atomic_path, refuse_overwriting

# Height x width: 512 x 512, 300 x 451 (a cat), 400 x 600, 872 x 1000 (galaxies), 500 x 741, 1411 x 1411, 427 x 640.
PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)
MAX_PIXELS = 2**28


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder to write into")
    parser.add_argument("--of", type=Path, help="folder of images, or LMDB, that LISTED was made of")
    parser.add_argument("--listed", type=Path, help="LMDB of prepare_data.py")
    options = parser.parse_args(argv)
    if (options.of is None) != (options.listed is None):
        raise UserError("--of and --listed belong together")
    if options.of is None:
        log.info(f"{len(write_photographs(options.folder))} photographs in {options.folder}")
    else:
        log.info(f"wrote {write_listed(options.folder, options.of, options.listed)}")
    return 0


def write_photographs(folder: Path) -> list[Path]:
    """Copy the photographs into a folder as they are; their paths there."""
    for name in PHOTOGRAPHS:
        _write(folder / name, (files("skimage") / "data" / name).read_bytes())
    return [folder / name for name in PHOTOGRAPHS]


def write_listed(folder: Path, images: Path, listed: Path) -> Path:
    """Write the image of `images` that the first one of the LMDB `listed` was made of; its path."""
    source, label = open_source(images), open_source(listed).label(0)
    number = next((number for number in range(len(source)) if source.label(number) == label), None)
    if number is None:
        raise UserError(f"{images}: has no {label}, which {listed} was made of")
    path = folder / f"{log.printable(Path(label).stem)}.png"
    refuse_overwriting([source.name(number)], [path])
    _write(path, encode_png(source.open(number, MAX_PIXELS)))
    return path


def _write(path: Path, data: bytes) -> None:
    """Write a file, unless it is there: what was made of it stays up to date."""
    if not path.is_file() or path.read_bytes() != data:
        with atomic_path(path) as temporary:
            temporary.write_bytes(data)


if __name__ == "__main__":
    sys.exit(run_command(main))
