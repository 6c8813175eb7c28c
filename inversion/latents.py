"""Latents: what an image of any size is drawn from, in memory, in a file, or made when it is read.

The structure is an array-like [C, h, w]: `structure[:, top:bottom, left:right]` gives float32 values, and the cell at
index 0, 0 is the first one that the image's pixels need. A latent file holds the tensors `structure` and `global` ([D],
or [N, D] where several styles are mixed), and `own` where the structure's style is another one, as safetensors, or
where they are large as a zarr group of the same arrays; its metadata say what they belong to.

Letters: C channels, D style, N styles, h/w latent cells.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import PIL.Image
import safetensors
import torch
import zarr
from pydantic import TypeAdapter
from torch import Tensor
from zarr.codecs import Crc32cCodec

from inversion.noise import NoiseSpec
from inversion.styles import ArrayLike, Style, StyleMap, layer_styles, mix_styles
from inversion.weight_maps import LabelMap, WeightMap
from models.geometry import Region
from utils.errors import UserError
from utils.files import ZARR, atomic_folder, atomic_path

NOISE, MAP = TypeAdapter(NoiseSpec | None), TypeAdapter(WeightMap | None)
FORMAT = "patch-inverter-latents-3"
FILE, FOLDER = ".safetensors", ZARR
SUFFIXES = (FILE, FOLDER)
STYLES = ("global", "own")  # arrays of a latent file, in this order
LARGEST_FILE = 2**30  # bytes of structure that are stored in one file by default
STRIP = 2**24  # bytes of structure that are copied at a time
WRONG = (
    ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, OSError,
    safetensors.SafetensorError, PIL.Image.DecompressionBombError,
)  # fmt: skip


METADATA = ("format", "image_size", "noise", "style", "style_map", "style_modulation", "own_style_map",
            "weights_fingerprint")  # fmt: skip


class Unfit(ValueError):
    """A latent file that this program did not write, or that was changed; what does not fit."""


@dataclass(frozen=True, eq=False)
class Latents:
    """What an image is drawn from. Editing makes new ones; nothing is computed before it is read."""

    structure: ArrayLike  # z_s [C, h, w], of floating-point numbers; a tensor becomes an array
    style: Style | StyleMap
    size: tuple[int, int]  # height, width of the image, pixels
    noise: NoiseSpec | None  # the texture noise that it is drawn with
    model: str  # fingerprint of the weights that they belong to
    own: Style | StyleMap | None = None  # measured styles: that of the structure, where it is drawn in another one
    grey: bool = False  # whether it is drawn without colours where it is in its own style: the photograph has none

    def __post_init__(self) -> None:
        if isinstance(self.structure, torch.Tensor):
            object.__setattr__(self, "structure", self.structure.detach().float().cpu().numpy())

    def with_style(self, style: Style | StyleMap, strength: float = 1.0, mask: LabelMap | None = None) -> Latents:
        """The same structure in another style: strength 0 keeps its own, 1 takes the other one, beyond 1 overdoes it.

        `mask`: two kinds, of which the second one is restyled, as far as its weight says. Measured styles leave what is
        further from there than `PatchInverter.reach` as it is, to the last bit. Another style brings its colours into a
        grey image. ValueError where both vary over space and the strength is neither 0 nor 1.
        """
        if strength == 0:
            return self
        own = self.own or self.style
        style = mix_styles(self.style, style, strength)
        style = style if mask is None else layer_styles(self.style, style, mask)
        return replace(self, style=style, own=own if own.measured else None, grey=self.grey and own.measured)

    def save(self, path: str | Path) -> None:
        """Write a `.safetensors` file or a `.zarr` folder, which appears whole or not at all.

        UserError for another suffix, for values that are not finite or of another shape, or where the disk refuses.
        """
        path = Path(path)
        if wrong := wrong_structure(self.structure):
            raise UserError(f"{path}: not saved: {wrong}")
        for values in self.styles().values():
            _finite(values, path)
        if path.suffix == FOLDER:
            shape = self.structure.shape
            with atomic_folder(path) as folder:
                describe_folder(folder, self)
                array = create_zarr(folder / "structure", shape, (shape[0], min(_rows(shape), 256), 256))
                for top in range(0, shape[1], array.chunks[1]):
                    strip = slice(None), slice(top, top + array.chunks[1]), slice(None)
                    array[strip] = _finite(self.structure[strip], path)
        elif path.suffix == FILE:
            with atomic_path(path) as temporary:
                _write_file(temporary, self, path)
        else:
            raise UserError(f"{path}: latents are saved as {FILE} or {FOLDER}")

    @staticmethod
    def load(path: str | Path) -> Latents:
        """Latents of a file or folder; the structure stays there and is read by window.

        UserError if there are none, or not whole ones.
        """
        path = Path(path)
        kind = "folder" if path.suffix == FOLDER else "file"
        try:
            return (_open_folder if path.suffix == FOLDER else _open_file)(path)
        except FileNotFoundError as error:
            reason = "not a whole latent folder" if path.is_dir() else "no such file or folder"
            raise UserError(f"{path}: {reason}") from error
        except PermissionError as error:
            raise UserError(f"{path}: {error.strerror}") from error
        except WRONG as error:
            reason = f": {error}" if isinstance(error, Unfit) else ""
            raise UserError(f"{path}: not a whole latent {kind} of this program{reason}") from error

    def metadata(self) -> dict[str, str]:
        """What a latent file says besides its tensors."""
        style, own = self.style, self.own
        weights, exact = (style.weights, style.exact) if isinstance(style, StyleMap) else (None, True)
        return {
            "format": FORMAT,
            "image_size": f"{self.size[0]} {self.size[1]}",
            "noise": NOISE.dump_json(self.noise).decode(),
            "style": "measured" if style.measured else "global latent",
            "style_map": MAP.dump_json(weights).decode(),
            "style_modulation": "exact" if exact else "fast",
            "own_style_map": MAP.dump_json(own.weights if isinstance(own, StyleMap) else None).decode(),
            "weights_fingerprint": self.model,
            "grey": str(self.grey),
        }

    def styles(self) -> dict[str, np.ndarray]:
        """The arrays of a latent file besides the structure: `global` and, where it is another one, `own`."""
        styles = {"global": self.style} | ({} if self.own is None else {"own": self.own})
        return {name: style.global_latent.cpu().numpy().astype("<f4") for name, style in styles.items()}


def own_share(latents: Latents, region: Region, spacing: int) -> Tensor | None:
    """How far an image is in its own style, at features as those of `inversion.weight_maps`: [h, w]; None: wholly."""
    style, own = latents.style, latents.own
    if own is None:
        return None
    known = [each.global_latent for each in (own.styles if isinstance(own, StyleMap) else [own])]
    styles = style.styles if isinstance(style, StyleMap) else [style]
    same = [any(torch.equal(each.global_latent, values) for values in known) for each in styles]
    weights = style.weights(region, spacing) if isinstance(style, StyleMap) else torch.ones(1, *region.shape)
    return weights[torch.tensor(same)].sum(0)


def wrong_structure(structure: ArrayLike) -> str:
    """What does not fit where a structure is none of latents; else "" (its values are not looked at)."""
    if len(structure.shape) == 3 and np.dtype(structure.dtype).kind == "f":
        return ""
    found = f"{structure.dtype} {list(structure.shape)}"
    return f"a structure of {found}; allowed: floating-point [C, h, w], without a batch axis"


def latents_suffix(kind: str, shape: Sequence[int]) -> str:
    """The suffix for `infer.latents` (auto | safetensors | zarr) and a structure of this shape."""
    if kind == "auto":
        return FILE if int(np.prod(shape)) * 4 <= LARGEST_FILE else FOLDER
    return FOLDER if kind == "zarr" else FILE


def create_zarr(folder: Path, shape: Sequence[int], chunks: Sequence[int], dtype: str = "float32") -> zarr.Array:
    """A new zarr array whose chunks carry checksums; a chunk whose file is there is whole."""
    chunks = tuple(min(pair) for pair in zip(chunks, shape, strict=True))
    return zarr.create_array(
        store=str(folder), shape=tuple(shape), chunks=chunks, dtype=dtype, fill_value=0, overwrite=True,
        compressors=[Crc32cCodec()], config={"write_empty_chunks": True},
    )  # fmt: skip


class ChunkRows:
    """A zarr array [H, W, 3], read by rows of chunks, of which the last one is kept: strips cost one reading each."""

    def __init__(self, array: zarr.Array) -> None:
        self._array, self._first, self._rows = array, 0, np.empty((0, *array.shape[1:]), array.dtype)
        self.shape, self.dtype = array.shape, array.dtype

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        """As `ArrayLike`."""
        rows, *others = index if isinstance(index, tuple) else (index,)
        start, stop, _ = rows.indices(self.shape[0])
        parts = []
        while start < stop:
            if not self._first <= start < self._first + len(self._rows):
                height = self._array.chunks[0]
                self._first = start // height * height
                self._rows = self._array[self._first : self._first + height]
            part = self._rows[start - self._first : stop - self._first]
            parts.append(part[(slice(None), *others)])
            start += len(part)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


@dataclass(frozen=True)
class StoredArray:
    """A zarr array in a folder, or a tensor of a safetensors file, which is opened for each window."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype = np.dtype("float32")

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        """As `ArrayLike`. UserError where the file was damaged or taken away."""
        try:
            if self.path.suffix == FOLDER:
                return np.asarray(zarr.open_array(str(self.path / self.name), mode="r")[index])
            with safetensors.safe_open(self.path, framework="np") as file:
                return file.get_slice(self.name)[index]
        except WRONG as error:
            raise UserError(f"{self.path}: damaged ({' '.join(str(error).split())[:200]})") from error


