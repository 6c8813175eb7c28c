"""LMDB files, read without the library LMDB.

That trusts its file: a damaged pointer makes it read beyond its map, which kills the process instead of raising. Here
the pages of the tree are read once, and their pointers are compared with the page and the file; values are read when
they are asked for.
"""

from __future__ import annotations

import os
import struct
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

MAGIC = 0xBEEFC0DE
NO_PAGE = 2**64 - 1
BRANCH, LEAF, KINDS = 1, 2, 0b1101111  # page flags
ELSEWHERE = 1  # flag of a node whose value has pages of its own
HEADER = struct.Struct("<QHHHH")        # page number, padding, flags, end of the pointers, start of the nodes
NODE = struct.Struct("<HHHH")           # size or page (low, high, higher, which are flags in a leaf), size of the key
META = struct.Struct("<II16xI44x40xQQQ")  # magic, version, page size; main tree's root; last page, transaction


class Tree:
    """The keys of an LMDB file, sorted, and where their values lie; any process or thread may read them.

    ValueError where its tree is damaged, OSError where it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.keys = path, []
        self._starts, self._sizes = array("Q"), array("Q")  # bytes
        with open(path, "rb") as file:
            page_size = _meta(file, 0)[2]
            if page_size < 256 or page_size & (page_size - 1) or page_size > 2**16:
                raise ValueError(f"a page size of {page_size} is impossible")
            _, _, _, root, last_page, _ = max(_meta(file, 0), _meta(file, page_size), key=lambda meta: meta[-1])
            pages = os.fstat(file.fileno()).st_size // page_size
            if last_page >= pages:
                raise ValueError(f"data.mdb is truncated: {pages} of {last_page + 1} pages")
            for key, start, size in _entries(file, page_size, pages, root):
                self.keys.append(key)
                self._starts.append(start)
                self._sizes.append(size)

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, None where there is none. ValueError where the file has become shorter."""
        place = bisect_left(self.keys, key)
        if self.keys[place : place + 1] != [key]:
            return None
        with open(self.path, "rb") as file:
            file.seek(self._starts[place])
            value = file.read(self._sizes[place])
        if len(value) < self._sizes[place]:
            raise ValueError("data.mdb is truncated")
        return value


def _meta(file: BinaryIO, position: int) -> tuple[int, ...]:
    file.seek(position + HEADER.size)
    data = file.read(META.size)
    if len(data) < META.size:
        raise ValueError("data.mdb is truncated")
    meta = META.unpack(data)
    if meta[0] != MAGIC:
        raise ValueError("data.mdb is not an LMDB file")
    return meta


def _entries(file: BinaryIO, page_size: int, pages: int, root: int) -> Iterator[tuple[bytes, int, int]]:
    """Every key, with the first byte and the size of its value; visits each page of the tree once."""
    waiting, seen = [] if root == NO_PAGE else [root], set()
    while waiting:
        number = waiting.pop()
        if number in seen or not 2 <= number < pages:
            raise ValueError(f"its tree is damaged: page {number} of {pages} cannot be part of it")
        seen.add(number)
        file.seek(number * page_size)
        page = file.read(page_size)
        try:
            children, entries = _nodes(page, number, pages)
        except (struct.error, ValueError) as error:
            raise ValueError(f"its tree is damaged in page {number}: {error}") from error
        waiting += reversed(children)
        yield from entries


def _nodes(page: bytes, number: int, pages: int) -> tuple[list[int], list[tuple[bytes, int, int]]]:
    """Pages that a page of the tree leads to, and its entries; ValueError where one does not fit in page or file."""
    own_number, _, flags, end_of_pointers, _ = HEADER.unpack_from(page)
    if own_number != number or flags & KINDS not in (BRANCH, LEAF):
        raise ValueError("not a page of the tree")
    children, entries, end, room = [], [], pages * len(page), len(page)
    for position in struct.unpack_from(f"<{(end_of_pointers - HEADER.size) // 2}H", page, HEADER.size):
        low, high, higher, key_size = NODE.unpack_from(page, position)
        room -= NODE.size + key_size
        if room < 0:  # a small file could hold any number of keys
            raise ValueError("entries overlap")
        value, size = position + NODE.size + key_size, low | high << 16
        if flags & BRANCH:
            children.append(size | higher << 32)
            continue
        start = number * len(page) + value
        if higher & ELSEWHERE:
            start = struct.unpack_from("<Q", page, value)[0] * len(page) + HEADER.size
        elif value + size > len(page):
            raise ValueError("an entry lies outside of the page")
        if start + size > end:
            raise ValueError("a value lies outside of the file")
        entries.append((page[position + NODE.size : value], start, size))
    return children, entries
