"""libvips, which does not survive a fork and is imported where it is needed; what it reads as a stream."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

THREADS = 4  # of libvips, each of which takes memory


def load_vips() -> ModuleType:
    """pyvips, with what it keeps in memory bounded."""
    import pyvips

    pyvips.cache_set_max(0)
    pyvips.concurrency_set(min(THREADS, pyvips.concurrency_get()))
    return pyvips


class Stream:
    """Pieces of a file, read from beginning to end; `error` is what ended them too early."""

    def __init__(self, pieces: Iterator[bytes]):
        self.error: Exception | None = None
        self._pieces, self._piece = pieces, memoryview(b"")

    def read(self, size: int) -> bytes:
        """At most `size` bytes, none at the end. It is called from C, which drops exceptions."""
        try:
            self._piece = self._piece or memoryview(next(self._pieces, b""))
        except Exception as error:
            self.error = error
        data, self._piece = self._piece[:size], self._piece[size:]
        return bytes(data)
