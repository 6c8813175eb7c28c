"""Files that cannot be opened for writing, made, written, synced or renamed: the call of a number fails.

Counted are the calls of Python on paths below a folder, in the process that `Faults.begin` was called in, to its end.
"""

import builtins
import errno
import io
import os
import sys
from pathlib import Path

EVENTS = {"open": "open", "os.rename": "rename", "os.mkdir": "mkdir"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
ERRORS = {"open": errno.EACCES, "mkdir": errno.EACCES, "rename": errno.EIO, "fsync": errno.EIO, "write": errno.ENOSPC}


class Faults:
    """Call `number` (from 0) fails; None: only counted, one line for each into `record`."""

    def __init__(self, folder: Path, number: int | None, record: Path | None = None) -> None:
        self.folder, self.number, self.record, self.count = str(folder), number, record, 0

    def begin(self) -> None:
        """From now on."""
        faults, fsync, plain = self, os.fsync, io.open
        self.stream = plain(self.record, "w", buffering=1) if self.record else None

        class Raw(io.FileIO):
            def write(self, data):
                faults.call("write", self.name)
                return super().write(data)

        def opened(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None):
            if not faults.concerns(file) or not set(mode) & set("wax+"):
                return plain(file, mode, buffering, encoding, errors, newline, closefd, opener)
            raw = Raw(file, mode.replace("b", "").replace("t", ""), closefd, opener)
            if buffering == 0:
                return raw
            kind = io.BufferedRandom if "+" in mode else io.BufferedWriter
            buffered = kind(raw)
            return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline, buffering == 1)

        def synced(handle):
            faults.call("fsync", os.readlink(f"/proc/self/fd/{handle}"))
            fsync(handle)

        builtins.open, io.open, os.fsync = opened, opened, synced
        sys.addaudithook(self.hear)

    def hear(self, event: str, arguments: tuple) -> None:
        """An audit hook, which cannot be taken away again."""
        if event in EVENTS and (event != "open" or arguments[2] & WRITING):
            self.call(EVENTS[event], arguments[1] if event == "os.rename" else arguments[0])

    def concerns(self, path: object) -> bool:
        """Whether a path is below the folder."""
        return isinstance(path, (str, bytes, os.PathLike)) and os.fsdecode(path).startswith(self.folder)

    def call(self, kind: str, path: object) -> None:
        """Count one; OSError if it is the one that fails."""
        if not self.concerns(path):
            return
        number, self.count = self.count, self.count + 1
        if self.stream:
            self.stream.write(f"{kind} {os.path.relpath(os.fsdecode(path), self.folder)}\n")
        if number == self.number:
            raise OSError(ERRORS[kind], os.strerror(ERRORS[kind]), os.fsdecode(path))
