"""A run over many images that can be killed at any moment: the same command goes on where it stopped.

What is unfinished lies in OUTPUT/.unfinished: the settings of the run, and a folder for each image with the arrays that
its blocks are written into (zarr: a chunk that is there is done) and, when it is done, its state. A run of other
settings starts anew. The processes of a run share the images, or the blocks of each, and tell each other through these
files what they have done. Under `finished` OUTPUT/summary.json says what results of all runs into the folder were made
of: an image whose results are there, of the same file and settings, is not done again.
"""

from __future__ import annotations

import gc
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from pydantic import TypeAdapter
from torch import Tensor

from images.reading import Image, ImageError
from images.writing import SUFFIXES, TILES
from inversion.inverter import PatchInverter
from inversion.latents import FOLDER, WRONG, Latents, create_zarr, is_ours
from inversion.latents import SUFFIXES as LATENTS
from inversion.noise import FieldNoise, NoiseSpec
from inversion.refinement import State, Step
from inversion.styles import ArrayLike
from models.geometry import Region
from utils import log
from utils.device import release_freed_memory
from utils.distributed import LostWorker, ProcessGroup
from utils.errors import UserError, naming
from utils.files import (
    LARGEST_JSON,
    atomic_path,
    only_files,
    read_file,
    read_json,
    refusals,
    regular_size,
    remove_tree,
    require_space,
)
from utils.tables import read_table, write_table

HELD = 2**22  # pixels, from which on an image is drawn on the disk
UNFINISHED = ".unfinished"
TABLE, SUMMARY_FILE = "metrics.csv", "summary.json"
ENCODED = "latents.zarr/structure"  # array of a job, in a folder that can become a latent folder
PLACES = {  # folders of results, and the suffixes of what is in them
    "reconstruction": (*SUFFIXES.values(), TILES),
    "comparison": (*SUFFIXES.values(), TILES),
    "float": (".npy",),
    "latents": LATENTS,
}
PARTIAL = ".partial"  # suffix of the chunks that zarr had not written whole when it was killed


@dataclass(frozen=True)
class Row:
    """A row of metrics.csv. psnr (dB) and ssim are those of the 8-bit result; None where there is no input image.

    `seconds`: of the run that finished the image, which may have found blocks of an earlier one.
    """

    name: str
    height: int  # pixels
    width: int
    psnr: float | None
    ssim: float | None
    seconds: float
    megapixels_per_second: float
    peak_memory_mib: float

    def line(self) -> str:
        """One line on the image."""
        quality = "" if self.psnr is None else f"  PSNR {self.psnr:.2f} dB  SSIM {self.ssim:.3f}"
        size = f"{self.name}  {self.height} x {self.width}"
        return f"{size}{quality}  {self.seconds:.2f} s  peak {self.peak_memory_mib:.0f} MiB"


@dataclass(frozen=True)
class JobState:
    """What has become of an image: its row of the table and the files of its results, or the reason of a failure."""

    row: Row | None
    files: list[str] = field(default_factory=list)  # below the folder of the results, see `_path`
    failed: str = ""


@dataclass(frozen=True)
class Finished:
    """What the results of an image were made of."""

    key: str  # of the input as it was, see `_key`
    settings: str  # digest of weights and options
    files: dict[str, int | None]  # of the results, below their folder, and their bytes; None for folders


@dataclass(frozen=True)
class Summary:
    """What is read of summary.json."""

    finished: dict[str, Finished]  # by the names of the results


STATE, SUMMARY, ROW = TypeAdapter(JobState), TypeAdapter(Summary), TypeAdapter(Row)


class Damaged(UserError):
    """What an earlier run left is not what it wrote."""


