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
def make_public_lmdb(tmp_path):
    """make_public_lmdb(name, records, digits=8) -> path of an LMDB in InfinityGAN's layout."""

    def make(name, records, digits=8):
        path = tmp_path / name
        with lmdb.open(str(path), map_size=2**24) as environment, environment.begin(write=True) as transaction:
            transaction.put(b"length", str(len(records)).encode())
            for index, data in enumerate(records):
                transaction.put(f"197-{index:0{digits}d}".encode(), data)
        return path

    return make
