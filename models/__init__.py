"""The networks, and the one place where a `model` section of a config becomes networks."""

from __future__ import annotations

from torch import nn

from models.discriminator import Discriminator
from models.encoder import GlobalEncoder, PatchEncoder, RandomGlobal
from models.generator import Generator
from models.geometry import Interval
from models.structure import CoordinateGrid, StructureSynthesizer
from models.texture import TextureSynthesizer
from utils.errors import UserError


def build_generator(model: dict) -> Generator:
    """The generator of a `model` section. UserError if its numbers do not fit together."""
    _require_a_width_for_each_stage(model, "texture")
    structure = dict(model["structure"])
    layers, radius = structure.pop("layers"), structure.pop("radius")
    return Generator(
        StructureSynthesizer(model["local_dim"], model["global_dim"], layers, radius, CoordinateGrid(**structure)),
        TextureSynthesizer(model["local_dim"], model["global_dim"], **model["texture"]),
    )


def build_encoders(model: dict) -> tuple[PatchEncoder, GlobalEncoder | RandomGlobal]:
    """Patch encoder and global encoder of a `model` section. UserError if its numbers do not fit together."""
    _require_a_width_for_each_stage(model, "encoder")
    try:
        whole = model["global_encoder"]
        random = not whole["widths"]
        global_encoder = RandomGlobal(model["global_dim"]) if random else GlobalEncoder(model["global_dim"], **whole)
    except ValueError as error:
        raise UserError(f"model.global_encoder: {error}") from error
    return PatchEncoder(model["local_dim"], **model["encoder"]), global_encoder


def build_discriminator(model: dict, patch: int) -> Discriminator:
    """The discriminator of a `model` section for patches of `patch` pixels."""
    try:
        return Discriminator(patch, **model["discriminator"])
    except ValueError as error:
        raise UserError(f"model.discriminator.widths: {error}") from error


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
