"""What a user who may not read or write something is told: the commands run as one who is not root."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from tests.faults.forks import Command

NOBODY = 65534


def drop_privileges() -> None:
    """Become nobody, where this process is root's."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def forbid(path: Path, mode: int = 0) -> None:
    """Take rights away; those who made a thing lose them, too."""
    path.chmod(mode)


# What is not allowed, the command that meets it, its exit code, and what it says: `{out}`, `{in}` are folders.
CASES: dict[str, tuple[str, Callable[[Path, Path], None], int, str]] = {
    "results": ("infer", lambda given, out: forbid(out, 0o555), 2, "cannot write {out}: Permission denied"),
    "edits": ("edit", lambda given, out: forbid(out, 0o555), 2, "cannot write {out}: Permission denied"),
    "a training": ("train", lambda given, out: forbid(out, 0o555), 2, "cannot write {out}: Permission denied"),
    "a photograph": ("infer", lambda given, out: forbid(given / "photographs/0.png"), 1, "0.png: cannot be read: Perm"),
    "weights": ("infer", lambda given, out: forbid(given / "tiny.safetensors"), 2, "weights {in}/tiny.safetensors"),
    "a config": ("train", lambda given, out: forbid(given / "tiny.yaml"), 2, "tiny.yaml: Permission denied"),
    "photographs": ("train", lambda given, out: forbid(given / "images"), 2, "{in}/images"),
    "checkpoints": ("train", lambda given, out: forbid(out / "checkpoints", 0o555), 2, "cannot write {out}/checkp"),
    "a checkpoint": ("train", lambda given, out: forbid(next(out.glob("checkpoints/*"))), 2, "{out}/checkpoints/step"),
}


def told(command: Command, output: Path, case: str) -> Iterator[str]:
    """Yields what is not well where something is forbidden; what was forbidden is allowed again."""
    _, forbidding, code, words = CASES[case]
    places = {path: path.stat().st_mode for path in [output, *output.rglob("*"), *command.inputs.rglob("*")]}
    forbidding(command.inputs, output)
    found, said = command.run(output, inside=drop_privileges)
    for path, mode in places.items():
        with suppress(FileNotFoundError):  # a training keeps the newest checkpoints
            path.chmod(mode)
    lines = [line for line in said.replace("\r", "\n").splitlines() if line.strip() and "step/s]" not in line]
    words = words.replace("{out}", str(output)).replace("{in}", str(command.inputs))
    if found != code or len(lines) != 1 or words not in said:
        yield f"{case}: ends with {found}: {said}"
