"""A run over many images that can be killed at any moment: the same command goes on where it stopped.

What is unfinished lies in OUTPUT/.unfinished: the settings of the run, and a folder for each image with its blocks so
far (large images) and, when it is done, its record. A run of other settings starts anew. Several workers of one run
tell each other here what they have done.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from images.reading import ImageError
from inversion.inputs import begin, make_folder, memory_errors
from inversion.latents import FILE, FOLDER
from inversion.outputs import KINDS, Record, write_figures
from utils import log
from utils.distributed import LostWorker, ProcessGroup
from utils.errors import UserError
from utils.files import atomic_path, remove_all_stale, remove_tree, replace_folder

UNFINISHED = ".unfinished"
FIGURES_EVERY = 10.0  # seconds between updates of metrics.csv and summary.json


@dataclass(frozen=True)
class Outcome:
    """What has become of an image: its row of the table and the files of its results, or the reason of a failure."""

    record: Record | None
    files: list[str] = field(default_factory=list)  # below the folder of the results
    failed: str = ""


@dataclass(frozen=True)
class Item:
    """An image of a run."""

    path: Path
    name: str  # of its results
    output: Path  # folder of the results
    folder: Path  # of the unfinished work on it

    @property
    def pixels(self) -> Path:
        """The folder of its pixels so far."""
        return self.folder / f"pixels{FOLDER}"

    @property
    def refined(self) -> Path:
        """The folder of the state of its refinement."""
        return self.folder / "refined"

    def latents(self, suffix: str) -> Path:
        """The file or folder of its latents so far."""
        return self.folder / f"latents{suffix}"

    def enter(self, outcome: Outcome) -> None:
        """Store what has become of it."""
        text = json.dumps(asdict(outcome))
        with atomic_path(self.folder / "record.json", sync=False) as path:
            path.write_text(text, encoding="utf-8")

    def outcome(self) -> Outcome | None:
        """What has become of it; None if it is not done yet, or a file of its results is missing."""
        outcome = self._entered()
        return outcome if outcome and all((self.output / file).exists() for file in outcome.files) else None

    def finish(self, record: Record, files: list[str]) -> None:
        """Enter the record of an image whose results are written, but for the latents that move: they do now."""
        self.enter(Outcome(record, files))
        self.settle()

    def fail(self, error: UserError) -> Outcome:
        """Store the reason of a failure, where the disk allows; what is damaged is not gone on with."""
        outcome = Outcome(None, failed=str(error))
        with suppress(UserError):
            self.enter(outcome)
        if isinstance(error, ImageError) and not _passing(error.__cause__):
            self.discard()
        return outcome

    def settle(self) -> None:
        """Move latents that were recorded but not moved yet to their place, and remove the pixels of a done image."""
        outcome = self._entered()
        if outcome is None or outcome.failed:
            return
        folders = [name for name in outcome.files if name.endswith(FOLDER)]
        if folders and self.latents(FOLDER).exists():
            replace_folder(self.latents(FOLDER), self.output / folders[0])
        self.discard()

    def _entered(self) -> Outcome | None:
        try:
            values = json.loads((self.folder / "record.json").read_text(encoding="utf-8"))
            record = values["record"] and Record(**values["record"])
            return Outcome(record, values["files"], values["failed"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def discard(self) -> None:
        """Remove the unfinished work on it."""
        for path in (self.pixels, self.latents(FILE), self.latents(FOLDER), self.refined):
            remove_tree(path)

    @property
    def begun(self) -> bool:
        """Whether there are blocks to go on from."""
        return self.pixels.exists() or self.latents(FOLDER).exists()


class Run:
    """A run over files: what is done, what is to do, and the figures of all."""

    def __init__(self, files: dict[Path, str], output: Path, settings: dict, world: ProcessGroup) -> None:
        self.output, self.settings, self.world = output, settings, world
        self.items = [Item(path, name, output, output / UNFINISHED / key(path, name)) for path, name in files.items()]
        self._known: dict[str, Outcome] = {}
        self._written = time.monotonic()

    @property
    def failed(self) -> dict[str, str]:
        """The reason of each failure, by name, in the order of the input."""
        return {name: outcome.failed for name, outcome in self._in_order() if outcome.failed}

    @property
    def records(self) -> list[Record]:
        """The rows of the images that are done, in the order of the input."""
        return [outcome.record for _, outcome in self._in_order() if outcome.record]

    def to_do(self, identity: dict) -> list[Item]:
        """Begin, or go on; `identity`: what must be equal for that. The images that are to do, in all workers."""
        if self.world.main:
            self._prepare(json.loads(json.dumps(identity)))
        self.world.any_rank()
        for item in self.items:
            outcome = item.outcome()
            if outcome:
                self._known[item.name] = outcome
        self.world.any_rank()  # from now on others may add to what is done
        if self.world.main and (self._known or any(item.begun for item in self.items)):
            log.info(f"note: going on with an unfinished run: {len(self._known)} of {len(self.items)} images done")
        return [item for item in self.items if item.name not in self._known]

    def _prepare(self, identity: dict) -> None:
        """Keep what an earlier run of this identity left, and clear away what is no use."""
        begin(self.output, KINDS)
        folder = self.output / UNFINISHED
        remove_all_stale(folder)
        try:
            found = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = None
        if found != identity:
            if found is not None:
                log.info(f"note: {self.output}: the unfinished run there has other settings; everything starts anew")
            remove_tree(folder)
            with atomic_path(folder / "run.json", sync=False) as path:
                path.write_text(json.dumps(identity, indent=2) + "\n", encoding="utf-8")
        for item in self.items:
            item.settle()
            outcome = item.outcome()
            if outcome is None or outcome.failed:
                (item.folder / "record.json").unlink(missing_ok=True)

    @contextmanager
    def attempt(self, item: Item) -> Iterator[None]:
        """The work on an image: if it fails, that is recorded and told, and the others are done."""
        with failure_of(item) as failures:
            yield
        for error in failures:
            self._known[item.name] = item.fail(error)
            if self.world.main:
                log.error(f"failed: {error}")
        self.report([item])

    def report(self, items: Iterable[Item]) -> None:
        """Tell what has become of images, as far as that is new; now and then that of all, and the figures."""
        if not self.world.main:
            return
        late = time.monotonic() - self._written > FIGURES_EVERY
        for item in self.items if late else items:
            outcome = None if item.name in self._known else item.outcome()
            if outcome:
                self._known[item.name] = outcome
                if outcome.failed:
                    log.error(f"failed: {outcome.failed}")
                else:
                    log.info(line(outcome.record))
        if late:
            self.write_figures()

    def write_figures(self) -> None:
        """metrics.csv and summary.json of what is done."""
        write_figures(self.output, self.records, self.failed, self.settings)
        self._written = time.monotonic()

    def stop(self) -> None:
        """Tell what is done, when no more will be."""
        if self.world.main:
            self.report(self.items)
            self.write_figures()

    def close(self) -> int:
        """The end of a run whose images are all done or failed; the exit code.

        What is unfinished is removed, unless an image failed that can be gone on with (a full disk).
        """
        self.world.any_rank()
        outcomes = [*map(Item.outcome, self.items), *self._known.values()]
        failed = self.world.any_rank(any(outcome and outcome.failed for outcome in outcomes))
        if self.world.main:
            self.stop()
            if not any(item.begun for item in self.items):
                remove_tree(self.output / UNFINISHED)
            else:
                log.info("note: the same command goes on with what is unfinished")
            log.info(f"{len(self.records)} of {len(self.items)} images done; results in {self.output}")
        self.world.any_rank()  # torchrun ends the others when one leaves with an error
        return int(failed)

    def _in_order(self) -> Iterator[tuple[str, Outcome]]:
        return ((item.name, self._known[item.name]) for item in self.items if item.name in self._known)


@contextmanager
def only_run(output: Path, world: ProcessGroup) -> Iterator[None]:
    """Makes the folder of the results and keeps other runs out of it; UserError where one is in it.

    Only the main worker does.
    """
    if not world.main:
        yield
        return
    make_folder(output)
    handle = os.open(output, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"--output {output}: another run is writing there") from error
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(handle)


@contextmanager
def step(world: ProcessGroup, item: Item) -> Iterator[None]:
    """A part of the work on an image that all workers do; where it fails in one of them, it fails in all."""
    with failure_of(item) as failures:
        yield
    for error in failures:
        with suppress(UserError):
            item.enter(Outcome(None, failed=str(error)))
    if world.any_rank(bool(failures)):
        outcome = item.outcome()
        told = outcome.failed if outcome else f"{item.path}: failed in another worker"
        raise failures[0] if failures else UserError(told)


@contextmanager
def failure_of(item: Item) -> Iterator[list[UserError]]:
    """What the work on an image fails with, if it does: a list that is empty or holds one. A lost worker ends all."""
    failures: list[UserError] = []
    try:
        with memory_errors(item.path):
            yield failures
    except LostWorker:
        raise
    except UserError as error:
        failures.append(error)


def _passing(cause: BaseException | None) -> bool:
    """Whether an image may be read another time: the disk or the memory failed, not the decoder."""
    return isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno is not None)


def key(path: Path, name: str) -> str:
    """A short name for an image as it is now: another file, or a changed one, has another."""
    file = path / "zarr.json" if path.is_dir() else path
    try:
        status = file.stat()
        version = f"{status.st_size} {status.st_mtime_ns}"
    except OSError:
        version = "missing"
    return hashlib.sha256(f"{name}\n{version}".encode()).hexdigest()[:16]


def line(record: Record) -> str:
    """One line on a finished image."""
    quality = "" if record.psnr is None else f"  PSNR {record.psnr:.2f} dB  SSIM {record.ssim:.3f}"
    return (
        f"{record.name}  {record.height} x {record.width}{quality}  {record.seconds:.2f} s"
        f"  peak {record.peak_memory_mib:.0f} MiB"
    )
