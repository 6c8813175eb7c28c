"""A run over many images that can be killed at any moment: the same command goes on where it stopped.

What is unfinished lies in OUTPUT/.unfinished, in a folder for each image (`inversion.jobs`) that is named after the
image, and after its file, weights and options: work of others is not gone on with. The processes of a run share the
images, or the blocks of each, and tell each other through these files what they have done. OUTPUT/summary.json holds
the records of all runs into the folder: an image whose results are there, of the same file and settings, is not done
again.
"""

from __future__ import annotations

import gc
import hashlib
import json
import math
import os
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import TypeVar

import PIL.Image
import torch
from pydantic import TypeAdapter

from images.headers import FORMATS, errors_named, pillow
from images.reading import ImageError
from inversion.jobs import PLACES, RECORD, Damaged, FailedElsewhere, Job, Record, Row, arrays_in, read
from inversion.latents import FOLDER
from utils import log
from utils.device import release_freed_memory
from utils.distributed import SINGLE, LostWorker, ProcessGroup
from utils.errors import UserError, naming
from utils.files import atomic_path, lock_folder, only_files, remove_tree
from utils.tables import write_table

Item = TypeVar("Item")
UNFINISHED = ".unfinished"
TABLE, SUMMARY_FILE = "metrics.csv", "summary.json"
PARTIAL = ".partial"  # suffix of the chunks that zarr had not written whole when it was killed
SMALL = 2**16  # pixels of an image that is computed on one thread
MOST = 8  # of these at a time; beyond, they wait for Python


@dataclass(frozen=True)
class Summary:
    """What summary.json says: of all runs into the folder, and of the last one what failed, and its settings."""

    images: int
    failed: dict[str, str]
    mean: dict[str, float | None]
    settings: dict
    finished: dict[str, Record]  # by the names of the results


SUMMARY = TypeAdapter(Summary)


