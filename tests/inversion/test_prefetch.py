"""Reading ahead and writing behind, in threads."""

import threading
import time

import pytest

from inversion.blockwise import BackgroundWriter, prefetch


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


def test_work_behind_is_done_in_order_and_by_the_end():
    done = []
    with BackgroundWriter() as writer:
        for k in range(20):
            writer.do(lambda k: (time.sleep(0.001), done.append(k)), k)
            assert len(done) >= k - 3
    assert done == list(range(20))


@pytest.mark.parametrize("count", [1, 10])
def test_an_error_behind_comes_out(count):
    def fail():
        raise OSError("full")

    with pytest.raises(OSError, match="full"), BackgroundWriter() as writer:
        for _ in range(count):
            writer.do(fail)


def test_an_error_of_the_caller_is_the_one_that_counts():
    """What waits is not done any more."""
    done, goes_on = [], threading.Event()
    with pytest.raises(ValueError, match="mine"), BackgroundWriter() as writer:
        writer.do(goes_on.wait, 10)
        writer.do(done.append, 1)
        threading.Timer(0.05, goes_on.set).start()
        raise ValueError("mine")
    assert not done