@dataclass(frozen=True)
class Scratch:
    """A zarr array whose chunks are the blocks of a job. UserError where the disk refuses, or has damaged them."""

    path: Path
    values: zarr.Array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def dtype(self) -> np.dtype:
        return self.values.dtype

    @property
    def chunks(self) -> tuple[int, ...]:
        """The shape of a block."""
        return self.values.chunks

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        """As `ArrayLike`."""
        try:
            return self.values[index]
        except (OSError, ValueError) as error:
            raise Damaged(f"{self.path}: damaged; the same command makes it anew") from error

    def __setitem__(self, index: tuple[slice, ...], values: np.ndarray) -> None:
        with refusals(self.path):
            self.values[index] = values

    def missing(self, blocks: Iterable[Region], whole: Region) -> list[Region]:
        """The blocks of the region that this array [H, W, 3] or [C, h, w] holds whose chunks are not there."""
        first, missing = 1 if self.shape[1:] == whole.shape else 0, []
        for block in blocks:
            index = [0, 0, 0]
            for axis, part in enumerate(block.slices_in(whole), first):
                index[axis] = part.start // self.chunks[axis]
            if not Path(self.path, "c", *map(str, index)).exists():
                missing.append(block)
        return missing


@dataclass(frozen=True)
class Job:
    """The work on one image of a run."""

    path: Path
    name: str  # of its results
    output: Path  # folder of the results
    folder: Path  # of the unfinished work on it
    group: ProcessGroup  # the processes that share its blocks

    def on_disk(self, size: tuple[int, int], steps: int = 0) -> bool:
        """Whether the arrays of an image of (height, width), refined by so many steps, lie on the disk.

        So an image that takes long goes on at its next block, and several processes see what each has done.
        """
        return self.group.size > 1 or size[0] * size[1] * max(1, steps / 16) > HELD

    def require_space(self, needed: int) -> None:
        """UserError where the disk has no room for so many bytes, of which some may be there from an earlier run."""
        files = (Path(where, name) for where, _, names in os.walk(self.folder) for name in names)
        require_space(self.output, needed - sum(_size(file) or 0 for file in files))

    def array(self, name: str, shape: Sequence[int], chunks: Sequence[int], dtype: str) -> Scratch:
        """An array in the job's folder, as an earlier run left it, or a new one; chunks are the blocks.

        All processes call it, and the first one makes it.
        """
        path = self.folder / name
        if self.group.main and not _fits(path, shape, chunks, dtype):
            remove_tree(path)
            with refusals(path):
                create_zarr(path, shape, chunks, dtype)
        self.wait()
        return Scratch(path, zarr.open_array(str(path), mode="r+"))

    def pending(self, array: ArrayLike, blocks: Iterable[Region], whole: Region, task: str) -> Iterable[Region]:
        """This process's share of the blocks of a region that an array [H, W, 3] or [C, h, w] lacks, with a bar.

        Each process has looked when it returns.
        """
        blocks = list(blocks)
        if isinstance(array, Scratch):
            self.wait()
            blocks = array.missing(blocks, whole)
            self.wait()  # nobody begins while another still looks
        blocks = blocks[self.group.rank :: self.group.size]
        return log.progress(blocks, f"{self.title}: {task}", main=self.group.main)

    def steps(self, shape: Sequence[int], blocks: Sequence[Region], cells: Region, count: int) -> Iterator[Step]:
        """The steps of a refinement of latents [C, h, w] that are not done; a state goes when it is no more needed."""
        folder, chunks = self.folder / "refined", (shape[0], *blocks[0].shape)
        there = {path.name for path in folder.glob("*")}
        begun = max((step for step in range(1, count + 1) if str(step) in there), default=1)  # not done yet
        self.wait()  # nobody begins the next one while another still looks

        def state(step: int) -> State:
            names = (f"refined/{step}/{name}" for name in ("latents", "momentum"))
            return State(*(self.array(name, shape, chunks, "float32") for name in names))

        before = state(begun - 1) if begun > 1 else None
        if before and (before.latents.missing(blocks, cells) or before.momentum.missing(blocks, cells)):
            raise Damaged(f"{folder}: damaged; the same command makes it anew")
        for step in range(begun, count + 1):
            after = state(step)
            if self.group.main:
                remove_tree(folder / str(step - 2))
            whole = len(after.latents.missing(blocks, cells)) == len(blocks)
            todo = self.pending(after.latents, blocks, cells, f"refine {step}/{count}")
            yield Step(before, after, todo, blocks[self.group.rank :: self.group.size], whole)
            self.wait()
            before = after

    def wait(self, failed: bool = False) -> None:
        """Return when all processes of the job are here; UserError where it has failed in one of them."""
        if self.group.any(failed)[0] and not failed:
            raise FailedElsewhere(f"{self.path}: failed in another process")

    def enter(self, state: JobState) -> None:
        """Store what has become of the image."""
        with atomic_path(self.folder / "state.json", sync=False) as path:
            path.write_text(json.dumps(asdict(state)), encoding="utf-8")

    def state(self) -> JobState | None:
        """What has become of the image; None if it is not done yet, or a file of its results is missing."""
        state = _read(STATE, self.folder / "state.json")
        return state if state and (state.failed or self.holds(state)) else None

    def holds(self, state: JobState) -> bool:
        """Whether the results that a state names are those of this image, and there."""
        title = self.title
        known = {f"{folder}/{title}{suffix}" for folder, suffixes in PLACES.items() for suffix in suffixes}
        ours = state.row and state.row.name == title and state.files and known.issuperset(state.files)
        return bool(ours) and all(os.path.exists(_path(self.output, file)) for file in state.files)

    @property
    def title(self) -> str:
        """The name of the image in tables and messages."""
        return log.printable(self.name)

    def discard(self) -> None:
        """Remove the arrays."""
        for path in self.arrays():
            remove_tree(path)

    def arrays(self) -> list[Path]:
        """Where there are blocks to go on from."""
        return _arrays(self.folder)


