"""The steps of a refinement over all blocks: in memory, in a folder, stopped and gone on with, by several workers."""

import math
from contextlib import suppress
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inversion import outputs, sweeps
from inversion.blocks import blocks, count_blocks
from inversion.latents import Description, LatentStore
from inversion.sweeps import Sweeps, bytes_in_memory, in_memory
from models.geometry import Region
from utils.distributed import SINGLE, ProcessGroup

CHANNELS = 2
ORIGIN = -3, 5
shapes = st.tuples(st.integers(1, 6), st.integers(1, 6))


class Stopped(Exception):
    """As if the process were killed."""


class Neighbours:
    """A step of which each cell also depends on the cells around: the order of blocks must not matter."""

    def __init__(self, cells, stop=math.inf, errors=None):
        self.cells, self.stop, self.errors, self.done = cells, stop, errors, []
        self.image = SimpleNamespace(name="photograph.png")

    def step(self, latents, momentum, region):
        if len(self.done) >= self.stop:
            raise Stopped
        self.done.append(region)
        around = region.grown(1).common(self.cells)
        moved = latents(region) - latents(around).amax((1, 2), keepdim=True)
        if momentum is not None:
            moved = moved + 0.5 * momentum(region)
        return latents(region) - 0.1 * moved, moved, self.errors.pop(0) if self.errors else 1.0


class Work:
    """An image's encoded latents in a folder, and their refinement, which can be begun again and again."""

    def __init__(self, folder, shape, block, steps, keep=True):
        self.cells, self.block, self.steps = Region.at(*ORIGIN, *shape), block, steps
        self.path, self.folder = Path(folder) / "latents.zarr", Path(folder) / "refined" if keep else None
        store = LatentStore.create(
            self.path, Description(1, 1, ORIGIN, 0, "none"), (CHANNELS, *shape), torch.zeros(3), block
        )
        for number, region in enumerate(blocks(self.cells, block)):
            values = torch.randn(CHANNELS, *region.shape, generator=torch.Generator().manual_seed(number))
            store.write(region, values)
        self.ticks, self.made = [], 0

    @property
    def store(self):
        return LatentStore.open(self.path)

    def parts(self, world=SINGLE, stop=math.inf, errors=None):
        """Those of one worker, which computes up to `stop` blocks."""

        def make():
            self.made += 1
            self.refiner = Neighbours(self.cells, stop, errors)
            return self.refiner

        return Sweeps(make, self.store, self.steps, self.block, self.folder, world, self.ticks.append).parts()

    def run(self, **options):
        for part in self.parts(**options):
            part()
        return self.result

    @property
    def result(self):
        return self.store.read(self.cells).numpy()


def refined(shape, block, steps, keep=False):
    with TemporaryDirectory() as folder:
        return Work(folder, shape, block, steps, keep).run()


def in_one(shape, block, steps):
    """What the steps give, of the whole at once."""
    with TemporaryDirectory() as folder:
        work = Work(folder, shape, block, 1)
        latents, momentum, refiner = torch.from_numpy(work.result), None, Neighbours(work.cells)
        for _ in range(steps):
            read = reader(latents, work.cells), momentum if momentum is None else reader(momentum, work.cells)
            parts = [(region, refiner.step(*read, region)) for region in blocks(work.cells, block)]
            latents, momentum = torch.zeros_like(latents), torch.zeros_like(latents)
            for region, (values, moved, _) in parts:
                latents[:, *region.slices_in(work.cells)] = values
                momentum[:, *region.slices_in(work.cells)] = moved
        return latents.numpy()


def reader(values, cells):
    return lambda region: values[:, *region.slices_in(cells)]


@settings(max_examples=10)
@given(shape=shapes, block=shapes, steps=st.integers(1, 5))
def test_in_memory_and_in_a_folder(shape, block, steps):
    expected = in_one(shape, block, steps)
    assert np.array_equal(refined(shape, block, steps), expected)
    assert np.array_equal(refined(shape, block, steps, keep=True), expected)


