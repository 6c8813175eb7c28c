"""Files and folders that appear whole or not at all, that one run at a time writes to, and that are no inputs."""

import errno
import json
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from utils.errors import UserError

TEMPORARY = re.compile(r"\.tmp-(\d{1,9})-[0-9a-f]{8}(\..*)?")
ABANDONED_AFTER = 24 * 3600.0  # seconds without a write, after which nobody is still writing a file
NO_MISTAKE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # of the user: the disk is full, or broken
LOCK = ".lock"
ZARR = ".zarr"  # suffix of a folder that is one thing
LARGEST_JSON = 2**26  # bytes


class DiskFailure(UserError):
    """The disk, and not the command, is to blame."""

    exit_code = 1


@contextmanager
def atomic_path(path: str | Path, sync: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`, with its suffix; on success it becomes `path`, on error it is removed.

    Makes missing folders. A reader, or a crash at any moment, sees the old file or the new one, both whole; without
    `sync`, which waits for the disk, that holds for a crash of the program, not of the machine.
    Raises UserError naming the path and the free space where the system refuses to write.
    """
    path = Path(path)
    with refusals(path), scratch_folder(path) as temporary:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if sync:
            _sync(temporary, os.O_RDWR)  # which Windows asks for
        os.replace(temporary, path)
        with suppress(OSError):  # Windows and some network file systems sync no folders
            if sync:
                _sync(path.parent, os.O_RDONLY)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield the temporary path of a folder to make; on success it becomes `path`, on error it is removed."""
    with refusals(path), scratch_folder(path) as temporary:
        yield temporary
        replace_folder(temporary, path)


@contextmanager
def scratch_folder(beside: Path) -> Iterator[Path]:
    """Yield the path of a folder (or file), not made yet, beside a path; it is removed whatever happens."""
    temporary = beside.with_name(f".tmp-{os.getpid()}-{secrets.token_hex(4)}{beside.suffix}")
    try:
        yield temporary
    finally:
        remove_tree(temporary)


def replace_folder(source: Path, target: Path) -> None:
    """Rename a folder; what was at its new place, file or folder, is removed first. UserError where that is refused."""
    with refusals(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_tree(target)
        os.rename(source, target)


def only_files(folder: Path) -> bool:
    """Whether a folder, if it is there, holds folders and files only: no links, which lead elsewhere, and no pipes,
    whose reading never ends.
    """
    if not folder.is_dir() or folder.is_symlink():
        return not os.path.lexists(folder)
    inside = (Path(where, name) for where, folders, files in os.walk(folder) for name in folders + files)
    return all(not path.is_symlink() and (path.is_dir() or path.is_file()) for path in inside)


def remove_tree(path: Path) -> None:
    """Remove a file, or a folder with all that is in it, as far as the system allows; nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


@contextmanager
def refusals(path: Path) -> Iterator[None]:
    """Turns a refusal of the system to write into a UserError that names the path and the free space."""
    try:
        yield
    except OSError as error:
        free = f"{free_space(path) / 2**20:.0f} MiB free"
        kind = DiskFailure if error.errno in NO_MISTAKE or error.errno is None else UserError  # None: of libraries
        raise kind(f"cannot write {path}: {error.strerror or error} ({free})") from error


@contextmanager
def lock_folder(folder: str | Path) -> Iterator[None]:
    """Make a folder and keep other runs out of it; UserError where one is writing there, or where it cannot be made.

    What killed processes left in it goes, see `remove_stale`.
    The system lets go of the lock when a process ends, however it does. File systems without locks keep nobody out.
    A file of the lock's name that is not empty, or a link, is somebody's own, and refused.
    """
    folder = Path(folder)
    lock = FileLock(folder / LOCK)
    with refusals(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            status = os.lstat(folder / LOCK)
            if not stat.S_ISREG(status.st_mode) or status.st_size or status.st_nlink > 1:
                raise UserError(f"{folder / LOCK}: is in the place of the lock of this folder; choose another")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise UserError(f"{folder}: another run is writing there; wait for its end, or choose another") from error
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.ENOLCK, errno.EINVAL):
                raise
    try:
        remove_stale(folder)
        yield
    finally:
        with suppress(OSError):  # Windows removes no open file
            (folder / LOCK).unlink(missing_ok=True)
        lock.release()


def refuse_overwriting(inputs: Iterable[str | Path], outputs: Iterable[str | Path]) -> None:
    """UserError where something that a command would write is one of its inputs, lies in one, or holds one.

    Inputs and outputs are files, or folders that are one thing (a zarr array), under whatever name: links of both kinds
    are followed. Nothing has to exist.
    """
    inputs, outputs, identity = list(inputs), list(outputs), cache(_identity)
    read, written = ({identity(path): path for path in paths} for paths in (inputs, outputs))
    for paths, others in ((outputs, read), (inputs, written)):
        for path in paths:
            for place in (path, *Path(os.path.realpath(path)).parents):
                if (other := others.get(identity(place))) is not None:
                    result, given = (path, other) if others is read else (other, path)
                    raise UserError(f"{result}: would overwrite the input {given}; choose another --output")


def _identity(path: str | Path) -> object:
    """The same for all names of a file or folder: its number in the file system, or its path where it is not there."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return os.path.normcase(os.path.realpath(path))
    return status.st_dev, status.st_ino


def remove_stale(folder: str | Path) -> None:
    """Remove the temporary files and folders that killed processes left in a folder, or below it.

    Those of other living processes stay, unless untouched for a day: process numbers are used again.
    """
    for path in sorted(Path(folder).rglob(".tmp-*")):
        # Somebody else may clean up too, and a folder may be read-only: what cannot be removed is only untidy.
        with suppress(OSError):
            if match := TEMPORARY.fullmatch(path.name):
                writes = int(match[1]) != os.getpid() and psutil.pid_exists(int(match[1]))
                if not writes or time.time() - path.stat().st_mtime > ABANDONED_AFTER:
                    remove_tree(path)


def require_space(path: str | Path, needed: int) -> None:
    """UserError where the disk that `path` is on, or will be, has no room for so many bytes."""
    if needed > (free := free_space(path)):
        raise DiskFailure(f"{path}: {needed / 2**20:.0f} MiB are needed on the disk, {free / 2**20:.0f} MiB are free")


def regular_size(path: str | Path) -> int:
    """The bytes of a file. OSError where there is none, or something whose reading may never end, as a pipe."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        code, text = errno.EINVAL, "is not a file"
        if stat.S_ISDIR(status.st_mode):
            code, text = errno.EISDIR, os.strerror(errno.EISDIR)
        raise OSError(code, text, str(path))
    return status.st_size


def read_file(path: str | Path, most: int) -> bytes:
    """The content of a file of at most `most` bytes. OSError where there is none, or more."""
    if (size := regular_size(path)) > most:
        raise OSError(errno.EFBIG, f"has {size} bytes; allowed: at most {most}", str(path))
    with open(path, "rb") as file:
        return file.read(size)  # `most` bytes would be allocated, whatever there is


def read_json(source: Path | str) -> Any:
    """What JSON says, of a file (a path) or a text. OSError where it cannot be read; ValueError for what is no JSON, or
    too large, or nested too deeply.
    """
    text = read_file(source, LARGEST_JSON) if isinstance(source, Path) else source
    if len(text) > LARGEST_JSON:
        raise ValueError(f"{len(text)} bytes; allowed: at most {LARGEST_JSON}")
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def free_space(path: str | Path) -> int:
    """Bytes that may still be written where `path` is, or will be."""
    folder = Path(path).absolute()
    while not os.path.isdir(folder):  # Path.is_dir raises where a folder may not be entered
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _sync(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
