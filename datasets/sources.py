"""Where encoded images come from: a folder, a zip file, or an LMDB.

LMDBs have one of three layouts. InfinityGAN's public one holds `length` (decimal) and one encoded image per
`SIZE-INDEX`. Ours adds `meta-INDEX`: a CRC-32 and the name, because LMDB itself does not notice damage. Those of LSUN
and BasicSR hold one encoded image under each key, whatever it is called.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

import lmdb

from datasets.lmdb_tree import check_tree
from images.decoding import MAGIC_BYTES, errors_named, readable, recognise
from images.listing import HIDDEN, find_images, is_image, kind_of, tell_left_out, why_not
from images.reading import Image, ImageError, open_image
from utils.errors import UserError

RECORD = re.compile(rb"(\d+)-(\d+)")
DIGEST_ENDS = 1 << 16  # bytes at each end of a file that its digest reads
ENCRYPTED = 1  # flag of an entry of a zip file
LOOK = 4  # values of an LMDB that are looked at to tell whether it holds images


class Source(ABC):
    """Encoded images, by number."""

    separator: str  # between folder and label in a name

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def label(self, index: int) -> str:
        """Name of an image within the source."""

    @abstractmethod
    def stream(self, index: int) -> BinaryIO:
        """The encoded image as a file, unchecked; ImageError or OSError where it is missing."""

    def name(self, index: int) -> str:
        """Name of an image for messages; the path of a file."""
        return f"{self.folder}{self.separator}{self.label(index)}"

    def read(self, index: int) -> bytes:
        """The encoded image; ImageError where it is missing, or known to be damaged."""
        with errors_named(self.name(index)), self.stream(index) as file:
            return file.read()

    def open(self, index: int, max_pixels: int) -> Image:
        """Decode an image; ImageError where that is impossible."""
        return open_image(self.read(index), max_pixels, name=self.name(index))

    @cached_property
    def digests(self) -> list[bytes]:
        """A digest of each image, equal for equal ones in any source. One that cannot be read has its name's."""
        return [self.digest(index) for index in range(len(self))]

    def digest(self, index: int) -> bytes:
        """As `digests`, of one image."""
        name = self.name(index)
        try:
            with errors_named(name), self.stream(index) as file:
                return content_digest(file)
        except ImageError:
            return hashlib.blake2b(os.fsencode(name), digest_size=16).digest()


class FolderSource(Source):
    """The images of a folder, searched recursively, in the order of their names; a label is a path below the folder."""

    separator = os.sep

    def __init__(self, folder: str | Path, files: Iterable[Path] | None = None) -> None:
        """`files`: only these, wherever they lie."""
        super().__init__(folder)
        files = find_images(self.folder) if files is None else files
        self._paths = [os.path.relpath(path, self.folder) for path in files]
        if not self._paths:
            raise UserError(f"{folder}: holds no images and is no LMDB")

    def __len__(self) -> int:
        return len(self._paths)

    def label(self, index: int) -> str:
        return self._paths[index]

    def stream(self, index: int) -> BinaryIO:
        return open(self.name(index), "rb")

    def open(self, index: int, max_pixels: int) -> Image:
        return open_image(self.name(index), max_pixels)  # a file that is too large is not read first