def noise_of(options: dict) -> NoiseSpec | None:
    """The texture noise of photographs that `noise` (field | none) and `seed` of a section ask for."""
    return FieldNoise(options.seed) if options.noise == "field" else None


def invert(model: PatchInverter, job: Job, image: Image, options: dict) -> Latents:
    """Encode and refine an image as `infer` options say; its structure lies in memory, or in the job's folder."""
    size, steps, noise = (image.height, image.width), options.refine, noise_of(options)
    on_disk, shape, cells = job.on_disk(size, steps), model.structure_shape(size, options.channels), model.cells(size)
    held = image.held + (0 if on_disk or not steps else 16 * int(np.prod(shape)))
    blocks = list(model.cell_blocks(size, held, refined=steps > 0))
    chunks = shape[0], *blocks[0].shape
    out = job.array(ENCODED, shape, chunks, "float32") if on_disk else np.empty(shape, np.float32)
    todo = job.pending(out, blocks, cells, "encode")
    latents = model.encode(
        image, style_steps=options.refine_style, noise=noise, out=out, blocks=todo, channels=options.channels,
        wait=job.wait,
    )  # fmt: skip
    if not steps:
        return latents

    def average(values: list[Tensor]) -> None:
        job.wait()  # none has failed
        job.group.average(values)

    todo = job.steps(shape, blocks, cells, steps) if on_disk else steps
    return model.refine(latents, image, todo, prior=options.refine_prior, average=average)


class FailedElsewhere(UserError):
    """The work on an image has failed in another process, which names the reason."""


