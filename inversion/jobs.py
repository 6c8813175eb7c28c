"""The work on one image: it is opened, inverted, drawn, and its results are written.

What takes long lies in the job's folder: arrays that its blocks are written into (zarr: a chunk that is there is done)
and, when it is done, its record. So a job that was killed goes on at its next block, and the processes that share its
blocks see what each has done.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass as checked_dataclass
from torch import Tensor

from images.metrics import ImageMetrics
from images.reading import Image, open_photograph
from images.writing import (
    MOST_PNG_PIXELS,
    SUFFIXES,
    TILES,
    Comparison,
    Rounded,
    picture_kind,
    strips,
    write_npy,
    write_picture,
)
from inversion.inverter import PatchInverter, region_of
from inversion.latents import SUFFIXES as LATENTS
from inversion.latents import WRONG, ChunkRows, Latents, create_zarr, is_ours, latents_suffix
from inversion.noise import FieldNoise, NoiseSpec
from inversion.refinement import State, Step
from inversion.styles import ArrayLike
from models.geometry import Region
from utils import log
from utils.device import peak_memory_mib, release_freed_memory, reset_peak_memory
from utils.distributed import SINGLE, ProcessGroup
from utils.errors import UserError
from utils.files import (
    LARGEST_JSON,
    atomic_path,
    read_file,
    refusals,
    regular_size,
    remove_tree,
    require_space,
)

HELD = 2**22  # pixels, from which on an image is drawn on the disk
PLACES = {  # folders of results, and the suffixes of what is in them
    "reconstruction": (*SUFFIXES.values(), TILES),
    "comparison": (*SUFFIXES.values(), TILES),
    "float": (".npy",),
    "latents": LATENTS,
}


@checked_dataclass(frozen=True, config=ConfigDict(ser_json_inf_nan="strings"))
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
class Record:
    """What has become of an image: its row of the table and the files of its results, or the reason of a failure."""

    made_of: str  # digest of the input as it was, the weights and the options
    row: Row | None
    files: dict[str, int | None]  # of the results, below their folder (see `_path`), and their bytes; None for folders
    failed: str = ""


RECORD = TypeAdapter(Record)


class Damaged(UserError):
    """What an earlier run left is not what it wrote."""


class FailedElsewhere(UserError):
    """The work on an image has failed in another process, which names the reason."""


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
    group: ProcessGroup = SINGLE  # the processes that share its blocks
    made_of: str = ""  # as of a `Record`

    @property
    def title(self) -> str:
        """The name of the image in tables and messages."""
        return log.printable(self.name)

    def on_disk(self, size: tuple[int, int], steps: int = 0) -> bool:
        """Whether the arrays of an image of (height, width), refined by so many steps, lie on the disk."""
        return self.group.size > 1 or size[0] * size[1] * max(1, steps / 16) > HELD

    def require_space(self, needed: int) -> None:
        """UserError where the disk has no room for so many bytes, of which some may be there from an earlier run."""
        files = (Path(where, name) for where, _, names in os.walk(self.folder) for name in names)
        require_space(self.output, needed - sum(_size(file) or 0 for file in files))

    def array(
        self, name: str, shape: Sequence[int], chunks: Sequence[int], dtype: str, on_disk: bool = True
    ) -> Scratch | np.ndarray:
        """An array in memory, or in the job's folder, as an earlier run left it, or a new one; chunks are the blocks.

        All processes call it, and the first one makes it.
        """
        if not on_disk:
            return np.empty(shape, dtype)
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

    def enter(self, row: Row | None, files: Iterable[str] = (), failed: str = "") -> None:
        """Store what has become of the image."""
        sizes = {file: _size(_path(self.output, file)) for file in map(log.printable, files)}
        with atomic_path(self.folder / "state.json", sync=False) as path:
            path.write_bytes(RECORD.dump_json(Record(self.made_of, row, sizes, failed)))

    def state(self) -> Record | None:
        """What has become of the image; None if it is not done yet, or its results are not as they were."""
        record = read(RECORD, self.folder / "state.json")
        return record if record and (record.failed or self.holds(record)) else None

    def holds(self, record: Record) -> bool:
        """Whether the results that a record names are those of this image, and there."""
        known = {f"{place}/{self.title}{suffix}" for place, suffixes in PLACES.items() for suffix in suffixes}
        if not (record.row and record.files and known.issuperset(record.files)):
            return False
        paths = {_path(self.output, file): size for file, size in record.files.items()}
        ours = (record.made_of, record.row.name) == (self.made_of, self.title)
        return ours and all(path.exists() and _size(path) == size for path, size in paths.items())

    def arrays(self) -> list[Path]:
        """Where there are blocks to go on from."""
        return arrays_in(self.folder)

    def discard(self) -> None:
        """Remove the arrays."""
        for path in self.arrays():
            remove_tree(path)


def make(model: PatchInverter, options: dict, photographs: bool, job: Job) -> None:
    """Invert a photograph, or read saved latents; draw the image or a region of it, and write its results."""
    reset_peak_memory(model.device)
    started, image, latents = time.perf_counter(), None, None
    if photographs:
        image = open_photograph(job.path, options.max_pixels, options.memory_mib)
        window = Region.at(0, 0, image.height, image.width)
    else:
        latents = load_latents(model, job.path, options)
        window = window_of(model, latents, options.region, options.scale)
    kinds = choose_pictures(options, window.shape, image)
    floats, on_disk = options.save_float or options.depth > 8, job.on_disk(window.shape, options.refine)
    needed = 3 * math.prod(window.shape) * (on_disk * (4 if floats else 1) + 4 * options.save_float)
    if image:
        copies = on_disk * (1 + 4 * (options.refine > 0)) + (options.latents != "none")
        needed += 4 * math.prod(model.structure_shape(window.shape, options.channels)) * copies
    job.require_space(needed)  # of pictures nobody knows how much before they are compressed
    latents = latents or invert(model, job, image, options)
    pixels = draw(model, job, latents, window, floats, on_disk, options.scale, image.held if image else 0)
    if not job.group.main:
        return
    files = []
    try:
        for file in write_results(job, latents, pixels, image, kinds, options):
            files.append(file)
        job.enter(make_row(model, job.title, pixels, image, started), files)
    except BaseException:
        for path in (job.output / file for file in files):
            remove_tree(path)
            remove_tree(path.with_name(f"{path.stem}{TILES}"))
        raise
    job.discard()


def load_latents(model: PatchInverter, path: Path, options: dict) -> Latents:
    """A latent file, drawn with the noise that `infer` options ask for, else with its own. UserError: see `check`."""
    latents = Latents.load(path)
    model.check(latents, str(path))
    return latents if options.noise is None else replace(latents, noise=noise_of(options))


def window_of(model: PatchInverter, latents: Latents, region: Sequence[int] | None, scale: int = 1) -> Region:
    """The pixels of an image, or of its preview, that are drawn: all, or a region (top, left, bottom, right).

    UserError for what is not inside, or a scale that `PatchInverter.preview` refuses.
    """
    size = latents.size if scale == 1 else model.preview_size(latents.size, scale)
    return Region.at(0, 0, *size) if region is None else region_of(region, size)


def choose_pictures(options: dict, size: tuple[int, int], image: Image | None) -> dict[str, str]:
    """The pictures of an image of (height, width): folder -> kind. UserError if a format does not hold them."""
    kinds, wide = {"reconstruction": picture_kind(options.format, size)}, (size[0], 3 * size[1])
    auto = options.comparison == "auto"
    if image is not None and options.comparison and not (auto and wide[0] * wide[1] > MOST_PNG_PIXELS):
        with suppress(UserError) if auto else nullcontext():
            kinds["comparison"] = picture_kind(options.format, wide)
    return kinds | ({"float": "npy"} if options.save_float else {})


def noise_of(options: dict) -> NoiseSpec | None:
    """The texture noise of photographs that `noise` (field | none) and `seed` of a section ask for."""
    return FieldNoise(options.seed) if options.noise == "field" else None


def invert(model: PatchInverter, job: Job, image: Image, options: dict) -> Latents:
    """Encode and refine an image as `infer` options say; its structure lies in memory, or in the job's folder."""
    size, steps, noise = (image.height, image.width), options.refine, noise_of(options)
    on_disk, shape, cells = job.on_disk(size, steps), model.structure_shape(size, options.channels), model.cells(size)
    held = image.held + (0 if on_disk or not steps else 16 * math.prod(shape))
    blocks = list(model.cell_blocks(size, held, refined=steps > 0))
    out = job.array("latents", shape, (shape[0], *blocks[0].shape), "float32", on_disk)
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


