"""Checkpoints of a run (`step-00001234.pt`) and weights (`.safetensors`): written whole, checked before use.

torch.load does not check the CRCs of its archive, and safetensors has none: a changed byte would load in silence.
So a checkpoint ends on the SHA-256 of everything before it, as the comment of the zip archive that it is (torch and
unzip still read it), and weights carry a fingerprint of their tensors and a checksum of their metadata.
"""

import hashlib
import os
import pickle
import re
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from utils.errors import UserError
from utils.files import atomic_path, free_space, remove_stale

NAME = re.compile(r"step-(\d{8,})\.pt")
SEAL = b"sha256:"
SEAL_LENGTH = len(SEAL) + 64
SPACE_MARGIN = 1.2  # free space asked for, over the size of the state
CHUNK = 2**20

# What the restricted unpickler takes back. Subclasses are left out: it refuses them, and so would lose the checkpoint.
PLAIN = (type(None), bool, int, float, str, bytes, torch.dtype, torch.device, torch.Size)
NESTED = (dict, OrderedDict, list, tuple, set)

# How numpy 1 and 2 call what a number of theirs is pickled with. Ours stand in for it: they make nothing but numbers.
NUMPY_SCALAR = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
NUMPY_TYPE = "numpy.dtype"
NUMPY_NUMBER = re.compile("b1|f[248]|[iu][1248]")


def save_checkpoint(folder: str | Path, step: int, state: dict, keep: int) -> Path:
    """Write `state` as the checkpoint of `step`, then remove all but the newest `keep` up to this step.

    state: nested dicts, lists and tuples of tensors and plain Python values; TypeError names anything else.
    Raises UserError where it cannot be written; the checkpoints before it are then intact.
    """
    path = Path(folder) / f"step-{step:08d}.pt"
    remove_stale(path.parent)
    _require_space(path, sum(_storages(state, "state").values()))
    with atomic_path(path) as temporary, open(temporary, "w+b") as file:
        _write_archive(state, file)
        _seal(file)
    _prune(path.parent, step, keep)
    return path


def load_latest(folder: str | Path) -> tuple[dict, Path, list[str]] | None:
    """The newest checkpoint that is whole: (state on the CPU, its path, one line for each newer one that was skipped).

    None where the folder holds no checkpoint. Raises UserError where it holds some, but none can be read.
    Also removes what a killed save left behind.
    """
    remove_stale(folder)
    skipped = []
    for _, path in _checkpoints(folder):
        try:
            return _read_checkpoint(path), path, skipped
        except UserError as error:
            skipped.append(str(error))
    if skipped:
        raise UserError(f"{folder}: none of {len(skipped)} checkpoints can be read; the newest: {skipped[0]}")
    return None


