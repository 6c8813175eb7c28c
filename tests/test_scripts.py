"""The shell scripts: their syntax, the choice of the environment, and the photographs that they use."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import prepare_data
from datasets import samples
from datasets.image import find_images
from datasets.sources import LmdbSource
from models import build_encoders, build_generator
from models.weights import export, load_inverter
from utils.config import load_config
from utils.errors import UserError
from utils.schema import TrainConfig

ROOT = Path(__file__).parents[1]
SCRIPTS = ("infer-sample.sh", "train-sample.sh", "run-tests.sh", ".ci/run", "scripts/environment.sh")
# Stands for a Python of .venv: it lets checks of the environment pass or fail and notes what else it was asked to do.
FAKE_PYTHON = """#!/bin/bash
case "$1 $2" in
    *check_environment.py*) [[ -e "$(dirname "$0")/complete" ]] && echo fake || { echo "lacks torch"; exit 1; } ;;
    "-m venv") echo "$*" >>"$NOTES"; mkdir -p "${@: -1}/bin"; cp "$0" "${@: -1}/bin/python" ;;
    "-m pip") echo "$*" >>"$NOTES"; [[ $3 == --version ]] || eval "${PIP:-touch \\"$(dirname "$0")/complete\\"}" ;;
esac
"""


def bash(command: str, **environment: str) -> subprocess.CompletedProcess:
    """Run a command in bash and capture what it says."""
    return subprocess.run(
        ["bash", "-c", command], env=os.environ | environment, capture_output=True, text=True, timeout=300
    )


def find_python(root: Path, requirements: str, **environment: str) -> subprocess.CompletedProcess:
    """Set up the environment of a repository and print the Python that was chosen."""
    source = f'set -euo pipefail; source "{root}/scripts/environment.sh"'
    return bash(f'{source}; environment {requirements}; echo "$PYTHON"', **environment)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A folder, with a space in its name, that has the files of the set-up and a fake Python without packages."""
    root = tmp_path / "a repository"
    (root / "scripts").mkdir(parents=True)
    for file in ("requirements.txt", "requirements-dev.txt", "scripts/environment.sh", "scripts/check_environment.py"):
        shutil.copy(ROOT / file, root / file)
    fake = tmp_path / "bin"
    fake.mkdir()
    for name in ("python", "python3"):
        (fake / name).write_text(FAKE_PYTHON)
        (fake / name).chmod(0o755)
    return root


def set_up(repository: Path, **environment: str) -> tuple[subprocess.CompletedProcess, list[str]]:
    """Run `environment` with the fake Python as the active one; also the calls of venv and pip that were made."""
    notes = repository / "notes"
    notes.write_text("")
    path = f"{repository.parent}/bin:/usr/bin:/bin"
    done = find_python(repository, "requirements.txt", PATH=path, PYTHON="", NOTES=str(notes), **environment)
    return done, [line.split()[1] for line in notes.read_text().splitlines() if "--version" not in line]


@pytest.mark.parametrize("script", SCRIPTS)
def test_syntax(script: str) -> None:
    assert bash(f'bash -n "{ROOT / script}"').returncode == 0


def test_tests_and_ci_are_one_command() -> None:
    assert "bash run-tests.sh" in (ROOT / ".ci/run").read_text()
    assert os.access(ROOT / ".ci/run", os.X_OK)


@pytest.mark.parametrize("requirements", ["requirements.txt", "requirements-dev.txt"])
def test_active_environment_is_accepted(requirements: str) -> None:
    done = find_python(ROOT, requirements, PYTHON=sys.executable)
    assert done.stderr == ""
    told, python = done.stdout.splitlines()
    assert told.startswith("environment: ") and Path(python) == Path(sys.executable)


