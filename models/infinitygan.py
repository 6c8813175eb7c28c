"""Checkpoints of the public InfinityGAN code (Lin et al., ICLR 2022) as weights of our networks.

Such a file is a dict: `g_ema`, the averaged generator; `g` and `d`, generator and discriminator as they train; `iter`,
`best_fid`, `mean_path_lengths`, and optimizers. Its tensors have other names than ours and some more axes of length 1,
it keeps the kernels of its blurs, and it holds some tensors that no network reads. The architecture follows from the
shapes; the numbers that no shape tells are `Constants`. Letters: O output channels, I input channels.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from models import build_generator, patch_pixels
from models.discriminator import Discriminator
from utils.checkpoint import load_pretrained
from utils.config import load_config, validate_section
from utils.errors import UserError
from utils.schema import MANY, TrainConfig

MINIBATCH_GROUP = 16  # the public models' batch, in one group
MAPPING_LR_MULTIPLIER = 0.01
WIDEST = 512  # channels of a discriminator and of a patch encoder with the defaults

STRUCTURE = "structure_synthesizer.implicit_model.conv_stack."
TEXTURE = "texture_synthesizer."
PLAIN_TYPES = (Tensor, nn.Parameter)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SLACK = 2**20  # bytes that tensors may have beyond what the file holds: small ones may share memory


class Public(NamedTuple):
    """How the public code names and shapes a tensor of ours: # is a number, #+1 the next one."""

    name: str
    before: int = 0  # axes of length 1 before ours
    after: int = 0  # and after them


GENERATOR = {
    "structure.layers.#.conv.weight": Public(STRUCTURE + "#.conv.conv.weight", before=1),
    "structure.layers.#.conv.modulation.weight": Public(STRUCTURE + "#.conv.conv.modulation.weight"),
    "structure.layers.#.conv.modulation.bias": Public(STRUCTURE + "#.conv.conv.modulation.bias"),
    "structure.layers.#.bias": Public(STRUCTURE + "#.conv.activate.bias"),
    "texture.mapping.layers.#.weight": Public(TEXTURE + "mapping.#+1.weight"),
    "texture.mapping.layers.#.bias": Public(TEXTURE + "mapping.#+1.bias"),
    "texture.synthesis.#.up.conv.weight": Public(TEXTURE + "convs.#*2.conv.weight", before=1),
    "texture.synthesis.#.up.conv.modulation.weight": Public(TEXTURE + "convs.#*2.conv.modulation.weight"),
    "texture.synthesis.#.up.conv.modulation.bias": Public(TEXTURE + "convs.#*2.conv.modulation.bias"),
    "texture.synthesis.#.up.noise_strength": Public(TEXTURE + "convs.#*2.noise.weight", before=1),
    "texture.synthesis.#.up.bias": Public(TEXTURE + "convs.#*2.activate.bias"),
    "texture.synthesis.#.conv.conv.weight": Public(TEXTURE + "convs.#*2+1.conv.weight", before=1),
    "texture.synthesis.#.conv.conv.modulation.weight": Public(TEXTURE + "convs.#*2+1.conv.modulation.weight"),
    "texture.synthesis.#.conv.conv.modulation.bias": Public(TEXTURE + "convs.#*2+1.conv.modulation.bias"),
    "texture.synthesis.#.conv.noise_strength": Public(TEXTURE + "convs.#*2+1.noise.weight", before=1),
    "texture.synthesis.#.conv.bias": Public(TEXTURE + "convs.#*2+1.activate.bias"),
    "texture.synthesis.#.to_rgb.conv.weight": Public(TEXTURE + "to_rgbs.#.conv.weight", before=1),
    "texture.synthesis.#.to_rgb.conv.modulation.weight": Public(TEXTURE + "to_rgbs.#.conv.modulation.weight"),
    "texture.synthesis.#.to_rgb.conv.modulation.bias": Public(TEXTURE + "to_rgbs.#.conv.modulation.bias"),
    "texture.synthesis.#.to_rgb.bias": Public(TEXTURE + "to_rgbs.#.bias", before=1, after=2),
}

DISCRIMINATOR = {
    "from_rgb.weight": Public("convs.0.0.weight"),
    "from_rgb.bias": Public("convs.0.1.bias"),
    "blocks.#.conv1.weight": Public("convs.#+1.conv1.0.weight"),
    "blocks.#.conv1.bias": Public("convs.#+1.conv1.1.bias"),
    "blocks.#.conv2.weight": Public("convs.#+1.conv2.1.weight"),
    "blocks.#.conv2.bias": Public("convs.#+1.conv2.2.bias"),
    "blocks.#.skip.weight": Public("convs.#+1.skip.1.weight"),
    "final_conv.weight": Public("final_conv.0.weight"),
    "final_conv.bias": Public("final_conv.1.bias"),
    "score.#.weight": Public("final_linear.#.weight"),
    "score.#.bias": Public("final_linear.#.bias"),
    "coordinates.#.weight": Public("coord_linear.#.weight"),
    "coordinates.#.bias": Public("coord_linear.#.bias"),
}

