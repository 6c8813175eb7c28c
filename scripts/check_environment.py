"""Tell whether this Python has the packages of a requirements file.

    python scripts/check_environment.py requirements.txt            # are they there, in versions that can do the work?
    python scripts/check_environment.py --exact requirements.txt    # in exactly the versions of the file?

Ends with 0 and describes the environment in one line, or with 1 and names what is missing. It imports nothing, because
importing torch takes seconds, and needs nothing but Python.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

OLDEST_PYTHON = (3, 11)
# a weights file can corrupt the memory of a torch before 2.10 (CVE-2026-24747); of the others any version will do
OLDEST = {"torch": (2, 10), "torchvision": (0, 25), "numpy": (2, 0)}
MODULES = {
    "opencv-python-headless": "cv2",
    "PyYAML": "yaml",
    "pillow": "PIL",
    "scikit-image": "skimage",
    "pytorch-msssim": "pytorch_msssim",
}


def main(arguments: list[str]) -> int:
    """Run the command; returns its exit code."""
    exact = "--exact" in arguments
    files = [Path(argument) for argument in arguments if argument != "--exact"]
    pins = dict(pin for file in files for pin in read_pins(file))
    lacking = [] if sys.version_info >= OLDEST_PYTHON else ["Python {}.{}".format(*OLDEST_PYTHON)]
    lacking += [name for name, pin in pins.items() if not suits(name, pin, exact)]
    if lacking:
        sys.stdout.write("lacks " + ", ".join(lacking) + "\n")
        return 1
    sys.stdout.write(describe(pins) + "\n")
    return 0


def read_pins(file: Path) -> Iterator[tuple[str, str]]:
    """The (name, version) of every line `name==version`, and of the files that `-r` names."""
    for line in file.read_text().splitlines():
        words = line.split("#")[0].split()
        if words[:1] == ["-r"]:
            yield from read_pins(file.parent / words[1])
        elif words:
            name, _, pin = words[0].partition("==")
            yield name, pin


def suits(name: str, pin: str, exact: bool) -> bool:
    """Whether a package can be imported, and its version is the pinned one (exact) or not too old."""
    spec = find_spec(MODULES.get(name, name))
    if spec is None or spec.origin is None:  # without origin it is a folder that an interrupted pip left
        return False
    installed = installed_version(name)
    if exact:
        return installed == pin
    if installed is None:  # another package may provide the module: opencv-python, for instance
        return name not in OLDEST
    return numbers(installed) >= OLDEST.get(name, ())


def installed_version(name: str) -> str | None:
    """Version of an installed package without its local part (2.13.0+cpu is 2.13.0), None where there is none."""
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return None


def numbers(text: str) -> tuple[int, ...]:
    """The version as numbers that compare: "2.13.0" -> (2, 13, 0)."""
    return tuple(int(number) for number in re.findall(r"\d+", text))


def describe(pins: dict[str, str]) -> str:
    """The environment in one line: where it is, and which versions the tests did not run with."""
    others = [f"{name} {installed_version(name)}" for name, pin in pins.items() if installed_version(name) != pin]
    remark = f"; not as pinned: {', '.join(others)}" if others else ""
    return f"{sys.prefix} (Python {sys.version.split()[0]}{remark})"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
