"""Turn a checkpoint of the public InfinityGAN code (Lin et al., ICLR 2022) into files of this program.

    python -m scripts.import_infinitygan best_fid.pth.tar models/public.safetensors

Writes models/public.safetensors, the averaged generator, for generate.py and for train.generator of the inverter;
models/public-training.safetensors, generator, average and discriminator as they train; and models/public.yaml, a config
that goes on training from these. The architecture follows from the tensors' shapes; what no tensor tells is as
published, unless an option says otherwise. Only tensors and plain values are read: nothing in the file is executed.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models import build_generator, patch_pixels
from models.discriminator import Discriminator
from models.weights import export
from utils import log
from utils.checkpoint import load_pretrained
from utils.config import dump_config, load_config, validate_section
from utils.errors import UserError, run_command
from utils.files import atomic_path, refuse_overwriting
from utils.schema import Section, TrainConfig, key

MINIBATCH_GROUP = 16  # the public models' batch, in one group
WIDEST = 512  # channels of a discriminator and of a patch encoder with the defaults
HEAD = """\
# Goes on from a public InfinityGAN model.
#   python train.py --config THIS_FILE data.train=FOLDER train.output=RUN

"""

STRUCTURE = "structure_synthesizer.implicit_model.conv_stack."
TEXTURE = "texture_synthesizer."
MODULATED = {name: name for name in ("conv.weight", "conv.modulation.weight", "conv.modulation.bias")}
STYLED = MODULATED | {"noise_strength": "noise.weight", "bias": "activate.bias"}
PLAIN = {"weight": "weight", "bias": "bias"}
HALVING = {
    "conv1.weight": "conv1.0.weight", "conv1.bias": "conv1.1.bias",
    "conv2.weight": "conv2.1.weight", "conv2.bias": "conv2.2.bias", "skip.weight": "skip.1.weight",
}  # fmt: skip

NETWORKS = {"generator": "g", "discriminator": "d", "average": "g_ema"}  # their names in a checkpoint

# How our names begin, how theirs do, and the ends of both. Theirs may have more axes of length 1.
NAMES = {
    "structure.layers.{k}.": (STRUCTURE + "{k}.conv.", MODULATED | {"bias": "activate.bias"}),
    "texture.mapping.layers.{k}.": (TEXTURE + "mapping.{next}.", PLAIN),
    "texture.synthesis.{k}.up.": (TEXTURE + "convs.{even}.", STYLED),
    "texture.synthesis.{k}.conv.": (TEXTURE + "convs.{odd}.", STYLED),
    "texture.synthesis.{k}.to_rgb.": (TEXTURE + "to_rgbs.{k}.", MODULATED | {"bias": "bias"}),
    "from_rgb.": ("convs.0.", {"weight": "0.weight", "bias": "1.bias"}),
    "blocks.{k}.": ("convs.{next}.", HALVING),
    "final_conv.": ("final_conv.", {"weight": "0.weight", "bias": "1.bias"}),
    "score.{k}.": ("final_linear.{k}.", PLAIN),
    "coordinates.{k}.": ("coord_linear.{k}.", PLAIN),
}
NEVER_READ = re.compile(r".*tmp_var.*|texture_synthesizer\.(const_z\.input|noises\..*)", re.DOTALL)
BLURS = {3: (0.5, 1.0, 0.5), 4: (0.125, 0.375, 0.375, 0.125)}  # taps that our networks compute with, by their number


class Constants(Section):
    """Settings of a public training run that no tensor's shape tells, by their public names."""

    ts_input_size: int = key(11, "latent cells along the edge of a training patch", ge=5, le=1024)  # 4 draw no pixel
    vert_sample_size: int = key(10, "rows of the canvas at which a training patch may start", ge=1, le=65536)
    hori_occupy_ratio: float = key(0.25, "share of the canvas' columns that a patch's latents cover", ge=0.001, le=1)
    vert_cut_pt: float = key(3.0, "vertical coordinate at the ends of the canvas, before the tanh", ge=0, le=1000)


