"""Joining the processes of a launcher: mistakes are one line."""

import pytest
import torch

from utils import distributed
from utils.distributed import World
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
    assert distributed.start(CPU, 1) == (World(), CPU)


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


@pytest.mark.parametrize(("device", "given"), [(CPU, None), (CUDA, torch.device("cuda:0"))])
def test_only_a_gpu_is_given_to_the_group(launcher, monkeypatch, device, given):
    launcher()
    joined = {}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(distributed.dist, "init_process_group", lambda backend, **options: joined.update(options))
    monkeypatch.setattr(distributed.dist, "get_rank", lambda: 0)
    monkeypatch.setattr(distributed.dist, "get_world_size", lambda: 1)
    assert distributed.start(device, 1)[1] == (given or CPU)
    assert joined["device_id"] == given


def test_one_reduction_serves_all_flags(monkeypatch):
    reductions = []
    monkeypatch.setattr(distributed.dist, "get_backend", lambda: "gloo")
    monkeypatch.setattr(distributed.dist, "all_reduce", lambda values, op: reductions.append(values.clone()))
    assert World(0, 2).any(True, False) == (True, False)
    assert len(reductions) == 1
    assert World().any(False, True) == (False, True)
