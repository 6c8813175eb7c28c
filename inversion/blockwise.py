"""The two loops over blocks: an image's structure latents, and the image that latents draw.

A block asks geometry for the context that it needs, so it equals the same part of the whole. The loops know arrays and
an iterable of blocks; what is to do, whose share it is, and how far it is wraps that iterable from outside. Reading is
ahead of the computation, and writing behind it, in a thread of its own each.

Letters: C channels, H/W pixels, h/w latent cells.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from images.reading import Image
from images.writing import to_eight_bit
from inversion.styles import ArrayLike
from models.encoder import PatchEncoder
from models.geometry import Region, Rule
from models.noise import Noise
from utils.errors import UserError

Item = TypeVar("Item")
_END = object()


class Writable(Protocol):
    """An array that takes windows."""

    dtype: np.dtype

    def __setitem__(self, index: tuple[slice, ...], values: np.ndarray) -> None:
        """Store the values of a window."""


@torch.inference_mode()
def encode(
    encoder: PatchEncoder,  # baked
    image: Image,
    blocks: Iterable[Region],  # of latent cells
    out: Writable,  # [C, h, w] float32
    cells: Region,  # that `out` holds
    device: torch.device,
    channels: int | None = None,  # that `out` takes; None: those of the model
) -> None:
    """Write the structure latents of blocks of an image into `out`."""

    def read(block: Region) -> tuple[Region, Tensor]:
        window = block.receptive_field(encoder.rule)
        pixels = image.window_float(window.rows.first, window.cols.first, *window.shape)
        return block, _pinned(torch.from_numpy(pixels), device)

    def encoded() -> Iterator[tuple[Region, Tensor]]:
        for block, pixels in prefetch(map(read, blocks)):
            yield block, encoder(as_batch(pixels, device), channels)[0]

    store(encoded(), out, lambda block: (slice(None), *block.slices_in(cells)))


@torch.inference_mode()
def draw(
    synthesize: Callable[[Tensor, Noise | None, Region], Tensor],  # z_s [1, C, h, w], noise, pixels -> [1, 3, H, W]
    rule: Rule,  # of the texture synthesizer
    structure: ArrayLike,  # [C, h, w]
    cells: Region,  # that `structure` holds
    noise: Noise | None,
    blocks: Iterable[Region],  # of pixels
    out: Writable,  # [H, W, 3], uint8 or float32 in [-1, 1]
    window: Region,  # pixels that `out` holds
    device: torch.device,
    read_ahead: bool = True,  # False where reading the structure is computation, which a thread would only disturb
) -> None:
    """Write the pixels of blocks of an image into `out`."""
    eight_bit = out.dtype == np.uint8

    def read(block: Region) -> tuple[Region, Tensor]:
        around = block.receptive_field(rule)
        values = np.asarray(structure[(slice(None), *around.slices_in(cells))], np.float32)
        if not np.isfinite(values).all():
            row, col = np.argwhere(~np.isfinite(values).all(0))[0]
            place = row + around.rows.first - cells.rows.first, col + around.cols.first - cells.cols.first
            raise UserError(f"latents: not a finite number in the cell at row {place[0]}, column {place[1]}")
        return block, _pinned(torch.from_numpy(np.ascontiguousarray(values)), device)

    def drawn() -> Iterator[tuple[Region, Tensor]]:
        for block, z_s in prefetch(map(read, blocks)) if read_ahead else map(read, blocks):
            image = synthesize(z_s[None].to(device, non_blocking=True), noise, block)[0].permute(1, 2, 0)
            yield block, to_eight_bit(image) if eight_bit else image

    store(drawn(), out, lambda block: (*block.slices_in(window), slice(None)))


def as_batch(pixels: Tensor, device: torch.device) -> Tensor:
    """[H, W, 3] as [1, 3, H, W] on the device; that is channels_last without a copy."""
    return pixels.to(device, non_blocking=True).permute(2, 0, 1)[None]


def store(
    results: Iterator[tuple[Region, Tensor]], out: Writable, index: Callable[[Region], tuple[slice, ...]]
) -> None:
    """Write what comes of blocks, in a thread, while the next ones are computed; at most two wait."""
    waiting: deque[Future] = deque()
    with ThreadPoolExecutor(1, "writer") as pool:
        for block, values in _fetched(results):
            if len(waiting) == 2:
                waiting.popleft().result()
            waiting.append(pool.submit(out.__setitem__, index(block), values.numpy()))
        for future in waiting:
            future.result()


def _pinned(values: Tensor, device: torch.device) -> Tensor:
    """The values where a copy to the device need not wait."""
    return values.pin_memory() if device.type == "cuda" else values


def _fetched(items: Iterator[tuple[Region, Tensor]]) -> Iterator[tuple[Region, Tensor]]:
    """The tensors on the CPU. On CUDA each is copied while the next one is computed."""
    waiting = None
    for block, values in items:
        if values.device.type != "cuda":
            yield block, values.cpu()
            continue
        host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        host.copy_(values, non_blocking=True)
        done = torch.cuda.Event()
        done.record(torch.cuda.current_stream(values.device))
        if waiting:
            waiting[2].synchronize()
            yield waiting[:2]
        waiting = block, host, done
    if waiting:
        waiting[2].synchronize()
        yield waiting[:2]


def prefetch(items: Iterable[Item], depth: int = 2) -> Iterator[Item]:
    """The items, made in a thread while the caller works on those before; at most `depth` wait.

    An error of making them comes out where the item would.
    """
    iterator = iter(items)
    with ThreadPoolExecutor(1, "reader") as pool:
        waiting = deque(pool.submit(next, iterator, _END) for _ in range(depth))
        while (item := waiting.popleft().result()) is not _END:
            waiting.append(pool.submit(next, iterator, _END))
            yield item
