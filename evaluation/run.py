"""The evaluation of one checkpoint: all that is measured, and the pictures that the report shows."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from evaluation import edits, photographs
from evaluation.hidden import measure_hidden
from evaluation.latents import compare_latents, reciprocal_error, sample
from evaluation.linear import linear_transform
from evaluation.measures import MEASURES, mean
from evaluation.photographs import EvaluatedModel, Inversion, Points, spread
from evaluation.report import Pictures
from evaluation.sets import RealSets, generated_set
from evaluation.swd import SMALLEST, pyramid_distances
from images.reading import open_image
from losses.frechet import NEIGHBOURS, coverage, frechet_distance
from models.scenes import SceneFeatures
from utils import log
from utils.errors import failures

CPU_INFO = Path("/proc/cpuinfo")


def evaluate_checkpoint(
    evaluated: EvaluatedModel, files: Mapping[str, Path], real: RealSets
) -> tuple[dict, dict[str, Pictures]]:
    """The entry of evaluation.json, and pictures, by their headings. `files`: of photographs, by name."""
    networks, options, failed, curves = evaluated.model.networks, evaluated.options, {}, []
    rows, vectors, kept = invert_all(evaluated, files, failed)
    detailed = {name: kept[name] for name in spread(list(kept), options.details)}
    edited, pictures = edits.measure_edits(evaluated, detailed)
    edited |= {"direction_monotony": edits.measure_monotony(evaluated, detailed)}
    edited |= measure_hidden(evaluated, {name: kept[name] for name in spread(list(kept), options.hidden)})
    seams = photographs.measure_seams(evaluated, detailed.values())
    cycles = averaged([photographs.measure_cycles(evaluated, each) for each in detailed.values()], ("psnr", "ssim"))
    for name in spread(list(kept), options.optimized):
        with failures(files[name], failed):
            curves.append(photographs.measure_curves(evaluated, kept[name]))
    generated, series = measure_generated(evaluated, vectors, real)
    parts = {"generator": [networks.generator], "encoders": filter(None, (networks.encoder, networks.global_encoder))}
    encoded = photographs.measure_reciprocal(evaluated, detailed.values())
    means = means_of(rows, cycles) | {"seam_score": seams, "reciprocal_error_encoded": encoded} | edited | generated
    entry = {
        "name": evaluated.name,
        "path": log.printable(str(networks.path)),
        "weights": evaluated.model.fingerprint,
        "parameters": {key: sum(p.numel() for each in part for p in each.parameters()) for key, part in parts.items()},
        "failed": {name: failed[path] for name, path in files.items() if path in failed},
        "means": {key: means.get(key) for key in MEASURES},
        "images": rows,
        "cycles": [{"cycle": number, **point} for number, point in enumerate(cycles, 1)],
        "curves": {key: averaged([each[key] for each in curves], ("seconds", "psnr")) for key in (curves or [()])[0]},
        **series,
    }
    return entry, {"Inversions": photographs.pictures_of(evaluated, kept), "Edits": pictures}


def invert_all(
    evaluated: EvaluatedModel, files: Mapping[str, Path], failed: dict[Path, str]
) -> tuple[list[dict], list[Tensor], dict[str, Inversion]]:
    """Figures of each photograph, vectors [n, C] of its structure latents, and inversions of those that are measured
    further; `failed` gets the files that cannot be done.
    """
    options, rows, vectors, kept = evaluated.options, [], [], {}
    linear = linear_transform(evaluated.model, files.values(), evaluated.infer)
    further = spread(list(files), max(options.details, options.pictures, options.optimized, options.hidden))
    for name in log.progress(files, evaluated.name, "image"):
        with failures(files[name], failed):
            image = open_image(files[name], evaluated.infer.max_pixels)
            inversion, figures = photographs.measure_inversion(evaluated, image, linear)
            rows.append({"name": name, "height": image.height, "width": image.width, **figures})
            vectors.append(sample(evaluated.model, inversion.latents, len(files), (evaluated.seed, len(vectors))))
            if name in further:
                kept[name] = inversion
    return rows, vectors, kept


def means_of(rows: Sequence[Mapping], cycles: Sequence[Mapping]) -> dict[str, float | None]:
    """Means over the images, what their inversions took, and the loss from the first to the last of the cycles."""
    megapixels = sum(row["height"] * row["width"] for row in rows) / 1e6
    ends = [cycles[k]["psnr"] for k in (0, -1) if cycles]
    keys = "psnr", "values_per_pixel", "psnr_linear", "ssim", "ms_ssim", "lpips"
    return {key: mean(row[key] for row in rows) for key in keys} | {
        "seconds_per_megapixel": sum(row["seconds"] for row in rows) / megapixels if rows else None,
        "peak_memory_mib": max((row["peak_memory_mib"] for row in rows), default=None),
        "cycle_psnr_drop": ends[0] - ends[1] if ends and None not in ends else None,
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
    kept = slice(evaluated.infer.channels)
    drawn = [sample(model, each, len(seeds), (seed, index))[:, kept] for index, each in enumerate(latents)]
    means = compare_latents(encoded, drawn, seed) | {"reciprocal_error": reciprocal_error(model, images, seeds)}
    # a distance falls with the number of images: it and its floor are of as many on either side
    count = min(len(images), len(real[0]), len(real[1]) or len(real[0]))
    if not count:
        return means, {"pyramid": [], "scale_invariant_fid": []}
    log.info(f"{evaluated.name}: distances of {count} generated images and as many real patches")
    distances, series = measure_distances(evaluated, *(each[:count] for each in (images, *real)))
    return means | {"distance_images": count} | distances, series


def measure_distances(
    evaluated: EvaluatedModel, images: np.ndarray, real: np.ndarray, other: np.ndarray
) -> tuple[dict[str, float | None], dict[str, list]]:
    """SWD and FID of uint8 images [N, S, S, 3] from real ones, and their floors: those of other real ones, if any.

    Series: SWD of each scale, and FID of generated canvases `scale` times as large, shrunk (ScaleInv FID of Lin et al.,
    ICLR 2022, section 4.1).
    """
    size, seed, inception = real.shape[1], evaluated.seed, evaluated.inception
    sets = [each if size >= SMALLEST else each[:0] for each in (images, other)]
    swd, floor = (pyramid_distances(each, real, seed) if len(each) else {} for each in sets)
    means = scene_distances(evaluated, images, real, other)
    means |= {"swd": mean(swd.values()), "swd_floor": mean(floor.values())}
    series = {"pyramid": [{"size": key, "distance": each, "floor": floor.get(key)} for key, each in swd.items()]}
    scaled = {}
    if inception and len(images) > 1:
        wanted, seeds = inception(real), range(seed, seed + len(images))
        fid, floor = (frechet_distance(inception(each), wanted) if len(each) else None for each in (images, other))
        means |= {"fid": fid, "fid_floor": floor}
        for scale in evaluated.options.scales:
            scaled[scale] = frechet_distance(inception(generated_set(evaluated.model, size, seeds, scale)), wanted)
    return means, series | {"scale_invariant_fid": [{"scale": key, "fid": each} for key, each in scaled.items()]}


def scene_distances(
    evaluated: EvaluatedModel, images: np.ndarray, real: np.ndarray, other: np.ndarray
) -> dict[str, float | None]:
    """Frechet distance and coverage by features of scenes, and the floor of the distance; as `measure_distances`."""
    if len(real) <= NEIGHBOURS:
        return {}
    features = SceneFeatures(evaluated.model.device)
    drawn, wanted = features(images), features(real)
    floor = frechet_distance(features(other), wanted) if len(other) > 1 else None
    distance, share = frechet_distance(drawn, wanted), coverage(drawn, wanted)
    return {"frechet": distance, "frechet_floor": floor, "coverage": share}


def machine(device: torch.device) -> dict[str, str | int]:
    """What the times were taken on."""
    if device.type == "cuda":
        processor = torch.cuda.get_device_name(device)
    else:
        text = CPU_INFO.read_text(encoding="utf-8", errors="replace") if CPU_INFO.exists() else ""
        named = re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
        processor = named[1] if named else platform.processor()
    return {"processor": processor, "threads": torch.get_num_threads(), "torch": torch.__version__}
