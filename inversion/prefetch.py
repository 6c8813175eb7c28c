"""Reading ahead of the computation, and writing behind it, in a thread of its own each."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

Item = TypeVar("Item")
_END = object()


def prefetch(items: Iterable[Item], depth: int = 2) -> Iterator[Item]:
    """The items, made in a thread while the caller works on those before; at most `depth` wait.

    An error of making them comes out where the item would.
    """
    iterator = iter(items)
    with ThreadPoolExecutor(1, "reader") as pool:
        waiting = deque(pool.submit(next, iterator, _END) for _ in range(depth))
        while (item := waiting.popleft().result()) is not _END:
            waiting.append(pool.submit(next, iterator, _END))
            yield item


class BackgroundWriter:
    """Does what it is given one after the other, in a thread; at most `depth` wait.

    A `with` block: at its end all is done. The first error comes out of the next `do`, or of the end of the block.
    """

    def __init__(self, depth: int = 2) -> None:
        self._pool = ThreadPoolExecutor(1, "writer")
        self._waiting: deque[Future] = deque()
        self._depth = depth

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            while self._waiting and error is None:
                self._waiting.popleft().result()
        finally:
            self._pool.shutdown(cancel_futures=True)

    def do(self, function: Callable[..., object], *args: object) -> None:
        """Call a function with these arguments after all those before."""
        while len(self._waiting) >= self._depth:
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(function, *args))
