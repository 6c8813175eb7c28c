"""A few seconds of `python -m tests.fuzz`, the same cases each time."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_wrong_files_are_told_and_cost_little():
    command = [sys.executable, "-m", "tests.fuzz", "--cases", "100", "--seconds", "10"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, errors="replace")
    assert done.returncode == 0, done.stdout + done.stderr[-1000:]
    assert done.stdout.count("cases, 0 not well") == 6
