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
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from datasets.lmdb_tree import Tree
from images.headers import MAGIC_BYTES, errors_named, readable, recognise
from images.listing import HIDDEN, choose, find_images, is_image, why_not
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
        shown = [entry for entry in entries if not (entry.is_dir() or _is_hidden(entry.filename))]
        images = choose(shown, lambda entry: PurePosixPath(entry.filename), self._why_not)
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
    """

    separator = ":"

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder)
        try:
            self._tree = Tree(self.folder / "data.mdb")
            self._read_layout()
        except (OSError, ValueError) as error:
            raise UserError(f"{folder}: not a readable image LMDB: {error}") from error

    def __len__(self) -> int:
        return self._length

    def label(self, index: int) -> str:
        if self._described:
            with suppress(ImageError):
                return os.fsdecode(_name_in(self._get(record_key("meta", index, self._digits))))
        return os.fsdecode(self._key(index))

    def read(self, index: int) -> bytes:
        data = self._get(self._key(index))
        if self._described:
            meta = self._get(record_key("meta", index, self._digits))
            if meta != describe(data, _name_in(meta)):
                raise ImageError(self.name(index), "is damaged: its checksum does not match")
        return data

    def stream(self, index: int) -> BinaryIO:
        return io.BytesIO(self._get(self._key(index)))

    def _read_layout(self) -> None:
        """ValueError where the layout is none of the three."""
        keys, length = self._tree.keys, self._tree.get(b"length")
        self._prefix, self._digits, self._described = None, 0, False
        if length is None:
            self._length = len(keys)
            if not any(readable(recognise(self._tree.get(key))) for key in keys[:LOOK]):
                raise ValueError(
                    "its values are no images, as those of prepare_data.py, InfinityGAN, LSUN and BasicSR are; put the"
                    " images into a folder or a zip file"
                )
            return
        match = RECORD.fullmatch(keys[0])  # digits sort before all other keys
        if match is None:
            raise ValueError("it has no key of the form SIZE-INDEX")
        self._prefix, self._digits, self._length = match[1].decode(), len(match[2]), int(length)
        self._described = self._tree.get(record_key("meta", 0, self._digits)) is not None
        fits = len(keys) == 2 * self._length + 1 if self._described else self._length < len(keys)
        if not (fits and self._length):
            raise ValueError(f"its `length` is {self._length}, which does not fit its {len(keys)} entries")

    def _key(self, index: int) -> bytes:
        return self._tree.keys[index] if self._prefix is None else record_key(self._prefix, index, self._digits)

    def _get(self, key: bytes) -> bytes:
        name = f"{self.folder}:{os.fsdecode(key)}"
        with errors_named(name):
            value = self._tree.get(key)
        if value is None:
            raise ImageError(name, "is missing from the LMDB")
        return value


def _of_own(method: str) -> Callable:
    """A method of `Joined`: that of the source that an image is of."""

    def call(self: Joined, index: int, *arguments: Any) -> Any:
        source, own = self._places[index]
        return getattr(source, method)(own, *arguments)

    return call


class Joined(Source):
    """Sources one after the other, whose names and labels stay."""

    def __init__(self, sources: Sequence[Source]) -> None:
        super().__init__(os.path.commonpath([os.path.abspath(each.folder) for each in sources]))
        self._places = [(each, index) for each in sources for index in range(len(each))]

    def __len__(self) -> int:
        return len(self._places)

    label, name, stream, read, open = map(_of_own, ("label", "name", "stream", "read", "open"))


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


def _is_hidden(name: str) -> bool:
    return any(part.startswith(HIDDEN) for part in PurePosixPath(name).parts)


def _name_in(meta: bytes) -> bytes:
    return meta[9:]