class InversionRun:
    """A run over files: what is done, what is to do, and the figures of all."""

    def __init__(self, files: dict[Path, str], output: Path, settings: dict, group: ProcessGroup) -> None:
        """`files`: the names of the results by input; `settings`: for summary.json; `group`: the processes."""
        self.output, self.settings, self.group = output, settings, group
        self.rows: dict[str, Row] = {}  # of the table, by name; these three are known to the main process
        self.finished: dict[str, Finished] = {}
        self.kept = 0  # images that are not done again
        shared = len(files) < group.size  # then the processes share the blocks of each image
        self.team = group if shared else ProcessGroup()
        folders = {path: output / UNFINISHED / _key(path, name) for path, name in files.items()}
        self.jobs = [Job(path, name, output, folders[path], self.team) for path, name in files.items()]

    def results(self) -> list[Path]:
        """What the run may write or clear away; of the pictures and latents, those that are there already."""
        always = [self.output / name for name in (TABLE, SUMMARY_FILE, UNFINISHED)]
        there = [f"{folder}/{{}}{suffix}" for folder, suffixes in PLACES.items() for suffix in suffixes
                 if (self.output / folder).is_dir()]  # fmt: skip
        found = (os.path.join(self.output, place.format(job.name)) for job in self.jobs for place in there)
        return always + [Path(path) for path in found if os.path.lexists(path)]

    def begin(self, identity: dict) -> list[Job]:
        """Begin, or go on; `identity`: what must be equal for that. The jobs of this process that are to do."""
        if self.group.main:
            self._prepare(json.loads(json.dumps(identity)))
        self.group.wait()
        todo = [job for job in self.jobs if job.state() is None]
        begun = len(todo) + self.kept < len(self.jobs) or any(job.arrays() for job in todo)
        self.group.wait()  # from now on others may add to what is done
        if self.kept:
            log.info(f"note: {self.kept} of {len(self.jobs)} images are there already (overwrite=true does them anew)")
        if self.group.main and begun:
            done = len(self.jobs) - len(todo)
            log.info(f"note: going on with an unfinished run: {done} of {len(self.jobs)} images done")
        return todo if self.team.size > 1 else todo[self.group.rank :: self.group.size]

    def _prepare(self, identity: dict) -> None:
        """Keep what earlier runs left that is of use, and clear away what is not."""
        folder = self.output / UNFINISHED
        self.rows = _read_rows(self.output / TABLE)
        self.finished = getattr(_read(SUMMARY, self.output / SUMMARY_FILE), "finished", {})
        try:
            found = read_json(folder / "run.json")
        except (OSError, ValueError):
            found = None
        ours = _is_ours(folder)
        if ours and isinstance(found, dict):
            for path in folder.glob("*/state.json"):
                self._enter(path.parent.name, _digest(found), _read(STATE, path))
        if found != identity or not ours:
            if found is not None:
                log.info(f"note: {self.output}: the unfinished run there has other settings; everything starts anew")
            remove_tree(folder)
            with atomic_path(folder / "run.json", sync=False) as path:
                path.write_text(json.dumps(identity, indent=2) + "\n", encoding="utf-8")
        keys, anew = {job.folder.name.partition("-")[0]: job.folder for job in self.jobs}, 0
        for path in folder.glob("*-*"):
            if keys.get(path.name.partition("-")[0], path) != path:  # of the file as it was
                remove_tree(path)
        for job in self.jobs:
            state = job.state()
            done = None if self.settings["infer"]["overwrite"] else self._done(job)
            if state is None and done:
                job.enter(done)
                self.kept += 1
            elif state is None or state.failed:
                (job.folder / "state.json").unlink(missing_ok=True)
                anew += job.title in self.finished
            else:
                job.discard()
        if anew and not self.settings["infer"]["overwrite"]:
            log.info(f"note: {anew} of {len(self.jobs)} images are done anew: they are of other files or options")

    def _enter(self, key: str, settings: str, state: JobState | None) -> None:
        """Note an image that was done with settings of this digest, if it was."""
        if state and state.row:
            self.rows[state.row.name] = state.row
            sizes = {file: _size(_path(self.output, file)) for file in state.files}
            self.finished[state.row.name] = Finished(key, settings, sizes)

    def _done(self, job: Job) -> JobState | None:
        """The state of an image whose results are there, of its file as it is now and of these settings."""
        row, found = self.rows.get(job.title), self.finished.get(job.title)
        if not row or not found or (found.key, found.settings) != (job.folder.name, _digest(self.settings)):
            return None
        state = JobState(row, list(found.files))
        whole = job.holds(state) and all(_size(_path(self.output, file)) == size for file, size in found.files.items())
        return state if whole else None

    @contextmanager
    def attempt(self, job: Job) -> Iterator[None]:
        """The work on an image: if it fails, that is stored and told, and the others are done."""
        reason, own = "", False
        try:
            with naming(job.path):
                yield
            job.wait()
        except LostWorker:
            raise
        except FailedElsewhere as error:
            reason = str(error)
        except UserError as error:
            reason, own = log.printable(str(error)), True
            with suppress(UserError):  # a full disk
                job.enter(JobState(None, failed=reason))
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
        """Write metrics.csv (a row for each image of all runs into the folder) and summary.json: the means of these,
        and of this run the settings and the images that failed.
        """
        if not self.group.main:
            return
        names, failed = [each.name for each in fields(Row)], {}
        for job in self.jobs:
            if state := job.state():
                self._enter(job.folder.name, _digest(self.settings), state)
                if state.failed:
                    failed[job.title] = state.failed
                    self.rows.pop(job.title, None)  # results that are there are not of this file
        rows = [asdict(self.rows[name]) for name in sorted(self.rows)]
        write_table(self.output / TABLE, names, rows)
        finite = {  # an exact result has an infinite PSNR
            name: [row[name] for row in rows if row[name] is not None and math.isfinite(row[name])]
            for name in names[1:]
        }
        summary = {
            "images": len(rows),
            "failed": failed,
            "mean": {name: sum(values) / len(values) if values else None for name, values in finite.items()},
            "settings": self.settings,
            "finished": {name: asdict(each) for name, each in self.finished.items()},
        }
        with atomic_path(self.output / SUMMARY_FILE) as path:
            path.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")

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
            begun = {path for path in (self.output / UNFINISHED).glob("*") if _arrays(path)}
            if begun & {job.folder for job in self.jobs}:
                log.info("note: the same command goes on with what is unfinished")
            elif begun:
                log.info(f"note: unfinished work on {len(begun)} other images stays in {self.output / UNFINISHED}")
            else:
                remove_tree(self.output / UNFINISHED)
            log.info(f"{done} of {len(self.jobs)} images done; results in {self.output}")
        self.group.wait()  # torchrun ends the others when one leaves with an error
        return int(done < len(self.jobs))


