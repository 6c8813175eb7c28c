"""The shell scripts: the choice of the environment, both samples, and the photographs that they use."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import prepare_data
from datasets import samples
from datasets.sources import LmdbSource
from models.weights import SHIPPED, load_inverter
from scripts import check_environment, overview
from utils.errors import run_command

ROOT = Path(__file__).parents[1]
# Stands for a Python of .venv: it lets checks of the environment pass or fail and notes what else it was asked to do.
FAKE_PYTHON = """#!/bin/bash
case "$1 $2" in
    *check_environment.py*) [[ -e "$(dirname "$0")/complete" ]] && echo fake || { echo "lacks torch"; exit 1; } ;;
    "-m venv") echo venv >>"$NOTES"; mkdir -p "${@: -1}/bin"; cp "$0" "${@: -1}/bin/python" ;;
    "-m pip") [[ $3 == --version ]] || { echo pip >>"$NOTES"; eval "${PIP:-touch \\"$(dirname "$0")/complete\\"}"; } ;;
esac
"""


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess:
    """Run a command and capture what it says."""
    variables = os.environ | environment
    return subprocess.run([*map(str, command)], env=variables, capture_output=True, text=True, timeout=300)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A folder, with a space in its name, that has the files of the set-up and a fake Python without packages."""
    root = tmp_path / "a repository"
    shutil.copytree(ROOT / "scripts", root / "scripts")
    shutil.copy(ROOT / "requirements.txt", root)
    (tmp_path / "bin").mkdir()
    for name in ("python", "python3"):
        (tmp_path / "bin" / name).write_text(FAKE_PYTHON)
        (tmp_path / "bin" / name).chmod(0o755)
    return root


def set_up(root: Path, requirements: str = "requirements.txt", **environment: str) -> subprocess.CompletedProcess:
    """Run `environment` of a repository, by default with the fake Python, and print the Python that was chosen."""
    fake = {"PATH": f"{root.parent}/bin:/usr/bin:/bin", "PYTHON": "", "NOTES": str(root / "notes")}
    (root / "notes").unlink(missing_ok=True)
    source = f'set -euo pipefail; source "{root}/scripts/environment.sh"'
    command = f'{source}; environment {requirements}; echo "$PYTHON"'
    return run("bash", "-c", command, **(fake | environment))


def calls(root: Path) -> list[str]:
    """The calls of venv and pip that were made."""
    return (root / "notes").read_text().split() if (root / "notes").exists() else []


def test_active_environment_is_accepted() -> None:
    done = set_up(ROOT, "requirements-dev.txt", PYTHON=sys.executable)
    told, python = done.stdout.splitlines()
    assert done.stderr == "" and told.startswith("environment: ") and python == sys.executable


def test_check_names_what_is_lacking(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch) -> None:
    (tmp_path / "halfway").mkdir()  # a folder without __init__.py is what an interrupted installation leaves
    monkeypatch.syspath_prepend(tmp_path)
    for requirement, exact, lacking in (
        ("numpy==2.0.0", [], False), ("numpy==0.0.1", ["--exact"], True),
        ("no-such-package==1.0  # why", [], True), ("torch==99.0", [], False), ("halfway==1.0", [], True),
    ):  # fmt: skip
        (tmp_path / "requirements.txt").write_text(f"# comment\n{requirement}\n")
        assert check_environment.main([*exact, str(tmp_path / "requirements.txt")]) == lacking
        assert (capsys.readouterr().out == f"lacks {requirement.split('==')[0]}\n") == lacking


def test_venv_is_made_once_and_completed(repository: Path) -> None:
    done = set_up(repository)
    assert done.stdout.splitlines()[-1] == f"{repository}/.venv/bin/python" and done.stderr == ""
    assert calls(repository) == ["venv", "pip"] and not (repository / ".venv.installing").exists()
    assert set_up(repository).stdout.splitlines() == ["environment: fake", f"{repository}/.venv/bin/python"]
    assert calls(repository) == []
    (repository / ".venv/bin/complete").unlink()
    assert set_up(repository).returncode == 0 and calls(repository) == ["pip"]


