"""Films: frames that are drawn when they are asked for, written as MP4; and strips of pictures.

A film is encoded by segments, which are kept until it is whole: after a kill the same command goes on behind the last
one. They are joined as they are, so nothing shows where.

Letters: H, W pixels of a frame or picture.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import PIL.Image
import torch

from images.writing import write_picture
from utils import log
from utils.errors import UserError
from utils.files import atomic_path, only_files, remove_tree

FILM = ".mp4"
SEGMENT = 48  # frames that are encoded together, and lost by a kill at most; players jump to their beginnings
LEAST, MOST = 2, 16_384  # pixels along the edges that H.264 with halved colours, and its encoder, take
QUALITY = {"crf": "18", "preset": "medium"}  # of x264: hardly any loss is seen
WIDEST = 2400  # pixels of a strip
GAP = 4  # white pixels between its pictures
SHOWN = 6  # frames in the strip of a film


@dataclass(frozen=True)
class Film:
    """Frames of one size. Nothing is drawn before it is asked for."""

    size: tuple[int, int]  # height, width, pixels
    count: int  # of the frames
    fps: int  # frames per second
    frames: Callable[[int], Iterator[np.ndarray]]  # those from a number on, one after the other: uint8 [H, W, 3]

    def save(self, path: Path, settings: Sequence = ()) -> None:
        """Write an MP4, and beside it a strip of some frames as PNG, each of which appears whole or not at all.

        H.264 in 4:2:0, tagged as sRGB by the matrix of BT.709. An odd last row or column is left out. A call that was
        stopped leaves a hidden folder, from which one of the same `settings`, and so of the same frames, goes on.
        UserError where the encoder is not installed or does not take the size, and where the disk refuses.
        """
        unfinished = _unfinished(path, settings)
        load_encoder(self.size)
        starts = range(0, self.count, SEGMENT)
        segments = [unfinished / f"{start}{FILM}" for start in starts]
        done = next((n for n, segment in enumerate(segments) if not segment.exists()), len(segments))
        shown = {round(k) for k in np.linspace(0, self.count - 1, min(SHOWN, self.count))}
        pictures = {k: unfinished / f"{k}.png" for k in sorted(shown)}

        def drawn() -> Iterator[np.ndarray]:
            first = starts[done] if done < len(starts) else self.count
            numbers = log.progress(range(first, self.count), path.stem, "frame")
            for k, frame in zip(numbers, self.frames(first), strict=True):
                if k in pictures:
                    write_picture(pictures[k], _shrunk(frame, _edge(len(pictures))), "png")
                yield frame

        frames = drawn()
        for segment in segments[done:]:
            with atomic_path(segment) as temporary:
                _encode(temporary, islice(frames, SEGMENT), self.size, self.fps)
        with atomic_path(path) as temporary:
            _join(temporary, segments, self.fps)
        found = [np.asarray(PIL.Image.open(picture)) for picture in pictures.values()]
        write_picture(path.with_name(f"{path.stem}.png"), strip(found), "png")
        remove_tree(unfinished)
        log.info(f"wrote {path}")


def strip(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures of one size, uint8 [H, W, 3], side by side with thin white gaps: uint8 [H', W', 3].

    They become smaller where the strip would be wider than `WIDEST` pixels. ValueError where the sizes differ.
    """
    if len({picture.shape for picture in pictures}) != 1:
        raise ValueError(f"pictures of {[picture.shape for picture in pictures]}; a strip has one or more, of one size")
    small = [_shrunk(picture, _edge(len(pictures))) for picture in pictures]
    white = np.full((small[0].shape[0], GAP, 3), 255, np.uint8)
    return np.concatenate([part for picture in small for part in (white, picture)][1:], axis=1)


def _unfinished(path: Path, settings: Sequence) -> Path:
    """The folder of a film's finished segments; those of other settings, or with links in them, are removed."""
    texts = path.stem, json.dumps(settings, sort_keys=True, default=str)
    keys = [hashlib.sha256(os.fsencode(text)).hexdigest()[:16] for text in texts]
    folder = path.with_name(f".film-{keys[0]}-{keys[1]}")
    for other in path.parent.glob(f".film-{keys[0]}-*"):
        if other != folder or not only_files(folder):
            remove_tree(other)
    return folder


def _edge(count: int) -> int:
    """The most pixels that each of so many pictures is wide in a strip."""
    return max(1, (WIDEST + GAP) // count - GAP)


def _shrunk(picture: np.ndarray, width: int) -> np.ndarray:
    """A picture [H, W, 3], made smaller, if it is wider than `width` pixels."""
    if picture.shape[1] <= width:
        return picture
    height = max(1, round(picture.shape[0] * width / picture.shape[1]))
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)


def load_encoder(size: tuple[int, int] = (LEAST, LEAST)) -> ModuleType:
    """PyAV. UserError where it is not installed, or does not encode frames of (height, width)."""
    if not all(LEAST <= length <= MOST for length in size):
        raise UserError(f"films of {size[0]} x {size[1]} pixels; allowed: edges of {LEAST} to {MOST}")
    try:
        return import_module("av")
    except ImportError as error:
        raise UserError("films: need the package av (PyAV): pip install av") from error


def _encode(path: Path, frames: Iterable[np.ndarray], size: tuple[int, int], fps: int) -> None:
    """Write frames as an MP4."""
    av, (height, width) = load_encoder(), (length // 2 * 2 for length in size)
    colour = import_module("av.video.reformatter")
    with open(path, "wb") as file, av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options=QUALITY)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        context = stream.codec_context
        context.thread_count = torch.get_num_threads()
        context.color_primaries, context.color_trc = colour.ColorPrimaries.BT709, colour.ColorTrc.IEC61966_2_1  # sRGB
        context.colorspace, context.color_range = colour.Colorspace.ITU709, colour.ColorRange.MPEG
        for frame in frames:
            rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame[:height, :width]), "rgb24")
            container.mux(stream.encode(rgb.reformat(
                format="yuv420p", dst_colorspace=colour.Colorspace.ITU709, dst_color_range=colour.ColorRange.MPEG,
                src_color_range=colour.ColorRange.JPEG,
            )))  # fmt: skip
        container.mux(stream.encode())


def _join(path: Path, segments: Sequence[Path], fps: int) -> None:
    """Write the frames of segments, encoded as they are, one after the other."""
    av, stream = load_encoder(), None
    with open(path, "wb") as file, av.open(file, "w", format="mp4") as container:
        for number, segment in enumerate(segments):
            with open(segment, "rb") as part, av.open(part, format="mp4") as source:
                stream = stream or container.add_stream_from_template(source.streams.video[0])
                start = round(number * SEGMENT / (fps * source.streams.video[0].time_base))
                for packet in source.demux(source.streams.video[0]):
                    if packet.dts is not None:  # the last one is empty
                        packet.pts, packet.dts, packet.stream = packet.pts + start, packet.dts + start, stream
                        container.mux(packet)
