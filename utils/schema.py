"""Type and range of every key of a config, in the order of configs/default.yaml, which says what the keys mean.

A kind's `parse` returns the value in its final type, or raises ValueError where the value is not allowed;
its `allowed` says in words what is.
"""

import math
import os
import re
from dataclasses import dataclass
from typing import Any

MANY = 10**12
NUMERAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Integer:
    """A whole number from `low` to `high`, both included."""

    low: int = 1
    high: int = MANY

    @property
    def allowed(self) -> str:
        return f"a whole number from {self.low} to {self.high}"

    def parse(self, value: Any) -> int:
        if type(value) is not int or not self.low <= value <= self.high:
            raise ValueError
        return value


@dataclass(frozen=True)
class Number:
    """A finite number from `low` to `high`; `above` and `below` exclude the ends."""

    low: float = 0.0
    high: float = 1e12
    above: bool = False
    below: bool = False

    @property
    def allowed(self) -> str:
        first, last = "<" if self.above else "<=", "<" if self.below else "<="
        return f"a number x with {self.low:g} {first} x {last} {self.high:g}"

    def parse(self, value: Any) -> float:
        # YAML 1.1 reads 1e-4, which has no point, as text.
        if isinstance(value, str) and NUMERAL.fullmatch(value):
            value = float(value)
        if type(value) not in (int, float) or not self.low <= value <= self.high or not math.isfinite(value):
            raise ValueError
        if (self.above and value == self.low) or (self.below and value == self.high):
            raise ValueError
        return float(value)


@dataclass(frozen=True)
class Flag:
    """true or false."""

    allowed = "true or false"

    def parse(self, value: Any) -> bool:
        if type(value) is not bool:
            raise ValueError
        return value


@dataclass(frozen=True)
class AutoFlag:
    """auto, true or false."""

    allowed = "auto | true | false"

    def parse(self, value: Any) -> bool | str:
        return value if type(value) is str and value == "auto" else Flag().parse(value)


@dataclass(frozen=True)
class Choice:
    """One of several words."""

    words: tuple[str, ...]

    @property
    def allowed(self) -> str:
        return " | ".join(self.words)

    def parse(self, value: Any) -> str:
        if type(value) is not str or value not in self.words:
            raise ValueError
        return value


@dataclass(frozen=True)
class Device:
    """auto, cpu, cuda or cuda:N."""

    allowed = "auto | cpu | cuda | cuda:N"

    def parse(self, value: Any) -> str:
        if type(value) is not str or not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", value):
            raise ValueError
        return value


@dataclass(frozen=True)
class FilePath:
    """A path, relative to the working directory unless absolute; `~` is the home folder."""

    allowed = "a path (text, not empty)"

    def parse(self, value: Any) -> str:
        if type(value) is not str or not value.strip() or "\0" in value:
            raise ValueError
        return os.path.expanduser(value)


@dataclass(frozen=True)
class Block:
    """auto, whole, or the edge of a block in pixels."""

    allowed = "auto | whole | a whole number of pixels from 1 on"

    def parse(self, value: Any) -> str | int:
        return Choice(("auto", "whole")).parse(value) if type(value) is str else Integer(1).parse(value)


@dataclass(frozen=True)
class Rectangle:
    """[first row, first column, row after the last, column after the last] in pixels, also as text without brackets."""

    allowed = "first row, first column, row after the last, column after the last: four whole numbers from 0 on"

    def parse(self, value: Any) -> list[int]:
        if type(value) is str:
            value = [int(word) for word in value.split(",")]
        top, left, bottom, right = ListOf(Integer(0), 4, 4).parse(value)
        if top >= bottom or left >= right:
            raise ValueError
        return [top, left, bottom, right]


@dataclass(frozen=True)
class StyleSource:
    """The seed of a generated style, the file of an image or of latents whose style is taken, or `own`."""

    allowed = f"a seed (a whole number from 0 to {2**32 - 1}), the path of an image or latent file, or own"

    def parse(self, value: Any) -> int | str:
        return SEED.parse(value) if type(value) is int else FilePath().parse(value)


