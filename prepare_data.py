"""Build the LMDBs of a data set: OUTPUT/train and OUTPUT/valid.

    python prepare_data.py --input photos more/*.jpg --output data/landscapes
    python prepare_data.py --input photos --output data/landscapes --size 256 --val-fraction 0.1

Without --size the files are stored as they are; with it, as 8-bit RGB PNGs whose shorter side has that many pixels.
The keys are those of InfinityGAN's public layout, plus checksums and names. The side of an image follows from its
content, so identical ones stand on one side, and none changes sides when others come. Every image is decoded once, on
all cores, and one that cannot be is named and left out. A command that was stopped goes on when it is given again:
until then, what it has done lies in OUTPUT/.unfinished. Exit code 0: all done, 1: some images left out, or the disk
failed, 2: the command itself was wrong.
"""

from __future__ import annotations

from utils.processors import share_processor, usable_cores
from utils.signals import exit_at_once

if __name__ == "__main__":  # before PyTorch is loaded
    exit_at_once()
    share_processor()

import argparse
import hashlib
import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.sharedctypes import RawArray
from pathlib import Path

import lmdb
from torch.utils.data import Dataset, get_worker_info
from tqdm import tqdm

from datasets import CropLoader, loader_options
from datasets.sources import Source, content_digest, describe, open_sources, record_key
from datasets.splits import split
from images.reading import ImageError, open_image
from images.resizing import check_side, with_shorter_side
from images.writing import encode_png
from utils import log
from utils.arguments import add_paths, one_path, parse_arguments
from utils.errors import UserError, run_command
from utils.files import atomic_path, lock_folder, only_files, read_file, refusals, remove_tree

SIDES = ("train", "valid")
NATIVE = "0"  # size prefix of images stored as they are
PAGE = 4096
DIGEST, MOST_KEPT = 32, 2**32  # bytes of SHA-256, and of what is kept of an image
UNFINISHED = ".unfinished"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _parse(argv)
    unfinished = options.output / UNFINISHED
    done = [side for side in SIDES if (options.output / side).exists()]
    if done and not unfinished.exists():  # or it was stopped between its last two steps
        raise UserError(f"{options.output / done[0]}: exists already; remove it or choose another --output")
    source = open_sources(options.input)
    with lock_folder(options.output), refusals(options.output):
        if not only_files(unfinished):
            remove_tree(unfinished)
        unfinished.mkdir(exist_ok=True)
        payloads = Payloads(source, unfinished, options)
        digests, space = survey(payloads)
        sound = list(digests)
        members = dict(zip(SIDES, split(list(digests.values()), options.val_fraction), strict=True))
        todo = [side for side in SIDES if members[side] and side not in done]
        for side in todo:
            write(unfinished / side, payloads, [sound[place] for place in members[side]], space)
        for side in todo:
            (unfinished / side).rename(options.output / side)
        remove_tree(unfinished)
    for side in filter(members.get, SIDES):
        log.info(f"{options.output / side}: {len(members[side])} images")
    return 1 if len(sound) < len(source) else 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add_paths(parser, "--input", "images, folders that are searched for images, zip files and LMDBs", required=True)
    parser.add_argument("--output", required=True, type=one_path, help="folder that gets train/ and valid/")
    parser.add_argument("--size", type=int, help="pixels of the shorter side; not given: files are stored as they are")
    parser.add_argument("--val-fraction", type=float, default=0.05, help="share of the images for valid/")
    parser.add_argument("--max-pixels", type=int, default=2**28, help="larger images are left out")
    options = parse_arguments(parser, argv)
    for name, value in (("--size", options.size), ("--max-pixels", options.max_pixels)):
        if value is not None and value < 1:
            raise UserError(f"{name} {value}: must be at least 1")
    if not 0 <= options.val_fraction < 1:
        raise UserError(f"--val-fraction {options.val_fraction}: must lie between 0 and 1; 0 leaves out valid/")
    if options.size is not None:
        check_side("--size", options.size, options.max_pixels)
    return options


