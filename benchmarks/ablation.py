"""What each part of inverters and of the structure stage is worth: runs that each lack one thing, and tables.

    python -m benchmarks.ablation --data FOLDER --val FOLDER --input FOLDER --output runs/ablation [--configs NAME ...]
        [key=value ...]

Trains configs/ablation/generator.yaml and the inverters against it, trunk.yaml and the structure stages on top of it,
each into the folder of its name below --output; what is finished there stays, and what was interrupted goes on. Then
they are measured on the images of --input (into `evaluation-inverters` and `evaluation-structure`), and the tables are
printed and written as markdown (ablation.md). Keys that begin with `evaluate.` or `infer.` are for evaluate.py, `seed`
is for both, the others are for every training.
Exit code: that of a training that failed; 1 if some images could not be measured; 2 if the command was wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import evaluate
import train
from benchmarks.machine import ROOT
from evaluation.measures import MEASURES
from utils.config import load_config
from utils.errors import UserError, run_command
from utils.files import atomic_path, read_json
from utils.log import info
from utils.schema import EvaluateConfig, TrainConfig

CONFIGS = ROOT / "configs" / "ablation"
INVERTERS = {
    "shifted": "shifted convolutions; the inverter with all its parts",
    "valid": "convolutions 3 x 3 without padding",
    "zero_pad": "convolutions 3 x 3, padded with zeros",
    "rolled": "convolutions shifted, wrapped around at the block's border",
    "no-reciprocal": "no reciprocal loss",
    "no-distribution": "no distribution loss",
    "random-global": "global latent drawn at random, as the published code does",
}
STRUCTURES = {
    "trunk": "no structure stage: noise in the style's mean and deviation",
    "structure": "the structure stage with all its parts",
    "no-texture": "no critic of patches",
    "no-local": "no critic of neighbourhoods",
    "no-whole": "no critic of the whole",
    "no-style": "the critic does not know the style: structure alone is judged",
}
# what they all stand on, the key that names its file, and the columns of the table
GROUPS = {
    "inverters": (INVERTERS, "generator", "generator", (
        "psnr", "ssim", "ms_ssim", "lpips", "seam_score", "latent_mmd", "latent_mmd_floor", "latent_mean_distance",
        "reciprocal_error", "edit_consistency", "edit_score", "reconstruction_score", "real_score",
    )),
    "structure": (STRUCTURES, "trunk", "inverter", (
        "psnr", "values_per_pixel", "psnr_linear", "reciprocal_error", "reciprocal_error_encoded", "latent_mmd",
        "latent_mmd_floor", "frechet", "frechet_floor", "coverage", "swd", "swd_floor",
    )),
}  # fmt: skip
COMPARED = (
    "model.encoder.convolution", "model.global_encoder.widths", "model.critic.style", "losses.inverter",
    "losses.structure",
)  # fmt: skip  # keys that tell the configs apart


def main(argv: Sequence[str] | None = None) -> int:
    """Train what is not trained yet, evaluate, write the tables; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of images, or LMDB, to train with")
    parser.add_argument("--val", type=Path, required=True, help="the same, to validate with while training")
    parser.add_argument("--input", type=Path, required=True, help="folder of images to measure on")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    names = [*INVERTERS, *STRUCTURES]
    parser.add_argument("--configs", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="options of train.py and evaluate.py")
    arguments = parser.parse_intermixed_args(argv)
    chosen = {group: [name for name in GROUPS[group][0] if name in arguments.configs] for group in GROUPS}
    plans = {group: plan(arguments, group, names) for group, names in chosen.items() if names}
    for trainings, _ in plans.values():
        for name, command in trainings.items():
            info(f"{name}: training")
            if code := train.main(command):
                return code
    codes, texts = [], ["# Ablation"]
    for group, (_, evaluation) in plans.items():
        codes.append(evaluate.main(evaluation))
        found = read_json(_measured(arguments, group) / "evaluation.json")
        texts.append(table(group, dict(zip(chosen[group], found["checkpoints"], strict=True))))
        info(texts[-1])
    with atomic_path(arguments.output / "ablation.md") as path:
        path.write_text("\n\n".join(texts), encoding="utf-8")
    return max(codes)


def plan(arguments: argparse.Namespace, group: str, names: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """The arguments of train.py for what a group stands on and for its runs, by name, and those of evaluate.py.

    UserError for options that these would refuse, before anything is trained.
    """
    output, trainings, (_, first, key, _) = arguments.output, {}, GROUPS[group]
    measured = [text for text in arguments.overrides if text.startswith(("evaluate.", "infer.", "seed="))]
    trained = [text for text in arguments.overrides if not text.startswith(("evaluate.", "infer."))]
    for text in trained:
        if text.startswith(COMPARED):
            raise UserError(f"{text}: tells the configs apart, so it cannot be the same for all")
    for name in dict.fromkeys([first, *names]):
        options = [f"train.output={output / name}", f"data.train={arguments.data}", f"data.val={arguments.val}"]
        if name != first:
            options.append(f"train.{key}={output / first / key}.safetensors")
        trainings[name] = ["--config", str(CONFIGS / f"{name}.yaml"), *trained, *options]
        load_config(TrainConfig, CONFIGS / f"{name}.yaml", [*trained, *options])
    if group == "inverters":
        measured.append(f"evaluate.discriminator={output / first / 'discriminator.safetensors'}")
    load_config(EvaluateConfig, None, measured)
    checkpoints = [str(output / name / "inverter.safetensors") for name in names]
    places = ["--checkpoint", *checkpoints, "--input", str(arguments.input)]
    return trainings, [*places, "--output", str(_measured(arguments, group)), *measured]


def table(group: str, entries: Mapping[str, Mapping]) -> str:
    """Entries of evaluation.json, by the names of their configs, as a table in markdown; what none has is left out."""
    runs, _, _, wanted = GROUPS[group]
    columns = [key for key in wanted if all(entry["means"].get(key) is not None for entry in entries.values())]
    lines = [["run", "what differs", "encoder parameters", *(MEASURES[key].title for key in columns)]]
    lines.append(["---", "---", *["---:"] * (len(columns) + 1)])
    for name, entry in entries.items():
        texts = [f"{entry['means'][key]:.{MEASURES[key].digits}f}" for key in columns]
        lines.append([name, runs[name], f"{entry['parameters']['encoders']:,}", *texts])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _measured(arguments: argparse.Namespace, group: str) -> Path:
    return arguments.output / f"evaluation-{group}"


if __name__ == "__main__":
    sys.exit(run_command(main))
