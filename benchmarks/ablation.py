"""The ablation of the paper: one generator, inverters that each lack one thing, and a table of what that costs them.

    python -m benchmarks.ablation --data FOLDER --val FOLDER --input FOLDER --output runs/ablation [--configs NAME ...]
        [key=value ...]

Trains configs/ablation/generator.yaml, then the other configs of that folder against it, each into the folder of its
name below --output; what is finished there stays, and what was interrupted goes on. Then all inverters are measured on
the images of --input (into `evaluation`), and the table is printed and written as markdown (ablation.md). Keys that
begin with `evaluate.` or `infer.` are for evaluate.py, `seed` is for both, the others are for every training.
Exit code: that of a training that failed; 1 if some images could not be measured; 2 if the command was wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import evaluate
import train
from benchmarks.machine import ROOT
from evaluation.measures import MEASURES
from utils.config import load_config
from utils.errors import UserError, run_command
from utils.files import atomic_path
from utils.log import info
from utils.schema import EvaluateConfig, TrainConfig

CONFIGS = ROOT / "configs" / "ablation"
GENERATOR = "generator"
INVERTERS = {
    "shifted": "shifted convolutions; the inverter with all its parts",
    "valid": "convolutions 3 x 3 without padding",
    "zero_pad": "convolutions 3 x 3, padded with zeros",
    "rolled": "convolutions shifted, wrapped around at the block's border",
    "no-reciprocal": "no reciprocal loss",
    "no-distribution": "no distribution loss",
    "random-global": "global latent drawn at random, as the published code does",
}
COMPARED = ("model.encoder.convolution", "model.global_encoder.widths", "losses.inverter")  # keys that tell them apart
COLUMNS = (
    "psnr", "ssim", "ms_ssim", "lpips", "seam_score", "latent_mmd", "latent_mmd_floor", "latent_mean_distance",
    "reciprocal_error", "edit_consistency", "edit_score", "reconstruction_score", "real_score",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Train what is not trained yet, evaluate, write the table; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of images, or LMDB, to train with")
    parser.add_argument("--val", type=Path, required=True, help="the same, to validate with while training")
    parser.add_argument("--input", type=Path, required=True, help="folder of images to measure on")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--configs", nargs="+", choices=INVERTERS, default=list(INVERTERS), metavar="NAME")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="options of train.py and evaluate.py")
    arguments = parser.parse_intermixed_args(argv)
    trainings, evaluation = plan(arguments)
    for name, command in trainings.items():
        info(f"{name}: training")
        if code := train.main(command):
            return code
    code = evaluate.main(evaluation)
    found = json.loads((arguments.output / "evaluation" / "evaluation.json").read_text(encoding="utf-8"))
    text = table(dict(zip(arguments.configs, found["checkpoints"], strict=True)))
    info(text)
    with atomic_path(arguments.output / "ablation.md") as path:
        path.write_text(f"# Ablation\n\n{text}", encoding="utf-8")
    return code


def plan(arguments: argparse.Namespace) -> tuple[dict[str, list[str]], list[str]]:
    """The arguments of train.py for the generator and each inverter, by name, and those of evaluate.py.

    UserError for options that these would refuse, before anything is trained.
    """
    output, trainings = arguments.output, {}
    measured = [text for text in arguments.overrides if text.startswith(("evaluate.", "infer.", "seed="))]
    trained = [text for text in arguments.overrides if not text.startswith(("evaluate.", "infer."))]
    for text in trained:
        if text.startswith(COMPARED):
            raise UserError(f"{text}: tells the configs apart, so it cannot be the same for all")
    for name in (GENERATOR, *arguments.configs):
        options = [f"train.output={output / name}", f"data.train={arguments.data}", f"data.val={arguments.val}"]
        if name != GENERATOR:
            options.append(f"train.generator={output / GENERATOR / 'generator.safetensors'}")
        trainings[name] = ["--config", str(CONFIGS / f"{name}.yaml"), *trained, *options]
        load_config(TrainConfig, CONFIGS / f"{name}.yaml", [*trained, *options])
    measured.append(f"evaluate.discriminator={output / GENERATOR / 'discriminator.safetensors'}")
    load_config(EvaluateConfig, None, measured)
    checkpoints = [str(output / name / "inverter.safetensors") for name in arguments.configs]
    places = ["--checkpoint", *checkpoints, "--input", str(arguments.input), "--output", str(output / "evaluation")]
    return trainings, [*places, *measured]


def table(entries: Mapping[str, Mapping]) -> str:
    """Entries of evaluation.json, by the names of their configs, as a table in markdown; what none has is left out."""
    columns = [key for key in COLUMNS if all(entry["means"].get(key) is not None for entry in entries.values())]
    lines = [["run", "what differs", "encoder parameters", *(MEASURES[key].title for key in columns)]]
    lines.append(["---", "---", *["---:"] * (len(columns) + 1)])
    for name, entry in entries.items():
        texts = [f"{entry['means'][key]:.{MEASURES[key].digits}f}" for key in columns]
        lines.append([name, INVERTERS[name], f"{entry['parameters']['encoders']:,}", *texts])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    sys.exit(run_command(main))
