"""SHA-256 of stored latents: of each piece of the structure, and of all else that a latent file says.

A piece is a strip of rows in a file, a chunk in a folder. A window checks the pieces that it touches, each once, so
that a part of a huge image stays cheap, and nothing is drawn that was not checked. This tells damage, and changes by
programs that do not seal what they write; whoever means harm can seal anything.

Letters: C channels, h/w latent cells.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

Window = tuple[slice, slice, slice]
PIECE, DIGESTS, SEAL = "structure_piece", "structure_sha256", "sha256"  # keys of the metadata
UNKNOWN = "0" * 64  # a digest that is still to come


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

    def places(self) -> Iterator[tuple[int, int]]:
        """All places of the grid, row by row."""
        return product(*map(range, self.grid))

    def touched(self, window: Window) -> Iterator[tuple[int, int]]:
        """The places of the pieces that a window of the structure reads; all where it is not three slices."""
        if not (isinstance(window, tuple) and len(window) == 3 and all(isinstance(each, slice) for each in window)):
            return self.places()
        axes = []
        for part, piece, length in zip(window[1:], self.piece[1:], self.shape[1:], strict=True):
            first, stop, _ = part.indices(length)
            axes.append(range(first // piece, -(-stop // piece)))
        return product(*axes)


def digest(values: np.ndarray) -> str:
    """SHA-256 of values as float32, in hexadecimal digits."""
    return hashlib.sha256(np.ascontiguousarray(values, "<f4").data).hexdigest()


def sealed(
    metadata: Mapping[str, str], styles: Mapping[str, np.ndarray], pieces: Pieces, digests: Iterable[str]
) -> dict[str, str]:
    """Metadata of a latent file with its digests, and the seal of all that is not structure."""
    sealed = dict(metadata) | {PIECE: " ".join(map(str, pieces.piece)), DIGESTS: " ".join(digests)}
    return sealed | {SEAL: _seal(sealed, styles, pieces.shape)}


def check_seal(
    metadata: Mapping[str, str], styles: Mapping[str, np.ndarray], shape: Sequence[int]
) -> tuple[Pieces, list[str]]:
    """The pieces of a structure and their digests, which a file tells. ValueError where they are not sealed."""
    if metadata[SEAL] != _seal({key: text for key, text in metadata.items() if key != SEAL}, styles, shape):
        raise ValueError("it does not match its SHA-256")
    pieces, digests = Pieces(tuple(shape), tuple(map(int, metadata[PIECE].split()))), metadata[DIGESTS].split()
    if len(pieces.piece) != 3 or pieces.piece[0] != shape[0] or min(*pieces.piece, *shape) < 1:
        raise ValueError(f"pieces of {metadata[PIECE]} of a structure {list(shape)}")
    if len(digests) != math.prod(pieces.grid):
        raise ValueError(f"{len(digests)} digests of {math.prod(pieces.grid)} pieces")
    return pieces, digests


def _seal(metadata: Mapping[str, str], styles: Mapping[str, np.ndarray], shape: Sequence[int]) -> str:
    tensors = [[name, list(values.shape), digest(values)] for name, values in sorted(styles.items())]
    text = json.dumps([sorted(metadata.items()), tensors, list(map(int, shape))])
    return hashlib.sha256(text.encode()).hexdigest()