def test_installations_that_are_interrupted_fail_or_are_running(repository: Path) -> None:
    assert set_up(repository, PIP="kill -KILL $PPID").returncode != 0
    assert (repository / ".venv.installing").exists()
    assert set_up(repository).returncode == 0 and calls(repository) == ["venv", "pip"]  # made anew
    (repository / ".venv/bin/complete").unlink()
    done = set_up(repository, PIP="echo ERROR: no room; exit 1")
    assert done.returncode == 2
    assert done.stderr == f"error: pip failed: ERROR: no room (its whole output: {repository}/.venv/install.log)\n"
    (repository / ".venv.installing").write_text(f"{os.getpid()}\n")
    done = set_up(repository)
    assert done.returncode == 2 and f"process {os.getpid()} is installing" in done.stderr and calls(repository) == []


@pytest.mark.parametrize(("shell", "arguments"), [("bash", ["no-such-folder"]), ("sh", ["a", "b"]), ("sh", ["--help"])])
def test_wrong_arguments_of_training(tmp_path: Path, shell: str, arguments: list[str]) -> None:
    (tmp_path / "link").symlink_to(ROOT / "train-sample.sh")
    (tmp_path / "a link to it").symlink_to("link")
    done = run(shell, tmp_path / "a link to it", *arguments)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


def test_no_photograph_is_written_onto(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Not even by the one that was set aside of its folder."""
    for number in range(3):
        PIL.Image.new("RGB", (30, 40), (number, 0, 0)).save(tmp_path / f"{number}.png")
    prepare_data.main(["--input", str(tmp_path), "--output", f"{tmp_path}/data", "--size", "20"])
    before = {path: path.read_bytes() for path in tmp_path.glob("*.png")}
    listed = ["--of", str(tmp_path), "--listed", f"{tmp_path}/data/valid"]
    assert run_command(samples.main, [str(tmp_path), *listed]) == 2
    assert "would overwrite the input" in capsys.readouterr().err
    label = LmdbSource(tmp_path / "data/valid").label(0)
    arguments = ["--checkpoint", str(SHIPPED), "--input", str(tmp_path / label), "--output", str(tmp_path / label)]
    assert run_command(overview.main, arguments) == 2
    assert {path: path.read_bytes() for path in tmp_path.glob("*.png")} == before


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository, whose runs/ and results/ may be written."""
    left_out = shutil.ignore_patterns(".*", "__pycache__", "runs", "results", "tests", "shared")
    return Path(shutil.copytree(ROOT, tmp_path_factory.mktemp("copy") / "the tree", ignore=left_out))


def test_the_sample_of_inference_runs_by_sh_and_through_a_link(tree: Path, tmp_path: Path) -> None:
    """From another folder, into one that is named from there, though cd be talkative."""
    (tmp_path / "sample").symlink_to(tree / "infer-sample.sh")
    places = {"PYTHON": sys.executable, "CDPATH": f"{tmp_path}:{tree}"}
    done = run("sh", "-c", f"cd '{tmp_path}'; sh sample inverted device=cpu", **places)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "inverted/summary.json").read_text())
    assert summary["images"] == len(samples.PHOTOGRAPHS) and summary["failed"] == {}
    assert len(list((tmp_path / "inverted/reconstruction").glob("*.png"))) == len(samples.PHOTOGRAPHS)


def test_the_sample_of_training_runs_and_resumes(tree: Path, tmp_path: Path) -> None:
    photographs = tmp_path / "my photographs"
    photographs.mkdir()
    for number in range(3):
        values = np.random.default_rng(number).integers(0, 256, (160, 170, 3), np.uint8)
        PIL.Image.fromarray(values).save(photographs / f"{number}.png")

    def train(python: str) -> str:
        minutes = {"STRUCTURE_MINUTES": "0.02", "INVERTER_MINUTES": "0.02"}
        done = run("bash", tree / "train-sample.sh", photographs, PYTHON=python, **minutes)
        assert done.returncode == 0, done.stderr
        return done.stdout

    train(sys.executable)
    (folder,) = (tree / "runs").iterdir()
    assert len(list((folder / "generated").glob("*.png"))) == 4
    (unseen,) = (folder / "inverted/reconstruction").glob("*.png")
    assert PIL.Image.open(unseen).size == (170, 160)
    (folder / "inverter/complete").unlink()  # as a run that was stopped has it: with weights, but not at its end
    assert PIL.Image.open(folder / "overview.png").width > 512
    telling = tmp_path / "python"  # what it would run
    telling.write_text(f'#!/bin/bash\n[[ $1 =~ check_environment|-c ]] && exec "{sys.executable}" "$@"\necho "$@"\n')
    telling.chmod(0o755)
    told = train(str(telling))
    assert "structure: trained already" in told and f"train.output={folder}/inverter" in told
    assert load_inverter(folder / "structure/inverter.safetensors").fingerprint