@dataclass(frozen=True)
class ListOf:
    """A list of `shortest` to `longest` items of one kind."""

    item: Any
    shortest: int
    longest: int

    @property
    def allowed(self) -> str:
        count = self.shortest if self.shortest == self.longest else f"{self.shortest} to {self.longest}"
        return f"a list of {count} items, each {self.item.allowed}"

    def parse(self, value: Any) -> list:
        if type(value) is not list or not self.shortest <= len(value) <= self.longest:
            raise ValueError
        return [self.item.parse(item) for item in value]


@dataclass(frozen=True)
class Optional:
    """null, or a value of another kind."""

    kind: Any

    @property
    def allowed(self) -> str:
        return f"null | {self.kind.allowed}"

    def parse(self, value: Any) -> Any:
        return None if value is None else self.kind.parse(value)


SEED = Integer(0, 2**32 - 1)
CHANNELS = Integer(1, 65536)
STAGES = (3, 8)
SHARE = Number(0, 1)
WEIGHT = Number(0, 1e6)
DTYPE = Choice(("auto", "float32", "bfloat16"))
NOISE = Choice(("field", "none"))
PATH = Optional(FilePath())

MODEL = {
    "stages": Integer(*STAGES),
    "local_dim": CHANNELS,
    "global_dim": CHANNELS,
    "structure": {
        "layers": Integer(1, 64),
        "radius": Integer(0, 64),
        "vertical_slope": Number(0, 1e3),
        "horizontal_period": Integer(1),
        "row_starts": Integer(1),
    },
    "texture": {
        "widths": ListOf(CHANNELS, *STAGES),
        "mapping_layers": Integer(1, 64),
        "mapping_lr_multiplier": Number(0, 1e3, above=True),
    },
    "discriminator": {"widths": ListOf(CHANNELS, 1, 16), "minibatch_group": Integer(1)},
    "encoder": {
        "convolution": Choice(("shifted", "valid", "zero_pad", "rolled")),
        "shift": Integer(1, 64),
        "widths": ListOf(CHANNELS, *STAGES),
        "depth": Integer(1, 64),
    },
    "global_encoder": {"thumbnail": Integer(2, 4096), "widths": ListOf(CHANNELS, 0, 12)},
}

DATA = {
    "train": PATH,
    "val": PATH,
    "val_fraction": Number(0, 1, below=True),
    "resize": Optional(Integer(1)),
    "flip": Flag(),
    "workers": Integer(0, 1024),
    "max_pixels": Integer(1),
    "max_bad_fraction": SHARE,
}

TRAIN = {
    "stage": Choice(("generator", "inverter")),
    "output": PATH,
    "generator": PATH,
    "discriminator": PATH,
    "encoders": PATH,
    "noise": NOISE,
    "tune_texture": Flag(),
    "device": Device(),
    "dtype": DTYPE,
    "steps": Integer(1),
    "minutes": Optional(Number(above=True)),
    "batch": Integer(1),
    "patch_cells": Integer(1),
    "ema_images": Integer(1),
    "optimizer": {
        "name": Choice(("adam", "adamw", "muon")),
        "lr": Number(0, 1e3, above=True),
        "betas": ListOf(Number(0, 1, below=True), 2, 2),
        "weight_decay": Number(0, 1e3),
        "decay_every": Optional(Integer(1)),
        "decay_factor": Number(0, 1, above=True),
        "cosine_steps": Optional(Integer(1)),
    },
    "style_mixing": SHARE,
    "log_every": Integer(1),
    "image_every": Integer(1),
    "validate_every": Integer(1),
    "save_every": Integer(1),
    "keep": Integer(1),
    "timeout_minutes": Number(above=True),
    "deterministic": Flag(),
}

GENERATOR_TERMS = ("adversarial", "r1", "path_length", "diversity", "coordinate")
INVERTER_TERMS = (
    *("l1", "l2", "ms_ssim", "lpips", "identity"),
    *("adversarial", "feature_matching", "reciprocal", "global_latent", "distribution", "preservation"),
)