class ZipSource(Source):
    """The images of a zip file, in the order of their names; a label is a name in the archive.

    Each process has a handle of its own. UserError where the file is not whole, or needs a password.
    """

    separator = ":"

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self._archives: dict[int, zipfile.ZipFile] = {}  # by process: they share a place in the file otherwise
        try:
            entries = self._archive().infolist()
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise UserError(f"{path}: not a whole zip file: {error}") from error
        images, others = [], Counter()
        for entry in entries:
            name = PurePosixPath(entry.filename)
            if entry.is_dir() or any(part.startswith(HIDDEN) for part in name.parts):
                continue
            if (reason := self._why_not(entry)) is None:
                images.append(entry)
            else:
                others[kind_of(name), reason] += 1
        tell_left_out(others)
        if not images:
            raise UserError(f"{path}: a zip file without images")
        if any(entry.flag_bits & ENCRYPTED for entry in images):
            raise UserError(f"{path}: is encrypted; unpack it into a folder")
        self._names = sorted(entry.filename for entry in images)

    def __len__(self) -> int:
        return len(self._names)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_archives": {}}

    def label(self, index: int) -> str:
        return self._names[index]

    def stream(self, index: int) -> BinaryIO:
        return self._archive().open(self._names[index])

    def _why_not(self, entry: zipfile.ZipInfo) -> str | None:
        """As `images.listing.why_not`."""

        def content() -> bytes:
            with self._archive().open(entry) as file:
                return file.read(MAGIC_BYTES)

        try:
            return why_not(entry.filename, content)
        except (zipfile.BadZipFile, OSError, RuntimeError, zlib.error) as error:  # RuntimeError: it is encrypted
            return str(error)

    def _archive(self) -> zipfile.ZipFile:
        process = os.getpid()
        if process not in self._archives:
            self._archives[process] = zipfile.ZipFile(self.folder)
        return self._archives[process]


class LmdbSource(Source):
    """The images of an LMDB folder; a label is the name that the image had when it was built, or where none is the key.

    The environment is opened for each read, in 0.1 ms: none crosses a fork, and each read finds out whether the file
    still has its length. One thread of a process at a time may read.
    """

    separator = ":"

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder)
        try:
            check_tree(self.folder / "data.mdb")
            with _reading(self.folder) as transaction:
                self._numbered = _numbered_layout(transaction)
                self._keys = [] if self._numbered else _image_keys(transaction)
        except (lmdb.Error, OSError, ValueError) as error:
            raise UserError(f"{folder}: not a readable image LMDB: {error}") from error

    def __len__(self) -> int:
        return self._numbered.length if self._numbered else len(self._keys)

    def label(self, index: int) -> str:
        if self._numbered and self._numbered.described:
            with suppress(ImageError):
                return os.fsdecode(_name_in(*self._get(self._numbered.meta(index))))
        return os.fsdecode(self._key(index))

    def read(self, index: int) -> bytes:
        if not (self._numbered and self._numbered.described):
            return super().read(index)
        data, meta = self._get(self._key(index), self._numbered.meta(index))
        if meta != describe(data, _name_in(meta)):
            raise ImageError(self.name(index), "is damaged: its checksum does not match")
        return data

    def stream(self, index: int) -> BinaryIO:
        return io.BytesIO(*self._get(self._key(index)))

    def _key(self, index: int) -> bytes:
        return self._numbered.key(index) if self._numbered else self._keys[index]

    def _get(self, *keys: bytes) -> list[bytes]:
        name = f"{self.folder}:{os.fsdecode(keys[0])}"
        with errors_named(name), _reading(self.folder) as transaction:
            values = [transaction.get(key) for key in keys]
        if None in values:
            raise ImageError(name, "is missing from the LMDB")
        return values


class Joined(Source):
    """Sources one after the other, whose names and labels stay."""

    def __init__(self, sources: Sequence[Source]) -> None:
        super().__init__(os.path.commonpath([os.path.abspath(each.folder) for each in sources]))
        self._places = [(each, index) for each in sources for index in range(len(each))]

    def __len__(self) -> int:
        return len(self._places)

    def label(self, index: int) -> str:
        source, own = self._places[index]
        return source.label(own)

    def name(self, index: int) -> str:
        source, own = self._places[index]
        return source.name(own)

    def stream(self, index: int) -> BinaryIO:
        source, own = self._places[index]
        return source.stream(own)

    def read(self, index: int) -> bytes:
        source, own = self._places[index]
        return source.read(own)

    def open(self, index: int, max_pixels: int) -> Image:
        source, own = self._places[index]
        return source.open(own, max_pixels)


def open_sources(paths: Iterable[str | Path]) -> Source:
    """The images of sources and image files, each path once; UserError for what is none."""
    paths = {os.path.realpath(path): Path(path) for path in paths}
    files = [path for path in paths.values() if os.path.isfile(path) and is_image(path)]
    sources = [open_source(path) for path in paths.values() if path not in files]
    if files:
        common = os.path.commonpath([os.path.abspath(path.parent) for path in files])
        sources.append(FolderSource(common, files))
    return sources[0] if len(sources) == 1 else Joined(sources)


