"""Latents: what an image of any size is drawn from, in memory, in a file, or made when it is read.

The structure is an array-like [C, h, w]: `structure[:, top:bottom, left:right]` gives float32 values, and the cell at
index 0, 0 is the first one that the image's pixels need. A latent file holds the tensors `structure` and `global` ([D],
or [N, D] where several styles are mixed), and `own` where the structure's style is another one, as safetensors, or
where they are large as a zarr group of the same arrays; its metadata say what they belong to, and hold the SHA-256 of
each piece of the structure (a strip of rows in a file, a chunk in a folder), and of all else that it says. A window
checks the pieces that it touches, each once: a part of a huge image stays cheap, and nothing is drawn that was not
checked. That tells damage, and changes by programs that do not seal what they write; whoever means harm can seal
anything.

Letters: C channels, D style, N styles, h/w latent cells.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import PIL.Image
import safetensors
import torch
import zarr
from pydantic import TypeAdapter
from torch import Tensor
from zarr.codecs import Crc32cCodec
from zarr.storage import MemoryStore

from inversion.noise import NoiseSpec
from inversion.styles import ArrayLike, Style, StyleMap, Windowed, layer_styles, mix_styles
from inversion.weight_maps import LabelMap, WeightMap, encoded_pixels
from models.geometry import Region
from utils.errors import UserError
from utils.files import LARGEST_JSON, ZARR, atomic_folder, atomic_path, regular_size, require_space

NOISE, MAP = TypeAdapter(NoiseSpec | None), TypeAdapter(WeightMap | None)
FORMAT = "patch-inverter-latents-4"
FILE, FOLDER = ".safetensors", ZARR
SUFFIXES = (FILE, FOLDER)
STYLES = ("global", "own")  # arrays of a latent file, in this order
CHECKSUM = 4  # bytes of a chunk besides its values
MOST_LABELS = 2**28  # pixels of all maps of a file
MOST_STYLE = 2**22  # values of an array of styles
LARGEST_FILE = 2**30  # bytes of structure that are stored in one file by default
STRIP = 2**24  # bytes of structure that are copied, and checked, at a time
CHUNK = 256  # cells along the edge of a chunk, at most
WRONG = (
    ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, OSError,
    safetensors.SafetensorError, PIL.Image.DecompressionBombError,
)  # fmt: skip
PIECE, DIGESTS, SEAL = "structure_piece", "structure_sha256", "sha256"  # keys of the metadata
METADATA = ("format", "image_size", "noise", "style", "style_map", "style_modulation", "own_style_map",
            "weights_fingerprint", "grey", PIECE, DIGESTS, SEAL)  # fmt: skip
UNKNOWN = "0" * 64  # a digest that is still to come
CHANGED = "they do not match their SHA-256: damaged, or changed by a program that does not seal them (docs/api.md)"
Window = tuple[slice, slice, slice]


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
        formats = {FILE: (atomic_path, _write_file), FOLDER: (atomic_folder, _write_folder)}
        if path.suffix not in formats:
            raise UserError(f"{path}: latents are saved as {FILE} or {FOLDER}")
        whole, write = formats[path.suffix]
        with whole(path) as temporary:
            write(temporary, self, path)

    @staticmethod
    def load(path: str | Path) -> Latents:
        """Latents of a file or folder; the structure stays there and is read by window.

        UserError if there are none, or not whole ones.
        """
        path = Path(path)
        kind, read = ("folder", _read_folder) if path.suffix == FOLDER else ("file", _read_file)
        try:
            return read(path)
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


def create_zarr(
    folder: Path | MemoryStore, shape: Sequence[int], chunks: Sequence[int], dtype: str = "float32"
) -> zarr.Array:
    """A new zarr array whose chunks carry checksums; a chunk whose file is there is whole.

    UserError where the disk has no room for all of it.
    """
    if isinstance(folder, Path):
        require_space(folder, math.prod(shape) * np.dtype(dtype).itemsize)
    chunks = tuple(min(pair) for pair in zip(chunks, shape, strict=True))
    return zarr.create_array(
        store=folder, shape=tuple(shape), chunks=chunks, dtype=dtype, fill_value=0, overwrite=True,
        compressors=[Crc32cCodec()], config={"write_empty_chunks": True},
    )  # fmt: skip


def is_ours(array: zarr.Array, shape: Sequence[int], chunks: Sequence[int], dtype: str = "float32") -> bool:
    """Whether an array is described as `create_zarr` does, and not with codecs that make much of few bytes, say."""
    return array.metadata.to_dict() == create_zarr(MemoryStore(), shape, chunks, dtype).metadata.to_dict()


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
class Pieces:
    """A structure [C, h, w] and its pieces, which have all channels."""

    shape: tuple[int, int, int]
    piece: tuple[int, int, int]  # those at the lower and right edges may be smaller

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of pieces."""
        return tuple(-(-length // part) for length, part in zip(self.shape[1:], self.piece[1:], strict=True))

    def window(self, place: tuple[int, int]) -> Window:
        """Where the piece at a place of the grid lies."""
        axes = zip(place, self.piece[1:], self.shape[1:], strict=True)
        return slice(None), *(slice(at * part, min((at + 1) * part, length)) for at, part, length in axes)

    def places(self, region: Region | None = None) -> Iterator[tuple[int, int]]:
        """The places of the grid that touch a region of cells, or all of them, row by row."""
        if region is None:
            return product(*map(range, self.grid))
        axes = zip((region.rows, region.cols), self.piece[1:], strict=True)
        return product(*(range(axis.first // part, axis.last // part + 1) for axis, part in axes))


class StoredArray(Windowed):
    """A zarr array in a folder, or a tensor of a safetensors file, which is opened for each window, and checked."""

    def __init__(self, path: Path, pieces: Pieces, digests: Sequence[str]) -> None:
        """`digests`: of the pieces, row by row."""
        super().__init__(pieces.shape[0], Region.at(0, 0, *pieces.shape[1:]))
        self.path, self.pieces, self.digests = path, pieces, digests
        self._checked: dict[tuple[int, int], object] = {}  # place of a piece: what the file was then

    def make(self, region: Region) -> np.ndarray:
        """The values [C, h, w] of a region. UserError where the file was damaged, changed or taken away."""
        try:
            for place in self.pieces.places(region):
                self._check(place)
            return self._read((slice(None), *region.slices_in(self.cells)))
        except WRONG as error:
            raise UserError(f"{self.path}: damaged ({' '.join(str(error).split())[:200]})") from error

    def _check(self, place: tuple[int, int]) -> None:
        """Unfit where a piece is not what was sealed, or not finite; what was checked is not read again."""
        folder = self.path.suffix == FOLDER
        status = os.stat(_chunk(self.path / "structure", (0, *place)) if folder else self.path)
        version = status.st_ino, status.st_size, status.st_mtime_ns
        if self._checked.get(place) == version:
            return
        values = self._read(self.pieces.window(place))
        if digest(values) != self.digests[place[0] * self.pieces.grid[1] + place[1]]:
            raise Unfit(f"cells at {place}: {CHANGED}")
        if not np.isfinite(values).all():
            raise Unfit("values that are not finite")
        self._checked[place] = version

    def _read(self, index: Window) -> np.ndarray:
        if self.path.suffix == FOLDER:
            return np.asarray(zarr.open_array(str(self.path / "structure"), mode="r")[index])
        with safetensors.safe_open(self.path, framework="np") as file:
            return file.get_slice("structure")[index]


def digest(values: np.ndarray) -> str:
    """SHA-256 of values as float32, in hexadecimal digits."""
    return hashlib.sha256(np.ascontiguousarray(values, "<f4").data).hexdigest()


def sealed(
    metadata: Mapping[str, str], styles: Mapping[str, np.ndarray], pieces: Pieces, digests: Iterable[str]
) -> dict[str, str]:
    """Metadata of a latent file with its digests, and the seal of all that is not structure."""
    sealed = dict(metadata) | {PIECE: " ".join(map(str, pieces.piece)), DIGESTS: " ".join(digests)}
    return sealed | {SEAL: _seal(sealed, styles, pieces.shape)}


def _seal(metadata: Mapping[str, str], styles: Mapping[str, np.ndarray], shape: Sequence[int]) -> str:
    tensors = [[name, list(values.shape), digest(values)] for name, values in sorted(styles.items())]
    text = json.dumps([sorted(metadata.items()), tensors, list(map(int, shape))])
    return hashlib.sha256(text.encode()).hexdigest()


def _check_seal(
    metadata: Mapping[str, str], styles: Mapping[str, np.ndarray], shape: Sequence[int]
) -> tuple[Pieces, list[str]]:
    """The pieces of a structure and their digests, which a file tells. Unfit where they are not sealed."""
    pieces, digests = Pieces(tuple(shape), tuple(map(int, metadata[PIECE].split()))), metadata[DIGESTS].split()
    if metadata[SEAL] != _seal({key: text for key, text in metadata.items() if key != SEAL}, styles, shape):
        wrong = "it does not match its SHA-256"
    elif len(pieces.piece) != 3 or pieces.piece[0] != shape[0] or min(*pieces.piece, *shape) < 1:
        wrong = f"pieces of {metadata[PIECE]} of a structure {list(shape)}"
    elif len(digests) != math.prod(pieces.grid):
        wrong = f"{len(digests)} digests of {math.prod(pieces.grid)} pieces"
    else:
        return pieces, digests
    raise Unfit(f"{wrong}: damaged, or changed by a program that does not seal it (docs/api.md)")


def _parse(path: Path, shape: Sequence[int], styles: dict[str, np.ndarray], metadata: dict[str, str]) -> Latents:
    """Latents of the parts of a file. ValueError, KeyError, TypeError or OSError where they do not fit."""
    if (found := metadata.get("format", FORMAT)) != FORMAT:
        raise Unfit(f"its format is {str(found)[:40]!r}, not {FORMAT!r}; invert the photograph again")
    if missing := [name for name in METADATA if name not in metadata]:
        lacking = f"its metadata lack {', '.join(missing)}" if metadata else "it has no metadata"
        raise Unfit(f"{lacking}; latents are changed with Latents.load and save (docs/api.md)")
    if len(shape) != 3:
        raise Unfit(f"structure has the shape {list(shape)}; allowed: [C, h, w], without a batch axis")
    pieces, digests = _check_seal(metadata, styles, shape)
    if sum(encoded_pixels(metadata[key]) for key in ("noise", "style_map", "own_style_map")) > MOST_LABELS:
        raise Unfit(f"maps of more than {MOST_LABELS} labels")
    height, width = map(int, metadata["image_size"].split())
    if min(height, width) < 1:
        raise ValueError("an empty image")
    measured, exact = metadata["style"] == "measured", metadata["style_modulation"] == "exact"
    style = _parse_style(styles["global"], metadata["style_map"], measured, exact)
    own = _parse_style(styles["own"], metadata["own_style_map"], measured, exact) if "own" in styles else None
    noise, grey = NOISE.validate_json(metadata["noise"]), metadata["grey"] == str(True)
    structure = StoredArray(path, pieces, digests)
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


def _read_file(path: Path) -> Latents:
    regular_size(path)
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
        for name in names[1:]:
            _check_style(name, file.get_slice(name).get_shape())
        shape = tuple(file.get_slice("structure").get_shape())
        return _parse(path, shape, {name: file.get_tensor(name) for name in names[1:]}, file.metadata() or {})


def _read_folder(path: Path) -> Latents:
    """Nothing is read whose size was not looked at: a few bytes could describe arrays of any size."""
    for part in ("", "structure", *STYLES):
        if os.path.lexists(path / part) and regular_size(path / part / "zarr.json") > LARGEST_JSON:
            raise Unfit(f"{part or 'its'} zarr.json has more than {LARGEST_JSON} bytes")
    group = zarr.open_group(str(path), mode="r", zarr_format=3)
    array, styles = group["structure"], {name: group[name] for name in STYLES if name in group}
    if array.dtype != np.float32:
        raise Unfit(f"'structure' is {array.dtype}; latents are stored as float32 (Latents.save of the API does)")
    if not all(is_ours(each, each.shape, each.chunks) for each in (array, *styles.values())):
        raise Unfit("arrays that are stored in another way")
    for name, each in styles.items():
        _check_style(name, each.shape)
        if each.chunks != each.shape:
            raise Unfit(f"{name!r} is cut into chunks")
        _check_chunk(each, path / name, (0,) * each.ndim)
    latents = _parse(path, array.shape, {name: each[...] for name, each in styles.items()}, dict(group.attrs))
    if latents.structure.pieces.piece != array.chunks:
        raise Unfit(f"chunks of {list(array.chunks)}, which are no pieces of its digests")
    for place in latents.structure.pieces.places():
        _check_chunk(array, path / "structure", (0, *place))
    return latents


def _check_chunk(array: zarr.Array, folder: Path, place: Sequence[int]) -> None:
    """Unfit where the file of a chunk is not as large as it must be, so that it cannot become more in memory."""
    file = _chunk(folder, place)
    if regular_size(file) != (expected := math.prod(array.chunks) * array.dtype.itemsize + CHECKSUM):
        raise Unfit(f"{file.relative_to(folder.parent)} has not {expected} bytes")


def _chunk(folder: Path, place: Sequence[int]) -> Path:
    """The file of a chunk of an array."""
    return Path(folder, "c", *map(str, place))


def _check_style(name: str, shape: Sequence[int]) -> None:
    """Unfit for an array of styles that is larger than any."""
    if math.prod(shape) > MOST_STYLE:
        raise Unfit(f"{name!r} has the shape {list(shape)}; allowed: at most {MOST_STYLE} values")


def _finite(values: np.ndarray, path: Path) -> np.ndarray:
    """Values that will be stored in `path`, float32. UserError where some are not finite."""
    with np.errstate(over="ignore"):
        values = np.asarray(values, np.float32)
    if not np.isfinite(values).all():
        raise UserError(f"{path}: not saved: values that are not finite")
    return values


def _copy(latents: Latents, pieces: Pieces, shown: Path, write: Callable[[Window, np.ndarray], None]) -> list[str]:
    """Write the pieces of a structure; their digests. UserError for values that are not finite; `shown`: the path."""
    digests = []
    for window in map(pieces.window, pieces.places()):
        values = _finite(latents.structure[window], shown)
        digests.append(digest(values))
        write(window, values)
    return digests


def _write_folder(folder: Path, latents: Latents, shown: Path) -> None:
    """The zarr group. `shown`: the path in messages."""
    shape, styles = latents.structure.shape, latents.styles()
    array = create_zarr(folder / "structure", shape, (shape[0], min(_rows(shape), CHUNK), CHUNK))
    pieces = Pieces(array.shape, array.chunks)
    metadata = sealed(latents.metadata(), styles, pieces, _copy(latents, pieces, shown, array.__setitem__))
    zarr.create_group(str(folder), attributes=metadata)
    for name, values in styles.items():
        create_zarr(folder / name, values.shape, values.shape)[...] = values


def _write_file(path: Path, latents: Latents, shown: Path) -> None:
    """The safetensors format (a header and the values), written by strips: its library wants tensors whole.

    The header is written first, in its length, and again when the digests are known. `shown`: the path in messages.
    """
    styles, shape = latents.styles(), tuple(map(int, latents.structure.shape))
    pieces = Pieces(shape, (shape[0], min(_rows(shape), shape[1]), shape[2]))
    head = _header(latents.metadata(), styles, pieces, [UNKNOWN] * math.prod(pieces.grid))
    start = len(head) + sum(values.nbytes for values in styles.values())
    size = start + 4 * math.prod(shape)
    with open(path, "wb") as file:
        file.write(head + b"".join(values.tobytes() for values in styles.values()))
        if hasattr(os, "posix_fallocate"):  # a full disk is an error here, and not a crash of the map later
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)

    def write(window: Window, values: np.ndarray) -> None:  # a map that lasts would count as memory
        np.memmap(path, "<f4", "r+", start, shape)[window] = values

    digests = _copy(latents, pieces, shown, write)
    with open(path, "r+b") as file:
        file.write(_header(latents.metadata(), styles, pieces, digests))


def _header(metadata: dict[str, str], styles: dict[str, np.ndarray], pieces: Pieces, digests: Sequence[str]) -> bytes:
    """How a latent file begins; the same length whatever the digests are."""
    header, end = {"__metadata__": sealed(metadata, styles, pieces, digests)}, 0
    sizes = {name: values.shape for name, values in styles.items()} | {"structure": pieces.shape}
    for name, shape in sizes.items():
        start, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _rows(shape: Sequence[int]) -> int:
    """Rows of cells that a strip of STRIP bytes has."""
    return max(1, STRIP // (4 * shape[0] * shape[2]))