def _read(kind: TypeAdapter, path: Path) -> Any:
    """What a file holds; None where there is none, or of another kind."""
    try:
        return kind.validate_json(read_file(path, LARGEST_JSON), strict=True)
    except (OSError, ValueError):
        return None


def _read_rows(path: Path) -> dict[str, Row]:
    """The rows of a table of ours, by name; none where there is none."""
    names, rows = [each.name for each in fields(Row)], {}
    try:
        for line in read_table(path):
            row = ROW.validate_python({name: line.get(name) or None for name in names})
            rows[row.name] = row
    except (OSError, ValueError):
        return {}
    return rows


def _path(output: Path, file: str) -> Path:
    """A file of results by its name in UTF-8, whatever the locale is."""
    return output / os.fsdecode(file.encode())


def _size(path: Path) -> int | None:
    """The bytes of a file; None for a folder, or nothing."""
    return path.stat().st_size if path.is_file() else None


def _digest(settings: dict) -> str:
    """A short name for what results depend on besides the input."""
    try:
        options = {name: value for name, value in settings["infer"].items() if name != "overwrite"}
        text = json.dumps([settings["weights"], options], sort_keys=True)
    except (KeyError, TypeError, AttributeError, ValueError):  # a foreign file
        return ""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _arrays(folder: Path) -> list[Path]:
    """Where there are blocks to go on from in the folder of a job."""
    try:
        with os.scandir(folder) as entries:
            return [Path(entry) for entry in entries if entry.is_dir()]
    except OSError:  # nothing is begun, or it is a file
        return []


def _fits(path: Path, shape: Sequence[int], chunks: Sequence[int], dtype: str) -> bool:
    """Whether there is an array of these properties."""
    try:
        if regular_size(path / "zarr.json") > LARGEST_JSON:
            return False
        array = zarr.open_array(str(path), mode="r", zarr_format=3)
        expected = tuple(min(pair) for pair in zip(chunks, shape, strict=True))
        return (array.shape, array.chunks, str(array.dtype)) == (tuple(shape), expected, dtype) and is_ours(array)
    except WRONG:
        return False


def _is_ours(folder: Path) -> bool:
    """Whether a folder is of files that a run may have written; removes what was not written whole."""
    if not only_files(folder):
        return False
    for path in folder.rglob(f"*{PARTIAL}"):
        remove_tree(path)
    return True


def _key(path: Path, name: str) -> str:
    """A short name for an image, and one for its file as it is now."""
    return "-".join(hashlib.sha256(os.fsencode(text)).hexdigest()[:16] for text in (name, file_version(path)))


def file_version(path: str | Path) -> str:
    """What changes with a file, or with a folder of latents."""
    path = Path(path)
    file = path / "zarr.json" if path.suffix == FOLDER else path
    try:
        status = os.stat(file)
    except OSError:
        return "missing"
    return f"{status.st_size} {status.st_mtime_ns}"