@dataclass(frozen=True)
class Checkpoint:
    """What a public checkpoint holds, with our names; all tensors are float32 and finite."""

    model: dict  # a complete `model` section
    patch: int  # pixels along the edge of what a training patch draws
    states: dict[str, dict[str, Tensor]]  # `average` of the generator; `generator`, `discriminator` where there
    path_mean: float  # moving average of the path lengths; 0 where the file has none
    iteration: int
    best_fid: float | None


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, read, check, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="inter_*.pth.tar or best_fid.pth.tar of the public code")
    parser.add_argument("output", type=Path, help="file to write, .safetensors; the others are named after it")
    for name, field in Constants.model_fields.items():
        about = f"{field.description}; default: {field.default}"
        parser.add_argument(f"--{name.replace('_', '-')}", default=field.default, help=about)
    arguments = parser.parse_args(argv)
    options = [f"{name}={getattr(arguments, name)}" for name in Constants.model_fields]
    constants, output = load_config(Constants, None, options), arguments.output
    if output.suffix != ".safetensors":
        raise UserError(f"{output}: the output must be a file with the suffix .safetensors")
    training, config = output.with_name(f"{output.stem}-training.safetensors"), output.with_suffix(".yaml")
    refuse_overwriting([arguments.checkpoint], [output, training, config])

    checkpoint = read_checkpoint(arguments.checkpoint, constants)
    cells, patch = constants.ts_input_size, checkpoint.patch
    best = "unknown" if checkpoint.best_fid is None else f"{checkpoint.best_fid:.2f}"
    log.info(f"iteration {checkpoint.iteration:,}, best FID {best}; {cells} x {cells} cells draw {patch} x {patch} px")
    write(checkpoint, constants, output, training, config)
    return 0


def read_checkpoint(path: str | Path, constants: Constants) -> Checkpoint:
    """Read a public checkpoint (.pth.tar). UserError for any other file, and for one that contradicts itself."""
    held = load_pretrained(path)
    if held.get("g_ema") is None:
        raise UserError(f"{path}: not an InfinityGAN checkpoint: it holds no generator under 'g_ema'")
    there = {ours: name for ours, name in NETWORKS.items() if held.get(name) is not None}
    states = {ours: used(held[name], f"{path}: {name}") for ours, name in there.items()}
    model = model_of(states["average"], states.get("discriminator"), constants, f"{path}: g_ema")
    with torch.device("meta"):
        networks = dict.fromkeys(("average", "generator"), build_generator(model))
        patch = patch_pixels(networks["average"], constants.ts_input_size).size
        try:
            networks["discriminator"] = Discriminator(patch, **model["discriminator"])
        except ValueError as error:
            raise UserError(f"{path}: d: {error}") from error
    lengths = held.get("mean_path_lengths", held.get("mean_path_length", 0.0))
    lengths = lengths[0] if isinstance(lengths, (list, tuple)) and len(lengths) == 1 else lengths
    best_fid = held.get("best_fid")
    return Checkpoint(
        model,
        patch,
        {name: converted(state, networks[name], f"{path}: {there[name]}") for name, state in states.items()},
        path_mean=number(lengths, f"{path}: mean_path_lengths"),
        iteration=round(number(held.get("iter", 0), f"{path}: iter")),
        best_fid=None if best_fid is None else number(best_fid, f"{path}: best_fid"),
    )


def used(state: Any, where: str) -> dict[str, Tensor]:
    """The tensors of a public state dict that a network reads. UserError for anything but plain tensors."""
    if not isinstance(state, Mapping):
        raise UserError(f"{where}: a {type(state).__name__}, not a dict of tensors")
    tensors = {}
    for name, value in state.items():
        if type(name) is str and NEVER_READ.fullmatch(name):
            continue
        if type(name) is not str or not is_plain(value):
            raise UserError(f"{where}: {str(name)[:60]!r} is not a plain tensor of floating-point numbers")
        tensors[name] = value.detach()
    return tensors


def is_plain(value: Any) -> bool:
    """Whether a value is a tensor of numbers in memory, all of which the file holds."""
    if type(value) not in (Tensor, nn.Parameter) or value.layout != torch.strided or value.device.type != "cpu":
        return False
    return value.dtype.is_floating_point and value.nbytes <= value.untyped_storage().nbytes()


def number(value: Any, where: str) -> float:
    """A number, or a tensor of one number, from 0 on."""
    value = value.item() if is_plain(value) and value.numel() == 1 else value
    if type(value) not in (int, float) or not 0 <= value < 2**53:
        raise UserError(f"{where}: allowed: a number from 0 on")
    return float(value)


