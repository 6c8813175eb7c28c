"""Reading ahead and writing behind, in threads."""

import threading
import time

import pytest
import torch

from inversion.blockwise import prefetch, store


def test_items_come_in_order_from_another_thread_that_runs_ahead_by_a_bounded_number():
    made = []

    def items():
        for k in range(20):
            made.append(k)
            yield k, threading.get_ident()

    for expected, (k, thread) in enumerate(prefetch(items(), depth=3)):
        time.sleep(0.002)
        assert k == expected and thread != threading.get_ident()
        assert len(made) <= k + 1 + 3
    assert len(made) == 20
    assert list(prefetch([])) == []


def test_an_error_comes_out_in_its_place():
    def items():
        yield 1
        raise KeyError("two")

    reader = prefetch(items())
    assert next(reader) == 1
    with pytest.raises(KeyError, match="two"):
        next(reader)


def test_a_reader_that_is_left_early_ends():
    before = threading.active_count()
    iterator = prefetch(iter(range(1000)))
    assert next(iterator) == 0
    iterator.close()
    assert threading.active_count() == before


class Out:
    """Keeps what is written, slowly; `full` from so many windows on."""

    def __init__(self, full=100):
        self.done, self.full = [], full

    def __setitem__(self, index, values):
        time.sleep(0.001)
        if len(self.done) >= self.full:
            raise OSError("full")
        self.done.append(index)


def test_work_behind_is_done_in_order_and_by_the_end():
    out = Out()

    def results():
        for k in range(20):
            assert len(out.done) >= k - 3
            yield k, torch.zeros(1)

    store(results(), out, lambda block: block)
    assert out.done == list(range(20))


@pytest.mark.parametrize("full", [0, 19])
def test_an_error_behind_comes_out(full):
    with pytest.raises(OSError, match="full"):
        store(((k, torch.zeros(1)) for k in range(20)), Out(full), lambda block: block)


def test_an_error_of_the_caller_is_the_one_that_counts():
    """What was computed before it is written."""
    out = Out(full=2)

    def results():
        yield from ((k, torch.zeros(1)) for k in range(2))
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        store(results(), out, lambda block: block)
    assert out.done == [0, 1]
