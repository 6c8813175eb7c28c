"""Tiny models, and what evaluates them."""

import numpy as np
import PIL.Image

from evaluation.photographs import EvaluatedModel
from inversion import PatchInverter
from utils.config import load_config
from utils.schema import EvaluateConfig


def tiny_model(checkpoint, block="auto", dtype="float32"):
    """The networks of a tiny checkpoint on the CPU."""
    return PatchInverter.from_pretrained(checkpoint, device="cpu", dtype=dtype, block=block)


def tiny_evaluated(checkpoint, *overrides, **metrics):
    """The tiny model `tiny`, evaluated by the options of a command."""
    config = load_config(EvaluateConfig, None, ["infer.device=cpu", "infer.dtype=float32", *overrides])
    return EvaluatedModel("tiny", tiny_model(checkpoint), config.evaluate, config.infer, config.seed, **metrics)


def noise(height, width, seed=0):
    """uint8 [H, W, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


SIZES = {"a": (48, 60), "b": (60, 49), "c": (33, 47)}  # of some photographs
PIXELS = {name: noise(*size, seed) for seed, (name, size) in enumerate(SIZES.items())}


def write_photographs(folder):
    """Their files, by name."""
    for name, pixels in PIXELS.items():
        PIL.Image.fromarray(pixels).save(folder / f"{name}.png")
    return {name: folder / f"{name}.png" for name in PIXELS}


def checkpoint_entry(name="p", images=("a", "b"), psnr=20.0, **given):
    """A checkpoint of an evaluation, with a PSNR, and nothing else measured but what is given."""
    figures = {"height": 24, "width": 36, "ssim": 0.5, "ms_ssim": None, "lpips": None, "seconds": 0.25}
    figures |= {"values_per_pixel": 2.0, "psnr_linear": 19.5}
    rows = [{"name": each, **figures, "psnr": psnr, "peak_memory_mib": 99.5} for each in images]
    return {
        "name": name, "path": f"{name}.safetensors", "weights": "0f1e", "parameters": {"generator": 12345},
        "failed": {}, "means": {"psnr": psnr}, "images": rows, "cycles": [], "pyramid": [],
        "scale_invariant_fid": [], "curves": {},
    } | given  # fmt: skip