NEVER_READ = re.compile(r".*tmp_var.*|texture_synthesizer\.(const_z\.input|noises\..*)", re.DOTALL)
UPSAMPLING = (0.5, 1.0, 0.5)  # taps along one axis of the blur of a factor-two up-sampling, as in `models.layers.blur`
DOWNSAMPLING = (0.125, 0.375, 0.375, 0.125)  # as in `models.discriminator.blur_pad`


@dataclass(frozen=True)
class Constants:
    """Settings of a public training run that no tensor's shape tells, by their public names. UserError if of no use."""

    ts_input_size: int = 11  # latent cells along the edge of a training patch
    vert_sample_size: int = 10  # rows of the canvas at which a training patch may start
    hori_occupy_ratio: float = 0.25  # share of the canvas' columns that the local latents of a patch cover
    vert_cut_pt: float = 3.0  # vertical coordinate at the ends of the canvas, before the tanh

    def __post_init__(self) -> None:
        ranges = {
            "ts_input_size": (5, 1024),  # 4 cells draw no pixel
            "vert_sample_size": (1, 65536),
            "hori_occupy_ratio": (0.001, 1),
            "vert_cut_pt": (0, 1000),
        }
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                raise UserError(f"{name}: {getattr(self, name)} given; allowed: {low} to {high}")

    def coordinates(self, margin: int) -> dict[str, float | int]:
        """The numbers of `CoordinateGrid`, where a patch has `margin` more local latents than cells."""
        return {
            "vertical_slope": 2 * self.vert_cut_pt / (self.ts_input_size + self.vert_sample_size - 1),
            "horizontal_period": round((self.ts_input_size + margin) / self.hori_occupy_ratio),
            "row_starts": self.vert_sample_size,
        }


PUBLISHED = Constants()


@dataclass(frozen=True)
class Checkpoint:
    """What a public checkpoint holds, with our names; all tensors are float32 and finite."""

    average: dict[str, Tensor]  # of the generator
    generator: dict[str, Tensor] | None  # as it trains
    discriminator: dict[str, Tensor] | None
    path_mean: float  # moving average of the path lengths; 0 where the file has none
    iteration: int
    best_fid: float | None
    model: dict  # a complete `model` section


def read_checkpoint(path: str | Path, constants: Constants = PUBLISHED) -> Checkpoint:
    """Read a public checkpoint (.pth.tar). UserError for any other file, and for one that contradicts itself."""
    held = load_pretrained(path)
    if held.get("g_ema") is None:
        names = ", ".join(_label(name) for name in list(held)[:3]) or "nothing"
        raise UserError(f"{path}: not an InfinityGAN checkpoint: no generator under 'g_ema'; the file holds {names}")
    numbers = _numbers(held, str(path))
    states = {name: _used(held[name], f"{path}: {name}") for name in ("g_ema", "g", "d") if held.get(name) is not None}
    widths = _discriminator_widths(states["d"], f"{path}: d") if "d" in states else None
    model = generator_model(states["g_ema"], constants, widths, f"{path}: g_ema")
    with torch.device("meta"):
        generator = build_generator(model)
    patch = patch_pixels(generator, constants.ts_input_size).size
    networks = {
        name: _converted(state, generator, GENERATOR, _generator_kernels(model["stages"]), f"{path}: {name}")
        for name, state in states.items()
        if name != "d"
    }
    discriminator = None
    if "d" in states:
        discriminator = discriminator_state(states["d"], patch, f"{path}: d (patches of {patch} px)")
    return Checkpoint(networks["g_ema"], networks.get("g"), discriminator, **numbers, model=model)


def generator_state(public: Mapping[str, Tensor], where: str = "generator") -> dict[str, Tensor]:
    """Public state dict of a generator -> ours, float32. UserError, beginning with `where`, if it is none."""
    model = generator_model(public, where=where)
    with torch.device("meta"):
        generator = build_generator(model)
    return _converted(_used(public, where), generator, GENERATOR, _generator_kernels(model["stages"]), where)