def draw(
    model: PatchInverter,
    job: Job,
    latents: Latents,
    window: Region,  # see `window_of`
    floats: bool,  # float32, neither rounded nor clipped, in place of uint8
    on_disk: bool,  # whether they lie in the job's folder
    scale: int = 1,
    held: int = 0,  # bytes of memory that are taken
) -> ArrayLike:
    """The pixels [H, W, 3] of a window of an image, or of its preview."""
    shape, dtype = (*window.shape, 3), "float32" if floats else "uint8"
    held += 0 if on_disk else math.prod(shape) * np.dtype(dtype).itemsize
    blocks = list(model.pixel_blocks(window, held) if scale == 1 else model.preview_blocks(window, scale))
    out = job.array("pixels", shape, (*blocks[0].shape, 3), dtype, on_disk)
    todo = job.pending(out, blocks, window, "draw")
    if scale == 1:
        (top, bottom), (left, right) = window.rows, window.cols
        model.draw(latents, (top, left, bottom + 1, right + 1), out=out, blocks=todo)
    else:
        model.preview(latents, scale, out=out, blocks=todo)
    job.wait()
    release_freed_memory()
    return ChunkRows(out) if on_disk else out


def write_results(
    job: Job,
    latents: Latents,
    pixels: ArrayLike,
    image: Image | None,  # that was inverted
    kinds: dict[str, str],  # of the pictures, see `choose_pictures`
    options: dict,
) -> Iterator[str]:
    """Write the pictures and the latents of an image, and yield the name of each file that is written."""
    metadata = image.metadata if image and options.metadata else None
    for folder, kind in kinds.items():
        file = f"{folder}/{job.name}{SUFFIXES.get(kind, '.npy')}"
        if kind == "npy":
            write_npy(job.output / file, pixels)
        elif folder == "comparison":
            write_picture(job.output / file, Comparison(image, Rounded(pixels)), kind)
        else:
            write_picture(job.output / file, Rounded(pixels, options.depth), kind, metadata)
        yield file
    if image and options.latents != "none":
        file = f"latents/{job.name}{latents_suffix(options.latents, latents.structure.shape)}"
        latents.save(job.output / file)
        yield file


