"""Where encoded images come from: a folder, or an LMDB in the public InfinityGAN layout or in ours.

Both layouts hold `length` (decimal) and one encoded image per `SIZE-INDEX`. Ours adds `meta-INDEX`: a CRC-32 and the
name, because LMDB itself does not notice damage.
"""

from __future__ import annotations

import hashlib
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import lmdb

from datasets.lmdb_tree import check_tree
from images.reading import Image, ImageError, find_images, open_image
from utils.errors import UserError

RECORD = re.compile(rb"(\d+)-(\d+)")
DIGEST_ENDS = 1 << 16  # bytes at each end of a file that its digest reads


class FolderSource:
    """The images of a folder, searched recursively, in the order of their names."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._paths = [str(path.relative_to(self.folder)) for path in find_images(self.folder)]
        if not self._paths:
            raise UserError(f"{folder}: holds no JPEG, PNG, WebP, TIFF or BMP files and is no LMDB")

    def __len__(self) -> int:
        return len(self._paths)

    def label(self, index: int) -> str:
        """Path of the file below the folder."""
        return self._paths[index]

    def name(self, index: int) -> str:
        """Path of the file."""
        return str(self.folder / self._paths[index])

    def digest(self, index: int) -> bytes:
        """Digest of size and both ends of the file: equal for equal files. One that cannot be read has its name's."""
        try:
            with open(self.name(index), "rb") as file:
                size = os.fstat(file.fileno()).st_size
                head = file.read(DIGEST_ENDS)
                file.seek(max(0, size - DIGEST_ENDS))
                return _digest(size, head, file.read(DIGEST_ENDS))
        except OSError:
            return hashlib.blake2b(os.fsencode(self.name(index)), digest_size=16).digest()

    def read(self, index: int) -> bytes:
        """The file's bytes; ImageError where they cannot be read."""
        try:
            return Path(self.name(index)).read_bytes()
        except OSError as error:
            raise ImageError(self.name(index), f"cannot be read: {error.strerror}") from error

    def open(self, index: int, max_pixels: int) -> Image:
        """Decode image `index`; ImageError where that is impossible."""
        return open_image(self.name(index), max_pixels)


class LmdbSource:
    """The images of an LMDB folder.

    The environment is opened for each read, in 0.1 ms: none crosses a fork, and each read finds out whether the file
    still has its length. One thread of a process at a time may read.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        try:
            check_tree(self.folder / "data.mdb")
            with _reading(self.folder) as transaction:
                entries = transaction.stat()["entries"]
                self._length = int(transaction.get(b"length", b"0"))
                self._prefix, self._digits = _key_format(transaction)
                self._checked = transaction.get(self._meta_key(0)) is not None
        except (lmdb.Error, OSError, ValueError) as error:
            raise UserError(f"{folder}: not a readable image LMDB: {error}") from error
        if not 0 < self._length < entries or (self._checked and entries != 2 * self._length + 1):
            raise UserError(f"{folder}: its `length` is {self._length}, which does not fit its {entries} entries")

    def __len__(self) -> int:
        return self._length

    def label(self, index: int) -> str:
        """Name that the image had when the LMDB was built; its key in the public layout, or where that is lost."""
        if self._checked:
            with suppress(ImageError):
                return os.fsdecode(_name_in(*self._get(self._meta_key(index))))
        return self._key(index).decode()

    def name(self, index: int) -> str:
        """The LMDB's path and the image's label."""
        return f"{self.folder}:{self.label(index)}"

    def digest(self, index: int) -> bytes:
        """The same digest as that of an equal file in a folder."""
        try:
            return content_digest(*self._get(self._key(index)))
        except ImageError:
            return hashlib.blake2b(self._key(index), digest_size=16).digest()

    def read(self, index: int) -> bytes:
        """The encoded image; ImageError where it is missing or, in our layout, fails its CRC."""
        if not self._checked:
            return self._get(self._key(index))[0]
        data, meta = self._get(self._key(index), self._meta_key(index))
        if meta != describe(data, _name_in(meta)):
            raise ImageError(self.name(index), "is damaged: its checksum does not match")
        return data

    def open(self, index: int, max_pixels: int) -> Image:
        """Decode image `index`; ImageError where that is impossible."""
        return open_image(self.read(index), max_pixels, name=self.name(index))

    def _key(self, index: int) -> bytes:
        return record_key(self._prefix, index, self._digits)

    def _meta_key(self, index: int) -> bytes:
        return record_key("meta", index, self._digits)

    def _get(self, *keys: bytes) -> list[bytes]:
        name = f"{self.folder}:{keys[0].decode()}"
        try:
            with _reading(self.folder) as transaction:
                values = [transaction.get(key) for key in keys]
        except (lmdb.Error, OSError) as error:
            raise ImageError(name, f"cannot be read: {error}") from error
        if None in values:
            raise ImageError(name, "is missing from the LMDB")
        return values


def open_source(path: str | Path) -> FolderSource | LmdbSource:
    """The source that a path of the config means; UserError where there is none."""
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{path}: {'is a file' if path.exists() else 'no such folder'}; a folder or LMDB is needed")
    return LmdbSource(path) if (path / "data.mdb").is_file() else FolderSource(path)


def record_key(prefix: str, index: int, digits: int = 8) -> bytes:
    """Key of an image (prefix: its size) or of its description (prefix: "meta")."""
    return f"{prefix}-{index:0{digits}d}".encode()


def describe(data: bytes, name: bytes) -> bytes:
    """Description of a record: CRC-32 of image and name in 8 hexadecimal digits, a space, the name."""
    return b"%08x %s" % (zlib.crc32(name, zlib.crc32(data)), name)


def content_digest(data: bytes) -> bytes:
    """Digest of size and both ends of an encoded image."""
    return _digest(len(data), data[:DIGEST_ENDS], data[max(0, len(data) - DIGEST_ENDS) :])


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


def _key_format(transaction: lmdb.Transaction) -> tuple[str, int]:
    """Size prefix of the image keys and the digits of their index; digits sort before all other keys."""
    cursor = transaction.cursor()
    match = RECORD.fullmatch(cursor.key()) if cursor.first() else None
    if match is None:
        raise ValueError("it has no key of the form SIZE-INDEX")
    return match[1].decode(), len(match[2])


def _name_in(meta: bytes) -> bytes:
    return meta[9:]


def _digest(size: int, head: bytes, tail: bytes) -> bytes:
    return hashlib.blake2b(b"%d " % size + head + tail, digest_size=16).digest()
