"""The evaluation of one checkpoint: all that is measured, and the pictures that the report shows."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from evaluation.frechet import frechet_distance, gaussian_of
from evaluation.latents import compare_latents, reciprocal_error, sample, window
from evaluation.measures import MEASURES, mean
from evaluation.photographs import EvaluatedModel, PhotographMeasures, Pictures, measure_edits
from evaluation.sets import RealSets, generated_set
from evaluation.swd import SMALLEST, pyramid_distances
from images.reading import open_image
from inversion.commands import failures, progress
from utils import log

CPU_INFO = Path("/proc/cpuinfo")


def evaluate_checkpoint(
    evaluated: EvaluatedModel, photographs: Mapping[Path, str], real: RealSets
) -> tuple[dict, Pictures, Pictures]:
    """The entry of evaluation.json, and the pictures of inversions and of edits. `photographs`: names of the files."""
    failed: dict[Path, str] = {}
    measures = PhotographMeasures(evaluated, list(photographs.values()))
    for path in progress(photographs, evaluated.name, "image"):
        with failures(path, failed):
            measures.add(photographs[path], open_image(path, evaluated.infer.max_pixels))
    edited, edits = measure_edits(evaluated, measures.kept) if measures.kept else ({}, {})
    generated, distances = measure_generated(evaluated, measures.vectors, real)
    series, means = measures.series() | distances, measures.means() | edited | generated
    if series["cycles"] and None not in (ends := [series["cycles"][k]["psnr"] for k in (0, -1)]):
        means["cycle_psnr_drop"] = ends[0] - ends[1]
    entry = {
        "name": evaluated.name,
        "path": str(evaluated.model.networks.path),
        "weights": evaluated.model.fingerprint,
        "parameters": parameters(evaluated),
        "failed": {photographs[path]: reason for path, reason in failed.items()},
        "means": {key: means.get(key) for key in MEASURES},
        "images": measures.rows,
        **series,
    }
    return entry, measures.pictures, edits


def measure_generated(
    evaluated: EvaluatedModel, encoded: Sequence[Tensor], real: RealSets
) -> tuple[dict[str, float | None], dict[str, list]]:
    """Measures of generated images, beside latents of photographs and real patches, and those that are series."""
    model, options, seed = evaluated.model, evaluated.options, evaluated.seed
    size, seeds = options.generated_size, range(seed, seed + options.generated)
    images, latents = generated_set(model, size, seeds), (model.generate(size, size, each) for each in seeds)
    drawn = [sample(window(model, each), len(seeds), (seed, index)) for index, each in enumerate(latents)]
    means = compare_latents(encoded, drawn, seed) | {"reciprocal_error": reciprocal_error(model, images, seeds)}
    series: dict[str, list] = {"pyramid": [], "scale_invariant_fid": []}
    # a distance falls with the number of images: it and its floor are of as many on either side
    count = min(len(images), len(real[0]), len(real[1]) or len(real[0]))
    if not count:
        return means, series
    log.info(f"{evaluated.name}: distances of {count} generated images and as many real patches")
    means["distance_images"] = count
    sets = images[:count], real[0][:count], real[1][:count]
    if size >= SMALLEST:
        series["pyramid"] = pyramid_of(*sets, seed)
        means |= {
            "swd": mean(level["distance"] for level in series["pyramid"]),
            "swd_floor": mean(level["floor"] for level in series["pyramid"]),
        }
    if evaluated.metrics.inception and count > 1:
        distances, series["scale_invariant_fid"] = frechet_distances(evaluated, *sets)
        means |= distances
    return means, series


def pyramid_of(images: np.ndarray, real: np.ndarray, other: np.ndarray, seed: int) -> list[dict[str, float | None]]:
    """`size`, `distance` of images from real ones, and its `floor`: that of other real ones, None without any."""
    floor = [level["distance"] for level in pyramid_distances(other, real, seed)] if len(other) else None
    levels = pyramid_distances(images, real, seed)
    return [level | {"floor": floor and floor[k]} for k, level in enumerate(levels)]


def frechet_distances(
    evaluated: EvaluatedModel, images: np.ndarray, real: np.ndarray, other: np.ndarray
) -> tuple[dict[str, float | None], list[dict[str, float]]]:
    """FID of images, its floor, and FID of generated canvases `scale` times as large, shrunk: uint8 [N, S, S, 3].

    The last is ScaleInv FID (Lin et al., ICLR 2022, section 4.1).
    """
    inception, seeds = evaluated.metrics.inception, range(evaluated.seed, evaluated.seed + len(images))
    wanted = gaussian_of(inception(real))

    def distance(images: np.ndarray) -> float:
        return frechet_distance(gaussian_of(inception(images)), wanted)

    size, scales = real.shape[1], evaluated.options.scales
    scaled = [{"scale": each, "fid": distance(generated_set(evaluated.model, size, seeds, each))} for each in scales]
    return {"fid": distance(images), "fid_floor": distance(other) if len(other) else None}, scaled


def parameters(evaluated: EvaluatedModel) -> dict[str, int]:
    """Numbers of parameters."""
    found = evaluated.model.networks
    parts = {"generator": [found.generator], "encoders": [found.encoder, found.global_encoder]}
    return {key: sum(p.numel() for network in each for p in network.parameters()) for key, each in parts.items()}


def machine(device: torch.device) -> dict[str, str | int]:
    """What the times were taken on."""
    text = CPU_INFO.read_text(encoding="utf-8", errors="replace") if CPU_INFO.exists() else ""
    named = re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
    processor = named[1] if named else platform.processor()
    return {
        "processor": torch.cuda.get_device_name(device) if device.type == "cuda" else processor,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
