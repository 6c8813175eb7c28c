"""Files and folders that appear whole or not at all."""

import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from utils.errors import UserError

TEMPORARY = re.compile(r"\.tmp-(\d+)-[0-9a-f]{8}(\..*)?")
ABANDONED_AFTER = 24 * 3600.0  # seconds without a write, after which nobody is still writing a file
NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EACCES)  # some network file systems cannot sync a folder


@contextmanager
def atomic_path(path: str | Path, sync: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`, with its suffix; on success it becomes `path`, on error it is removed.

    Makes missing folders. A reader, or a crash at any moment, sees the old file or the new one, both whole; without
    `sync`, which waits for the disk, that holds for a crash of the program, not of the machine.
    Raises UserError naming the path and the free space where the system refuses to write.
    """
    path = Path(path)
    temporary = _temporary(path)
    with refusals(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            if sync:
                _sync(temporary)
            os.replace(temporary, path)
            if sync:
                _sync_folder(path.parent)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield the temporary path of a folder to make; on success it becomes `path`, on error it is removed."""
    temporary = _temporary(path)
    with refusals(path):
        try:
            yield temporary
            replace_folder(temporary, path)
        finally:
            remove_tree(temporary)


@contextmanager
def scratch_folder(beside: Path) -> Iterator[Path]:
    """Yield the path of a folder, not made yet, beside a path; it is removed whatever happens."""
    temporary = _temporary(beside)
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
        raise UserError(f"cannot write {path}: {error.strerror or error} ({_free_space_text(path)})") from error


def remove_stale(folder: str | Path) -> list[Path]:
    """Remove the temporary files and folders that killed processes left in a folder; returns them.

    Files of other living processes stay, unless untouched for a day: process numbers are used again.
    """
    removed = []
    names = []
    with suppress(OSError):
        names = sorted(os.listdir(folder))
    for path, match in ((Path(folder) / name, TEMPORARY.fullmatch(name)) for name in names):
        if match is None:
            continue
        # Somebody else may clean up too, and a folder may be read-only: what cannot be removed is only untidy.
        with suppress(OSError):
            if int(match[1]) == os.getpid() or not _alive(int(match[1])) or _age(path) > ABANDONED_AFTER:
                remove_tree(path)
                removed += [] if path.exists() else [path]
    return removed


def remove_all_stale(folder: Path) -> None:
    """`remove_stale` in a folder and all below it."""
    for where, _, _ in os.walk(folder):
        remove_stale(where)


def free_space(path: str | Path) -> int:
    """Bytes that may still be written where `path` is, or will be."""
    folder = Path(path).absolute()
    while not os.path.isdir(folder):  # Path.is_dir raises where a folder may not be entered
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _temporary(path: Path) -> Path:
    return path.with_name(f".tmp-{os.getpid()}-{secrets.token_hex(4)}{path.suffix}")


def _free_space_text(path: Path) -> str:
    return f"{free_space(path) / 2**20:.0f} MiB free"


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_folder(folder: Path) -> None:
    try:
        _sync(folder)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    except OverflowError:
        return False
    return True


def _age(path: Path) -> float:
    return time.time() - path.stat().st_mtime
