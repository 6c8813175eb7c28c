"""Arrays of chunks: what blocks wrote is read by any window, and by zarr; what is missing is known."""

import json
import shutil

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from inversion.chunks import ChunkArray, MemoryArray
from utils.errors import UserError

edges = st.integers(1, 9)


def windows(shape, chunks):
    """The window of each chunk."""
    starts = np.indices([-(-length // edge) for length, edge in zip(shape, chunks, strict=True)])
    for index in starts.reshape(len(shape), -1).T:
        axes = zip(index, shape, chunks, strict=True)
        yield tuple(slice(k * edge, min((k + 1) * edge, length)) for k, length, edge in axes)


def fill(array, values):
    for window in windows(array.shape, array.chunks):
        array.write(window, values[window])


@settings(max_examples=40, deadline=None)
@given(shape=st.tuples(edges, edges, edges), chunks=st.tuples(edges, edges, edges), data=st.data())
def test_any_window_is_what_blocks_wrote(tmp_path_factory, shape, chunks, data):
    dtype = data.draw(st.sampled_from(["uint8", "float32"]), "dtype")
    values = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    array = ChunkArray(tmp_path_factory.mktemp("chunks") / "a.zarr", shape, chunks, dtype).create()
    memory = MemoryArray(np.empty(shape, dtype))
    for written in (array, memory):
        for window in windows(shape, chunks):
            assert not written.has(window)
            written.write(window, values[window])
    assert array.whole() and all(map(array.has, windows(shape, chunks)))
    starts = [data.draw(st.integers(0, length - 1)) for length in shape]
    stops = [data.draw(st.integers(start + 1, length)) for start, length in zip(starts, shape, strict=True)]
    window = tuple(map(slice, starts, stops))
    assert (array.read(window) == values[window]).all() and (memory.read(window) == values[window]).all()
    assert (zarr.open_array(array.folder, mode="r")[:] == values).all()
    assert ChunkArray.open(array.folder) == array


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_what_zarr_writes_is_read(tmp_path, dtype):
    values = np.arange(7 * 5).reshape(7, 5).astype(dtype)
    made = zarr.create_array(tmp_path / "a", shape=(7, 5), chunks=(3, 2), dtype=dtype, compressors=None, fill_value=0)
    made[:] = values + 1
    assert (ChunkArray.open(tmp_path / "a").read((slice(2, 7), slice(1, 4))) == values[2:7, 1:4] + 1).all()
    zarr.create_array(tmp_path / "b", shape=(7, 5), chunks=(3, 2), dtype=dtype)
    with pytest.raises(ValueError, match="another layout"):
        ChunkArray.open(tmp_path / "b")


@pytest.fixture
def array(tmp_path):
    return ChunkArray(tmp_path / "a.zarr", (5, 4), (2, 3), "float32").create()


def test_a_chunk_that_is_missing_or_short(array):
    fill(array, np.ones((5, 4)))
    path = array.folder / "c" / "1" / "1"
    for damage in (lambda: path.write_bytes(path.read_bytes()[:-1]), path.unlink):
        damage()
        assert not array.whole() and not array.has((slice(2, 4), slice(3, 4)))
        assert array.has((slice(2, 4), slice(0, 3)))
        with pytest.raises(UserError, match="c/1/1: missing or damaged"):
            array.read((slice(0, 5), slice(0, 4)))
    assert (array.read((slice(0, 5), slice(0, 3))) == 1).all()


@pytest.mark.parametrize("window", [(slice(0, 1), slice(0, 3)), (slice(1, 3), slice(0, 3)), (slice(0, 2), slice(0, 4))])
def test_only_chunks_are_written(array, window):
    with pytest.raises(ValueError, match="is no chunk"):
        array.write(window, np.zeros((2, 3)))


def test_going_on(array):
    fill(array, np.ones((5, 4)))
    assert array.continued().whole()
    other = ChunkArray(array.folder, (5, 4), (2, 2), "float32")
    assert not other.continued().whole() and ChunkArray.open(array.folder) == other
    shutil.rmtree(array.folder)
    array.folder.write_text("a file")
    assert not array.continued().whole() and array.folder.is_dir()


@pytest.mark.parametrize("change", [{"shape": [5]}, {"shape": [5, -1]}, {"node_type": "group"}, {"data_type": "int8"}])
def test_other_metadata(array, change):
    path = array.folder / "zarr.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises((ValueError, KeyError, TypeError)):
        ChunkArray.open(array.folder)
