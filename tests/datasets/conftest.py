"""Small image folders and LMDBs."""

import io

import lmdb
import numpy as np
import PIL.Image
import pytest


def encode(number, height=20, width=24, kind="PNG"):
    """Bytes of an image that is random but the same for the same number."""
    values = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(values).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture(name="encoded")
def encoded_fixture():
    """encoded(number, height=20, width=24, kind="PNG") -> bytes."""
    return encode


@pytest.fixture
def make_folder(tmp_path):
    """make_folder(name, {file: bytes}) or make_folder(name, count) -> path."""

    def make(name, files):
        if isinstance(files, int):
            files = {f"{number:03d}.png": encode(number) for number in range(files)}
        for file, data in files.items():
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return tmp_path / name

    return make


@pytest.fixture
def make_lmdb(tmp_path):
    """make_lmdb(name, {key: bytes}), or of a list of images in InfinityGAN's layout -> path."""

    def make(name, records, digits=8):
        if isinstance(records, list):
            length = {b"length": b"%d" % len(records)}
            records = length | {f"197-{index:0{digits}d}".encode(): data for index, data in enumerate(records)}
        with lmdb.open(str(tmp_path / name), map_size=2**24) as environment, environment.begin(write=True) as write:
            for key, data in records.items():
                write.put(key, data)
        return tmp_path / name

    return make
