"""Small images several at a time, on one thread of PyTorch each: more threads cost more than they gain there.

So what is computed of them does not depend on the number of cores, and a core that others keep busy holds up none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import PIL.Image
import torch

from images.headers import FORMATS, errors_named, pillow
from images.reading import ImageError

Item = TypeVar("Item")
SMALL = 2**16  # pixels
MOST = 8  # at a time; beyond, they wait for Python


def is_small(path: Path) -> bool:
    """Whether an image has at most SMALL pixels, as its header says; False for what is no image."""
    try:
        with pillow(), errors_named(str(path)):
            if not path.is_file():  # to read a pipe would block
                return False
            with PIL.Image.open(path, formats=FORMATS) as header:
                return header.width * header.height <= SMALL
    except ImageError:
        return False


def each(items: Iterable[Item], work: Callable[[Item], None], small: Callable[[Item], bool]) -> Iterator[Item]:
    """Work on items in their order, several at a time where they are small; yields each item when it is done.

    PyTorch has one thread for each of these, and for the others as many as before. The first error comes out when what
    was begun has ended.
    """
    threads, waiting = torch.get_num_threads(), deque()

    def alone(item: Item) -> None:
        torch.set_num_threads(1)  # of this thread of Python
        work(item)

    def done(most: int) -> Iterator[Item]:
        while len(waiting) > most:
            item, future = waiting.popleft()
            future.result()
            yield item

    with ThreadPoolExecutor(min(threads, MOST), "image") as pool:
        try:
            for item in items:
                if small(item):
                    future: Future = pool.submit(alone, item)
                    waiting.append((item, future))
                    yield from done(2 * MOST)
                    continue
                yield from done(0)
                torch.set_num_threads(threads)
                work(item)
                yield item
            yield from done(0)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # those that are begun end all the same
            raise
        finally:
            torch.set_num_threads(threads)