def make_row(model: PatchInverter, name: str, pixels: ArrayLike, image: Image | None, started: float) -> Row:
    """The figures of an image that was begun at this time; before JPEG or WebP compress it."""
    height, width = pixels.shape[:2]
    quality = {"psnr": None, "ssim": None}
    if image is not None:
        metrics, shown = ImageMetrics(height, width), Rounded(pixels)
        for strip in strips((height, width)):
            rows, cols = strip.slices_in(Region.at(0, 0, height, width))
            metrics.update(image.window(rows.start, 0, strip.rows.size, width), shown[rows, cols])
        quality = metrics.result()
    seconds = time.perf_counter() - started
    speed = height * width / 1e6 / seconds
    return Row(name, height, width, **quality, seconds=seconds, megapixels_per_second=speed,
               peak_memory_mib=peak_memory_mib(model.device))  # fmt: skip


def read(kind: TypeAdapter, path: Path) -> Any:
    """What a file of JSON holds; None where there is none, or of another kind."""
    try:
        return kind.validate_json(read_file(path, LARGEST_JSON))
    except (OSError, ValueError):
        return None


def arrays_in(folder: Path) -> list[Path]:
    """Where there are blocks to go on from in the folder of a job."""
    try:
        with os.scandir(folder) as entries:
            return [Path(entry) for entry in entries if entry.is_dir()]
    except OSError:  # nothing is begun, or it is a file
        return []


def _path(output: Path, file: str) -> Path:
    """A file of results by its name in UTF-8, whatever the locale is."""
    return output / os.fsdecode(file.encode())


def _size(path: Path) -> int | None:
    """The bytes of a file; None for a folder, or nothing."""
    return path.stat().st_size if path.is_file() else None


def _fits(path: Path, shape: Sequence[int], chunks: Sequence[int], dtype: str) -> bool:
    """Whether there is an array of these properties."""
    try:
        if regular_size(path / "zarr.json") > LARGEST_JSON:
            return False
        return is_ours(zarr.open_array(str(path), mode="r", zarr_format=3), shape, chunks, dtype)
    except WRONG:
        return False
