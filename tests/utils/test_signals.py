"""A first signal asks, a second one insists, loaders hear neither."""

import os
import signal
import time

import pytest

from utils import signals
from utils.signals import StopSignal, ignore_signals


def send(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.01)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_only_asks(number, code):
    before = signal.getsignal(number)
    with StopSignal() as stop:
        assert not stop.requested and stop.exit_code == 0
        send(number)
        assert stop.requested and stop.exit_code == code
    assert signal.getsignal(number) == before


def test_an_echo_of_the_first_is_not_a_second():
    with StopSignal() as stop:
        for _ in range(3):
            send(signal.SIGTERM)
            send(signal.SIGINT)
        assert stop.exit_code == 143


def test_the_second_exits_at_once(monkeypatch):
    monkeypatch.setattr(signals, "ECHO_SECONDS", 0.02)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as error, StopSignal():
        send(signal.SIGINT)
        time.sleep(0.03)
        send(signal.SIGTERM)
    assert error.value.code == 143 and signal.getsignal(signal.SIGTERM) == before


def test_a_loader_outlives_both_signals():
    child = os.fork()
    if child == 0:
        ignore_signals(0)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