def discriminator_state(
    public: Mapping[str, Tensor],
    patch: int | None = None,  # pixels along the edge of the patches that it judges; None: as the shapes tell
    where: str = "discriminator",
) -> dict[str, Tensor]:
    """Public state dict of a discriminator -> ours, float32. UserError, beginning with `where`, if it is none."""
    public = _used(public, where)
    widths = _discriminator_widths(public, where)
    blocks = len(widths) - 1
    if patch is None:
        features = _size(public, "final_linear.0.weight", 1, where)
        patch = math.isqrt(features // max(widths[-1], 1)) * 2**blocks
    try:
        with torch.device("meta"):
            network = Discriminator(patch, widths, MINIBATCH_GROUP)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error
    kernels = {f"convs.{k + 1}.{part}.0.kernel": DOWNSAMPLING for k in range(blocks) for part in ("conv2", "skip")}
    return _converted(public, network, DISCRIMINATOR, kernels, where)


def generator_model(
    public: Mapping[str, Tensor],  # state dict of a generator
    constants: Constants = PUBLISHED,
    discriminator_widths: list[int] | None = None,  # None: as published
    where: str = "generator",  # what an error begins with
) -> dict:
    """The `model` section of a public generator. UserError, beginning with `where`, if it is none.

    Its encoders, and its discriminator by default, begin with half as many channels for each stage more, as in
    configs/landscape.
    """
    public = _used(public, where)
    stages = _count(public, TEXTURE + "to_rgbs.")
    default = load_config(TrainConfig).model
    model = {
        "stages": stages,
        **_structure(public, constants, where),
        "texture": {
            "widths": _texture_widths(public, stages, where),
            "mapping_layers": _count(public, TEXTURE + "mapping.") - 1,
            "mapping_lr_multiplier": MAPPING_LR_MULTIPLIER,
        },
        "discriminator": {
            "widths": discriminator_widths or _widening(12 - stages, stages + 2),
            "minibatch_group": MINIBATCH_GROUP,
        },
        "encoder": default.encoder | {"widths": _widening(11 - stages, stages)},
        "global_encoder": default.global_encoder,
    }
    return validate_section("model", model, where)


def _widening(exponent: int, count: int) -> list[int]:
    """Channels of each scale, fine to coarse, from 2^exponent on."""
    return [min(WIDEST, 2 ** (exponent + scale)) for scale in range(count)]


def _structure(public: Mapping[str, Tensor], constants: Constants, where: str) -> dict:
    """The part of a `model` section that the structure synthesizer tells."""
    layers = _count(public, STRUCTURE)
    weight = f"{STRUCTURE}0.conv.conv.weight"  # [1, O, I, K, K]
    radius = _size(public, weight, 4, where) // 2
    return {
        "local_dim": _size(public, weight, 1, where),
        "global_dim": _size(public, f"{STRUCTURE}0.conv.conv.modulation.weight", 1, where),
        "structure": {"layers": layers, "radius": radius, **constants.coordinates(2 * layers * radius)},
    }


def _texture_widths(public: Mapping[str, Tensor], stages: int, where: str) -> list[int]:
    """Channels of each stage; UserError where the two convolutions of a stage differ."""
    convolutions = [_size(public, f"{TEXTURE}convs.{i}.conv.weight", 1, where) for i in range(2 * stages)]
    for i, (first, second) in enumerate(zip(convolutions[::2], convolutions[1::2], strict=True)):
        if first != second:
            raise UserError(
                f"{where}: convs.{2 * i} and convs.{2 * i + 1} have {first} and {second} channels; the two"
                " convolutions of a stage must have as many"
            )
    return convolutions[::2]


def _discriminator_widths(public: Mapping[str, Tensor], where: str) -> list[int]:
    """Channels of a discriminator, fine to coarse."""
    coarser = (_size(public, f"convs.{k}.conv2.1.weight", 0, where) for k in range(1, _count(public, "convs.")))
    return [_size(public, "convs.0.0.weight", 0, where), *coarser]


def _generator_kernels(stages: int) -> dict[str, tuple[float, ...]]:
    """Taps of every kernel that the public code keeps in a generator, by name."""
    names = [name for k in range(stages) for name in (f"convs.{2 * k}.conv.blur", f"to_rgbs.{k}.upsample")]
    return {f"{TEXTURE}{name}.kernel": UPSAMPLING for name in names}


def _used(state: Any, where: str) -> dict[str, Tensor]:
    """The tensors of a public state dict that a network reads. UserError for anything but plain tensors."""
    if not isinstance(state, Mapping):
        raise UserError(f"{where}: a {type(state).__name__}, not a dict of tensors")
    used = {name: value for name, value in state.items() if not (type(name) is str and NEVER_READ.fullmatch(name))}
    for name, value in used.items():
        if type(name) is not str or not _is_plain(value) or value.dtype not in FLOATS:
            kind = f"{type(value).__name__} ({value.dtype})" if isinstance(value, Tensor) else type(value).__name__
            raise UserError(f"{where}: {_label(name)} is a {kind}, not a plain tensor of floating-point numbers")
    storages = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in used.values()}
    if sum(value.nbytes for value in used.values()) > sum(storages.values()) + SLACK:
        raise UserError(f"{where}: refused: its tensors would unfold to more than the file holds")
    return used


