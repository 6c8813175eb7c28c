"""Runs infer.py on files that are wrong in one way or another, and looks at whether it says so.

    python -m tests.fuzz --cases 10000 --seed 0 [--kinds image tiff latents zarr weights config] [--keep FOLDER]
    python -m tests.fuzz --seconds 20

A case is well if nothing is a traceback, or takes more than 5 seconds or 300 MiB beyond an undisturbed run, the exit
code is 0, 1 or 2, each file that is not done is named in one line, sound files beside it are done, and no result is
another one than that of the sound file where damage can be known: PNG, latents, weights. Several cases share a command;
where something is wrong, each is tried alone. Prints a line for each case that is not well, and the counts.
Exit code: 0 where all are well.
"""

import argparse
import os
import random
import re
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import PIL.Image

import infer
from images import reading
from inversion import jobs
from tests.conftest import write_inverter
from tests.faults.forks import MODULES, fork, import_as, log, prepare
from tests.fuzz import mutations
from tests.inversion.conftest import photograph, tiny_inverter

SECONDS, PATIENCE, MIB = 5.0, 60.0, 300  # of computing, of waiting, of memory
ADDRESSES = 4 * 2**30  # bytes of addresses beyond those of this process
TOGETHER = {"image": 20, "tiff": 20, "latents": 20, "zarr": 10, "weights": 1, "config": 1}  # cases of a command
SHARES = {"image": 35, "tiff": 20, "latents": 15, "zarr": 10, "weights": 10, "config": 10}  # of a hundred cases
CONFIG = """infer:
  seed: 3
  noise: field
  block: 16
  memory_mib: 256
  max_pixels: 1000000
  format: png
  depth: 8
  comparison: false
  latents: none
  save_float: false
  channels: null
"""
SOUND = "sound"  # name of the file that is not wrong


@dataclass(frozen=True)
class Outcome:
    """What became of a command."""

    code: int
    said: str
    seconds: float
    mib: float


