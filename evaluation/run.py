"""The evaluation of one checkpoint: all that is measured, and the pictures that the report shows."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from evaluation.frechet import frechet_distance
from evaluation.latents import compare_latents, reciprocal_error, sample, window
from evaluation.measures import MEASURES, mean
from evaluation.photographs import (
    EvaluatedModel, Inversion, Points, invert, measure_edits, measure_seams, optimization_curves, pictures_of, repeat,
    spread,
)  # fmt: skip
from evaluation.report import Pictures
from evaluation.sets import RealSets, generated_set
from evaluation.swd import SMALLEST, pyramid_distances
from images.reading import open_image
from inversion.commands import failures, progress
from utils import log

CPU_INFO = Path("/proc/cpuinfo")


def evaluate_checkpoint(
    evaluated: EvaluatedModel, photographs: Mapping[str, Path], real: RealSets
) -> tuple[dict, dict[str, Pictures]]:
    """The entry of evaluation.json, and pictures, by the title of what they show. `photographs`: files, by name."""
    options, failed = evaluated.options, {}
    rows, vectors, kept = invert_all(evaluated, photographs, failed)
    detailed = {name: kept[name] for name in spread(list(kept), options.details)}
    means, edits = measure_edits(evaluated, detailed)
    means |= {key: mean(row[key] for row in rows) for key in ("psnr", "ssim", "ms_ssim", "lpips")} | cost(rows)
    means["seam_score"] = measure_seams(evaluated, detailed.values())
    cycles = averaged([repeat(evaluated, each) for each in detailed.values()], ("psnr", "ssim"))
    if cycles and None not in (ends := [cycles[k]["psnr"] for k in (0, -1)]):
        means["cycle_psnr_drop"] = ends[0] - ends[1]
    curves = []
    for name in spread(list(kept), options.optimized):
        with failures(photographs[name], failed):
            curves.append(optimization_curves(evaluated, kept[name]))
    generated, distances = measure_generated(evaluated, vectors, real)
    means |= generated
    entry = {
        "name": evaluated.name,
        "path": str(evaluated.model.networks.path),
        "weights": evaluated.model.fingerprint,
        "parameters": parameters(evaluated),
        "failed": {name: failed[path] for name, path in photographs.items() if path in failed},
        "means": {key: means.get(key) for key in MEASURES},
        "images": rows,
        "cycles": [{"cycle": k + 1, **point} for k, point in enumerate(cycles)],
        "curves": {kind: averaged([x[kind] for x in curves], ("seconds", "psnr")) for each in curves[:1] for kind in each},
        **distances,
    }
    return entry, {"Inversions": pictures_of(evaluated, kept), "Edits": edits}


def invert_all(
    evaluated: EvaluatedModel, photographs: Mapping[str, Path], failed: dict[Path, str]
) -> tuple[list[dict], list[Tensor], dict[str, Inversion]]:
    """Figures of each photograph, vectors [n, C] of its structure latents, and inversions of those that are measured
    further; `failed` gets the files that cannot be done.
    """
    options, rows, vectors, kept = evaluated.options, [], [], {}
    further = spread(list(photographs), max(options.details, options.pictures, options.optimized))
    for name in progress(photographs, evaluated.name, "image"):
        with failures(photographs[name], failed):
            image = open_image(photographs[name], evaluated.infer.max_pixels)
            inversion, figures = invert(evaluated, image)
            rows.append({"name": name, "height": image.height, "width": image.width, **figures})
            structure, key = window(evaluated.model, inversion.latents), (evaluated.seed, len(vectors))
            vectors.append(sample(structure, len(photographs), key))
            if name in further:
                kept[name] = inversion
    return rows, vectors, kept


def cost(rows: Sequence[Mapping]) -> dict[str, float | None]:
    """What the inversions of all images took."""
    megapixels = sum(row["height"] * row["width"] for row in rows) / 1e6
    return {
        "seconds_per_megapixel": sum(row["seconds"] for row in rows) / megapixels if rows else None,
        "peak_memory_mib": max((row["peak_memory_mib"] for row in rows), default=None),
    }


def averaged(series: Sequence[Points], keys: Sequence[str]) -> list[dict[str, float | None]]:
    """The means of series, point by point."""
    return [{key: mean(point[key] for point in points) for key in keys} for points in zip(*series, strict=True)]


def measure_generated(
    evaluated: EvaluatedModel, encoded: Sequence[Tensor], real: RealSets
) -> tuple[dict[str, float | None], dict[str, list]]:
    """Measures of generated images, beside latents of photographs and real patches, and those that are series."""
    model, options, seed = evaluated.model, evaluated.options, evaluated.seed
    size, seeds = options.generated_size, range(seed, seed + options.generated)
    images, latents = generated_set(model, size, seeds), (model.generate(size, size, each) for each in seeds)
    drawn = [sample(window(model, each), len(seeds), (seed, index)) for index, each in enumerate(latents)]
    means = compare_latents(encoded, drawn, seed) | {"reciprocal_error": reciprocal_error(model, images, seeds)}
    # a distance falls with the number of images: it and its floor are of as many on either side
    count = min(len(images), len(real[0]), len(real[1]) or len(real[0]))
    if not count:
        return means, {"pyramid": [], "scale_invariant_fid": []}
    log.info(f"{evaluated.name}: distances of {count} generated images and as many real patches")
    sets = images[:count], real[0][:count], real[1][:count]
    pyramid = compare_pyramids(*sets, seed) if size >= SMALLEST else []
    means |= {"distance_images": count, "swd": mean(level["distance"] for level in pyramid)}
    means["swd_floor"] = mean(level["floor"] for level in pyramid)
    distances, scaled = frechet_distances(evaluated, *sets) if evaluated.metrics.inception and count > 1 else ({}, [])
    return means | distances, {"pyramid": pyramid, "scale_invariant_fid": scaled}


def compare_pyramids(images: np.ndarray, real: np.ndarray, other: np.ndarray, seed: int) -> list[dict]:
    """`size`, `distance` of images from real ones, and its `floor`: that of other real ones, None without any."""
    floors, distances = pyramid_distances(other, real, seed) if len(other) else {}, pyramid_distances(images, real, seed)
    return [{"size": size, "distance": each, "floor": floors.get(size)} for size, each in distances.items()]


def frechet_distances(
    evaluated: EvaluatedModel, images: np.ndarray, real: np.ndarray, other: np.ndarray
) -> tuple[dict[str, float | None], list[dict[str, float]]]:
    """FID of images, its floor, and FID of generated canvases `scale` times as large, shrunk: uint8 [N, S, S, 3].

    The last is ScaleInv FID (Lin et al., ICLR 2022, section 4.1).
    """
    inception, seeds = evaluated.metrics.inception, range(evaluated.seed, evaluated.seed + len(images))
    wanted, size = inception(real), real.shape[1]

    def fid(images: np.ndarray) -> float:
        return frechet_distance(inception(images), wanted)

    scales = evaluated.options.scales
    scaled = [{"scale": each, "fid": fid(generated_set(evaluated.model, size, seeds, each))} for each in scales]
    return {"fid": fid(images), "fid_floor": fid(other) if len(other) else None}, scaled


def parameters(evaluated: EvaluatedModel) -> dict[str, int]:
    """Numbers of parameters."""
    found = evaluated.model.networks
    parts = {"generator": [found.generator], "encoders": [found.encoder, found.global_encoder]}
    return {key: sum(p.numel() for network in each for p in network.parameters()) for key, each in parts.items()}


def machine(device: torch.device) -> dict[str, str | int]:
    """What the times were taken on."""
    if device.type == "cuda":
        processor = torch.cuda.get_device_name(device)
    else:
        text = CPU_INFO.read_text(encoding="utf-8", errors="replace") if CPU_INFO.exists() else ""
        named = re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
        processor = named[1] if named else platform.processor()
    return {"processor": processor, "threads": torch.get_num_threads(), "torch": torch.__version__}
