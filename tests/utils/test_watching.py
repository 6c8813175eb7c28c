"""Whether a process still works, and that none outlives its parent."""

import os
import subprocess
import sys
import time

import psutil
import pytest

from utils import watching
from utils.watching import Watch, end_with_parent

DOES = {  # what a process does, and whether it hangs
    "sleeps": ("import time; time.sleep(60)", True),
    "computes": ("while True: pass", False),
    "starts one": ("import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])", False),
}


@pytest.mark.parametrize("does", DOES)
def test_a_process_that_does_nothing_hangs(monkeypatch, does):
    monkeypatch.setattr(watching, "LOOK", 0.5)
    code, hangs = DOES[does]
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        time.sleep(0.5)  # it begins
        watch, end = Watch(process.pid, 3), time.monotonic() + 2.5
        while not (found := watch.hangs()) and time.monotonic() < end:
            time.sleep(0.02)
        assert found == hangs and not watch.gone()
        for child in [*psutil.Process(process.pid).children(), process]:
            child.kill()
    assert watch.gone()


def test_a_child_ends_with_its_parent():
    read, write = os.pipe()
    parent = os.fork()
    if parent == 0:
        if os.fork() == 0:
            end_with_parent()
            os.write(write, str(os.getpid()).encode())
            time.sleep(60)
        time.sleep(60)
    child = int(os.read(read, 20))
    os.kill(parent, 9)
    os.waitpid(parent, 0)
    until = time.monotonic() + 5
    while not Watch(child, 1).gone() and time.monotonic() < until:
        time.sleep(0.01)
    assert Watch(child, 1).gone()