class Fuzzer:
    """Makes files, runs commands and judges them."""

    def __init__(self, folder: Path, seed: int, keep: Path | None) -> None:
        self.folder, self.seed, self.keep = folder, seed, keep
        self.counts, self.bad = Counter(), Counter()
        self.seeds = {"image": mutations.images(), "tiff": mutations.tiffs()}
        self.checkpoint = folder / "tiny.safetensors"
        write_inverter(self.checkpoint, tiny_inverter())
        (folder / "all").mkdir()
        for files in self.seeds.values():
            for name, data in files.items():
                (folder / "all" / name).write_bytes(data)
        PIL.Image.fromarray(photograph(20, 24)).save(folder / f"{SOUND}.png")
        given, modules = ["--input", str(folder / "all")], folder / "modules"
        first = self.run([*given, *self.options("safetensors")], folder / "whole", {MODULES: str(modules)})
        if first.code:
            raise RuntimeError(f"sound files fail: {first}")
        import_as(modules)
        again = self.run([*given, *self.options("zarr")], folder / "folders")
        self.usual = again.mib
        for kind in ("safetensors", "zarr"):
            source = folder / {"safetensors": "whole", "zarr": "folders"}[kind] / "latents"
            self.seeds["latents" if kind == "safetensors" else "zarr"] = {
                path.name: path for path in source.iterdir() if path.name.startswith(("rgb", "grey"))
            }
        drawn = ["--latents", str(folder / "whole/latents"), *self.options("none")]
        self.run(drawn, folder / "drawn")

    def options(self, latents: str) -> list[str]:
        """Those of all commands."""
        return ["--checkpoint", str(self.checkpoint), "device=cpu", "comparison=false", f"latents={latents}"]

    def run(self, arguments: list[str], output: Path, environment: dict | None = None) -> Outcome:
        """infer.py in a process of its own."""
        said = self.folder / "said"

        def bounded() -> None:
            limit = _addresses() + ADDRESSES
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

        pid = fork(infer.main, [*arguments, "--output", str(output)], said, bounded, environment or {})
        handle = os.pidfd_open(pid)
        if not select.select([handle], [], [], PATIENCE)[0]:
            os.kill(pid, signal.SIGKILL)
        os.close(handle)
        _, status, used = os.wait4(pid, 0)
        code, seconds = os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime
        return Outcome(code, said.read_text(errors="replace"), seconds, used.ru_maxrss / 1024)

    def cases(self, kind: str, numbers: list[int]) -> None:
        """Run cases together, and alone if something is not well."""
        reasons = self.attempt(kind, numbers)
        if reasons and len(numbers) > 1:
            for number in numbers:
                self.cases(kind, [number])
            return
        self.counts[kind] += len(numbers)
        for reason in reasons[:1]:
            self.bad[kind] += 1
            print(f"{kind} {numbers[0]} (seed {self.seed}): {reason}", flush=True)
            if self.keep:
                kept = self.keep / f"{kind}-{self.seed}-{numbers[0]}"
                shutil.copytree(self.folder / "case", kept, dirs_exist_ok=True)

    def attempt(self, kind: str, numbers: list[int]) -> list[str]:
        """What is not well with cases that share a command."""
        case, output = self.folder / "case", self.folder / "output"
        for place in (case, output):
            shutil.rmtree(place, ignore_errors=True)
        case.mkdir()
        origins = {}  # by the name of the mutated file: that of the sound one, and whether damage can be known
        for number in numbers:
            chance = random.Random(f"{self.seed} {kind} {number}")
            name, made, known = self.make(kind, number, case, chance)
            origins[made] = name, known
        given = ["--input", str(self.folder / f"{SOUND}.png")]
        if kind in ("image", "tiff"):
            shutil.copy(self.folder / f"{SOUND}.png", case)
            arguments = ["--input", str(case), *self.options("none")]
        elif kind in ("latents", "zarr"):
            arguments = ["--latents", str(case), *self.options("none")]
        elif kind == "weights":
            arguments = [*given, *self.options("none"), "--checkpoint", str(case / "tiny.safetensors")]
        else:
            config = ["--config", str(case / "config.yaml"), "device=cpu"]
            arguments = [*given, "--checkpoint", str(self.checkpoint), *config]
        reading.WINDOWED = 2**24 * (numbers[0] // 10 % 2)  # small images by window, or decoded whole
        return list(self.judge(kind, self.run(arguments, output), output, origins))

    def make(self, kind: str, number: int, case: Path, chance: random.Random) -> tuple[str, str, bool]:
        """Write a case; the names of what it was made of, and of what was made; whether damage can be known."""
        if kind == "weights":
            return "rgb.png", SOUND, mutations.weights(self.checkpoint, case / "tiny.safetensors", chance)
        if kind == "config":
            (case / "config.yaml").write_bytes(mutations.config(CONFIG, chance))
            return "rgb.png", SOUND, False
        name = chance.choice(sorted(self.seeds[kind]))
        stem, suffix = name.split(".")[0], Path(name).suffix
        source, path = self.seeds[kind][name], case / f"{stem}-{number}{suffix}"
        if kind == "zarr":
            shutil.copytree(source, path)
            mutations.zarr_folder(path, chance)
            return name, path.name, True
        if kind == "latents":
            path.write_bytes(mutations.described(source.read_bytes(), chance))
            return name, path.name, True
        data, known = (mutations.image if kind == "image" else mutations.tiff)(source, chance)
        path.write_bytes(data)
        return name, path.name, known

    def judge(self, kind: str, outcome: Outcome, output: Path, origins: dict) -> Iterator[str]:
        """Yields what is not well."""
        said = outcome.said.replace("\r", "\n")
        if outcome.code not in (0, 1, 2) or "Traceback" in said:
            yield f"exit code {outcome.code}: {said[-1500:]}"
        if outcome.seconds > SECONDS:
            yield f"{outcome.seconds:.1f} s of computing"
        if outcome.mib - self.usual > MIB:
            yield f"{outcome.mib - self.usual:.0f} MiB more than usual"
        named = [line for line in said.splitlines() if line.startswith(("error:", "failed:"))]
        if kind in ("weights", "config"):
            if len(named) != bool(outcome.code):
                yield f"exit code {outcome.code} and {len(named)} lines: {said[-500:]}"
            ((name, known),) = origins.values()
            if known and not outcome.code and not self.same(output, SOUND, name):
                yield "another result, though damage can be known"
            return
        if kind in ("image", "tiff") and not (output / f"reconstruction/{SOUND}.png").exists():
            yield f"the sound file is not done: {said[-500:]}"
        for made, (name, known) in origins.items():
            lines = [line for line in named if f"{made}:" in line or f"{made} " in line]
            stem = made.rpartition(".")[0]
            done = [path for path in output.glob(f"reconstruction/{stem}.*") if path.suffix == ".png"]
            if len(lines) + len(done) != 1:
                told = self.folder.joinpath("said.out").read_text()
                left_out = re.search(rf"left out.*{re.escape(Path(made).suffix)}", told)
                if lines or done or not left_out:
                    yield f"{made}: {len(lines)} lines and {len(done)} results: {said[-500:]}"
            if known and done and f"{made}:" not in said and not self.same(output, stem, name):
                yield f"{made}: another result, though damage can be known"

    def same(self, output: Path, stem: str, name: str) -> bool:
        """Whether a result is that of the sound file of a name."""
        whole = self.folder / ("drawn" if name.endswith((".safetensors", ".zarr")) else "whole") / "reconstruction"
        names = {path.name for path in whole.iterdir()}
        expected = next(each for each in (f"{name}.png", f"{name.rpartition('.')[0]}.png") if each in names)
        return (output / f"reconstruction/{stem}.png").read_bytes() == (whole / expected).read_bytes()


def _addresses() -> int:
    """Bytes of addresses that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def main() -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000, help="in all")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="after which no other command begins")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=SHARES, default=list(SHARES))
    parser.add_argument("--keep", type=Path, help="folder for files of cases that are not well")
    options = parser.parse_args()
    prepare()
    jobs.HELD = 2**22  # small images in memory, as elsewhere
    with tempfile.TemporaryDirectory() as folder:
        fuzzer, begun, done = Fuzzer(Path(folder), options.seed, options.keep), time.monotonic(), Counter()
        total = sum(SHARES[kind] for kind in options.kinds)
        while sum(done.values()) < options.cases and time.monotonic() - begun < options.seconds:
            kind = min(options.kinds, key=lambda kind: done[kind] / SHARES[kind])
            count = min(TOGETHER[kind], max(1, options.cases * SHARES[kind] // total - done[kind]))
            fuzzer.cases(kind, list(range(done[kind], done[kind] + count)))
            done[kind] += count
            if sum(done.values()) // 500 > (sum(done.values()) - count) // 500:
                log(f"{sum(done.values())} cases, {sum(fuzzer.bad.values())} not well")
    for kind in options.kinds:
        print(f"{kind}: {fuzzer.counts[kind]} cases, {fuzzer.bad[kind]} not well")
    return int(sum(fuzzer.bad.values()) > 0)


if __name__ == "__main__":
    sys.exit(main())
