"""The evaluation of one checkpoint: everything that is measured, and the pictures that the report shows."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import torch

from evaluation.edits import Critic, draw_edits, edit_consistency, invert_in_cycles
from evaluation.fidelity import LARGEST, perceived
from evaluation.frechet import Inception, fid, scale_invariant_fid
from evaluation.inversions import Inversions, Invert, invert_images, spread
from evaluation.latents import Vectors, compare_latents, generated_vectors, reciprocal_error, stored_vectors
from evaluation.measures import MEASURES, PER_IMAGE, mean, ratio
from evaluation.optimization import optimize
from evaluation.report import EDGE, Row
from evaluation.seams import SMALLEST as SMALLEST_BLOCK
from evaluation.seams import SeamScore
from evaluation.sets import generated_set
from evaluation.swd import SMALLEST, pyramid_distances
from images.reading import Image, open_image
from images.writing import error_times_four
from inversion.tool import Tool, progress
from losses.perceptual import LPIPS
from models import count_parameters
from utils import log

PLAIN = "infer.refine=0"
REFINEMENTS = (0, 3, 10, 30, 100)  # steps
CPU_INFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Judges:
    """Networks by others, and the discriminator: those that are asked for."""

    lpips: LPIPS | None = None
    inception: Inception | None = None
    critic: Critic | None = None


@dataclass(frozen=True)
class Subject:
    """A checkpoint, and what infer.py has made of the photographs with it."""

    name: str
    tool: Tool
    inversions: Inversions
    photographs: Mapping[str, Path]  # by the name of their results
    invert: Invert  # further images
    options: dict  # the `evaluate` section
    seed: int
    judges: Judges

    @property
    def names(self) -> list[str]:
        """The photographs that were inverted."""
        return list(self.inversions.rows)

    @property
    def details(self) -> list[str]:
        """Those whose seams, edits and cycles are measured."""
        return spread(self.names, self.options["details"])

    @property
    def seeds(self) -> range:
        """Of the generated images."""
        return range(self.seed, self.seed + self.options["generated"])

    def open(self, path: Path) -> Image:
        """A photograph, or a picture that was drawn."""
        return open_image(path, self.tool.options.max_pixels, by_window=True)

    def photograph(self, name: str) -> Image:
        """A photograph."""
        return self.open(self.photographs[name])

    def reconstructions(self, inversions: Inversions, names: Sequence[str]) -> Iterator[tuple[Image, Image]]:
        """Photographs and what became of them."""
        for name in names:
            yield self.photograph(name), self.open(inversions.reconstruction(name))


def evaluate_checkpoint(subject: Subject, real: np.ndarray, folder: Path) -> tuple[dict, tuple[list[Row], list[Row]]]:
    """The entry of evaluation.json, and the rows of pictures: inversions and edits.

    `real`: patches of photographs, uint8 [N, S, S, 3]; `folder`: for what is of no use afterwards.
    """
    tool, inversions = subject.tool, subject.inversions
    images = measure_images(subject)
    scalars = summarize(images) | measure_latents(subject)
    generated, series = measure_generated(subject, real)
    detailed, cycles, pictures = measure_details(subject, folder)
    scalars |= generated | detailed
    entry = {
        "name": subject.name,
        "path": str(tool.checkpoint),
        "weights": tool.weights,
        "parameters": parameters(tool),
        "failed": inversions.failed,
        "means": {key: scalars.get(key) for key in MEASURES},
        "images": images,
        "cycles": cycles,
        **series,
        "curves": optimization_curves(subject, folder / "refined"),
    }
    return entry, pictures


def measure_images(subject: Subject) -> list[dict]:
    """What is measured of each image."""
    rows = []
    device, lpips = subject.tool.device, subject.judges.lpips
    pairs = subject.reconstructions(subject.inversions, subject.names)
    with progress(f"{subject.name}: fidelity", len(subject.names), "image") as bar:
        for name, pair in zip(subject.names, pairs, strict=True):
            figures = subject.inversions.rows[name] | perceived(*pair, lpips, device)
            size = {"height": pair[0].height, "width": pair[0].width}
            rows.append({"name": name, **size, **{key: figures[key] for key in PER_IMAGE}})
            bar.update()
    return rows


def summarize(images: Sequence[Mapping]) -> dict[str, float | None]:
    """The means over the images, and what the inversions took."""
    megapixels = sum(image["height"] * image["width"] for image in images) / 1e6
    return {key: mean(image[key] for image in images) for key in ("psnr", "ssim", "ms_ssim", "lpips")} | {
        "seconds_per_megapixel": ratio(sum(image["seconds"] for image in images), megapixels),
        "peak_memory_mib": max((image["peak_memory_mib"] for image in images), default=None),
    }


def measure_latents(subject: Subject) -> dict[str, float | None]:
    """The `latent_...` measures."""
    tool, count = subject.tool, len(subject.seeds)
    if not count:
        return {}
    log.info(f"{subject.name}: latents of {len(subject.names)} photographs and {count} generated images")
    stores = (tool.open_latents(subject.inversions.latents(name)) for name in subject.names)
    encoded = Vectors(stored_vectors(stores, tool.cell), len(subject.names), subject.seed)
    drawn = generated_vectors(tool, subject.options["generated_size"], subject.seeds)
    return compare_latents(encoded, Vectors(drawn, count, subject.seed), subject.seed)


def measure_generated(subject: Subject, real: np.ndarray) -> tuple[dict[str, float | None], dict[str, list]]:
    """Measures of generated images and of the real patches, and those that are series."""
    options, inception = subject.options, subject.judges.inception
    images = generated_set(subject.tool, options["generated_size"], subject.seeds)
    scalars = {"reciprocal_error": reciprocal_error(subject.tool, images, subject.seeds)}
    pyramid, scaled = [], []
    if len(images) and len(real) and options["generated_size"] >= SMALLEST:
        log.info(f"{subject.name}: distances of {len(images)} generated images and {len(real)} real patches")
        pyramid = pyramid_distances(images, real, subject.seed)
        scalars["swd"] = mean(level["distance"] for level in pyramid)
        half = len(real) // 2
        if half:
            floor = pyramid_distances(real[:half], real[half : 2 * half], subject.seed)
            scalars["swd_floor"] = mean(level["distance"] for level in floor)
    if inception and min(len(images), len(real)) > 1:
        scalars["fid"] = fid(inception, images, real)
        scaled = scale_invariant_fid(subject.tool, inception, real, subject.seeds, options["scales"])
    return scalars, {"pyramid": pyramid, "scale_invariant_fid": scaled}


def measure_details(
    subject: Subject, folder: Path
) -> tuple[dict[str, float | None], list[dict], tuple[list[Row], list[Row]]]:
    """What takes further inversions: scalars, cycles, and the rows of pictures."""
    names, options = subject.details, subject.options
    inverted = inversion_rows(subject, spread(names or subject.names, options["pictures"]))
    if not names:
        return {}, [], (inverted, [])
    photographs = {name: subject.photographs[name] for name in names}
    scalars = {"seam_score": measure_seams(subject, photographs, folder / "seams")}
    log.info(f"{subject.name}: {options['cycles']} inversions of {len(names)} images, one after the other")
    cycles = invert_in_cycles(
        subject.invert, photographs, subject.inversions, options["cycles"], folder / "cycles", subject.open
    )
    if None not in (first := cycles[0]["psnr"], last := cycles[-1]["psnr"]):
        scalars["cycle_psnr_drop"] = first - last
    log.info(f"{subject.name}: edits of {len(names)} images")
    edits = draw_edits(subject.tool, subject.inversions, names, folder / "drawn")
    edited = invert_images(subject.invert, edits, folder / "edited")
    scalars["edit_consistency"] = edit_consistency(subject.tool, subject.inversions, edited)
    scalars |= measure_scores(subject, edits)
    return scalars, cycles, (inverted, edit_rows(subject, edits))


def measure_seams(subject: Subject, photographs: Mapping[str, Path], folder: Path) -> float | None:
    """The seam score of images inverted in small blocks; None where these are too small for it."""
    block, smallest = subject.options["seam_block"], SMALLEST_BLOCK * subject.tool.cell
    if block < smallest:
        log.info(f"note: {subject.name}: no seams measured; evaluate.seam_block: {block} px, but {smallest} are needed")
        return None
    log.info(f"{subject.name}: seams of {len(photographs)} images")
    # refined latents have blocks of their own, which are the same for any `infer.block`
    inversions = invert_images(subject.invert, photographs, folder / "blocks", [f"infer.block={block}", PLAIN])
    whole = subject.inversions
    if subject.tool.options.refine:
        whole = invert_images(subject.invert, photographs, folder / "whole", [PLAIN])
    score = SeamScore(subject.tool.cell, block)
    for name in inversions.rows:
        # as infer.py draws it by itself: in one block, unless the image is large
        once, result = (subject.open(each.reconstruction(name)) for each in (whole, inversions))
        score.add(once, result, subject.tool.decoder.cells(once.height, once.width))
    return score.score


def measure_scores(subject: Subject, edits: Mapping[str, Path]) -> dict[str, float | None]:
    """What the discriminator makes of edits, reconstructions and photographs."""
    critic, names = subject.judges.critic, subject.details
    if critic is None:
        return {}
    sets = {
        "edit_score": (subject.open(path) for path in edits.values()),
        "reconstruction_score": (subject.open(subject.inversions.reconstruction(name)) for name in names),
        "real_score": map(subject.photograph, names),
    }
    return {key: critic.score(images, subject.seed) for key, images in sets.items()}


def optimization_curves(subject: Subject, folder: Path) -> dict[str, list[dict]]:
    """PSNR over time of refinement and of optimisation from random latents, means over the images."""
    names = spread(subject.details or subject.names, subject.options["optimized"])
    if not names:
        return {}
    log.info(f"{subject.name}: optimisation from random latents, images: {len(names)}")
    perceptual = subject.judges.lpips.distance if subject.judges.lpips else None
    curves = []
    for name in names:
        pixels = pixels_of(subject.photograph(name))
        steps, seed = subject.options["optimization_steps"], subject.seed
        curves.append(list(optimize(subject.tool, pixels, steps, seed, perceptual)))
    keys, points = ("seconds", "psnr"), zip(*curves, strict=True)
    random = [{key: mean(getattr(each, key) for each in point) for key in keys} for point in points]
    return {"refinement": refinement_curve(subject, names, folder), "random latents": random}


def refinement_curve(subject: Subject, names: Sequence[str], folder: Path) -> list[dict]:
    """PSNR over time of infer.py, with more and more steps of refinement."""
    photographs, curve = {name: subject.photographs[name] for name in names}, []
    for steps in REFINEMENTS:
        rows = invert_images(subject.invert, photographs, folder / str(steps), [f"infer.refine={steps}"]).rows.values()
        curve.append({key: mean(row[key] for row in rows) for key in ("seconds", "psnr")})
    return curve


def inversion_rows(subject: Subject, names: Sequence[str]) -> list[Row]:
    """Photographs, reconstructions and errors x 4; those of too large images are left out."""
    rows = []
    for name, pair in zip(names, subject.reconstructions(subject.inversions, names), strict=True):
        if shown(pair[0]):
            photograph, result = map(pixels_of, pair)
            pictures = photograph, result, error_times_four(photograph, result)
            rows.append((name, *map(shrunk, pictures)))
    return rows


def edit_rows(subject: Subject, edits: Mapping[str, Path]) -> list[Row]:
    """Photographs, those that their edits take the style of, and the edits."""
    names, rows = list(edits), []
    for name in spread(names, subject.options["pictures"]):
        images = subject.photograph(name), subject.photograph(names[(names.index(name) + 1) % len(names)])
        if all(map(shown, images)):
            rows.append((name, *(shrunk(pixels_of(image)) for image in (*images, subject.open(edits[name])))))
    return rows


def shown(image: Image) -> bool:
    """Whether an image is small enough for the report."""
    return image.height * image.width <= LARGEST


def shrunk(pixels: np.ndarray) -> np.ndarray:
    """A picture, uint8 [H, W, 3], as large as the report shows it, that many wait for it in little memory."""
    picture = PIL.Image.fromarray(pixels)
    picture.thumbnail((EDGE, EDGE), PIL.Image.Resampling.LANCZOS)
    return np.array(picture)


def pixels_of(image: Image) -> np.ndarray:
    """A whole image, uint8 [H, W, 3]."""
    return np.array(image.window(0, 0, image.height, image.width))


def parameters(tool: Tool) -> dict[str, int]:
    """Numbers of parameters."""
    networks = tool.encoder.networks
    encoders = sum(map(count_parameters, (networks.encoder, networks.global_encoder)))
    return {"generator": count_parameters(tool.generator), "encoders": encoders}


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