def _is_plain(value: Any) -> bool:
    """Whether a value is a tensor in memory, neither sparse nor of another kind."""
    return type(value) in PLAIN_TYPES and value.layout == torch.strided and value.device.type == "cpu"


def _count(public: Mapping[str, Tensor], prefix: str) -> int:
    """The largest number that follows a prefix in the names of tensors, plus one; 0 where none does."""
    matches = (re.match(re.escape(prefix) + r"([0-9]{1,9})\.", name) for name in public)
    return max((int(match[1]) + 1 for match in matches if match), default=0)


def _size(public: Mapping[str, Tensor], name: str, axis: int, where: str) -> int:
    """Length of an axis of a tensor."""
    if name not in public:
        raise UserError(f"{where}: {name} is missing")
    if public[name].dim() <= axis:
        raise UserError(f"{where}: {name} has {tuple(public[name].shape)}: too few axes")
    return public[name].shape[axis]


def _converted(
    public: Mapping[str, Tensor],
    network: nn.Module,  # of the architecture that is needed; its values do not matter
    table: Mapping[str, Public],
    kernels: Mapping[str, tuple[float, ...]],  # names and taps
    where: str,
) -> dict[str, Tensor]:
    """The state dict of the network, from public tensors that are exactly those which are needed."""
    names = {key: _public_name(key, table) for key in network.state_dict()}
    needed = {name.name for name in names.values()} | kernels.keys()
    for name in sorted(needed ^ public.keys()):
        raise UserError(f"{where}: {name} is missing" if name in needed else f"{where}: {_label(name)} is not expected")
    for name, taps in kernels.items():
        _check_kernel(public[name], taps, f"{where}: {name}")
    return {
        key: _values(public[names[key].name], names[key], value.shape, where)
        for key, value in network.state_dict().items()
    }


def _public_name(key: str, table: Mapping[str, Public]) -> Public:
    """The public counterpart of a tensor of ours, with its number filled in."""
    number = re.search(r"\.(\d+)\.", key)
    if number is None:
        return table[key]
    index = int(number[1])
    public = table[key.replace(number[0], ".#.", 1)]
    numbers = {"#*2+1": 2 * index + 1, "#*2": 2 * index, "#+1": index + 1, "#": index}
    name = re.sub(r"#(\*2)?(\+1)?", lambda match: str(numbers[match[0]]), public.name)
    return public._replace(name=name)


def _values(value: Tensor, public: Public, shape: torch.Size, where: str) -> Tensor:
    """A public tensor in the shape that ours has, float32."""
    expected = (*(1,) * public.before, *shape, *(1,) * public.after)
    if tuple(value.shape) != expected:
        raise UserError(f"{where}: {public.name} has {tuple(value.shape)}, not {expected}")
    value = value.detach().float()
    if not bool(torch.isfinite(value).all()):
        raise UserError(f"{where}: {public.name} holds values that are not finite")
    return value.reshape(shape).contiguous()


def _check_kernel(kernel: Tensor, taps: tuple[float, ...], where: str) -> None:
    """UserError unless a kernel is the outer product of the taps that our networks compute with."""
    expected = torch.tensor(taps)[:, None] * torch.tensor(taps)
    if kernel.shape != expected.shape or not torch.allclose(kernel.detach().float(), expected, rtol=0, atol=1e-6):
        raise UserError(f"{where} is another blur than that of the taps {list(taps)}, which the networks compute with")


def _numbers(held: dict, path: str) -> dict[str, float | int | None]:
    """Iteration, best FID and mean path length of a checkpoint."""
    lengths = held.get("mean_path_lengths", held.get("mean_path_length", 0.0))
    if isinstance(lengths, (list, tuple)) and len(lengths) == 1:
        lengths = lengths[0]
    best_fid = held.get("best_fid")
    return {
        "iteration": _number(held.get("iter", 0), int, (0, MANY), f"{path}: iter"),
        "best_fid": None if best_fid is None else _number(best_fid, float, (0, math.inf), f"{path}: best_fid"),
        "path_mean": _number(lengths, float, (0, MANY), f"{path}: mean_path_lengths"),
    }


def _number(value: Any, kind: type, bounds: tuple[float, float], where: str) -> float | int:
    """A number, or a tensor of one number, inside bounds, as int or float."""
    if _is_plain(value) and value.numel() == 1:
        value = value.item()
    fits = type(value) in (int, kind) and bounds[0] <= value <= bounds[1]
    if not fits or (type(value) is int and value > MANY):
        raise UserError(f"{where}: allowed: {'a whole' if kind is int else 'a'} number from {bounds[0]} to {bounds[1]}")
    return kind(value)


def _label(name: Any) -> str:
    """A key of a dict as an error shows it, however long or nested."""
    return repr(name[:60]) if type(name) is str else f"a key of type {type(name).__name__}"
