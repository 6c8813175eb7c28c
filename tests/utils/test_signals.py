"""A first signal asks, a second one insists, loaders hear neither."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from utils import signals
from utils.signals import StopSignal, ignore_signals, raising_signals

ROOT = Path(signals.__file__).parents[1]


def send(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_only_asks(number):
    """Whatever echoes it."""
    before = signal.getsignal(number)
    with StopSignal() as stop:
        assert not stop.requested and stop.exit_code == 0
        for each in (number, signal.SIGTERM, signal.SIGINT):
            send(each)
            assert stop.requested and stop.exit_code == 128 + number
    assert signal.getsignal(number) == before


def test_the_second_exits_at_once(monkeypatch):
    monkeypatch.setattr(signals, "ECHO_SECONDS", 0.02)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as error, StopSignal():
        send(signal.SIGINT)
        time.sleep(0.03)
        send(signal.SIGTERM)
    assert error.value.code == 143 and signal.getsignal(signal.SIGTERM) == before


def test_a_loader_outlives_all_signals():
    child = os.fork()
    if child == 0:
        ignore_signals()
        for number in signals.SIGNALS:
            os.kill(os.getpid(), number)
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_other_commands_end_through_their_clean_up():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as error, raising_signals():
        send(signal.SIGTERM)
    assert error.value.code == 143 and signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_what_the_starter_ignored_stays_ignored(number):
    """As nohup does with SIGHUP, and a script with SIGINT in what it starts with `&`."""
    signal.signal(number, signal.SIG_IGN)
    with raising_signals(), StopSignal() as stop:
        send(number)
        assert not stop.requested
    assert signal.getsignal(number) == signal.SIG_IGN


def test_a_closed_terminal_is_no_error_of_those_who_still_speak():
    """A process in a terminal of its own, which closes; it says what it found by its exit code."""
    code = """
import os, sys, time
from utils.log import info, steady_streams
from utils.signals import StopSignal
with steady_streams(), StopSignal() as stop:
    info("begun")
    while not stop.requested:
        time.sleep(0.01)
    info("saved")
    print("ended", file=sys.stderr, flush=True)
os._exit(stop.exit_code - 128 + 40)
"""
    pid, terminal = os.forkpty()
    if pid == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-c", code])
    assert b"begun" in os.read(terminal, 100)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 40 + signal.SIGHUP


@pytest.mark.parametrize(("command", "number"), [("train", signal.SIGTERM), ("infer", signal.SIGINT)])
def test_a_signal_during_the_imports_is_one_line(command, number):
    """When PyTorch is half loaded; whatever is asked of the command."""
    process = subprocess.Popen([sys.executable, f"{command}.py", "--help"], cwd=ROOT, stdout=-1, stderr=-1, text=True)
    while b"libtorch" not in Path(f"/proc/{process.pid}/maps").read_bytes():
        time.sleep(0.001)
    process.send_signal(number)
    said, wrong = process.communicate()
    assert not said and wrong == ("interrupted\n" if number == signal.SIGINT else "terminated\n")
    assert process.returncode == 128 + number


ENDS = """
import os, signal, sys, threading
from utils.errors import run_command
from utils.signals import exit_at_once
exit_at_once()
def main(argv):
    if sys.argv[1] == "main":
        os.kill(os.getpid(), int(sys.argv[2]))
        threading.Event().wait(9)
    return 0
code = run_command(main)
os.kill(os.getpid(), int(sys.argv[2])) if sys.argv[1] == "end" else None
sys.exit(code)
"""


@pytest.mark.parametrize(("when", "number"), [("main", signal.SIGINT), ("end", signal.SIGTERM), ("end", signal.SIGHUP)])
def test_a_signal_at_any_other_time_is_one_line(when, number):
    command = [sys.executable, "-c", ENDS, when, str(int(number))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == ("interrupted\n" if number == signal.SIGINT else "terminated\n")
    assert done.returncode == 128 + number
