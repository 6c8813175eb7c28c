"""Runs infer.py in processes that are forked from this one, which has imported all but computed nothing.

    python -m tests.infer_runs workers COUNT ARGUMENT ...    # as torchrun starts them
    python -m tests.infer_runs lose COUNT ARGUMENT ...       # the last worker is killed when work has begun
    python -m tests.infer_runs choke COUNT ARGUMENT ...      # the last worker may write no file of more than 200 bytes

Images lie on the disk, in small blocks. Prints a line of JSON: exit codes, the last run's last.
"""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import torch

import infer
from inversion import jobs, refinement
from inversion.tiling import Tiling
from utils.errors import run_command

SMALL = (  # what is set to what, here and in the tests that compare
    (jobs, "HELD", 100),  # pixels, from which on images are drawn on the disk
    (refinement, "WINDOW_CELLS", 1),  # the window of the curvature takes less time
    (Tiling, "refined_edge", lambda tiling: 5),  # cells
)


def results(folder):
    """The content of all results; figures hold times, and are left out."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    assert not [name for name in found if ".tmp-" in name or ".unfinished" in name or ".partial" in name]
    return {name: path.read_bytes() for name, path in found.items() if name not in ("metrics.csv", "summary.json")}


def programs(*arguments):
    """The exit codes of runs in processes of their own, and what they said."""
    command = [sys.executable, "-m", "tests.infer_runs", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[1], capture_output=True, text=True, errors="replace", timeout=300
    )
    assert done.returncode == 0, done.stderr
    *said, codes = done.stdout.splitlines()
    return json.loads(codes), said, done.stderr


def start(arguments, environment=None, largest_file=None):
    """The process id of a run."""
    pid = os.fork()
    if pid == 0:
        os.environ.update(environment or {})
        if largest_file:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
        code = 99
        try:
            code = run_command(infer.main, arguments)
        finally:
            sys.stdout.flush()
            os._exit(code)
    return pid


def end(pid):
    """The exit code of a process, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def start_workers(count, arguments, largest_file=None):
    """The process ids of runs that know each other; `largest_file`: bytes that the last one may write into one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = ({"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count))
    return [start(arguments, places | rank, largest_file if rank["RANK"] == str(count - 1) else None) for rank in ranks]


def main():
    """One of the three."""
    torch.set_num_threads(1)
    torch.func.jvp(torch.sin, (torch.zeros(1),), (torch.ones(1),))  # imports more
    for each in SMALL:
        setattr(*each)
    what, number, *arguments = sys.argv[1:]
    workers = start_workers(int(number), arguments, 200 if what == "choke" else None)
    if what == "lose":
        output = Path(arguments[arguments.index("--output") + 1])
        while not list(output.glob(".unfinished/*/latents/c/0/*/*")):
            time.sleep(0.001)
        os.kill(workers[-1], signal.SIGKILL)
    print(json.dumps([end(pid) for pid in workers]))


if __name__ == "__main__":
    main()
