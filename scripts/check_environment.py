"""Tell whether this Python has the packages of a requirements file, without importing them.

    python scripts/check_environment.py [--exact] requirements.txt      # --exact: in the versions of the file

Prints one line and ends with 0, or names what is lacking and ends with 1.
"""

import re
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

OLDEST = {"torch": (2, 10), "numpy": (2, 0)}  # a weights file can corrupt the memory of an older torch (CVE-2026-24747)
MODULES = {
    "opencv-python-headless": "cv2", "PyYAML": "yaml", "pillow": "PIL", "scikit-image": "skimage",
    "scikit-learn": "sklearn",
    "pytorch-msssim": "pytorch_msssim", "pyvips-binary": "_libvips",
}  # fmt: skip


def read_pins(file: Path) -> dict[str, str]:
    """The {name: version} of every line `name==version`, and of the files that `-r` names."""
    pins = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        words = line.split("#")[0].split()
        if words[:1] == ["-r"]:
            pins |= read_pins(file.parent / words[1])
        elif words:
            pins |= [words[0].split("==")]
    return pins


def installed(name: str) -> str | None:
    """The version of a package without its local part (2.13.0+cpu is 2.13.0); None where it is not there."""
    spec = find_spec(MODULES.get(name, name))
    if spec is None or spec.origin is None:  # without origin it is a folder that an interrupted pip left
        return None
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return "unknown"  # of another package with the same module, as opencv-python


def suits(name: str, pin: str, exact: bool) -> bool:
    """Whether a package is there in the pinned version (exact), or in one that is not too old."""
    found = installed(name)
    if found is None or exact:
        return found == pin
    return tuple(map(int, re.findall(r"\d+", found))) >= OLDEST.get(name, ())


def main(arguments: list[str]) -> int:
    """Print what is lacking, or else where the environment is and what is not as pinned; the exit code."""
    exact, pins = "--exact" in arguments, read_pins(Path(arguments[-1]))
    lacking = [name for name, pin in pins.items() if not suits(name, pin, exact)]
    others = [f"{name} {installed(name)}" for name, pin in pins.items() if installed(name) != pin]
    remark = f"; not as pinned: {', '.join(others)}" if others else ""
    about = f"{sys.prefix} (Python {sys.version.split()[0]}{remark})"
    sys.stdout.write(f"lacks {', '.join(lacking)}\n" if lacking else f"{about}\n")
    return bool(lacking)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
