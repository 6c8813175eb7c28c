"""Tiny models, and what evaluates them."""

import numpy as np

from evaluation.photographs import EvaluatedModel, PretrainedMetrics
from images.reading import open_image
from inversion import PatchInverter
from utils.config import load_config
from utils.schema import EvaluateConfig


def tiny_model(checkpoint, block="auto", dtype="float32"):
    """The networks of a tiny checkpoint on the CPU."""
    return PatchInverter.from_pretrained(checkpoint, device="cpu", dtype=dtype, block=block)


def tiny_evaluated(checkpoint, *overrides, **metrics):
    """The tiny model `tiny`, evaluated by the options of a command."""
    config = load_config(EvaluateConfig, None, ["infer.device=cpu", "infer.dtype=float32", *overrides])
    return EvaluatedModel(
        "tiny", tiny_model(checkpoint), config.evaluate, config.infer, config.seed, PretrainedMetrics(**metrics)
    )


def noise(height, width, seed=0):
    """uint8 [H, W, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def opened(pixels):
    """An array as an opened image."""
    return open_image(pixels, 10**6)