@pytest.mark.parametrize(
    ("requirement", "exact", "lacking"),
    [
        ("numpy==2.0.0", False, False),
        ("numpy==0.0.1", True, True),
        ("no-such-package==1.0", False, True),
        ("torch==99.0", False, False),
    ],
)
def test_check_names_what_is_lacking(tmp_path: Path, requirement: str, exact: bool, lacking: bool) -> None:
    file = tmp_path / "requirements.txt"
    file.write_text(f"# comment\n{requirement}\n")
    command = [sys.executable, str(ROOT / "scripts/check_environment.py"), *(["--exact"] if exact else []), str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == lacking
    assert (f"lacks {requirement.split('==')[0]}" in done.stdout) == lacking


def test_half_a_package_is_lacking(tmp_path: Path) -> None:
    """A folder without __init__.py is what an interrupted installation leaves."""
    (tmp_path / "halfway").mkdir()
    (tmp_path / "requirements.txt").write_text("halfway==1.0\n")
    command = [sys.executable, str(ROOT / "scripts/check_environment.py"), str(tmp_path / "requirements.txt")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert done.stdout == "lacks halfway\n"


def test_venv_is_made_once(repository: Path) -> None:
    done, calls = set_up(repository)
    assert done.stdout.splitlines()[-1] == f"{repository}/.venv/bin/python" and done.stderr == ""
    assert calls == ["venv", "pip"]
    assert not (repository / ".venv.installing").exists()
    done, calls = set_up(repository)
    assert done.stdout.splitlines() == ["environment: fake", f"{repository}/.venv/bin/python"]
    assert calls == []


def test_interrupted_installation_is_made_anew(repository: Path) -> None:
    done, calls = set_up(repository, PIP="kill -KILL $PPID")
    assert done.returncode != 0 and (repository / ".venv.installing").exists()
    done, calls = set_up(repository)
    assert done.returncode == 0 and calls == ["venv", "pip"]


def test_missing_package_is_added(repository: Path) -> None:
    set_up(repository)
    (repository / ".venv/bin/complete").unlink()
    done, calls = set_up(repository)
    assert done.returncode == 0 and calls == ["pip"]


def test_failed_installation_is_one_line(repository: Path) -> None:
    done, _ = set_up(repository, PIP="echo ERROR: no room; exit 1")
    assert done.returncode == 2
    assert done.stderr == f"error: pip failed: ERROR: no room (its whole output: {repository}/.venv/install.log)\n"


def test_two_installations_do_not_mix(repository: Path) -> None:
    (repository / ".venv.installing").write_text(f"{os.getpid()}\n")
    done, calls = set_up(repository)
    assert done.returncode == 2 and f"process {os.getpid()} is installing" in done.stderr and calls == []


@pytest.mark.parametrize("arguments", ["no-such-folder", "a b", "--help"])
def test_wrong_arguments_of_training(tmp_path: Path, arguments: str) -> None:
    done = bash(f'cd "{tmp_path}"; bash "{ROOT}/train-sample.sh" {arguments}')
    assert done.returncode == 2 and done.stdout == "" and done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


def test_photographs(tmp_path: Path) -> None:
    assert samples.main([str(tmp_path / "photographs")]) == 0
    files = find_images(tmp_path / "photographs")
    images = [PIL.Image.open(file) for file in files]
    assert [file.name for file in files] == list(samples.PHOTOGRAPHS)
    assert len({image.size for image in images}) >= 3
    assert {image.mode for image in images} == {"RGB"}


def test_unseen_photograph_has_its_own_size(tmp_path: Path) -> None:
    """The photograph to invert is the one that prepare_data.py set aside, before it was shrunk."""
    files = samples.write_photographs(tmp_path / "photographs")
    for file in files[3:]:
        file.unlink()
    prepare_data.main([
        "--input", str(tmp_path / "photographs"), "--output", str(tmp_path / "data"), "--size", "20",
    ])  # fmt: skip
    samples.main([str(tmp_path), "--of", str(tmp_path / "photographs"), "--listed", str(tmp_path / "data/valid")])
    name = Path(LmdbSource(tmp_path / "data/valid").label(0))
    unseen = PIL.Image.open(tmp_path / f"{name.stem}.png")
    assert unseen.tobytes() == PIL.Image.open(tmp_path / "photographs" / name).tobytes()


def test_samples_options_belong_together(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--listed"):
        samples.main([str(tmp_path), "--of", str(tmp_path)])


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository, whose runs/ and results/ may be written."""
    left_out = shutil.ignore_patterns(".*", "__pycache__", "runs", "results", "tests", "shared")
    return Path(shutil.copytree(ROOT, tmp_path_factory.mktemp("copy") / "the tree", ignore=left_out))


def run_script(tree: Path, script: str, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess:
    """Run a script of the copy by this Python."""
    command = shlex.join(["bash", str(tree / script), *map(str, arguments)])
    return bash(command, PYTHON=sys.executable, **environment)


@pytest.fixture(scope="module")
def checkpoint(tree: Path) -> Path:
    """The shipped inverter; where there is none, one of its size whose weights are random."""
    path = tree / "checkpoints/sample.safetensors"
    if not path.exists():
        model = load_config(TrainConfig, tree / "configs/sample/inverter.yaml").model
        encoder, global_encoder = build_encoders(model)
        networks = {"generator": build_generator(model), "encoder": encoder, "global_encoder": global_encoder}
        export(path, model, networks, step=0)
    return path


def test_the_sample_of_inference_runs(tree: Path, checkpoint: Path, tmp_path: Path) -> None:
    done = run_script(tree, "infer-sample.sh", tmp_path / "inverted", "infer.device=cpu")
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "inverted/summary.json").read_text())
    assert summary["images"] == len(samples.PHOTOGRAPHS) and summary["failed"] == {}
    assert summary["settings"]["checkpoint"] == str(checkpoint)
    for name in samples.PHOTOGRAPHS:
        original = PIL.Image.open(samples.photographs_folder() / name)
        picture = PIL.Image.open(tmp_path / "inverted/reconstruction" / f"{Path(name).stem}.png")
        assert picture.size == original.size


def test_the_sample_of_training_runs_and_resumes(tree: Path, tmp_path: Path) -> None:
    photographs = tmp_path / "my photographs"
    photographs.mkdir()
    for number in range(3):
        values = np.random.default_rng(number).integers(0, 256, (160, 170, 3), np.uint8)
        PIL.Image.fromarray(values).save(photographs / f"{number}.png")
    minutes = {"GENERATOR_MINUTES": "0.02", "INVERTER_MINUTES": "0.02"}
    done = run_script(tree, "train-sample.sh", photographs, **minutes)
    assert done.returncode == 0, done.stderr
    (run,) = (tree / "runs").iterdir()
    assert len(list((run / "generated").glob("*.png"))) == 4
    assert {path.name for path in run.glob("*/*.safetensors")} >= {"generator.safetensors", "inverter.safetensors"}
    (unseen,) = (run / "inverted/reconstruction").glob("*.png")
    assert PIL.Image.open(unseen).size == (170, 160)
    assert load_inverter(run / "inverter/inverter.safetensors").fingerprint
    (run / "inverter/complete").unlink()  # as a run that was stopped has it: with weights, but not at its end
    done = run_script(tree, "train-sample.sh", photographs, **minutes)
    assert done.returncode == 0, done.stderr
    assert "resuming from" in done.stdout
    done = run_script(tree, "train-sample.sh", photographs, **minutes)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if "trained already" in line] == [
        "generator: trained already", "inverter: trained already",
    ]  # fmt: skip
