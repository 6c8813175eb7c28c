"""Small images at the same time, on one thread each; large ones alone, on all threads."""

import os
import struct
import threading
import zlib

import numpy as np
import PIL.Image
import pytest
import torch

from inversion.runs import SMALL, each, is_small


@pytest.fixture(autouse=True)
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    assert torch.get_num_threads() == 3
    torch.set_num_threads(before)


def test_only_small_ones_share_the_time():
    """Two of them wait for each other, so they are at work at the same time; the large one is alone."""
    meeting, running, seen = threading.Barrier(2, timeout=30), [], {}

    def work(item):
        running.append(item)
        if item in ("a", "b"):
            meeting.wait()
        seen[item] = torch.get_num_threads(), set(running) & {"a", "b", "c"} if item == "LARGE" else None
        running.remove(item)

    each(["a", "b", "LARGE", "c"], work, str.islower)
    assert seen == {"a": (1, None), "b": (1, None), "c": (1, None), "LARGE": (3, set())}


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("small", [True, False])
def test_an_error_comes_out_when_what_was_begun_has_ended(stop, small):
    begun, ended = [], []

    def work(item):
        begun.append(item)
        if item == 20:
            raise stop
        ended.append(item)

    with pytest.raises(stop):
        each(range(1000), work, lambda item: small)
    assert sorted(ended) == [item for item in sorted(begun) if item != 20] and len(begun) < 100


def test_the_header_tells_what_is_small(tmp_path):
    edge = int(SMALL**0.5)
    for name, size in {"small": (edge, edge), "large": (edge + 1, edge)}.items():
        PIL.Image.fromarray(np.zeros(size, np.uint8)).save(tmp_path / f"{name}.png")
    head, kind = (tmp_path / "small.png").read_bytes()[:12], b"IHDR" + struct.pack(">IIB4x", 50_000, 50_000, 8)
    (tmp_path / "bomb.png").write_bytes(head + kind + struct.pack(">I", zlib.crc32(kind)))
    (tmp_path / "text.png").write_text("no image")
    os.mkfifo(tmp_path / "pipe.png")
    assert [path.stem for path in tmp_path.iterdir() if is_small(path)] == ["small"]
    assert not is_small(tmp_path / "missing.png")
