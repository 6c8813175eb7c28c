"""The networks, and the one place where a `model` section of a config becomes networks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from models.critic import LatentCritic
from models.discriminator import Discriminator
from models.encoder import GlobalEncoder, PatchEncoder, RandomGlobal
from models.generator import Generator
from models.geometry import Interval
from models.structure import CoordinateGrid, StructureSynthesizer, StyledStructure
from models.texture import TextureSynthesizer
from models.trunk import Trunk
from utils.errors import UserError


def build_generator(model: dict) -> Generator:
    """The generator of a `model` section. UserError if its numbers do not fit together."""
    _require_a_width_for_each_stage(model, "texture")
    sizes, trunk, texture = (model["local_dim"], model["global_dim"]), model["trunk"], model["texture"]
    if trunk:
        build_trunk(model)  # says what does not fit
    return Generator(_build_structure(model), TextureSynthesizer(*sizes, **texture, trunk=trunk))


def _build_structure(model: dict) -> StructureSynthesizer | StyledStructure:
    sizes, options = (model["local_dim"], model["global_dim"]), dict(model["structure"])
    layers, radius, widths, dilations = (options.pop(key) for key in ("layers", "radius", "widths", "dilations"))
    hidden = layers if model["trunk"] else layers - 1
    widths, dilations = widths or [model["local_dim"]] * hidden, dilations or [1] * layers
    for name, values, count in ("widths", widths, hidden), ("dilations", dilations, layers):
        if len(values) != count:
            raise UserError(f"model.structure.{name}: {len(values)} of {count} for model.structure.layers: {layers}")
    shape = *sizes, widths, radius, dilations, CoordinateGrid(**options)
    if not model["trunk"]:
        return StructureSynthesizer(*shape)
    mapping = (model["texture"][key] for key in ("mapping_layers", "mapping_lr_multiplier"))
    return StyledStructure(*shape, *mapping)


def build_trunk(model: dict) -> Trunk:
    """The trunk of a `model` section. UserError if its numbers do not fit together."""
    with _errors_of("model.local_dim"):
        return Trunk(model["local_dim"], 2 ** model["stages"])


def build_encoders(model: dict) -> tuple[PatchEncoder, GlobalEncoder | RandomGlobal | None]:
    """Patch encoder and global encoder of a `model` section. UserError if its numbers do not fit together.

    With a trunk there is no global encoder: the style is measured.
    """
    trunk, whole = build_trunk(model) if model["trunk"] else None, model["global_encoder"]
    if trunk is None or model["encoder"]["widths"]:
        _require_a_width_for_each_stage(model, "encoder")
    if trunk:
        return PatchEncoder(model["local_dim"], **model["encoder"], trunk=trunk), None
    with _errors_of("model.global_encoder"):
        random = not whole["widths"]
        style = RandomGlobal(model["global_dim"]) if random else GlobalEncoder(model["global_dim"], **whole)
    return PatchEncoder(model["local_dim"], **model["encoder"]), style


def build_discriminator(model: dict, patch: int) -> Discriminator:
    """The discriminator of a `model` section for patches of `patch` pixels. UserError if it cannot judge them."""
    with _errors_of("model.discriminator.widths"):
        return Discriminator(patch, **model["discriminator"])


def build_critic(model: dict, cells: int) -> LatentCritic:
    """The critic of a `model` section for grids of `cells` x `cells` latents. UserError if it cannot judge them."""
    with _errors_of("model.critic.widths"):
        return LatentCritic(model["local_dim"], cells, **model["critic"])


@contextmanager
def _errors_of(key: str) -> Iterator[None]:
    """Inside, a ValueError becomes a UserError that names a key of the config."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"{key}: {error}") from error


def patch_pixels(generator: Generator, cells: int) -> Interval:
    """The pixels that latent cells 0 .. cells - 1 draw. UserError if they draw none."""
    pixels = generator.texture.rule.valid_output(Interval(0, cells - 1))
    if pixels.size < 1:
        fewest = next(n for n in range(1, 99) if generator.texture.rule.valid_output(Interval(0, n - 1)).size > 0)
        raise UserError(f"train.patch_cells: {cells} cells draw no pixel; at least {fewest} are needed")
    return pixels


def count_parameters(module: nn.Module) -> int:
    """Number of trainable values."""
    return sum(parameter.numel() for parameter in module.parameters())


def _require_a_width_for_each_stage(model: dict, name: str) -> None:
    widths, stages = model[name]["widths"], model["stages"]
    if len(widths) != stages:
        raise UserError(f"model.{name}.widths: {len(widths)} widths {list(widths)} for {stages} stages (model.stages)")