def open_source(path: str | Path) -> Source:
    """The source that a path of the config means; UserError where there is none."""
    path = Path(path)
    if not os.path.isdir(path):
        if os.path.isfile(path) and (path.suffix.lower() == ".zip" or zipfile.is_zipfile(path)):
            return ZipSource(path)
        found = "is a file" if os.path.lexists(path) else "no such folder"
        raise UserError(f"{path}: {found}; a folder of images, a .zip file or the folder of an LMDB is needed")
    return LmdbSource(path) if os.path.isfile(path / "data.mdb") else FolderSource(path)


def record_key(prefix: str, index: int, digits: int = 8) -> bytes:
    """Key of an image (prefix: its size) or of its description (prefix: "meta")."""
    return f"{prefix}-{index:0{digits}d}".encode()


def describe(data: bytes, name: bytes) -> bytes:
    """Description of a record: CRC-32 of image and name in 8 hexadecimal digits, a space, the name."""
    return b"%08x %s" % (zlib.crc32(name, zlib.crc32(data)), name)


def content_digest(file: BinaryIO) -> bytes:
    """Digest of size and both ends of an encoded image."""
    size, ends = file.seek(0, os.SEEK_END), b""
    for start in (0, max(0, size - DIGEST_ENDS)):
        file.seek(start)
        ends += file.read(DIGEST_ENDS)
    return hashlib.blake2b(b"%d " % size + ends, digest_size=16).digest()


def combined_digest(digests: Iterable[bytes]) -> str:
    """8 hexadecimal digits that identify a set of images by their digests."""
    return hashlib.blake2b(b"".join(sorted(digests)), digest_size=4).hexdigest()


@contextmanager
def _reading(folder: Path) -> Iterator[lmdb.Transaction]:
    """A transaction that reads; lmdb.Error where the file is shorter than it says: reading it would kill us."""
    with lmdb.open(
        str(folder), readonly=True, lock=False, readahead=False, create=False, max_spare_txns=0, map_size=0
    ) as environment:
        needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
        size = os.path.getsize(folder / "data.mdb")
        if size < needed:
            raise lmdb.CorruptedError(f"data.mdb is truncated: {size} of {needed} bytes")
        with environment.begin() as transaction:
            yield transaction


class _Numbered(NamedTuple):
    """The keys of an LMDB that numbers its images."""

    length: int
    prefix: str
    digits: int
    described: bool  # whether each image has a description

    def key(self, index: int) -> bytes:
        return record_key(self.prefix, index, self.digits)

    def meta(self, index: int) -> bytes:
        return record_key("meta", index, self.digits)


def _numbered_layout(transaction: lmdb.Transaction) -> _Numbered | None:
    """The layout of an LMDB that has `length`, None for others; ValueError where that does not fit."""
    cursor, length = transaction.cursor(), transaction.get(b"length")
    if length is None:
        return None
    match = RECORD.fullmatch(cursor.key()) if cursor.first() else None  # digits sort before all other keys
    if match is None:
        raise ValueError("it has no key of the form SIZE-INDEX")
    found = _Numbered(int(length), match[1].decode(), len(match[2]), False)
    found = found._replace(described=transaction.get(found.meta(0)) is not None)
    entries = transaction.stat()["entries"]
    if not 0 < found.length < entries or (found.described and entries != 2 * found.length + 1):
        raise ValueError(f"its `length` is {found.length}, which does not fit its {entries} entries")
    return found


def _image_keys(transaction: lmdb.Transaction) -> list[bytes]:
    """All keys of an LMDB whose values are images; ValueError where the first ones are none."""
    cursor = transaction.cursor()
    if not any(readable(recognise(value)) for value in islice(cursor.iternext(keys=False), LOOK)):
        raise ValueError(
            "its values are no images, as those of prepare_data.py, InfinityGAN, LSUN and BasicSR are; put the images"
            " into a folder or a zip file"
        )
    cursor.first()
    return list(cursor.iternext(values=False))


def _name_in(meta: bytes) -> bytes:
    return meta[9:]
