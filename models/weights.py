"""Weights for inference: one safetensors file that carries its architecture, so that it needs no config."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from models import build_encoders, build_generator
from models.encoder import GlobalEncoder, PatchEncoder, RandomGlobal
from models.generator import Generator
from utils.checkpoint import load_weights, save_weights
from utils.config import validate_section
from utils.errors import UserError

FORMAT = "patch-inverter-1"
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
    if encoders or weights.has("encoder"):
        encoder, global_encoder = build_encoders(weights.model)
        weights.fill("encoder", encoder)
        if global_encoder is not None:
            weights.fill("global_encoder", global_encoder)
    generator = weights.fill("generator", build_generator(weights.model))
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

    def fill(self, name: str, network: nn.Module) -> nn.Module:
        """The network, in evaluation mode, with its tensors. UserError if there are none, or none of its shapes."""
        own = {key.removeprefix(f"{name}."): value for key, value in self.tensors.items() if key.startswith(f"{name}.")}
        expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
        if expected and not own:
            held = ", ".join(sorted({key.split(".")[0] for key in self.tensors}))
            raise UserError(f"{self.path}: holds no {name}, only {held}")
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


def read_weights(path: str | Path) -> Weights:
    """Read an exported file. UserError where it is missing, damaged, or none of this program."""
    tensors, metadata = load_weights(path)
    if metadata.get("format") != FORMAT:
        raise UserError(f"{path}: format {metadata.get('format')!r}; weights exported by train.py have {FORMAT!r}")
    try:
        model = json.loads(metadata["model"])
    except (KeyError, ValueError) as error:
        raise UserError(f"{path}: its metadata describes no architecture (key 'model')") from error
    return Weights(Path(path), tensors, validate_section("model", model, str(path)), metadata["fingerprint"])
