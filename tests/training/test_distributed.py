"""Processes that tell each other things; mistakes in joining them are one line."""

import json
import multiprocessing
import os
import socket

import pytest
import torch

from utils import distributed
from utils.distributed import SINGLE, LostWorker
from utils.errors import UserError

LAUNCHER = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
CPU = torch.device("cpu")


@pytest.fixture
def launcher(monkeypatch):
    """Sets the variables of torchrun, but for those that are None."""
    before = dict(os.environ)

    def launcher(**changes):
        given = {name: value for name, value in (LAUNCHER | changes).items() if value is not None}
        monkeypatch.setattr(os, "environ", before | given)

    return launcher


def test_without_a_launcher_this_process_is_alone(launcher):
    launcher(WORLD_SIZE=None)
    group, device = distributed.start(CPU, 1)
    assert (group, device) == (SINGLE, CPU)
    assert group.any(False, True) == (False, True) and group.any(True)[0]


def test_processes_that_cannot_meet(launcher):
    """Not where they are told to; of half a launcher."""
    for changes, said in ({"RANK": "7", "MASTER_PORT": "nowhere"}, "nowhere: "), ({"RANK": None}, "1: .*RANK"):
        launcher(**changes)
        with pytest.raises(UserError, match=f"^cannot join the other processes at 127.0.0.1:{said}") as error:
            distributed.start(CPU, 0.01)
        assert len(str(error.value).splitlines()) == 1


def talk(rank, port, path):
    """One of two processes; the second ends before the first is done."""
    os.environ |= LAUNCHER | {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_PORT": str(port)}
    group, _ = distributed.start(CPU, 1)
    values = torch.full((2, 3), float(rank)), torch.tensor(10.0 * rank)
    group.average([*values, None])
    group.wait()
    found = {
        "average": [value.mean().item() for value in values],
        "any": [group.any(False, rank == 1), group.any(rank == 0)],
        "gather": group.gather(torch.tensor([rank])).tolist(),
        "main": group.main,
    }
    if rank == 0:
        with pytest.raises(LostWorker, match=r"^another worker was lost \(rank 1\); start again to go on$") as error:
            group.any(False)
        found["code"] = error.value.exit_code
    path.write_text(json.dumps(found))
    os._exit(0)


def test_two_processes(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=talk, args=(rank, port, tmp_path / str(rank))) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    found = [json.loads((tmp_path / str(rank)).read_text()) for rank in range(2)]
    both = {"average": [0.5, 5.0], "any": [[False, True], [True]], "gather": [0, 1]}
    assert found == [both | {"main": True, "code": 1}, both | {"main": False}]
