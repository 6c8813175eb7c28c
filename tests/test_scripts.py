"""The shell scripts: their syntax, the choice of the environment, and the photographs that they use."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import PIL.Image
import pytest

import prepare_data
from datasets import samples
from datasets.image import find_images
from datasets.sources import LmdbSource
from utils.errors import UserError

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
        ["bash", "-c", command], env=os.environ | environment, capture_output=True, text=True, timeout=60
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