def _parse(structure: ArrayLike, styles: dict[str, np.ndarray], metadata: dict[str, str]) -> Latents:
    """Latents of the parts of a file. ValueError, KeyError, TypeError or OSError where they do not fit."""
    if missing := [name for name in METADATA if name not in metadata]:
        lacking = f"its metadata lack {', '.join(missing)}" if metadata else "it has no metadata"
        raise Unfit(f"{lacking}; keep those of the latents that were changed (docs/api.md)")
    if metadata["format"] != FORMAT:
        raise Unfit(f"its format is {str(metadata['format'])[:40]!r}, not {FORMAT!r}; invert the photograph again")
    if len(structure.shape) != 3:
        raise Unfit(f"structure has the shape {list(structure.shape)}; allowed: [C, h, w], without a batch axis")
    height, width = map(int, metadata["image_size"].split())
    if min(height, width, *structure.shape) < 1:
        raise ValueError("an empty image")
    measured, exact = metadata["style"] == "measured", metadata["style_modulation"] == "exact"
    style = _parse_style(styles["global"], metadata["style_map"], measured, exact)
    own = _parse_style(styles["own"], metadata["own_style_map"], measured, exact) if "own" in styles else None
    noise = NOISE.validate_json(metadata["noise"])
    grey = metadata.get("grey") == str(True)  # earlier files say nothing of it
    return Latents(structure, style, (height, width), noise, metadata["weights_fingerprint"], own, grey)