def model_of(public: Mapping, judge: Mapping | None, constants: Constants, where: str) -> dict:
    """The `model` section of the tensors of a generator and a discriminator; UserError, naming `where`, if it is none.

    Encoders, and a missing discriminator, begin with half as many channels for each stage more, as in
    configs/landscape.
    """

    def size(name: str, axis: int, held: Mapping = public) -> int:
        if name not in held or held[name].dim() <= axis:
            raise UserError(f"{where}: {name} is missing, or has too few axes")
        return held[name].shape[axis]

    stages, layers, weight = count(public, TEXTURE + "to_rgbs."), count(public, STRUCTURE), STRUCTURE + "0.conv.conv."
    radius, default = size(weight + "weight", 4) // 2, load_config(TrainConfig).model
    widths = [min(WIDEST, 2 ** (12 - stages + k)) for k in range(stages + 2)]
    if judge is not None:
        blocks = range(1, count(judge, "convs."))
        widths = [size("convs.0.0.weight", 0, judge), *(size(f"convs.{k}.conv2.1.weight", 0, judge) for k in blocks)]
    model = default | {
        "stages": stages,
        "local_dim": size(weight + "weight", 1),
        "global_dim": size(weight + "modulation.weight", 1),
        "structure": default.structure
        | {
            "layers": layers,
            "radius": radius,
            "vertical_slope": 2 * constants.vert_cut_pt / (constants.ts_input_size + constants.vert_sample_size - 1),
            "horizontal_period": round((constants.ts_input_size + 2 * layers * radius) / constants.hori_occupy_ratio),
            "row_starts": constants.vert_sample_size,
        },
        "texture": default.texture
        | {
            "widths": [size(f"{TEXTURE}convs.{2 * k}.conv.weight", 1) for k in range(stages)],
            "mapping_layers": count(public, TEXTURE + "mapping.") - 1,
        },
        "discriminator": {"widths": widths, "minibatch_group": MINIBATCH_GROUP},
        "encoder": default.encoder | {"widths": [min(WIDEST, 2 ** (11 - stages + k)) for k in range(stages)]},
    }
    return validate_section("model", model, where)


def count(names: Iterable[str], prefix: str) -> int:
    """The largest number that follows a prefix in names, plus one; 0 where none does."""
    matches = (re.match(re.escape(prefix) + r"([0-9]{1,3})\.", name) for name in names)
    return max((int(match[1]) + 1 for match in matches if match), default=0)


def converted(public: Mapping[str, Tensor], network: nn.Module, where: str) -> dict[str, Tensor]:
    """The state dict of a network, float32, from public tensors that are exactly those which are needed."""
    needed = {public_name(ours): (ours, value.shape) for ours, value in network.state_dict().items()}
    kernels = {name for name in public if name.endswith(".kernel")}
    for name in sorted(needed.keys() ^ (public.keys() - kernels)):
        raise UserError(f"{where}: {name[:120]} is {'missing' if name in needed else 'not expected'}")
    for name in kernels:
        taps = torch.tensor(BLURS.get(public[name].shape[-1], (0.0,)))
        kernel = taps[:, None] * taps
        if public[name].shape != kernel.shape or not torch.allclose(public[name].float(), kernel, rtol=0, atol=1e-6):
            raise UserError(f"{where}: {name} is another blur than the networks compute with")
    state = {}
    for name, (ours, shape) in needed.items():
        value = public[name].float()
        if [n for n in value.shape if n != 1] != [n for n in shape if n != 1]:
            raise UserError(f"{where}: {name} has {tuple(value.shape)}, not {tuple(shape)}")
        if not bool(torch.isfinite(value).all()):
            raise UserError(f"{where}: {name} holds values that are not finite")
        state[ours] = value.reshape(shape).contiguous()
    return state


def public_name(name: str) -> str:
    """The public name of a tensor of ours."""
    found = re.search(r"\.(\d+)\.", name)
    k = int(found[1]) if found else 0
    for ours, (theirs, ends) in NAMES.items():
        begin, end = ours.format(k=k), name[len(ours.format(k=k)) :]
        if name.startswith(begin) and end in ends:
            return theirs.format(k=k, next=k + 1, even=2 * k, odd=2 * k + 1) + ends[end]
    raise KeyError(name)


def write(checkpoint: Checkpoint, constants: Constants, weights: Path, training: Path, config: Path) -> None:
    """Write the average, what training goes on from, if the checkpoint has it, and a config that does."""
    model, step, states = checkpoint.model, checkpoint.iteration, checkpoint.states
    complete = len(states) == len(NETWORKS)
    if not complete and training.exists():
        raise UserError(f"{training}: of another import, and this checkpoint has none; remove it first")
    export(weights, model, {"generator": states["average"]}, step)
    start = {"generator": os.path.abspath(weights)}
    if complete:
        export(training, model, states, step, {"path_mean": torch.tensor(checkpoint.path_mean)})
        start = dict.fromkeys(("generator", "discriminator"), os.path.abspath(training))
    else:
        log.info(f"no {training}: the checkpoint has no generator (g) or no discriminator (d)")
    text = dump_config({
        "model": model,
        # as published: 197 px for patches of 101, the patch of one stage more
        "data": {"resize": 2 * checkpoint.patch - 5},
        "train": start | {"patch_cells": constants.ts_input_size, "batch": MINIBATCH_GROUP},
    })  # fmt: skip
    with atomic_path(config) as path:
        path.write_text(HEAD + text, encoding="utf-8")
    for path in (weights, *([training] if complete else []), config):
        log.info(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(run_command(main))
