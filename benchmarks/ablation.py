"""The ablation of the paper: one generator, inverters that each lack one thing, and a table of what that costs them.

    python -m benchmarks.ablation --data FOLDER --val FOLDER --input FOLDER --output runs/ablation [--table FILE]
        [--configs NAME ...] [key=value ...]

Trains configs/ablation/generator.yaml, then the other configs of that folder against it (train.py, each into the folder
of its name below --output), then measures all inverters on the images of --input (evaluate.py, into `evaluation`). What
is finished is left as it is, and what was interrupted goes on. The table is printed and written as markdown. Keys of
`evaluate` and `infer` are for evaluate.py, `seed` and `losses.weights` for both, the others for every training.
Exit code: that of a training that failed; 1 if some images could not be measured; 2 if the command was wrong.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from pathlib import Path

import torch
from safetensors import safe_open

import training
from benchmarks import machine
from datasets.image import find_images
from datasets.sources import open_source
from evaluation.measures import MEASURES
from evaluation.report import number_text
from inversion.inputs import find_files
from models.weights import Weights, read_weights
from training.context import TrainContext
from utils import log
from utils.checkpoint import fingerprint
from utils.config import load_config
from utils.device import select_device
from utils.distributed import ProcessGroup
from utils.errors import UserError, run_command
from utils.files import atomic_path
from utils.schema import EvaluateConfig, TrainConfig
from utils.signals import StopSignal

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs" / "ablation"
GENERATOR = "generator"
GROUPS = {
    "Kinds of convolution": {
        "shifted": "shifted; the inverter with all its parts",
        "valid": "3 x 3 without padding",
        "zero_pad": "3 x 3, padded with zeros",
        "rolled": "shifted, wrapped around at the block's border",
    },
    "Losses": {
        "no-reciprocal": "no reciprocal loss",
        "no-distribution": "no distribution loss",
    },
    "Global latent": {
        "random-global": "drawn at random, as the published code does",
    },
}
NAMES = [name for group in GROUPS.values() for name in group]
COLUMNS = {  # the first measure of a column, and in brackets the others
    "PSNR, dB": ("psnr",),
    "SSIM": ("ssim",),
    "MS-SSIM": ("ms_ssim",),
    "seams": ("seam_score",),
    "latent MMD (floor)": ("latent_mmd", "latent_mmd_floor"),
    "latent mean": ("latent_mean_distance",),
    "reciprocal error": ("reciprocal_error",),
    "edit consistency": ("edit_consistency",),
    "score of edits (reconstructions, photographs)": ("edit_score", "reconstruction_score", "real_score"),
}
LEGEND = """\
PSNR, SSIM and MS-SSIM are means over the images. Seams: the gradient across the borders of blocks over that
elsewhere, over the same of an inversion in one pass; 1 is none. Latent MMD and mean: how far structure latents of
photographs lie from those that the generator draws; the floor is the discrepancy between two halves of the latter,
the mean is in standard deviations. Reciprocal error: E(TS(z)) against z, over the variance of z. Edit consistency:
how much of the structure is found again after an edit of the style; 1 is all. Score: what the generator's
discriminator makes of pictures; more is better.
"""
EVALUATION = ("evaluate.", "infer.", "losses.weights", "seed")  # how keys begin that are for evaluate.py
OURS = ("train.output", "train.stage", "train.generator", "data.train", "data.val", "evaluate.discriminator")
WIDTH = 120  # characters of a line of the text
POLL = 0.5  # seconds between looks at whether a program is to be stopped


class Ended(UserError):
    """A program that was started has ended before its work was done."""

    def __init__(self, what: str, code: int) -> None:
        super().__init__(f"{what} ended with {code}")
        self.exit_code = code


@dataclass(frozen=True)
class Run:
    """A training of the ablation."""

    name: str  # of the config
    folder: Path
    overrides: Sequence[str]
    generator: Path | None = None  # that an inverter is trained against

    @property
    def path(self) -> Path:
        """The config."""
        return CONFIGS / f"{self.name}.yaml"

    @property
    def weights(self) -> Path:
        """The file of the networks, once there is one."""
        return self.folder / f"{'inverter' if self.generator else 'generator'}.safetensors"

    def load(self) -> dict:
        """The whole config. UserError for keys and values that it cannot have."""
        return load_config(TrainConfig, self.path, self.overrides)

    def check(self) -> None:
        """UserError for options that train.py would refuse, before anything is trained."""
        config = self.load()
        training.build(config, TrainContext(config.seed, config.train.batch, torch.device("cpu"), torch.float32, ProcessGroup()))

    def steps(self) -> int:
        """Those that the weights come from."""
        with safe_open(self.weights, "pt") as file:
            return int(file.metadata()["step"])

    def finished(self) -> bool:
        """Whether the last step is done, with the networks of the config and the generator as it is now.

        A run that was stopped has weights, too. UserError where they are damaged, or of a generator of other sizes.
        """
        if not self.weights.exists():
            return False
        config, weights = self.load(), read_weights(self.weights)
        weights.require_generator_of(config.model)
        if self.generator is not None:
            known = weights.model == config.model and structure(weights) == structure(read_weights(self.generator))
            return known and self.steps() >= config.train.steps
        return self.steps() >= config.train.steps

    def train(self) -> None:
        """Train, or go on, unless that is finished. Ended where the training fails."""
        if self.finished():
            log.info(f"{self.name}: finished before")
            return
        log.info(f"{self.name}: training by {self.path.relative_to(ROOT)}")
        code = run_program("train.py", ["--config", str(self.path), *self.overrides])
        if code:
            raise Ended(f"{self.name}: train.py", code)


def main(argv: Sequence[str] | None = None) -> int:
    """Train what is not trained yet, evaluate, write the table; the exit code."""
    arguments = make_parser().parse_intermixed_args(argv)
    runs, options = plan(arguments)
    sources = [open_source(path) for path in (arguments.data, arguments.val)]
    find_files("--input", arguments.input, find_images, "image")
    for run in runs:
        run.train()
    code, evaluation = evaluate(arguments, runs, options)
    story = tell(arguments, runs, evaluation, len(sources[0]))
    text = f"# Ablation\n\n{table(named(runs, evaluation))}\n{LEGEND}\n{story}"
    log.info(text)
    path = arguments.table or arguments.output / "ablation.md"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    log.info(f"wrote {path}")
    return code


def make_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of images, or LMDB, to train with")
    parser.add_argument("--val", type=Path, required=True, help="the same, to validate with while training")
    parser.add_argument("--input", type=Path, required=True, help="folder of images to measure on")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--table", type=Path, help="file of the table; default: ablation.md below --output")
    parser.add_argument("--configs", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="single options of train.py and evaluate.py")
    return parser


def plan(arguments: argparse.Namespace) -> tuple[list[Run], list[str]]:
    """The trainings, generator first, and the options of evaluate.py. UserError for options that will not do."""
    keys = {text: text.partition("=")[0].strip() for text in arguments.overrides}
    for key in keys.values():
        if key in OURS:
            raise UserError(f"{key}: is set by this command")
    measured = [text for text, key in keys.items() if key.startswith(EVALUATION)]
    trained = [text for text, key in keys.items() if not key.startswith(("evaluate.", "infer."))]
    load_config(EvaluateConfig, None, measured)

    def run(name: str, *more: str, generator: Path | None = None) -> Run:
        folder = arguments.output / name
        places = [f"train.output={folder}", f"data.train={arguments.data}", f"data.val={arguments.val}"]
        return Run(name, folder, [*trained, *places, *more], generator)

    first = run(GENERATOR)
    chosen = [name for name in NAMES if name in arguments.configs]
    against = f"train.generator={first.weights}"
    runs = [first, *(run(name, against, generator=first.weights) for name in chosen)]
    for each in runs:
        each.load()
    refuse_levelling([keys[text] for text in trained])
    for each in runs:
        each.check()
    return runs, [*measured, f"evaluate.discriminator={first.folder / 'discriminator.safetensors'}"]


def refuse_levelling(keys: Sequence[str]) -> None:
    """UserError for a key in which the configs differ: with one value for all, its rows would compare nothing."""
    configs = [load_config(TrainConfig, CONFIGS / f"{name}.yaml") for name in NAMES]
    for key in keys:
        values = [reduce(getitem, key.split("."), config) for config in configs]
        if any(value != values[0] for value in values):
            other = next(name for name, value in zip(NAMES, values, strict=True) if value != values[0])
            raise UserError(f"{key}: is what tells {other} from {NAMES[0]}, so it cannot be the same for all")


def structure(weights: Weights) -> str:
    """The fingerprint of the structure synthesizer, which no inverter changes."""
    tensors = {name: value for name, value in weights.tensors.items() if name.startswith("generator.structure.")}
    return fingerprint(tensors)


def run_program(name: str, arguments: Sequence[str]) -> int:
    """Run a program of the repository; its exit code, 128 + the signal's number where a signal ended it, or came here.

    SIGTERM is passed on, and the program is waited for.
    """
    with StopSignal() as stop, subprocess.Popen([sys.executable, str(ROOT / name), *arguments]) as process:
        told = False
        while process.poll() is None:
            # Ctrl-C reaches the program without our help
            if stop.exit_code == 128 + signal.SIGTERM and not told:
                process.terminate()
                told = True
            with suppress(subprocess.TimeoutExpired):
                process.wait(POLL)
    return stop.exit_code or (process.returncode if process.returncode >= 0 else 128 - process.returncode)


def evaluate(arguments: argparse.Namespace, runs: Sequence[Run], options: Sequence[str]) -> tuple[int, dict]:
    """Measure the inverters: the exit code of evaluate.py, and its evaluation.json. Ended where there is none."""
    output = arguments.output / "evaluation"
    written = output / "evaluation.json"
    written.unlink(missing_ok=True)  # so that what is there afterwards is of now
    checkpoints = [str(run.weights) for run in runs if run.generator]
    log.info(f"evaluation of {len(checkpoints)} inverters")
    places = ["--checkpoint", *checkpoints, "--input", str(arguments.input), "--output", str(output)]
    code = run_program("evaluate.py", [*places, *options])
    if code > 1 or not written.exists():
        raise Ended("evaluate.py", code)
    return code, json.loads(written.read_text(encoding="utf-8"))


# The text


def named(runs: Sequence[Run], evaluation: Mapping) -> dict[str, dict]:
    """The entries of an evaluation by the names of the configs; they stand in the order of the checkpoints."""
    names = [run.name for run in runs if run.generator]
    return dict(zip(names, evaluation["checkpoints"], strict=True))


def table(entries: Mapping[str, Mapping]) -> str:
    """Entries of evaluation.json, by the names of their configs, as a table in markdown, in the groups of the paper."""
    headings = ["run", "what differs", "encoder parameters", *COLUMNS]
    lines = [headings, ["---", "---", *["---:"] * (len(headings) - 2)]]
    for group, members in GROUPS.items():
        present = {name: text for name, text in members.items() if name in entries}
        if present:
            lines.append([f"**{group}**", *[""] * (len(headings) - 1)])
        lines += [row(name, text, entries[name]) for name, text in present.items()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def row(name: str, text: str, entry: Mapping) -> list[str]:
    """The cells of a run."""
    return [
        name,
        text,
        f"{entry['parameters']['encoders']:,}",
        *(cell(entry["means"], keys) for keys in COLUMNS.values()),
    ]


def cell(means: Mapping[str, float | None], keys: Sequence[str]) -> str:
    """A measure, and in brackets those that it is compared with; a dash for what was not measured."""
    first, *others = (number_text(means.get(key), MEASURES[key].digits) for key in keys)
    return f"{first} ({', '.join(others)})" if others else first


def tell(arguments: argparse.Namespace, runs: Sequence[Run], evaluation: Mapping, images: int) -> str:
    """How the numbers came about; `images`: how many were trained with."""
    settings, options = evaluation["settings"], evaluation["settings"]["evaluate"]
    parameters = evaluation["checkpoints"][0]["parameters"]["generator"]
    found = machine.describe(select_device(settings["infer"]["device"]))
    processor = found["gpu"] or f"{found['cpu']} ({found['threads']} of {found['cores']} cores)"
    detailed = min(settings["images"], options["details"])
    paragraph = (
        f"The generator has {parameters:,} parameters and took {amount(runs[0])}; each inverter took"
        f" {amount(runs[-1])}, against the frozen generator. One training each, seed {runs[0].load().seed}, with"
        f" {images:,} images of {short(arguments.data)}. Measured on {settings['images']:,} of"
        f" {short(arguments.input)}, of which {detailed:,} for seams and edits, and on {options['generated']:,}"
        f" generated ones, on {processor}, torch {found['torch']}:"
    )
    return f"{textwrap.fill(paragraph, WIDTH)}\n\n    {command(arguments)}\n"


def command(arguments: argparse.Namespace) -> str:
    """The command, as it may be given elsewhere."""
    places = [("--" + name, short(getattr(arguments, name))) for name in ("data", "val", "input", "output")]
    chosen = ["--configs", *arguments.configs] if set(arguments.configs) != set(NAMES) else []
    words = shlex.join(["python", "-m", "benchmarks.ablation", *chosen, *(word for place in places for word in place)])
    return " \\\n        ".join(filter(None, [words, shlex.join(arguments.overrides)]))


def amount(run: Run) -> str:
    """What a training took."""
    options = run.load().train
    return f"{run.steps():,} steps of {options.batch} patches of {options.patch_cells} latent cells"


def short(path: Path) -> str:
    """The end of a path: it tells data apart, and nothing about the machine."""
    return "/".join(path.resolve().parts[-2:])


if __name__ == "__main__":
    sys.exit(run_command(main))
