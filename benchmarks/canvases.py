"""Time and peak memory of large generated canvases, each in a process of its own.

    python -m benchmarks.canvases [--checkpoint FILE] [key=value ...]
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.inference import make_parser
from utils import log
from utils.errors import UserError, run_command

ROOT = Path(__file__).parents[1]
# What is drawn: name, command, options.
CANVASES = (
    ("generation 4096 x 4096", "generate.py", ("generate.height=4096", "generate.width=4096")),
    ("panorama 512 x 8192", "generate.py", ("generate.height=512", "generate.width=8192", "generate.panorama=true")),
    ("fusion of four 1024 x 4096", "fuse.py", ("fuse.styles=[1,2,3,4]", "generate.height=1024", "generate.width=4096")),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the canvases and print their figures."""
    parser = make_parser(__doc__)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="`infer` options")
    arguments = parser.parse_intermixed_args(argv)
    for name, command, options in CANVASES:
        seconds, peak = measure(command, [*options, *arguments.overrides], arguments.checkpoint)
        log.info(f"{name:<28} {seconds:8.1f} s   peak {peak:6.0f} MiB")
    return 0


def measure(command: str, options: Sequence[str], checkpoint: Path) -> tuple[float, float]:
    """Seconds and peak memory (MiB) of one command. UserError where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        places = ["--output", folder, "--checkpoint", str(checkpoint)]
        process = subprocess.Popen([sys.executable, str(ROOT / command), *places, *options], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise UserError(f"{command} {' '.join(options)}: ended with {process.returncode}")
        return time.perf_counter() - started, usage.ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(run_command(main))