def save_weights(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write weights as safetensors, with metadata and, under `fingerprint`, the fingerprint of the tensors.

    Raises ValueError where the metadata claims another fingerprint, UserError where the file cannot be written.
    """
    # safetensors takes neither views nor tensors that share memory.
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    mark = fingerprint(tensors)
    if metadata.get("fingerprint", mark) != mark:
        raise ValueError(f"the metadata's fingerprint is {metadata['fingerprint']}, that of the tensors {mark}")
    metadata = {**metadata, "fingerprint": mark}
    metadata["checksum"] = _metadata_checksum(metadata)
    _require_space(Path(path), sum(tensor.nbytes for tensor in tensors.values()))
    with atomic_path(path) as temporary:
        temporary.write_bytes(serialize(tensors, metadata))


def load_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors (on the CPU) and metadata, among it `fingerprint`, of a file that `save_weights` wrote.

    Raises UserError where the file is missing, is not safetensors, or does not match its fingerprint.
    """
    tensors, metadata = _read_safetensors(Path(path))
    checksum = metadata.pop("checksum", None)
    if checksum is None or "fingerprint" not in metadata:
        raise UserError(f"weights {path}: no fingerprint: damaged, or not written by this program")
    if checksum != _metadata_checksum(metadata) or metadata["fingerprint"] != fingerprint(tensors):
        raise UserError(f"weights {path}: damaged: the content does not match its fingerprint")
    return tensors, metadata


def load_pretrained(path: str | Path) -> dict:
    """Weights by others: .safetensors, or what torch.save wrote, in which only tensors and plain values are accepted.

    Returns the file's dict as it is, but for numbers of numpy, which become Python's. Raises UserError where the file
    is missing, damaged or would run code.
    """
    path = Path(path)
    if path.suffix.lower() == ".safetensors":
        return _read_safetensors(path)[0]
    try:
        with open(path, "rb") as file:
            is_zip = file.read(4) == b"PK\3\4"
        if is_zip:
            _check_archive(path)
    except OSError as error:
        raise UserError(f"weights {path}: {error.strerror or error}") from error
    stand_ins = [(_NumpyType, NUMPY_TYPE), *((_numpy_number, name) for name in NUMPY_SCALAR)]
    with torch.serialization.safe_globals(stand_ins):
        return _load_restricted(path)


def fingerprint(tensors: dict[str, Tensor]) -> str:
    """16 hexadecimal digits that identify tensors: SHA-256 over sorted names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name!r} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _storages(value: Any, place: str) -> dict[int, int]:
    """Address -> bytes of every storage in a state; TypeError for a value that would not load again."""
    if isinstance(value, Tensor):
        storage = value.untyped_storage()
        return {storage.data_ptr(): storage.nbytes()}
    if type(value) not in NESTED:
        if type(value) not in PLAIN:
            raise TypeError(f"{place} is a {type(value).__name__}; a checkpoint holds tensors and plain values only")
        return {}
    found = {}
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        found |= _storages(item, f"{place}[{key!r}]")
    return found


def _require_space(path: Path, size: int) -> None:
    need, free = SPACE_MARGIN * size, free_space(path)
    if free < need:
        raise UserError(f"cannot write {path}: {free / 2**20:.0f} MiB free, {need / 2**20:.0f} MiB needed")


def _write_archive(state: dict, file: BinaryIO) -> None:
    try:
        torch.save(state, file)
    except RuntimeError as error:
        # torch reports a failed write as RuntimeError, its cause as context.
        cause = error.__context__ if isinstance(error.__context__, OSError) else OSError(str(error).splitlines()[0])
        raise cause from error


def _seal(file: BinaryIO) -> None:
    """Append the archive's SHA-256 as its zip comment: the last two bytes are the comment's length, 0 so far."""
    size = file.seek(0, os.SEEK_END)
    digest = _sha256(file, size)
    file.seek(size - 2)
    file.write(SEAL_LENGTH.to_bytes(2, "little") + SEAL + digest)


def _sha256(file: BinaryIO, size: int) -> bytes:
    """Hexadecimal SHA-256 of the first `size - 2` bytes and two zeros: the archive as it was before it was sealed."""
    digest = hashlib.sha256()
    file.seek(0)
    left = size - 2
    while left > 0 and (chunk := file.read(min(left, CHUNK))):
        digest.update(chunk)
        left -= len(chunk)
    digest.update(b"\0\0")
    return digest.hexdigest().encode()


def _check_seal(path: Path) -> bool:
    """Whether the file bears a seal; UserError where the seal is broken or something else ends the file."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - SEAL_LENGTH - 2))
        end = file.read()
        if end[-22:-18] == b"PK\5\6" and end[-2:] == b"\0\0":
            return False
        sealed = end == SEAL_LENGTH.to_bytes(2, "little") + SEAL + _sha256(file, size - SEAL_LENGTH)
    if not sealed:
        raise UserError(f"{path}: damaged: the content does not match its checksum")
    return True


def _check_archive(path: Path) -> None:
    """Refuse an archive that is damaged, or that would unpack to more than the file holds."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
            if packed or sum(entry.file_size for entry in entries) > path.stat().st_size:
                raise UserError(f"{path}: refused: a compressed archive, which torch.save never writes")
            if any(entry.CRC == 0 and entry.file_size for entry in entries) or archive.testzip() is not None:
                raise UserError(f"{path}: damaged: an entry does not match its CRC")
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, RuntimeError, IndexError) as error:
        raise UserError(f"{path}: damaged: not a whole archive ({error})") from error


def _read_checkpoint(path: Path) -> dict:
    try:
        if not _check_seal(path):
            _check_archive(path)
    except OSError as error:
        raise UserError(f"checkpoint {path}: {error.strerror or error}") from error
    return _load_restricted(path)


def _load_restricted(path: Path) -> dict:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (
        Exception
    ) as error:  # a hostile or damaged pickle may raise anything; torch's text advises to lower the guard
        raise UserError(f"{path}: refused: {_why_refused(error)}") from error
    if not isinstance(state, dict):
        raise UserError(f"{path}: holds a {type(state).__name__}, not a dict of weights")
    return state


class _NumpyType:
    """Stands for numpy.dtype while a file by others is read; numbers only."""

    def __init__(self, code: str, *_: bool) -> None:
        if not NUMPY_NUMBER.fullmatch(code):
            raise pickle.UnpicklingError(f"numpy type {code[:20]!r}")
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple) -> None:
        self.order = {"<": "<", ">": ">"}.get(state[1], "=")


def _numpy_number(kind: _NumpyType, data: bytes) -> bool | int | float:
    """Stands for the function that makes a numpy number of its bytes."""
    return np.frombuffer(data, kind.order + kind.code, count=1)[0].item()


def _why_refused(error: Exception) -> str:
    name = re.search(r"GLOBAL (\S+)", str(error))
    if name:
        return f"it asks for {name[1]}, but only tensors and plain values are loaded"
    if isinstance(error, (pickle.UnpicklingError, EOFError)):
        return "not a file of weights, or damaged"
    return f"not a file of weights, or damaged ({type(error).__name__})"


def _checkpoints(folder: str | Path) -> list[tuple[int, Path]]:
    """(step, path) of a folder's checkpoints, newest first; none where the folder is missing."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"checkpoints {folder}: {error.strerror or error}") from error
    matches = [match for match in map(NAME.fullmatch, names) if match]
    return sorted(((int(match[1]), Path(folder) / match[0]) for match in matches), reverse=True)


def _prune(folder: Path, step: int, keep: int) -> None:
    """Remove all but the newest `keep` up to `step`. Later ones do not count: they were skipped as damaged."""
    old = [path for saved, path in _checkpoints(folder) if saved <= step][keep:]
    for path in old:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"cannot remove the old checkpoint {path}: {error.strerror or error}") from error


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with open(path, "rb") as file:
            looks_right = file.read(9)[8:] == b"{"
        if not looks_right:
            raise UserError(f"weights {path}: not a safetensors file")
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in sorted(file.keys())}, dict(file.metadata() or {})
    except OSError as error:
        raise UserError(f"weights {path}: {error.strerror or error}") from error
    except (SafetensorError, ValueError, RuntimeError, KeyError) as error:
        raise UserError(f"weights {path}: damaged: {error}") from error


def _metadata_checksum(metadata: dict[str, str]) -> str:
    return hashlib.sha256(repr(sorted(metadata.items())).encode()).hexdigest()[:16]
