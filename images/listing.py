"""Which files of a folder are images: told by their content, whatever they are called; what is left out is counted."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePath
from typing import TypeVar

from images.headers import readable, recognise
from utils import log
from utils.distributed import first_process
from utils.files import ZARR

# Files that are called so are taken without a look: one that holds something else is named when it is read.
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".avif")
# What a sensor saw: most are TIFF files by content, of which a small picture would be read instead of the photograph.
RAW = (
    ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mos", ".mrw", ".nef",
    ".nrw", ".orf", ".pef", ".raf", ".rw2", ".srw",
)  # fmt: skip
NEEDED = {"HEIF": "needs pillow-heif"}  # what to install for a format
HIDDEN = (".", "@eaDir", "__MACOSX")  # how names begin that Unix, Synology's disks, and macOS do not show
MOST_KINDS = 8  # that a line names

T = TypeVar("T")


def find_images(folder: str | Path, without: Path | None = None) -> list[Path]:
    """The images of a folder and of those below it, sorted; a line of the log counts the other files by suffix.

    Links to folders are followed, and no folder is entered twice, nor the folder `without`. Hidden files and folders
    do not count. A broken link that is called like an image stays, to be named as damaged.
    """
    others = Counter()
    found = choose(walk(Path(folder), without, others), lambda path: path, _why_not, others)
    return sorted(found, key=lambda path: path.parts)


def choose(
    files: Iterable[T], path: Callable[[T], PurePath], why_not: Callable[[T], str | None], others: Counter | None = None
) -> list[T]:
    """Those of the files for which there is no reason why not; a line of the log counts the others by suffix.

    `others` counts, by (suffix, reason), what was left out before.
    """
    found, others = [], Counter() if others is None else others
    for file in files:
        reason = why_not(file)
        if reason is None:
            found.append(file)
        else:
            others[_kind_of(path(file)), reason] += 1
    if others:
        shown = others.most_common(MOST_KINDS)
        texts = [f"{count} {kind}{f' ({reason})' if reason else ''}" for (kind, reason), count in shown]
        more = others.total() - sum(count for _, count in shown)
        log.info(f"left out: {', '.join(texts)}{f', {more} others' if more else ''}", first_process())
    return found


def is_image(path: Path) -> bool:
    """Whether a file is an image that is read here, or is called like one."""
    return _why_not(path) is None


def walk(top: Path, without: Path | None, others: Counter) -> Iterator[Path]:
    """All files, and folders that are one thing (ZARR), but hidden ones; `others` counts unreadable folders.

    No folder is entered twice. Links come after the folders themselves, which so keep their names.
    """
    seen, tops = {_number(without)} if without and os.path.isdir(without) else set(), [str(top)]

    def unreadable(error: OSError) -> None:
        others["folder", error.strerror] += 1

    for start in tops:
        for where, folders, files in os.walk(start, onerror=unreadable):
            shown = [each for each in folders if not each.startswith(HIDDEN)]
            folders.clear()
            if _number(where) in seen:
                continue
            seen.add(_number(where))
            arrays = [each for each in shown if each.endswith(ZARR)]
            for each in sorted(set(shown) - set(arrays)):
                path = os.path.join(where, each)
                (tops if os.path.islink(path) else folders).append(path if os.path.islink(path) else each)
            yield from (Path(where, each) for each in (*arrays, *files) if not each.startswith(HIDDEN))


def _number(folder: str | Path) -> tuple[int, int]:
    """The same for all names of a folder."""
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _why_not(path: Path) -> str | None:
    """None for an image, and for what is called like one; else why it is left out, "" where that is plain."""
    named = path.name.lower().endswith(SUFFIXES)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe: to read it would block
            return "" if path.suffix == ZARR else "not a file"
        return why_not(path.name, lambda: path)
    except OSError as error:
        return None if named else error.strerror


def why_not(name: str, content: Callable[[], Path | bytes]) -> str | None:
    """As above, of a file of this name, whose content (or where it lies) is only asked for where the name says nothing.
    """
    if name.lower().endswith(SUFFIXES):
        return None
    kind = "raw photograph" if name.lower().endswith(RAW) else recognise(content())
    return None if readable(kind) else NEEDED.get(kind, f"{kind} is not read") if kind else ""


def _kind_of(path: PurePath) -> str:
    """How a line calls a file that is left out."""
    suffix = path.suffix.lower()
    return log.printable(suffix) if 1 < len(suffix) <= 12 else "without a suffix"
