"""Evaluate inverters on photographs: fidelity, seams, latents, edits, generated images, time and memory.

    python evaluate.py --checkpoint FILE [FILE ...] --input FOLDER --output FOLDER [--config FILE] [key=value ...]

Writes evaluation.json, evaluation.csv (a row for each checkpoint and image) and report.html into the output folder, and
what infer.py writes into inversions/NAME, for each checkpoint. What is measured: `evaluate` in configs/default.yaml.
Exit code: 0 all done; 1 some images failed, the others are evaluated; 2 the command itself was wrong.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

from inversion.inputs import begin, find_files, find_photographs
from inversion.tool import Tool

import infer
from evaluation.edits import Critic
from evaluation.frechet import Inception
from evaluation.inversions import Inversions
from evaluation.measures import PER_IMAGE
from evaluation.report import write_report
from evaluation.run import Judges, Subject, evaluate_checkpoint, machine
from evaluation.sets import real_set
from losses.perceptual import LPIPS
from utils import log
from utils.config import load_config
from utils.device import select_device
from utils.errors import UserError, run_command
from utils.files import atomic_path, scratch_folder
from utils.schema import EvaluateConfig

LOSSLESS = ("auto", "png", "tiff")
COLUMNS = ("checkpoint", "name", "height", "width", *PER_IMAGE)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, invert with every checkpoint, then measure with one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", nargs="+", required=True, help="inverter.safetensors of train.py")
    parser.add_argument("--input", type=Path, required=True, help="a folder that is searched for images, or an image")
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--config", help="YAML file with `evaluate`, `infer`, `losses.weights` and `seed`")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="single options, as details=20")
    arguments = parser.parse_intermixed_args(argv)
    # options that stand behind the checkpoints are taken for some more of them
    behind = [word for word in arguments.checkpoint if "=" in word and not Path(word).exists()]
    overrides = [*behind, *arguments.overrides]
    config = load_config(EvaluateConfig, arguments.config, overrides)
    search = partial(find_photographs, output=arguments.output)
    files = find_files("--input", arguments.input, search, "JPEG, PNG, WebP, TIFF or BMP image")
    checkpoints = names_of([Path(word) for word in arguments.checkpoint if word not in behind])
    check(config, arguments, checkpoints)
    begin(arguments.output)
    return evaluate(config, arguments, files, checkpoints)


def names_of(checkpoints: Sequence[Path]) -> dict[str, Path]:
    """Checkpoints by the shortest ends of their paths, without suffix, that tell them apart.

    UserError if one is given twice, or none.
    """
    if not checkpoints:
        raise UserError("--checkpoint: names no file")
    paths = [path.resolve().with_suffix("").parts for path in checkpoints]
    for count in range(1, max(map(len, paths)) + 1):
        names = ["-".join(parts[-count:]).strip("/") for parts in paths]
        if len(set(names)) == len(names):
            return dict(zip(names, checkpoints, strict=True))
    raise UserError(f"--checkpoint: {' '.join(map(str, checkpoints))}: one is given twice")


def check(config: dict, arguments: argparse.Namespace, checkpoints: dict[str, Path]) -> None:
    """UserError for options and files that will not do, before anything is computed."""
    if arguments.output.resolve().is_relative_to(arguments.input.resolve()):
        raise UserError(f"--output {arguments.output}: lies in --input; results need a folder of their own")
    if config.infer.format not in LOSSLESS:
        raise UserError(f"infer.format: {config.infer.format}; what is measured is lossless: {', '.join(LOSSLESS)}")
    load_judges(config)
    for path in checkpoints.values():
        Tool.load(path, config.infer, encoders=True)


def load_judges(config: dict) -> Judges:
    """The networks that `evaluate` asks for. UserError where their weights are missing."""
    options, weights, device = config.evaluate, config.losses.weights, select_device(config.infer.device)
    return Judges(
        LPIPS(weights.alexnet, weights.lpips).to(device) if options.lpips else None,
        Inception.load(options.inception, device) if options.inception else None,
        Critic.load(options.discriminator, device) if options.discriminator else None,
    )


def evaluate(config: dict, arguments: argparse.Namespace, files: dict[Path, str], checkpoints: dict[str, Path]) -> int:
    """Invert, measure and write; the command's exit code."""
    folders = {name: arguments.output / "inversions" / name for name in checkpoints}
    # all inversions come first, so that time and memory are those of infer.py alone
    codes = [invert(config.infer, path, arguments.input, folders[name]) for name, path in checkpoints.items()]
    options, judges = config.evaluate, load_judges(config)
    each = max(math.ceil(options.generated / len(files)), 1)  # as many real patches as generated images
    real = real_set(list(files), options.generated_size, config.seed, config.infer.max_pixels, each)
    photographs, entries, pictures = {name: path for path, name in files.items()}, [], {}
    for name, path in checkpoints.items():
        tool, quietly = Tool.load(path, config.infer, encoders=True), Quiet(config.infer, path)
        inversions = Inversions(folders[name])
        subject = Subject(name, tool, inversions, photographs, quietly, options, config.seed, judges)
        with scratch_folder(arguments.output / name) as folder:
            entry, pictures[name] = evaluate_checkpoint(subject, real, folder)
        entries.append(entry)
        codes.append(quietly.code)
    settings = {
        "input": str(arguments.input),
        "images": len(files),
        "infer": dict(config.infer),
        "evaluate": dict(options),
        "seed": config.seed,
        "machine": machine(tool.device),
    }
    write(arguments.output, finite({"settings": settings, "checkpoints": entries}), pictures)
    return max(codes)


def invert(options: dict, checkpoint: Path, images: Path, output: Path, more: Sequence[str] = ()) -> int:
    """Invert images by infer.py, with `infer` options and more of them; its exit code."""
    overrides = [f"infer.{key}={json.dumps(value)}" for key, value in options.items()]
    places = ["--checkpoint", str(checkpoint), "--input", str(images), "--output", str(output)]
    return infer.main([*places, *overrides, "infer.comparison=false", *more])


class Quiet:
    """`invert` for what the user has not asked for by name: without a line for each image."""

    def __init__(self, options: dict, checkpoint: Path) -> None:
        self.invert = partial(invert, options, checkpoint)
        self.code = 0  # the largest so far

    def __call__(self, images: Path, output: Path, more: Sequence[str]) -> None:
        with redirect_stdout(io.StringIO()):
            self.code = max(self.code, self.invert(images, output, more))


def write(output: Path, evaluation: dict, pictures: dict) -> None:
    """evaluation.json, evaluation.csv and report.html."""
    with atomic_path(output / "evaluation.json") as path:
        path.write_text(json.dumps(evaluation, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    with atomic_path(output / "evaluation.csv") as path, open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        for checkpoint in evaluation["checkpoints"]:
            table.writerows({"checkpoint": checkpoint["name"], **image} for image in checkpoint["images"])
    write_report(output / "report.html", evaluation, pictures)
    log.info(f"wrote {output}/evaluation.json, evaluation.csv, report.html")


def finite(value: Any) -> Any:
    """A nest of dicts and lists with None for what JSON has no number for: the PSNR of an exact result."""
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    sys.exit(run_command(main))