class InversionRun:
    """A run over files: what is done, what is to do, and the figures of all."""

    def __init__(
        self,
        files: dict[Path, str],  # the names of the results by input
        output: Path,
        settings: dict,  # for summary.json: `weights` and the options `infer` say what results are made of
        machine: list[str],  # what else must be equal for a run to go on with what another one left
        group: ProcessGroup,
    ) -> None:
        self.output, self.settings, self.group = output, settings, group
        self.records: dict[str, Record] = {}  # of what is done, by name; known to the main process
        self.team = group if len(files) < group.size else SINGLE  # that share the blocks of each image
        infer = settings["infer"]
        options = {name: value for name, value in infer.items() if name != "overwrite"}
        self.jobs = []
        for path, name in files.items():
            version = [file_version(path), settings["weights"]]
            folder = output / UNFINISHED / f"{_short(name)}-{_short(version, infer, machine)}"
            self.jobs.append(Job(path, name, output, folder, self.team, _short(version, options)))

    def results(self) -> list[Path]:
        """What the run may write or clear away; of the pictures and latents, those that are there already."""
        always = [self.output / name for name in (TABLE, SUMMARY_FILE, UNFINISHED)]
        there = [f"{folder}/{{}}{suffix}" for folder, suffixes in PLACES.items() for suffix in suffixes
                 if (self.output / folder).is_dir()]  # fmt: skip
        found = (os.path.join(self.output, place.format(job.name)) for job in self.jobs for place in there)
        return always + [Path(path) for path in found if os.path.lexists(path)]

    def do(self, make: Callable[[Job], None], together: bool) -> int:
        """Do all images that are to do, naming in one line each that fails; the exit code of the command.

        `together`: whether small images are done several at a time.
        """
        with lock_folder(self.output) if self.group.main else nullcontext():
            jobs = self.begin()
            bar = log.progress(jobs, "images", "image", main=self.group.main)
            try:
                each(bar, partial(self.attempt, make), lambda job: together and is_small(job.path))
                return self.close()
            except BaseException as error:
                with suppress(UserError):  # a full disk
                    self.write_figures()  # an interrupted run too tells what it has done
                if not isinstance(error, Exception):
                    log.info("note: stopped; the same command goes on from here", self.group.main)
                raise

    def begin(self) -> list[Job]:
        """Begin, or go on: the jobs of this process that are to do."""
        kept = self._prepare() if self.group.main else 0
        self.group.wait()
        todo = [job for job in self.jobs if job.state() is None]
        begun = len(todo) + kept < len(self.jobs) or any(job.arrays() for job in todo)
        self.group.wait()  # from now on others may add to what is done
        if kept:
            log.info(f"note: {kept} of {len(self.jobs)} images are there already (overwrite=true does them anew)")
        if self.group.main and begun:
            done = len(self.jobs) - len(todo)
            log.info(f"note: going on with an unfinished run: {done} of {len(self.jobs)} images done")
        return todo if self.team.size > 1 else todo[self.group.rank :: self.group.size]

    def _prepare(self) -> int:
        """Keep what earlier runs left that is of use, and clear away what is not; how many images are kept."""
        folder, overwrite = self.output / UNFINISHED, self.settings["infer"]["overwrite"]
        self.records = getattr(read(SUMMARY, self.output / SUMMARY_FILE), "finished", {})
        if not only_files(folder):
            remove_tree(folder)
        for path in folder.rglob(f"*{PARTIAL}"):
            remove_tree(path)
        for path in folder.glob("*/state.json"):
            self._note(read(RECORD, path))
        ours = {job.folder.name.partition("-")[0]: job.folder for job in self.jobs}
        stale = [path for path in folder.glob("*") if ours.get(path.name.partition("-")[0], path) != path]
        if any(map(arrays_in, stale)):
            log.info(f"note: {self.output}: unfinished work there is of other files or options; it starts anew")
        for path in stale:
            remove_tree(path)
        kept, anew = 0, 0
        for job in self.jobs:
            state, known = job.state(), self.records.get(job.title)
            if state and not state.failed:
                job.discard()
            elif state is None and known and not overwrite and job.holds(known):
                job.enter(known.row, known.files)
                kept += 1
            else:
                (job.folder / "state.json").unlink(missing_ok=True)
                anew += known is not None
        if anew and not overwrite:
            log.info(f"note: {anew} of {len(self.jobs)} images are done anew: they are of other files or options")
        return kept

    def _note(self, record: Record | None) -> None:
        """Note an image that was done, if it was."""
        if record and record.row:
            self.records[record.row.name] = record

    def attempt(self, make: Callable[[Job], None], job: Job) -> None:
        """Work on an image: if that fails, it is stored and told, and the others are done."""
        reason, own = "", False
        try:
            with naming(job.path):
                make(job)
            job.wait()
        except LostWorker:
            raise
        except FailedElsewhere as error:
            reason = str(error)
        except UserError as error:
            reason, own = log.printable(str(error)), True
            with suppress(UserError):  # a full disk
                job.enter(None, failed=reason)
            job.wait(failed=True)
            cause = error.__cause__
            # another time the image may be read, where the disk or the memory failed, and not the decoder
            passing = isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno is not None)
            if isinstance(error, Damaged) or (isinstance(error, ImageError) and not passing):
                job.discard()  # what is damaged is not gone on with; all processes have let go of it
        if reason:
            cause = None  # its traceback holds what the image took, and is held by this frame
            gc.collect()
            release_freed_memory()
        job.group.wait()  # what one has stored, all see
        state = job.state()
        if state and state.row:
            log.info(state.row.line(), job.group.main)
        elif job.group.main or (own and not state):  # a full disk may not hold the reason
            log.error(f"failed: {state.failed if state else reason}")

    def write_figures(self) -> None:
        """Write metrics.csv (a row for each image of all runs into the folder) and summary.json."""
        if not self.group.main:
            return
        names, failed = [each.name for each in fields(Row)], {}
        for job in self.jobs:
            state = job.state()
            self._note(state)
            if state and state.failed:
                failed[job.title] = state.failed
                self.records.pop(job.title, None)  # results that are there are not of this file
        rows = [asdict(self.records[name].row) for name in sorted(self.records)]
        write_table(self.output / TABLE, names, rows)
        finite = {  # an exact result has an infinite PSNR
            name: [row[name] for row in rows if row[name] is not None and math.isfinite(row[name])]
            for name in names[1:]
        }
        mean = {name: sum(values) / len(values) if values else None for name, values in finite.items()}
        summary = Summary(len(rows), failed, mean, self.settings, self.records)
        with atomic_path(self.output / SUMMARY_FILE) as path:
            path.write_bytes(SUMMARY.dump_json(summary, indent=2) + b"\n")

    def close(self) -> int:
        """The end of a run whose images are all done or failed; the exit code.

        What is unfinished is removed, unless an image failed that can be gone on with (a full disk), or it is of images
        that this run was not given.
        """
        self.group.wait()
        states = [job.state() for job in self.jobs]
        done = sum(bool(state and state.row) for state in states)
        self.group.wait()  # all have looked
        self.write_figures()
        if self.group.main:
            begun = {path for path in (self.output / UNFINISHED).glob("*") if arrays_in(path)}
            if begun & {job.folder for job in self.jobs}:
                log.info("note: the same command goes on with what is unfinished")
            elif begun:
                log.info(f"note: unfinished work on {len(begun)} other images stays in {self.output / UNFINISHED}")
            else:
                remove_tree(self.output / UNFINISHED)
            log.info(f"{done} of {len(self.jobs)} images done; results in {self.output}")
        self.group.wait()  # torchrun ends the others when one leaves with an error
        return int(done < len(self.jobs))


def each(items: Iterable[Item], work: Callable[[Item], None], small: Callable[[Item], bool]) -> None:
    """Work on items in their order, several at a time where they are small.

    PyTorch has one thread for each of these, since more cost more than they gain there, and for the others as many as
    before: what is computed of small ones does not depend on the number of cores, and a core that others keep busy
    holds up none. The first error comes out when what was begun has ended.
    """
    threads, waiting = torch.get_num_threads(), deque()

    def alone(item: Item) -> None:
        torch.set_num_threads(1)  # of this thread of Python
        work(item)

    def finish(most: int) -> None:
        while len(waiting) > most:
            waiting.popleft().result()

    with ThreadPoolExecutor(min(threads, MOST), "image") as pool:
        try:
            for item in items:
                if small(item):
                    future: Future = pool.submit(alone, item)
                    waiting.append(future)
                    finish(2 * MOST)
                else:
                    finish(0)
                    torch.set_num_threads(threads)
                    work(item)
            finish(0)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # those that are begun end all the same
            raise
        finally:
            torch.set_num_threads(threads)


def is_small(path: Path) -> bool:
    """Whether an image has at most SMALL pixels, as its header says; False for what is no image."""
    try:
        with pillow(), errors_named(str(path)):
            if not path.is_file():  # to read a pipe would block
                return False
            with PIL.Image.open(path, formats=FORMATS) as header:
                return header.width * header.height <= SMALL
    except ImageError:
        return False


def file_version(path: str | Path) -> str:
    """What changes with a file, or with a folder of latents."""
    path = Path(path)
    file = path / "zarr.json" if path.suffix == FOLDER else path
    try:
        status = os.stat(file)
    except OSError:
        return "missing"
    return f"{status.st_size} {status.st_mtime_ns}"


def _short(*values: object) -> str:
    """A short name for values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
