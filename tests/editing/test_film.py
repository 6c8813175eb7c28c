"""Films as a player reads them, and strips of pictures."""

import sys

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from editing import film
from editing.film import GAP, WIDEST, Film, strip
from tests.inversion.conftest import photograph
from utils.errors import UserError

TURN = 3  # pixels from frame to frame
SEGMENT = 8  # frames, fewer than are encoded together otherwise
COUNT = 2 * SEGMENT + 5


def made_up(height=31, width=44, count=COUNT, asked=None):
    """A film of a smooth picture that turns to the left; `asked`: takes the numbers of the frames that are drawn."""
    half = cv2.blur(photograph(height, width // 2), (9, 9))
    picture = np.concatenate([half, half[:, ::-1]], axis=1)

    def frames(first):
        for k in range(first, count):
            if asked is not None:
                asked.append(k)
            yield np.roll(picture, -TURN * k, 1)

    return Film((height, width), count, 24, frames)


def decoded(path):
    """How a film says that its pixels are to be read, the times of its frames in seconds, and the frames."""
    with open(path, "rb") as file, av.open(file) as container:
        stream = container.streams.video[0]
        context, found = stream.codec_context, list(container.decode(stream))
        tags = context.color_primaries, context.color_trc, context.colorspace, context.color_range
        times = [float(frame.pts * stream.time_base) for frame in found]
        assert stream.frames == len(found)
        return (context.pix_fmt, *map(int, tags)), times, [frame.to_ndarray(format="rgb24") for frame in found]


def error(frame, drawn):
    """Mean absolute difference of a decoded frame from what was drawn, whose odd last row or column is left out."""
    return abs(frame.astype(int) - drawn[: frame.shape[0], : frame.shape[1]]).mean()


def test_a_film_has_its_frames_at_their_times_in_their_colours_and_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(film, "SEGMENT", SEGMENT)
    whole, parts = tmp_path / "a:b %d.mp4", tmp_path / "parts.mp4"
    made_up().save(whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a:b %d.mp4", "a:b %d.png"]
    tags, times, frames = decoded(whole)
    assert tags == ("yuv420p", 1, 13, 1, 1)  # BT.709, sRGB, BT.709, limited (ITU-T H.273)
    assert times[0] == 0 and np.allclose(np.diff(times), 1 / 24, atol=1e-4)
    for found, frame in zip(frames, made_up().frames(0), strict=True):
        assert found.shape == (30, 44, 3) and abs(found.mean((0, 1)) - frame[:30].mean((0, 1))).max() < 4
        assert error(found, frame) < 5 < error(found, np.roll(frame, TURN, 1))

    def stopped(first):
        for k, frame in zip(range(first, COUNT), made_up().frames(first), strict=True):
            if k == SEGMENT + 3:
                raise KeyboardInterrupt
            yield frame

    with pytest.raises(KeyboardInterrupt):
        Film((31, 44), COUNT, 24, stopped).save(parts)
    assert not parts.exists() and not parts.with_suffix(".png").exists()
    asked = []
    made_up(asked=asked).save(parts)
    assert asked == list(range(SEGMENT, COUNT)) and not list(tmp_path.glob(".*"))
    assert parts.with_suffix(".png").read_bytes() == whole.with_suffix(".png").read_bytes()
    again = decoded(parts)
    assert again[:2] == (tags, times)
    assert max(error(frame, drawn) for frame, drawn in zip(again[2], made_up().frames(0), strict=True)) < 5


@settings(max_examples=25)
@given(height=st.integers(1, 9), width=st.integers(1, 900), count=st.integers(1, 12))
def test_a_strip_is_bounded_and_shows_small_pictures_as_they_are(height, width, count):
    pictures = [np.full((height, width, 3), 20 * k, np.uint8) for k in range(count)]
    found = strip(pictures)
    assert found.shape[1] <= WIDEST and found.dtype == np.uint8
    if count * width + (count - 1) * GAP <= WIDEST:
        assert found.shape[:2] == (height, count * width + (count - 1) * GAP)
    columns = found[0, :, 0].tolist()
    assert columns.count(255) == (count - 1) * GAP
    assert list(dict.fromkeys(value for value in columns if value < 255)) == [20 * k for k in range(count)]


def test_what_a_film_cannot_be_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="films of 1 x 44 pixels; allowed: edges of 2 to 16384"):
        made_up(height=1).save(tmp_path / "a.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match="need the package av .*: pip install av"):
        made_up().save(tmp_path / "a.mp4")
    with pytest.raises(ValueError, match="of one size"):
        strip([np.zeros((2, 3, 3), np.uint8), np.zeros((2, 4, 3), np.uint8)])
    assert not any(tmp_path.iterdir())