LOSSES = {
    "generator": dict.fromkeys(GENERATOR_TERMS, WEIGHT),
    "r1_every": Integer(1),
    "path_length_every": Integer(1),
    "generated_every": Integer(1),
    "inverter": dict.fromkeys(INVERTER_TERMS, WEIGHT),
    "weights": dict.fromkeys(("alexnet", "lpips", "resnet50"), PATH),
}

INFER = {
    "device": Device(),
    "dtype": DTYPE,
    "block": Block(),
    "batch": Integer(1),
    "memory_mib": Integer(1),
    "refine": Integer(0, 100_000),
    "refine_prior": WEIGHT,
    "refine_style": Integer(0, 100_000),
    "noise": Optional(NOISE),
    "seed": Optional(SEED),
    "region": Optional(Rectangle()),
    "format": Choice(("auto", "png", "tiff", "jpeg", "webp")),
    "comparison": AutoFlag(),
    "latents": Choice(("auto", "safetensors", "zarr", "none")),
    "save_float": Flag(),
    "max_pixels": Integer(1),
}

EDGE = Integer(1, 1_000_000)  # pixels that a PNG has along an edge

EVALUATE = {
    "details": Integer(0),
    "seam_block": EDGE,
    "cycles": Integer(1),
    "pictures": Integer(0),
    "generated": Integer(0),
    "generated_size": EDGE,
    "lpips": Flag(),
    "inception": PATH,
    "scales": ListOf(Integer(1, 64), 1, 16),
    "discriminator": PATH,
    "optimized": Integer(0),
    "optimization_steps": Integer(1),
}

GENERATE = {
    "height": EDGE,
    "width": EDGE,
    "count": Integer(1),
    "seed": SEED,
    "noise": NOISE,
    "panorama": Flag(),
    "save_latents": Flag(),
}

FUSE = {
    "styles": ListOf(StyleSource(), 1, 256),
    "centres": Optional(ListOf(ListOf(SHARE, 2, 2), 1, 256)),
    "mask": PATH,
    "blur": Integer(0, 1024),
    "modulation": Choice(("exact", "fast")),
}

COMPLETE = {
    "steps": Integer(0),
    "lr": Number(0, 1e3, above=True),
    "style_lr": Number(0, 1e3),
    "fidelity": Number(0, 1e6),
    "band": Integer(1, 64),
    "fade": Integer(0, 64),
    "noise": NOISE,
}

OUTPAINT = {
    "height": Optional(EDGE),
    "width": Optional(EDGE),
    "top": Optional(Integer(0)),
    "left": Optional(Integer(0)),
    "seed": SEED,
    "count": Integer(1),
}

INBETWEEN = {"height": Optional(EDGE), "width": Optional(EDGE), "seed": SEED, "count": Integer(1)}

RESAMPLE = {
    "what": Choice(("structure", "noise")),
    "mask": PATH,
    "region": Optional(Rectangle()),
    "seed": SEED,
    "count": Integer(1),
}

SCHEMA = {
    "seed": SEED,
    "model": MODEL,
    "data": DATA,
    "train": TRAIN,
    "losses": LOSSES,
    "infer": INFER,
    "evaluate": EVALUATE,
    "generate": GENERATE,
    "fuse": FUSE,
    "complete": COMPLETE,
    "outpaint": OUTPAINT,
    "inbetween": INBETWEEN,
    "resample": RESAMPLE,
}


def flat_keys(schema: dict, prefix: str = "") -> list[str]:
    """Every key that holds a value, in full: `model.encoder.widths`."""
    keys = []
    for name, kind in schema.items():
        keys += flat_keys(kind, f"{prefix}{name}.") if isinstance(kind, dict) else [prefix + name]
    return keys


def flat_sections(schema: dict, prefix: str = "") -> list[str]:
    """Every key that holds other keys, in full: `model`, `model.encoder`."""
    keys = []
    for name, kind in schema.items():
        keys += [prefix + name, *flat_sections(kind, f"{prefix}{name}.")] if isinstance(kind, dict) else []
    return keys