@settings(max_examples=10)
@given(shape=shapes, block=shapes, steps=st.integers(1, 4), data=st.data())
def test_a_run_that_stops_anywhere_goes_on(shape, block, steps, data):
    """Between two parts, or at any block."""
    with TemporaryDirectory() as folder:
        work, computed = Work(folder, shape, block, steps), 0
        total = steps * count_blocks(work.cells, block)
        for _ in range(data.draw(st.integers(1, 4), "stops")):
            work.ticks.clear()
            with suppress(Stopped):
                for part in islice(work.parts(stop=data.draw(st.integers(0, total))), data.draw(st.integers(0, 9))):
                    part()
            assert sum(work.ticks) <= total
            assert len(list(work.folder.glob("*"))) <= 2 if work.folder.exists() else True
            computed += len(work.refiner.done) if work.made else 0
            work.made = 0
        work.ticks.clear()
        result = work.run()
        computed += len(work.refiner.done) if work.made else 0
        assert sum(work.ticks) == computed == total
        assert np.array_equal(result, refined(shape, block, steps))


@settings(max_examples=8)
@given(shape=shapes, block=shapes, steps=st.integers(1, 3), count=st.integers(2, 3), data=st.data())
def test_several_workers_do_what_one_does(shape, block, steps, count, data):
    with TemporaryDirectory() as folder:
        work = Work(folder, shape, block, steps)
        some = data.draw(st.integers(0, 2 * steps), "parts of a first run, by other workers")
        for part in islice(work.parts(), some):
            part()
        workers = [work.parts(ProcessGroup(rank, count)) for rank in range(count)]
        if data.draw(st.booleans()):
            workers[1:] = reversed(workers[1:])
        for parts in zip(*workers, strict=True):
            for part in parts:
                part()
        assert np.array_equal(work.result, refined(shape, block, steps))


def test_what_was_finished_stays(tmp_path):
    """A run that is stopped while the image is drawn must not refine refined latents."""
    work = Work(tmp_path, (5, 7), (2, 3), 3)
    first, made = work.run(), work.made
    assert np.array_equal(work.run(), first) and made == work.made == 1


def test_a_run_that_is_stopped_while_latents_are_replaced(tmp_path, monkeypatch):
    work, expected, written = Work(tmp_path, (5, 7), (2, 3), 2), refined((5, 7), (2, 3), 2), []
    write = LatentStore.write

    def stop(store, region, values):
        if len(written) == 4:
            raise Stopped
        written.append(region)
        write(store, region, values)

    with monkeypatch.context() as patch:
        patch.setattr(LatentStore, "write", stop)
        with pytest.raises(Stopped):
            work.run()
    assert not np.array_equal(work.result, expected)
    assert np.array_equal(work.run(), expected)


def test_a_refiner_is_made_within_a_part(tmp_path):
    """Where that fails, as any part does: then it fails in all workers."""
    work = Work(tmp_path, (3, 3), (2, 2), 2)
    parts = work.parts()
    next(parts)
    assert work.made == 0
    next(parts)()
    assert work.made == 1


@pytest.mark.parametrize(
    ("errors", "told"),
    [([4, 1, 2], ""), ([4, 1, 4.5], "squared error 4 at first, 4.5 at last"), ([4, math.nan, math.nan], "nan")],
)
def test_a_refinement_that_leaves_the_photograph_is_told(tmp_path, capsys, errors, told):
    work = Work(tmp_path, (3, 3), (3, 3), 3)
    work.run(errors=errors)
    said = capsys.readouterr().err
    assert told in said and bool(said) == bool(told)
    assert not told or said.startswith("note: photograph.png: ") and said.count("\n") == 1
    work.run()
    assert not capsys.readouterr().err  # there is nothing to compare with


def test_a_run_that_goes_on_does_not_compare_parts(tmp_path, capsys):
    work = Work(tmp_path, (4, 4), (2, 2), 2)
    with pytest.raises(Stopped):
        work.run(stop=3)
    work.run(errors=[0.1] + 4 * [1.0])
    assert not capsys.readouterr().err


def test_what_is_kept_in_memory(monkeypatch):
    monkeypatch.setattr(sweeps, "RESUMABLE", 1000)
    monkeypatch.setattr(outputs, "RESUMABLE", 500)
    assert in_memory((10, 20), 5) and not in_memory((10, 20), 6)
    assert in_memory((20, 25), 0) and not in_memory((20, 26), 0)  # drawn on disk, so its latents are gone on with
    assert bytes_in_memory((2, 3, 4), (10, 20), 5) == 2 * 2 * 2 * 3 * 4 * 4  # latents and momentum of two steps
    assert bytes_in_memory((2, 3, 4), (10, 20), 6) == bytes_in_memory((2, 3, 4), (10, 20), 0) == 0
