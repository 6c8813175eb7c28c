"""Evaluate inverters on photographs: fidelity, seams, latents, edits, generated images, time and memory.

    python evaluate.py --checkpoint FILE ... --input FILE_OR_FOLDER ... --output FOLDER [--config FILE] [key=value ...]

Writes evaluation.json, evaluation.csv (a row for each checkpoint and image) and report.html into the output folder.
What is measured: `evaluate` in configs/default.yaml.
Exit code: 0 all done; 1 some images failed, the others are evaluated; 2 the command itself was wrong.
"""

from __future__ import annotations

from utils.processors import share_processor
from utils.signals import exit_at_once

if __name__ == "__main__":  # before PyTorch is loaded
    exit_at_once()
    share_processor()

import argparse
import json
import os
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from evaluation.discriminator_score import DiscriminatorScore
from evaluation.inception import Inception
from evaluation.measures import PER_IMAGE
from evaluation.photographs import EvaluatedModel
from evaluation.report import Pictures, render
from evaluation.run import evaluate_checkpoint, machine
from evaluation.sets import real_sets
from images.listing import find_images
from inversion.commands import IMAGES, find_files, load_model
from losses.perceptual import LPIPS
from utils import log
from utils.arguments import add_paths, one_path, parse_arguments
from utils.config import files_read, load_config
from utils.device import select_device
from utils.errors import UserError, run_command
from utils.files import atomic_path, lock_folder, refuse_overwriting
from utils.schema import EvaluateConfig
from utils.tables import write_table

RESULTS = ("evaluation.json", "evaluation.csv", "report.html")
COLUMNS = ("checkpoint", "name", "height", "width", *PER_IMAGE)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, check everything, then measure with one checkpoint after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_paths(parser, "--checkpoint", "inverter.safetensors of train.py", required=True)
    add_paths(parser, "--input", "images, and folders that are searched for images", required=True)
    parser.add_argument("--output", type=one_path, required=True, help="folder of the results")
    parser.add_argument("--config", help="YAML file with `evaluate`, `infer`, `losses.weights` and `seed`")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="single options, as details=20")
    arguments = parse_arguments(parser, argv)
    config = load_config(EvaluateConfig, arguments.config, arguments.overrides)
    checkpoints, output = names_of(arguments.checkpoint), arguments.output
    files = find_files("--input", arguments.input, find_images, IMAGES)
    if any(Path(os.path.realpath(output)).is_relative_to(os.path.realpath(path)) for path in arguments.input):
        raise UserError(f"--output {output}: lies in --input; results need a folder of their own")
    inputs = [*files, *checkpoints.values(), *files_read(EvaluateConfig, config, arguments.config)]
    refuse_overwriting(inputs, [output / name for name in RESULTS])
    metrics = load_metrics(config)
    for path in checkpoints.values():
        load_model(path, config.infer).require_encoder()
    with lock_folder(output):
        photographs = {log.printable(name): path for path, name in files.items()}
        evaluation, pictures = evaluate(config, photographs, checkpoints, metrics)
        evaluation["settings"]["input"] = [log.printable(str(path)) for path in arguments.input]
        write(output, evaluation, pictures)
    return int(any(checkpoint["failed"] for checkpoint in evaluation["checkpoints"]))


def names_of(checkpoints: Sequence[Path]) -> dict[str, Path]:
    """Checkpoints by the shortest ends of their paths that tell them apart. UserError if any are equal."""
    paths = [Path(os.path.realpath(path)).with_suffix("").parts for path in checkpoints]
    for count in range(1, max(map(len, paths), default=0) + 1):
        names = ["-".join(parts[-count:]).strip("/") for parts in paths]
        if len(set(names)) == len(names):
            return dict(zip(names, checkpoints, strict=True))
    raise UserError(f"--checkpoint: {' '.join(map(str, checkpoints))}: names no file, or one is given twice")


def load_metrics(config: dict) -> dict[str, LPIPS | Inception | DiscriminatorScore]:
    """The networks that `evaluate` asks for. UserError where their weights are missing."""
    options, weights, device = config.evaluate, config.losses.weights, select_device(config.infer.device)
    metrics = {"lpips": LPIPS(weights.alexnet, weights.lpips).to(device)} if options.lpips else {}
    for key, kind in (("inception", Inception), ("discriminator", DiscriminatorScore)):
        if options[key]:
            metrics[key] = kind(options[key], device)
    return metrics


def evaluate(
    config: dict, photographs: dict[str, Path], checkpoints: dict[str, Path], metrics: dict
) -> tuple[dict, dict[str, Pictures]]:
    """What evaluation.json holds, and the pictures of the report, by their headings; files are given by their names."""
    options, entries, pictures = config.evaluate, [], {"Inversions": defaultdict(dict), "Edits": defaultdict(dict)}
    paths = list(photographs.values())
    real = real_sets(paths, options.generated_size, options.generated, config.seed, config.infer.max_pixels)
    for name, path in checkpoints.items():
        model = load_model(path, config.infer)
        evaluated = EvaluatedModel(name, model, options, config.infer, config.seed, **metrics)
        entry, found = evaluate_checkpoint(evaluated, photographs, real)
        entries.append(entry)
        for heading, images in found.items():
            for image, captions in images.items():
                pictures[heading][image].update(captions)
    settings = {"images": len(paths), "seed": config.seed, "infer": dict(config.infer), "evaluate": dict(options)}
    settings["machine"] = machine(model.device)
    return {"settings": settings, "checkpoints": entries}, pictures


def write(output: Path, evaluation: dict, pictures: dict[str, Pictures]) -> None:
    """evaluation.json, evaluation.csv and report.html. The infinite PSNR of an exact result becomes null."""
    evaluation = json.loads(json.dumps(evaluation), parse_constant=lambda _: None)
    with atomic_path(output / "evaluation.json") as path:
        path.write_text(json.dumps(evaluation, indent=2) + "\n", encoding="utf-8")
    rows = [{"checkpoint": each["name"], **image} for each in evaluation["checkpoints"] for image in each["images"]]
    write_table(output / "evaluation.csv", COLUMNS, rows)
    with atomic_path(output / "report.html") as path:
        path.write_text(render(evaluation, pictures), encoding="utf-8", errors="replace")  # names need not be UTF-8
    log.info(f"wrote {output}/{', '.join(RESULTS)}")


if __name__ == "__main__":
    sys.exit(run_command(main))
