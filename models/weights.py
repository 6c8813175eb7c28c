"""Weights for inference: one safetensors file that carries its architecture, so that it needs no config."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from models import build_encoders, build_generator
from models.encoder import GlobalEncoder, PatchEncoder
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
    encoder: PatchEncoder
    global_encoder: GlobalEncoder
    model: dict  # the `model` section that they were built from
    fingerprint: str  # of the weights


def export(path: Path, model: dict, networks: dict[str, nn.Module], step: int) -> None:
    """Write networks, by name, with the `model` section that builds them."""
    tensors = {
        f"{name}.{key}": value.detach().cpu().contiguous()
        for name, network in networks.items()
        for key, value in network.state_dict().items()
    }
    metadata = {"format": FORMAT, "networks": " ".join(networks), "model": json.dumps(model), "step": str(step)}
    save_weights(path, tensors, metadata)


def load_generator(path: str | Path) -> tuple[Generator, dict]:
    """The generator of an exported file, in evaluation mode, and its `model` section. UserError if there is none."""
    tensors, model, _ = _read(Path(path))
    return _filled(Path(path), tensors, "generator", build_generator(model)), model


def load_inverter(path: str | Path) -> Inverter:
    """All networks of an exported inverter, in evaluation mode. UserError if the file has not all of them."""
    path = Path(path)
    tensors, model, fingerprint = _read(path)
    encoder, global_encoder = build_encoders(model)
    return Inverter(
        _filled(path, tensors, "generator", build_generator(model)),
        _filled(path, tensors, "encoder", encoder),
        _filled(path, tensors, "global_encoder", global_encoder),
        model,
        fingerprint,
    )


def fill(path: str | Path, networks: dict[str, nn.Module]) -> None:
    """Load networks, by name, from an exported file. UserError if it lacks one or has another architecture."""
    tensors, _, _ = _read(Path(path))
    for name, network in networks.items():
        _filled(Path(path), tensors, name, network).train()


def _read(path: Path) -> tuple[dict, dict, str]:
    """Tensors, `model` section and fingerprint of an exported file."""
    tensors, metadata = load_weights(path)
    if metadata.get("format") != FORMAT:
        raise UserError(f"{path}: format {metadata.get('format')!r}; weights exported by train.py have {FORMAT!r}")
    try:
        model = json.loads(metadata["model"])
    except (KeyError, ValueError) as error:
        raise UserError(f"{path}: its metadata describes no architecture (key 'model')") from error
    return tensors, validate_section("model", model, str(path)), metadata["fingerprint"]


def _filled(path: Path, tensors: dict, name: str, network: nn.Module) -> nn.Module:
    """The network with its tensors of the file."""
    own = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
    if not own:
        held = ", ".join(sorted({key.split(".")[0] for key in tensors}))
        raise UserError(f"{path}: holds no {name}, only {held}")
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    for key in sorted(expected.keys() | own.keys()):
        given, needed = tuple(own[key].shape) if key in own else "nothing", expected.get(key, "nothing")
        if given != needed:
            raise UserError(f"{path}: another architecture: {name}.{key} has {given}, not {needed}")
    network.load_state_dict(own)
    return network.eval()