def _parse_style(values: np.ndarray, weights: str, measured: bool, exact: bool) -> Style | StyleMap:
    values, weights = torch.from_numpy(np.array(values, np.float32)), MAP.validate_json(weights)
    if values.dim() != (1 if weights is None else 2):
        raise Unfit(f"a style of the shape {list(values.shape)}; allowed: {'[D]' if weights is None else '[N, D]'}")
    if not values.isfinite().all():
        raise Unfit("a style with values that are not finite")
    if weights is None:
        return Style(values, measured)
    return StyleMap([Style(value, measured) for value in values], weights, exact)


def _open_file(path: Path) -> Latents:
    with open(path, "rb"):  # names what is missing or may not be read, which safetensors does not
        pass
    with safetensors.safe_open(path, framework="np") as file:
        names = [name for name in ("structure", *STYLES) if name in file.keys()]  # noqa: SIM118 (not a dictionary)
        for name in ("structure", "global"):
            if name not in names:
                raise Unfit(f"it has no tensor {name!r}")
        for name in names:
            if (kind := file.get_slice(name).get_dtype()) != "F32":
                raise Unfit(f"{name!r} is {kind}; latents are stored as F32 (Latents.save of the API does)")
        structure = StoredArray(path, "structure", tuple(file.get_slice("structure").get_shape()))
        return _parse(structure, {name: file.get_tensor(name) for name in names[1:]}, file.metadata() or {})


def _open_folder(path: Path) -> Latents:
    group = zarr.open_group(str(path), mode="r")
    array, styles = group["structure"], {name: group[name] for name in STYLES if name in group}
    if any(each.nchunks_initialized != each.nchunks for each in (array, *styles.values())):
        raise ValueError("chunks are missing")
    if array.dtype != np.float32:
        raise Unfit(f"'structure' is {array.dtype}; latents are stored as float32 (Latents.save of the API does)")
    structure = StoredArray(path, "structure", array.shape)
    return _parse(structure, {name: each[...] for name, each in styles.items()}, dict(group.attrs))


def describe_folder(folder: Path, latents: Latents) -> None:
    """Make a folder a group of latents, into which the array `structure` is, or will be, written."""
    zarr.create_group(str(folder), attributes=latents.metadata())
    for name, values in latents.styles().items():
        create_zarr(folder / name, values.shape, values.shape)[...] = values


def _finite(values: np.ndarray, path: Path) -> np.ndarray:
    """Values that will be stored in `path`, float32. UserError where some are not finite."""
    with np.errstate(over="ignore"):
        values = np.asarray(values, np.float32)
    if not np.isfinite(values).all():
        raise UserError(f"{path}: not saved: values that are not finite")
    return values


def _write_file(path: Path, latents: Latents, shown: Path) -> None:
    """The safetensors format (a header and the values), written by strips: its library wants tensors whole.

    `shown`: the path in messages.
    """
    styles, shape, end = latents.styles(), tuple(map(int, latents.structure.shape)), 0
    header = {"__metadata__": latents.metadata()}
    for name, values in styles.items():
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [end, end + values.nbytes]}
        end += values.nbytes
    start, end = end, end + 4 * int(np.prod(shape))
    header["structure"] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(values.tobytes() for values in styles.values()))
        start = file.tell()
        if hasattr(os, "posix_fallocate"):  # a full disk is an error here, and not a crash of the map later
            os.posix_fallocate(file.fileno(), 0, 8 + len(text) + end)
        else:
            file.truncate(8 + len(text) + end)
    for top in range(0, shape[1], _rows(shape)):
        strip = slice(None), slice(top, min(top + _rows(shape), shape[1])), slice(None)
        # mapped for each strip, since a lasting map would count as memory
        np.memmap(path, "<f4", "r+", start, shape)[strip] = _finite(latents.structure[strip], shown)


def _rows(shape: Sequence[int]) -> int:
    """Rows of cells that a strip of STRIP bytes has."""
    return max(1, STRIP // (4 * shape[0] * shape[2]))
