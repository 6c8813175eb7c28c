"""Runs infer.py in processes that are forked from this one, which has imported all but computed nothing.

    python -m tests.infer_runs kill SEED ARGUMENT ...        # killed at random moments until one run comes to its end
    python -m tests.infer_runs workers COUNT ARGUMENT ...    # as torchrun starts them
    python -m tests.infer_runs lose COUNT ARGUMENT ...       # the last worker is killed when work has begun

Images of more than 100 pixels are drawn on disk. Prints a line of JSON: exit codes, the last run's last.
"""

import json
import os
import random
import signal
import socket
import sys
import time
from pathlib import Path

import torch

import infer
import inversion.outputs
from utils.errors import run_command


def start(arguments, environment=None):
    """The process id of a run."""
    pid = os.fork()
    if pid == 0:
        os.environ.update(environment or {})
        code = 99
        try:
            code = run_command(infer.main, arguments)
        except SystemExit as stop:
            code = stop.code
        finally:
            sys.stdout.flush()
            os._exit(code)
    return pid


def end(pid):
    """Its exit code, minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_and_repeat(seed, arguments):
    """The exit codes of runs, of which all but the last were killed."""
    moments, codes = random.Random(seed), []
    while not codes or codes[-1] == -signal.SIGKILL:
        # a little longer each time, so that there is an end whatever the machine
        pid, patience = start(arguments), 0.02 + moments.random() * (0.2 + 0.05 * len(codes))
        time.sleep(patience)
        if os.waitpid(pid, os.WNOHANG)[0]:
            codes.append(0)
            break
        os.kill(pid, signal.SIGKILL)
        codes.append(end(pid))
    return codes


def start_workers(count, arguments):
    """The process ids of runs that know each other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [start(arguments, places | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(count)]


def main():
    """One of the three."""
    torch.set_num_threads(1)
    inversion.outputs.RESUMABLE = 100
    what, number, *arguments = sys.argv[1:]
    if what == "kill":
        print(json.dumps(kill_and_repeat(int(number), arguments)))
        return
    workers = start_workers(int(number), arguments)
    if what == "lose":
        output = Path(arguments[arguments.index("--output") + 1])
        while not list(output.glob(".unfinished/*/*.zarr/structure/c/0/*/*")):
            time.sleep(0.001)
        os.kill(workers[-1], signal.SIGKILL)
    print(json.dumps([end(pid) for pid in workers]))


if __name__ == "__main__":
    main()
