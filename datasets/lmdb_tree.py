"""A check of an LMDB file's tree before LMDB maps it.

LMDB trusts its file: a damaged pointer makes it read beyond the map, which kills the process instead of raising. So
every page of the tree is read once here, and its pointers are compared with the page and the file. The pages that hold
images are not read; their checksums are compared when they are.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO

MAGIC = 0xBEEFC0DE
NO_PAGE = 2**64 - 1
BRANCH, LEAF, KINDS = 1, 2, 0b1101111  # page flags
ELSEWHERE = 1  # flag of a node whose value has pages of its own
HEADER = struct.Struct("<QHHHH")        # page number, padding, flags, end of the pointers, start of the nodes
NODE = struct.Struct("<HHHH")           # size or page (low, high, higher, which are flags in a leaf), size of the key
META = struct.Struct("<II16xI44x40xQQQ")  # magic, version, page size; main tree's root; last page, transaction


def check_tree(path: Path) -> None:
    """ValueError where the tree of the LMDB file `path` is damaged; OSError where it cannot be read."""
    with open(path, "rb") as file:
        meta = [_meta(file, 0)]
        page_size = meta[0][2]
        if page_size < 256 or page_size & (page_size - 1) or page_size > 2**16:
            raise ValueError(f"a page size of {page_size} is impossible")
        meta.append(_meta(file, page_size))
        _, _, _, root, last_page, _ = max(meta, key=lambda each: each[-1])
        pages = os.fstat(file.fileno()).st_size // page_size
        if last_page >= pages:
            raise ValueError(f"data.mdb is truncated: {pages} of {last_page + 1} pages")
        _walk(file, page_size, pages, root)


def _meta(file: BinaryIO, position: int) -> tuple[int, ...]:
    file.seek(position + HEADER.size)
    data = file.read(META.size)
    if len(data) < META.size:
        raise ValueError("data.mdb is truncated")
    meta = META.unpack(data)
    if meta[0] != MAGIC:
        raise ValueError("data.mdb is not an LMDB file")
    return meta


def _walk(file: BinaryIO, page_size: int, pages: int, root: int) -> None:
    """Visit every page of the tree once, checking that all it points to exists."""
    waiting, seen = [] if root == NO_PAGE else [root], set()
    while waiting:
        number = waiting.pop()
        if number in seen or not 2 <= number < pages:
            raise ValueError(f"its tree is damaged: page {number} of {pages} cannot be part of it")
        seen.add(number)
        file.seek(number * page_size)
        page = file.read(page_size)
        try:
            waiting += _children(page, number, pages)
        except (struct.error, ValueError) as error:
            raise ValueError(f"its tree is damaged in page {number}: {error}") from error


def _children(page: bytes, number: int, pages: int) -> list[int]:
    """Pages that a tree page leads to; ValueError where a node does not fit in its page, or its value in the file."""
    own_number, _, flags, end_of_pointers, _ = HEADER.unpack_from(page)
    if own_number != number or flags & KINDS not in (BRANCH, LEAF):
        raise ValueError("not a page of the tree")
    count = (end_of_pointers - HEADER.size) // 2
    if count < (2 if flags & BRANCH else 1):  # fewer in a branch would abort LMDB
        raise ValueError(f"{count} entries are too few")
    children = []
    for position in struct.unpack_from(f"<{count}H", page, HEADER.size):
        low, high, higher, key_size = NODE.unpack_from(page, position)
        value, size = position + NODE.size + key_size, low | high << 16
        if flags & BRANCH:
            children.append(size | higher << 32)
            size = 0
        elif higher & ELSEWHERE:
            (first,) = struct.unpack_from("<Q", page, value)
            if first + -(-(HEADER.size + size) // len(page)) > pages:
                raise ValueError("a value lies outside of the file")
            size = 8
        if value + size > len(page):
            raise ValueError("an entry lies outside of the page")
    return children