class Payloads(Dataset):
    """What is stored of each image: made, and kept in a folder, when it is asked for the first time.

    An item is (digest, bytes, ""), or (b"", 0, reason) for an image that cannot be used.
    """

    def __init__(self, source: Source, folder: Path, options: argparse.Namespace) -> None:
        self.source, self.folder, self.size, self.max_pixels = source, folder, options.size, options.max_pixels
        self._reading = RawArray("q", 1 + usable_cores())  # number of an image + 1, by worker

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[bytes, int, str]:
        if index >= len(self):
            raise IndexError
        worker = get_worker_info()
        self._reading[worker.id if worker else 0] = index + 1
        try:
            data = self._stored(index)
            with self.source.stream(index) if self.size is None else io.BytesIO(data) as file:
                return content_digest(file), file.seek(0, os.SEEK_END), ""
        except ImageError as error:
            return b"", 0, str(error)

    def read(self, index: int) -> bytes:
        """The bytes to store for an image that was made."""
        return self.source.read(index) if self.size is None else self._stored(index)

    def being_read(self) -> list[str]:
        """Names of the images that workers are reading."""
        return [self.source.name(number - 1) for number in self._reading if number]

    def _stored(self, index: int) -> bytes:
        """An image as it will be stored, of a file that is stored as it is b""; made and kept where it is not yet.

        What is kept of another image, for other options, or not as it was written, does not count.
        """
        name = os.fsencode(self.source.label(index)) + b"\0" + self.source.digest(index)
        path = self.folder / hashlib.blake2b(b"%a" % [self.size, self.max_pixels] + name, digest_size=16).hexdigest()
        with suppress(OSError):
            content = read_file(path, MOST_KEPT)
            if hashlib.sha256(content[DIGEST:]).digest() == content[:DIGEST]:
                return content[DIGEST:]
        data = b""
        if self.size is None:
            image = open_image(self.source.read(index), self.max_pixels, name=self.source.name(index))
        else:
            image = self.source.open(index, self.max_pixels)
            data = encode_png(with_shorter_side(image, self.size, self.max_pixels))
        image.tell()
        with atomic_path(path, sync=False) as temporary:
            temporary.write_bytes(hashlib.sha256(data).digest() + data)
        return data


def survey(payloads: Payloads) -> tuple[dict[int, bytes], int]:
    """Make all; their digests, by the number of the image, and bytes that an LMDB of them takes at most."""
    digests, space = {}, 1024 * PAGE
    loader = CropLoader(payloads, batch_size=None, **loader_options(min(usable_cores(), len(payloads))))
    for index, (digest, size, reason) in enumerate(tqdm(loader, desc="reading", unit="image", file=sys.stderr)):
        if reason:
            log.error(f"left out: {reason}")
        else:
            digests[index] = digest
            space += size + 4 * PAGE
    return digests, space


def write(folder: Path, payloads: Payloads, records: Sequence[int], space: int) -> None:
    """Write one LMDB, of at most `space` bytes, of the images of these numbers, in their order."""
    remove_tree(folder)  # of a run that was stopped
    prefix = NATIVE if payloads.size is None else str(payloads.size)
    try:
        with lmdb.open(str(folder), map_size=space, lock=False, sync=False) as environment:
            for count, index in enumerate(tqdm(records, desc=folder.name, unit="image", file=sys.stderr)):
                data, name = payloads.read(index), os.fsencode(payloads.source.label(index))
                with environment.begin(write=True) as transaction:
                    transaction.put(record_key(prefix, count), data)
                    transaction.put(record_key("meta", count), describe(data, name))
            with environment.begin(write=True) as transaction:
                transaction.put(b"length", str(len(records)).encode())
            environment.sync(True)
    except lmdb.Error as error:
        raise OSError(str(error)) from error


if __name__ == "__main__":
    sys.exit(run_command(main))
