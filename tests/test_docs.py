"""Every command and every example of Python in README.md and docs/ runs, as it stands, on small files of its names.

Training and measurements run with a few more arguments, or are only asked for their plan: see MORE.
"""

import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from tests.models.public_infinitygan import public_checkpoint

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ELSEWHERE = ("bash ", "FROM_SCRATCH", "INVERTER_MINUTES")  # tests/test_scripts.py runs these
SMALL = ["generate.height=64", "generate.width=96"]  # of generated images
MORE = {  # by the first words behind python: what makes the command short
    "edit.py outpaint": ["complete.steps=3"],
    "edit.py inbetween": ["complete.steps=3"],
    "edit.py resample": ["complete.steps=3", *SMALL],
    "edit.py interpolate": ["frames=2", *SMALL],
    "edit.py pan": ["frames=3", *SMALL],
    **dict.fromkeys(("edit.py fuse", "edit.py mix", "edit.py direction", "generate.py"), SMALL),
    "train.py": ["--dry-run"],
    "evaluate.py": ["details=2", "hidden=1", "pictures=1", "generated=4", "generated_size=48", "cycles=2"],
    "-m scripts.import_infinitygan": ["--ts-input-size=8"],
    **dict.fromkeys(("-m scripts.fit_directions", "-m benchmarks.inversion", "-m benchmarks.training"), ["--help"]),
}


def fences(language):
    """The code of a language in the pages: (page, code)."""
    for page in PAGES:
        yield from ((page.name, code) for code in re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL))


def commands():
    """The commands of the pages, each once, in order."""
    lines = (line for _, code in fences("bash") for line in code.replace("\\\n", " ").splitlines())
    found = (re.sub(r"\s+#.*", "", " ".join(line.split())) for line in lines)
    return list(dict.fromkeys(line for line in found if line and not line.startswith(ELSEWHERE)))


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory):
    """A folder with everything that the commands name."""
    folder, random = tmp_path_factory.mktemp("docs"), np.random.default_rng(0)
    for name in ("configs", "checkpoints"):
        shutil.copytree(ROOT / name, folder / name)
    places = ["photo.jpg", "other.jpg", "left.jpg", "right.jpg", "photos/a.jpg", "photos/photo.png", "net/huge.tif"]
    places += ["mask.png", "day/1.jpg", "day/2.jpg", "dusk/1.jpg", "dusk/2.jpg"]
    places += [f"FOLDER/{number}.jpg" for number in range(6)]
    for name in places:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        coarse = random.integers(0, 256, (20, 20, 3), np.uint8)
        PIL.Image.fromarray(coarse).resize((88, 72)).save(folder / name)
    for run in ("runs/mine/inverter/inverter", "runs/mine/structure/inverter", "runs/mine/structure/critic"):
        (folder / run).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "checkpoints/sample.safetensors", folder / f"{run}.safetensors")
    torch.save(public_checkpoint(), folder / "best_fid.pth.tar")
    return folder


def test_the_pages_have_commands():
    assert len(commands()) > 25 and {line.split()[0] for line in commands()} == {"python", "torchrun"}


@pytest.mark.parametrize("line", commands())
def test_a_command_runs(line, sandbox, monkeypatch, capsys):
    monkeypatch.chdir(sandbox)
    program, *arguments = shlex.split(re.sub(r"^torchrun .*?(?=\S+\.py)", "python ", line).replace("/net/", "net/"))[1:]
    if program == "-m":
        program = f"-m {arguments.pop(0)}"
    more = MORE.get(program, MORE.get(f"{program} {arguments[0]}", []))
    monkeypatch.setattr(sys, "argv", [program, *arguments, *more])
    monkeypatch.syspath_prepend(str(ROOT))
    with pytest.raises(SystemExit) as end:
        if program.startswith("-m "):
            runpy.run_module(program[3:], run_name="__main__")
        else:
            runpy.run_path(str(ROOT / program), run_name="__main__")
    assert not end.value.code, capsys.readouterr().err


@pytest.mark.parametrize("page", sorted({page for page, _ in fences("python")}))
def test_the_python_of_a_page_runs(page, sandbox, monkeypatch):
    monkeypatch.chdir(sandbox)
    names = {}
    for each, code in fences("python"):
        if each == page:
            exec(compile(code, page, "exec"), names)


@pytest.mark.parametrize(("page", "least"), [("files-and-machines", 100), ("reliability", 25)])
def test_the_tests_that_hold_a_situation_are_there(page, least):
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / f"docs/{page}.md").read_text())
    assert len(named) >= least
    missing = [each for each in named if f"def {each[1]}(" not in (ROOT / each[0]).read_text()]
    assert not missing
