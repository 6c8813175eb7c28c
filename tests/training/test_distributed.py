"""Joining the processes of a launcher: mistakes are one line."""

import pytest
import torch

from utils import distributed
from utils.distributed import LostWorker, ProcessGroup
from utils.errors import UserError

LAUNCHER = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def launcher(monkeypatch):
    """Sets the variables of torchrun, but for some."""

    def launcher(**changes):
        for name, value in (LAUNCHER | changes).items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)

    return launcher


def test_without_a_launcher_this_process_is_alone(launcher):
    launcher(WORLD_SIZE=None)
    assert distributed.start(CPU, 1) == (ProcessGroup(), CPU)


@pytest.mark.parametrize("name", sorted(LAUNCHER.keys() - {"WORLD_SIZE"}))
def test_half_a_launcher(launcher, name):
    launcher(**{name: None})
    with pytest.raises(UserError, match=f"^WORLD_SIZE is set, but not {name}: "):
        distributed.start(CPU, 1)


def test_more_processes_than_gpus(launcher, monkeypatch):
    launcher(LOCAL_RANK="2", RANK="2", WORLD_SIZE="3")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="^LOCAL_RANK is 2, but this machine has 2 GPUs"):
        distributed.start(CUDA, 1)


def test_processes_that_cannot_meet(launcher):
    launcher(RANK="7", MASTER_PORT="nowhere")
    with pytest.raises(UserError, match="^cannot join the other processes at 127.0.0.1:nowhere: ") as error:
        distributed.start(CPU, 0.01)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("device", "gloo", "backend", "given"),
    [(CPU, False, "gloo", None), (CUDA, False, "nccl", torch.device("cuda:0")), (CUDA, True, "gloo", None)],
)
def test_only_nccl_is_given_a_gpu(launcher, monkeypatch, device, gloo, backend, given):
    launcher()
    joined = {}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(distributed.dist, "init_process_group", lambda name, **more: joined.update(more, name=name))
    monkeypatch.setattr(distributed.dist, "get_rank", lambda: 0)
    monkeypatch.setattr(distributed.dist, "get_world_size", lambda: 1)
    assert distributed.start(device, 1, gloo)[1] == (CPU if device == CPU else torch.device("cuda:0"))
    assert (joined["name"], joined["device_id"]) == (backend, given)


def test_one_reduction_serves_all_flags(monkeypatch):
    reductions = []
    monkeypatch.setattr(distributed.dist, "get_backend", lambda: "gloo")
    monkeypatch.setattr(distributed.dist, "all_reduce", lambda values, op: reductions.append(values.clone()))
    assert ProcessGroup(0, 2).any(True, False) == (True, False)
    assert len(reductions) == 1
    assert ProcessGroup().any(False, True) == (False, True)


def test_shares_are_all_there_is():
    shares = [list(ProcessGroup(rank, 3).share(iter(range(8)))) for rank in range(3)]
    assert shares == [[0, 3, 6], [1, 4, 7], [2, 5]] and list(ProcessGroup().share("ab")) == ["a", "b"]


class Going:
    """A reduction that is not done when it is first looked at."""

    def __init__(self, error=None):
        self.looks, self.error = 0, error

    def is_completed(self):
        self.looks += 1
        return self.looks > 2

    def wait(self):
        if self.error:
            raise self.error


def test_agreeing(monkeypatch):
    work = Going()
    monkeypatch.setattr(distributed.dist, "all_reduce", lambda value, op, async_op: value.fill_(1) is None or work)
    assert ProcessGroup(0, 2).any_rank(False) is True and work.looks == 3
    assert ProcessGroup().any_rank(True) is True and ProcessGroup().any_rank() is False


def test_a_process_that_has_gone(monkeypatch):
    monkeypatch.setattr(distributed.dist, "all_reduce", lambda *_, **__: Going(RuntimeError("Connection closed")))
    with pytest.raises(LostWorker, match="^another worker was lost; start again to go on$") as error:
        ProcessGroup(0, 2).any_rank()
    assert error.value.exit_code == 1
