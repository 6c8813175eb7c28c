"""Weights for inference: one safetensors file that carries its architecture, so that it needs no config."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from models import build_encoders, build_generator
from models.encoder import GlobalEncoder, PatchEncoder, RandomGlobal
from models.generator import Generator
from utils.checkpoint import load_weights, save_weights
from utils.config import validate_section
from utils.errors import UserError
from utils.files import read_json

FORMAT = "patch-inverter-1"
MAKERS = (torch.empty, torch.zeros, torch.ones, torch.full, torch.randn)  # of the values of networks
SPARE = 2**20  # values that are no weights
SHIPPED = Path(__file__).parents[1] / "checkpoints" / "sample.safetensors"  # the default of the commands


@dataclass(frozen=True)
class Inverter:
    """The networks of an inverter file."""

    generator: Generator
    encoder: PatchEncoder | None  # None in a file of a generator alone
    global_encoder: GlobalEncoder | RandomGlobal | None  # None with a trunk, too
    model: dict  # the `model` section that they were built from
    fingerprint: str  # of the weights
    path: Path


def export(
    path: Path,
    model: dict,  # the section that builds the networks
    networks: Mapping[str, nn.Module | Mapping[str, Tensor]],  # or their state dicts, by name
    step: int,
    values: Mapping[str, Tensor] | None = None,  # single tensors beside the networks, by name
) -> None:
    """Write networks and what builds them. UserError where the file cannot be written."""
    tensors = dict(values or {})
    for name, network in networks.items():
        state = network.state_dict() if isinstance(network, nn.Module) else network
        tensors |= {f"{name}.{key}": value for key, value in state.items()}
    metadata = {"format": FORMAT, "networks": " ".join(networks), "model": json.dumps(model), "step": str(step)}
    save_weights(path, tensors, metadata)


def load_inverter(path: str | Path, encoders: bool = True) -> Inverter:
    """All networks of an exported inverter, in evaluation mode. UserError if the file has not all of them.

    Where `encoders` is false, a file without them will do.
    """
    weights = read_weights(path)
    encoder = global_encoder = None
    if encoders:
        weights.require("encoder")
    with Bounded(weights):
        if encoders or weights.has("encoder"):
            encoder, global_encoder = build_encoders(weights.model)
        generator = build_generator(weights.model)
    for name, network in (("encoder", encoder), ("global_encoder", global_encoder), ("generator", generator)):
        if network is not None:
            weights.fill(name, network)
    return Inverter(generator, encoder, global_encoder, weights.model, weights.fingerprint, weights.path)


def fill(path: str | Path, networks: dict[str, nn.Module]) -> None:
    """Load networks, by name, from an exported file. UserError if it lacks one or has another architecture."""
    weights = read_weights(path)
    for name, network in networks.items():
        weights.fill(name, network).train()


@dataclass(frozen=True)
class Weights:
    """An exported file."""

    path: Path
    tensors: dict[str, Tensor]  # by the network's name, a point, and the name inside it
    model: dict
    fingerprint: str

    def has(self, name: str) -> bool:
        """Whether there is a network of this name."""
        return any(key.startswith(f"{name}.") for key in self.tensors)

    def require(self, name: str) -> None:
        """UserError unless there is a network of this name."""
        if not self.has(name):
            held = ", ".join(sorted({key.split(".")[0] for key in self.tensors}))
            raise UserError(f"{self.path}: holds no {name}, only {held}")

    def fill(self, name: str, network: nn.Module) -> nn.Module:
        """The network, in evaluation mode, with its tensors. UserError if there are none, or none of its shapes."""
        own = {key.removeprefix(f"{name}."): value for key, value in self.tensors.items() if key.startswith(f"{name}.")}
        expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
        if expected:
            self.require(name)
        for key in sorted(expected.keys() | own.keys()):
            given, needed = tuple(own[key].shape) if key in own else "nothing", expected.get(key, "nothing")
            if given != needed:
                raise UserError(f"{self.path}: another architecture: {name}.{key} has {given}, not {needed}")
        network.load_state_dict(own)
        return network.eval()

    def value(self, name: str, default: float) -> Tensor:
        """A single number beside the networks, as a scalar. UserError if it is none."""
        value = self.tensors.get(name, torch.tensor(default))
        if value.shape != () or not bool(torch.isfinite(value)):
            raise UserError(f"{self.path}: {name} is not a single finite number")
        return value.float()

    def require_generator_of(self, model: dict) -> None:
        """UserError unless the generator's part of a config's `model` section is that of the file."""
        for key in ("stages", "trunk", "local_dim", "global_dim", "structure", "texture"):
            if model[key] != self.model[key]:
                raise UserError(
                    f"model.{key}: {model[key]}, but the generator {self.path} was trained with {self.model[key]}"
                )


class Bounded(TorchFunctionMode):
    """Inside, networks are built as a file describes them, but of no more values than it holds: UserError before."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.path, self.left = weights.path, sum(value.numel() for value in weights.tensors.values()) + SPARE

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), options: dict | None = None) -> Any:
        """Count what is made."""
        if function in MAKERS:
            self.left -= math.prod(args[0] if isinstance(args[0], tuple) else args)
            if self.left < 0:
                raise UserError(f"{self.path}: another architecture: it describes more values than it holds")
        return function(*args, **(options or {}))


def read_weights(path: str | Path) -> Weights:
    """Read an exported file. UserError where it is missing, damaged, or none of this program."""
    tensors, metadata = load_weights(path)
    if metadata.get("format") != FORMAT:
        raise UserError(f"{path}: format {metadata.get('format')!r}; weights exported by train.py have {FORMAT!r}")
    try:
        model = read_json(metadata["model"])
    except (KeyError, ValueError) as error:
        raise UserError(f"{path}: its metadata describes no architecture (key 'model')") from error
    return Weights(Path(path), tensors, validate_section("model", model, str(path)), metadata["fingerprint"])
