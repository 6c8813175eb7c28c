"""Reading ahead and writing behind, in threads."""

import threading
import time

import pytest
import torch

from inversion.blockwise import prefetch, store


def test_items_come_in_order_from_another_thread_that_runs_ahead_by_a_bounded_number():
    made, before = [], threading.active_count()

    def items():
        for k in range(20):
            made.append(k)
            yield k, threading.get_ident()
        raise KeyError("twenty")

    reader = prefetch(items(), depth=3)
    for expected in range(20):
        time.sleep(0.002)
        k, thread = next(reader)
        assert k == expected and thread != threading.get_ident() and len(made) <= k + 1 + 3
    with pytest.raises(KeyError, match="twenty"):  # an error comes out in its place
        next(reader)
    left = prefetch(iter(range(1000)))
    assert next(left) == 0
    left.close()  # a reader that is left early ends
    assert threading.active_count() == before and list(prefetch([])) == []


class Out:
    """Keeps what is written, slowly; `full` from so many windows on."""

    def __init__(self, full=100):
        self.done, self.full = [], full

    def __setitem__(self, index, values):
        time.sleep(0.001)
        if len(self.done) >= self.full:
            raise OSError("full")
        self.done.append(index)


def numbers(count, out, error=None):
    for k in range(count):
        assert len(out.done) >= k - 3
        yield k, torch.zeros(1)
    if error:
        raise error


@pytest.mark.parametrize(("full", "error"), [(100, None), (0, OSError), (19, OSError), (20, ValueError)])
def test_work_behind_is_done_in_order_and_its_errors_come_out(full, error):
    out = Out(full)
    if error is None:
        store(numbers(20, out), out, lambda block: block)
        assert out.done == list(range(20))
    else:
        with pytest.raises(error):
            store(numbers(20, out, ValueError() if error is ValueError else None), out, lambda block: block)
        assert out.done == list(range(full))  # what was computed before is written
