"""Checkpoints of a run (`step-00001234.pt`) and weights (`.safetensors`): written whole, checked before use.

torch.load does not compare the CRCs of its archive, and safetensors has none: a changed byte would load in silence.
So the CRCs are compared first, and weights carry a fingerprint of their tensors and a checksum of their metadata.
"""

import hashlib
import re
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from utils.errors import UserError
from utils.files import atomic_path, refusals, regular_size

NAME = re.compile(r"step-(\d{8,})\.pt")
FOLDER = 0x10  # attribute of an entry of a zip archive
ARCHIVE = b"PK\3\4"  # how one begins

# What the restricted unpickler takes back. Subclasses are left out: it refuses them, and so would lose the checkpoint.
PLAIN = (type(None), bool, int, float, str, bytes, torch.dtype, torch.device, torch.Size)
NESTED = (dict, OrderedDict, list, tuple, set)
# Numbers of numpy in files by others: their types, and what numpy 1 and 2 call the function that makes them.
NUMBERS = [np.dtype, *(type(np.dtype(code)) for code in ("?", "f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1"))]
NUMBER_NAMES = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")


def save_checkpoint(folder: str | Path, step: int, state: dict, keep: int) -> Path:
    """Write `state` as the checkpoint of `step`, then remove all but the newest `keep` up to this step.

    state: nested dicts, lists and tuples of tensors and plain Python values; TypeError names anything else.
    Raises UserError where it cannot be written; the checkpoints before it are then intact.
    """
    path = Path(folder) / f"step-{step:08d}.pt"
    _require_plain(state, "state")
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # so torch reports a write that failed, with its cause as context
            raise error.__context__ if isinstance(error.__context__, OSError) else OSError(str(error)) from error
    # Later checkpoints do not count: they were skipped as damaged.
    for old in [each for saved, each in _checkpoints(path.parent) if saved <= step][keep:]:
        with refusals(old):
            old.unlink(missing_ok=True)
    return path


def load_latest(folder: str | Path) -> tuple[dict, Path, list[str]] | None:
    """The newest checkpoint that is whole: (state on the CPU, its path, one line for each newer one that was skipped).

    None where the folder holds no checkpoint. Raises UserError where it holds some, but none can be read.
    """
    skipped = []
    for _, path in _checkpoints(folder):
        try:
            return _load_restricted(path), path, skipped
        except UserError as error:
            skipped.append(str(error))
    if skipped:
        raise UserError(f"{folder}: none of {len(skipped)} checkpoints can be read; the newest: {skipped[0]}")
    return None


def save_weights(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write weights as safetensors, with metadata and, under `fingerprint`, the fingerprint of the tensors.

    Raises UserError where the file cannot be written.
    """
    # safetensors takes neither views nor tensors that share memory.
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    metadata = {**metadata, "fingerprint": fingerprint(tensors)}
    metadata["checksum"] = _metadata_checksum(metadata)
    with atomic_path(path) as temporary:
        temporary.write_bytes(serialize(tensors, metadata))


def load_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors (on the CPU) and metadata, among it `fingerprint`, of a file that `save_weights` wrote.

    Raises UserError where the file is missing, is not safetensors, does not match its fingerprint, or holds numbers
    that are not finite.
    """
    tensors, metadata = _read_safetensors(Path(path))
    checksum = metadata.pop("checksum", None)
    if checksum is None or "fingerprint" not in metadata:
        raise UserError(f"weights {path}: no fingerprint: damaged, or not written by this program")
    if checksum != _metadata_checksum(metadata) or metadata["fingerprint"] != fingerprint(tensors):
        raise UserError(f"weights {path}: damaged: the content does not match its fingerprint")
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise UserError(f"weights {path}: {name} holds values that are not finite")
    return tensors, metadata


def load_pretrained(path: str | Path) -> dict:
    """Weights by others: .safetensors, or what torch.save wrote, in which only tensors and plain values are accepted.

    Numbers of numpy become Python's. Raises UserError where the file is missing, damaged or would run code.
    """
    path = Path(path)
    if path.suffix.lower() == ".safetensors":
        return _read_safetensors(path)[0]
    with torch.serialization.safe_globals([*NUMBERS, *((_number, name) for name in NUMBER_NAMES)]):
        return _load_restricted(path)


def fingerprint(tensors: dict[str, Tensor]) -> str:
    """16 hexadecimal digits that identify tensors: SHA-256 over sorted names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name!r} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _require_plain(value: Any, place: str) -> None:
    """TypeError for a value that would not load again."""
    if type(value) in NESTED:
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            _require_plain(item, f"{place}[{key!r}]")
    elif type(value) not in PLAIN and not isinstance(value, Tensor):
        raise TypeError(f"{place} is a {type(value).__name__}; a checkpoint holds tensors and plain values only")


def _checkpoints(folder: str | Path) -> list[tuple[int, Path]]:
    """(step, path) of a folder's checkpoints, newest first; none where the folder is missing."""
    matches = ((NAME.fullmatch(path.name), path) for path in Path(folder).glob("step-*.pt"))
    return sorted(((int(match[1]), path) for match, path in matches if match), reverse=True)


def _check_archive(path: Path) -> None:
    """Refuse an archive that is damaged, or that would unpack to more than the file holds."""
    try:
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise UserError(f"{path}: refused: a compressed archive, which torch.save never writes")
            # an entry that is marked as a folder would be read as whatever the memory holds
            if any(entry.external_attr & FOLDER for entry in archive.infolist()) or archive.testzip() is not None:
                raise UserError(f"{path}: damaged: an entry does not match its CRC")
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, RuntimeError, IndexError) as error:
        raise UserError(f"{path}: damaged: not a whole archive ({error})") from error


def _load_restricted(path: Path) -> dict:
    try:
        regular_size(path)
        with open(path, "rb") as file:
            if file.read(len(ARCHIVE)) == ARCHIVE:
                _check_archive(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"weights {path}: {error.strerror or error}") from error
    except Exception as error:  # a hostile or damaged pickle may raise anything; torch advises to lower the guard
        name = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it asks for {name[1]}, but only tensors and plain values are loaded" if name else "not whole weights"
        raise UserError(f"{path}: refused: {reason}") from error
    if not isinstance(state, dict):
        raise UserError(f"{path}: holds a {type(state).__name__}, not a dict of weights")
    return state


def _number(kind: np.dtype, data: bytes) -> bool | int | float:
    """Stands for numpy's function: it makes nothing but numbers."""
    return np.frombuffer(data, kind, count=1)[0].item()


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        regular_size(path)
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in sorted(file.keys())}, dict(file.metadata() or {})
    except OSError as error:
        raise UserError(f"weights {path}: {error.strerror or error}") from error
    except (SafetensorError, ValueError, RuntimeError, KeyError) as error:
        raise UserError(f"weights {path}: damaged, or not a safetensors file: {error}") from error


def _metadata_checksum(metadata: dict[str, str]) -> str:
    return hashlib.sha256(repr(sorted(metadata.items())).encode()).hexdigest()[:16]
