"""Build the LMDBs of a data set: OUTPUT/train and OUTPUT/valid.

    python prepare_data.py --input photos more/*.jpg --output data/landscapes
    python prepare_data.py --input photos --output data/landscapes --size 256 --val-fraction 0.1

Without --size the files are stored as they are; with it, as 8-bit RGB PNGs whose shorter side has that many pixels.
The keys are those of InfinityGAN's public layout, plus checksums and names. Identical images stay on one side. Every
image is decoded once, and one that cannot be is named and left out. Exit code 0: all done, 1: some images left out, 2:
nothing was written.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import lmdb
from tqdm import tqdm

from datasets.sources import Source, content_digest, describe, open_sources, record_key
from datasets.splits import split
from images.reading import ImageError, open_image
from images.resizing import check_side, encode_png, with_shorter_side
from utils import log
from utils.arguments import add_paths, one_path, parse_arguments
from utils.errors import UserError, run_command
from utils.files import refusals, remove_stale, scratch_folder

SIDES = ("train", "valid")
NATIVE = "0"  # size prefix of images stored as they are
PAGE = 4096


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _parse(argv)
    for side in SIDES:
        if (options.output / side).exists():
            raise UserError(f"{options.output / side}: exists already; remove it or choose another --output")
    source = open_sources(options.input)
    digests, space = _survey(source, options)
    sound = list(digests)
    members = dict(zip(SIDES, split(list(digests.values()), options.val_fraction), strict=True))
    with _appearing(options.output) as folder:
        for side, places in members.items():
            records = tqdm([sound[place] for place in places], desc=side, unit="image", file=sys.stderr)
            _write(folder / side, source, records, space, options)
    for side, places in members.items():
        log.info(f"{options.output / side}: {len(places)} images")
    return 1 if len(sound) < len(source) else 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add_paths(parser, "--input", "images, folders that are searched for images, and LMDBs", required=True)
    parser.add_argument("--output", required=True, type=one_path, help="folder that gets train/ and valid/")
    parser.add_argument("--size", type=int, help="pixels of the shorter side; not given: files are stored as they are")
    parser.add_argument("--val-fraction", type=float, default=0.05, help="share of the images for valid/")
    parser.add_argument("--max-pixels", type=int, default=2**28, help="larger images are left out")
    options = parse_arguments(parser, argv)
    for name, value in (("--size", options.size), ("--max-pixels", options.max_pixels)):
        if value is not None and value < 1:
            raise UserError(f"{name} {value}: must be at least 1")
    if not 0 < options.val_fraction < 1:
        raise UserError(f"--val-fraction {options.val_fraction}: must lie between 0 and 1")
    if options.size is not None:
        check_side("--size", options.size, options.max_pixels)
    return options


def _survey(source: Source, options: argparse.Namespace) -> tuple[dict[int, bytes], int]:
    """The digests of what will be stored, by the number of the image, and bytes that an LMDB of it takes at most."""
    digests, space = {}, 1024 * PAGE
    for index in tqdm(range(len(source)), desc="checking", unit="image", file=sys.stderr):
        try:
            data = _payload(source, index, options)
            if options.size is None:
                open_image(data, options.max_pixels, name=source.name(index))
            digests[index] = content_digest(io.BytesIO(data))
            space += len(data) + 4 * PAGE
        except ImageError as error:
            log.error(f"left out: {error}")
    return digests, space


def _payload(source: Source, index: int, options: argparse.Namespace) -> bytes:
    """The bytes to store for an image; ImageError where there are none."""
    if options.size is None:
        return source.read(index)
    return encode_png(with_shorter_side(source.open(index, options.max_pixels), options.size, options.max_pixels))


def _write(folder: Path, source: Source, records: Iterable[int], space: int, options: argparse.Namespace) -> None:
    """Write one LMDB, of at most `space` bytes, of the images of these numbers, in their order."""
    prefix, count = NATIVE if options.size is None else str(options.size), 0
    with lmdb.open(str(folder), map_size=space, lock=False, sync=False) as environment:
        for index in records:
            data = _payload(source, index, options)
            with environment.begin(write=True) as transaction:
                transaction.put(record_key(prefix, count), data)
                transaction.put(record_key("meta", count), describe(data, os.fsencode(source.label(index))))
            count += 1
        with environment.begin(write=True) as transaction:
            transaction.put(b"length", str(count).encode())
        environment.sync(True)


@contextmanager
def _appearing(output: Path) -> Iterator[Path]:
    """A temporary folder, whose folders SIDES go into `output` on success; it vanishes on failure."""
    remove_stale(output)
    with refusals(output), scratch_folder(output / "set") as folder:
        for side in SIDES:
            (folder / side).mkdir(parents=True)
        try:
            yield folder
        except lmdb.Error as error:
            raise OSError(str(error)) from error
        for side in SIDES:
            (folder / side).rename(output / side)


if __name__ == "__main__":
    sys.exit(run_command(main))
