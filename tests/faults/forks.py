"""Commands on tiny models, in processes that are forked from this one: it has imported all, so that one takes no time.

A command is a program, its arguments, and what it leaves: `COMMANDS` makes each for a folder of inputs.
"""

import hashlib
import importlib
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import PIL.Image
import torch

import edit
import infer
import train
from inversion import jobs, refinement
from inversion.tiling import Tiling
from tests.conftest import write_inverter
from tests.inversion.conftest import photograph, tiny_inverter
from tests.training.conftest import TINY, TRUNK_INVERTER, leaves
from utils.checkpoint import load_latest, load_weights
from utils.errors import run_command

PASSING = ("metrics.csv", "summary.json", "events", "checkpoints", ".lock")  # they hold times
MODULES = "MODULES"  # name of a file into which a process writes what it has imported
TEMPORARY = re.compile(r"\.tmp-|\.unfinished|\.partial")


@dataclass(frozen=True)
class Command:
    """`arguments`: of `main` for an output folder; `before`: those of an earlier run into the same one."""

    main: Callable[[list[str]], int]
    arguments: Callable[[Path], list[str]]
    before: Callable[[Path], list[str]]
    inputs: Path

    def start(
        self,
        output: Path,
        *,
        earlier: bool = False,
        inside: Callable[[], None] = lambda: None,  # what its process does first
        said: Path | None = None,  # where its words to stderr go
        **environment: str,
    ) -> int:
        """The process id of a run."""
        arguments = (self.before if earlier else self.arguments)(output)
        return fork(self.main, arguments, said or output.with_suffix(".log"), inside, environment)

    def run(self, output: Path, **options) -> tuple[int, str]:
        """The exit code (minus a signal), and what was said to stderr."""
        code = end(self.start(output, **options))
        return code, output.with_suffix(".log").read_text(errors="replace")


def fork(main: Callable, arguments: list[str], said: Path, inside: Callable[[], None], environment: dict) -> int:
    """The process id of a command whose stderr goes into a file, and stdout into one beside it."""
    pid = os.fork()
    if pid == 0:
        os.environ.update(environment)
        code = 99
        try:
            out = said.with_suffix(".out")
            with open(said, "w", errors="replace") as err, open(out, "w", errors="replace") as file:  # noqa: SIM117
                with redirect_stderr(err), redirect_stdout(file):
                    inside()
                    code = run_command(main, arguments)
            if MODULES in environment:
                Path(environment[MODULES]).write_text("\n".join(sys.modules))
        except BaseException:
            with open(said, "a", errors="replace") as err:
                traceback.print_exc(file=err)
        finally:
            os._exit(code)
    return pid


def import_as(names: Path) -> None:
    """Import what a command did: later ones find it. libvips does not survive a fork."""
    for name in names.read_text().split():
        if name not in sys.modules and "vips" not in name:
            with suppress(ImportError):
                importlib.import_module(name)


def end(pid: int) -> int:
    """The exit code of a process, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def prepare() -> None:
    """Once, before anything is forked: small blocks on the disk, one thread."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    torch.func.jvp(torch.sin, (torch.zeros(1),), (torch.ones(1),))  # imports more
    for owner, name, value in (
        (jobs, "HELD", 100), (refinement, "WINDOW_CELLS", 1), (Tiling, "refined_edge", lambda tiling: 5),
    ):  # fmt: skip
        setattr(owner, name, value)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def commands(folder: Path) -> dict[str, Command]:
    """infer with refinement, edit and train, on inputs that are made in a folder."""
    inputs = folder / "inputs"
    for number, size in enumerate(((37, 41), (20, 24))):
        path = inputs / "photographs" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(photograph(*size, number)).save(path)
    for number in range(6):
        (inputs / "images").mkdir(exist_ok=True)
        PIL.Image.fromarray(photograph(40 + number, 50, number)).save(inputs / "images" / f"{number}.png")
    write_inverter(inputs / "tiny.safetensors", tiny_inverter())
    (inputs / "tiny.yaml").write_text(TINY.replace("data: {", f"data: {{train: {inputs / 'images'}, "))
    model = ["--checkpoint", str(inputs / "tiny.safetensors"), "infer.device=cpu", "infer.dtype=float32"]
    photographs = [str(inputs / "photographs" / f"{number}.png") for number in range(2)]

    def infer_of(*names: str) -> Callable[[Path], list[str]]:
        options = ["block=16", "noise=field", "latents=zarr", "save_float=true", "refine=2", "refine_prior=0.01"]
        return lambda output: ["--input", *names, "--output", str(output), *model, *options]

    def edit_of(name: str) -> Callable[[Path], list[str]]:
        options = ["width=60", "complete.steps=1"]
        return lambda output: ["outpaint", "--input", name, "--output", str(output), *model, *options]

    def train_of(steps: int) -> Callable[[Path], list[str]]:
        options = [f"train.steps={steps}", "train.save_every=1", "train.keep=2", "train.image_every=100"]
        given = ["--config", str(inputs / "tiny.yaml"), *TRUNK_INVERTER, *options]
        return lambda output: [*given, f"train.output={output}"]

    return {
        "infer": Command(infer.main, infer_of(photographs[0]), infer_of(photographs[1]), inputs),
        "edit": Command(edit.main, edit_of(photographs[0]), edit_of(photographs[1]), inputs),
        "train": Command(train.main, train_of(5), train_of(1), inputs),
    }


def content(folder: Path) -> dict[str, str]:
    """Digests of all results in a folder, and of the newest state of a training."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and not any(part in PASSING for part in path.relative_to(folder).parts):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
            if (folder / "checkpoints").exists() and path.suffix == ".safetensors":  # its library orders metadata anew
                found[name] = str(sorted(load_weights(path)[1].items()))  # with the fingerprint of the tensors
    if (folder / "checkpoints").exists():
        state, _, skipped = load_latest(folder / "checkpoints")
        digest = hashlib.sha256()
        for name, value in leaves(state["stage"]):
            digest.update(name.encode() + (value.numpy().tobytes() if torch.is_tensor(value) else repr(value).encode()))
        found["state"] = f"{state['step']} {digest.hexdigest()} {skipped}"
    return found


def wrong(command: Command, output: Path, given: dict, whole: dict, earlier: dict) -> str:
    """What is wrong after a run that was disturbed, and then with the same command; nothing if all is well."""
    if content(command.inputs) != given:
        return "an input has changed"
    found = content(output)
    kept = {name: value for name, value in earlier.items() if whole[name] == value}  # a training exports anew
    if not kept.items() <= found.items():
        return "an earlier result has changed"
    if "state" in whole and not found.get("state", "").endswith("[]"):
        return f"the newest checkpoint is damaged: {found.get('state')}"
    code, said = command.run(output)
    if code:
        return f"the same command ends with {code}: {said}"
    if content(output) != whole:
        names = [name for name in {*whole, *content(output)} if content(output).get(name) != whole.get(name)]
        return f"the same command gives other bytes: {names}"
    left = [str(path) for path in output.rglob("*") if TEMPORARY.search(path.name)]
    return f"left over: {left}" if left else ""


def log(text: str) -> None:
    """A line with the time."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True, file=sys.stderr)
