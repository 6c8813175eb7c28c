"""What stored samples mean: colours of any profile become sRGB, by LittleCMS with perceptual intent.

Whole images, windows of huge ones, and training take their pixels from here. Letters: h, w pixels, n colours of a file
(1 grey, 3 RGB, 4 CMYK), which an alpha channel may follow. Samples are uint8 or uint16.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Sequence
from functools import cache
from itertools import product

import numpy as np
import PIL.Image
from PIL import ImageCms

from images.vips import load_vips

SRGB_CURVE = 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045  # gamma, a, b, c, d of (a x + b)^gamma, from d on; c x
REC_709_CURVE = 1 / 0.45, 1 / 1.099, 0.099 / 1.099, 1 / 4.5, 0.081
D65 = 0.3127, 0.3290
PRIMARIES = {  # x, y of red, green, blue; by their numbers in H.273, which cICP uses
    1: (0.64, 0.33, 0.30, 0.60, 0.15, 0.06),  # sRGB
    9: (0.708, 0.292, 0.170, 0.797, 0.131, 0.046),  # Rec. 2020
    12: (0.68, 0.32, 0.265, 0.69, 0.15, 0.06),  # Display P3
}
CURVES = {
    1: REC_709_CURVE, 6: REC_709_CURVE, 14: REC_709_CURVE, 15: REC_709_CURVE,
    4: (2.2,), 5: (2.8,), 8: (1.0,), 13: SRGB_CURVE,
}  # fmt: skip
ADOBE_RGB = (0.64, 0.33, 0.21, 0.71, 0.15, 0.06), (563 / 256,)
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
D50 = np.array([0.9642, 1, 0.8249])
SPACES = {1: "GRAY", 3: "RGB", 4: "CMYK"}  # number of colours: as ICC names it
MODES = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK", "Lab": "LAB"}  # as Pillow does
INTERPRETATIONS = {"GRAY": "b-w", "RGB": "srgb", "CMYK": "cmyk"}  # as libvips does
ALMOST = 1  # of 255, what rounding changes: a profile that changes no colour by more is that of sRGB


class Colours:
    """Samples [h, w, n], or [h, w, n + 1] with alpha, to sRGB [h, w, 3] of the same type; transparent is mid-grey.

    Each pixel by itself, so windows equal the whole. ValueError for a profile that cannot be used.
    """

    def __init__(self, count: int, profile: bytes | None = None, deep: bool = False, space: str | None = None):
        """`count`: colours n; `profile`: ICC; `deep`: whether there are 16 bits; `space`: of ICC, if not as SPACES."""
        self.count, self._profile = count, profile
        if profile is None:
            return
        try:
            opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            self._space = opened.profile.xcolor_space.strip()
            if self._space not in (space or SPACES[count], "RGB" if count == 1 else ""):
                raise ValueError(f"it is one of {self._space}, and the image is {SPACES[count]}")
            mode, intent = MODES[self._space], ImageCms.Intent.PERCEPTUAL
            self._transform = ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), mode, "RGB", intent)
        except (OSError, ImageCms.PyCMSError) as error:
            raise ValueError("it is damaged") from error
        steps = np.array(list(product(range(0, 256, 51), repeat=count)), np.uint8)[None]
        shown = self._convert(steps)
        if deep and np.abs(self._convert_deep(steps) / 257 - shown).max() > 2 * ALMOST:  # it did not take the profile
            raise ValueError("it is damaged")
        if count < 4 and np.abs(shown.astype(int) - steps).max() <= ALMOST:
            self._profile = None

    def __call__(self, values: np.ndarray) -> np.ndarray:
        colours, alpha = values[..., : self.count], values[..., self.count : self.count + 1]
        if self._profile is None:
            colours = _from_cmyk(colours) if self.count == 4 else colours
        elif values.dtype == np.uint8:
            colours = self._convert(colours)
        else:
            colours = self._interpolate(colours)
        if self.count == 1:  # grey stays grey, whatever was rounded
            colours = np.broadcast_to(colours[..., :1], (*colours.shape[:2], 3))
        return _over_grey(colours, alpha) if alpha.shape[2] else colours

    def _convert(self, values: np.ndarray) -> np.ndarray:
        """sRGB [h, w, 3] of 8 bits."""
        values = self._in_space(values)
        values = np.ascontiguousarray(values[..., 0] if values.shape[2] == 1 else values)
        return np.asarray(ImageCms.applyTransform(PIL.Image.fromarray(values, MODES[self._space]), self._transform))

    def _interpolate(self, values: np.ndarray) -> np.ndarray:
        """The same of 16 bits. LittleCMS makes tables for these, which are wrong by up to 14 of 255 in shadows.

        So it is asked for the 8-bit colours below, and for the next ones along each axis.
        """
        low, rest = np.divmod(values, 257)
        low = low.astype(np.uint8)
        start = self._convert_deep(low).astype(np.float32)
        result = start.copy()
        for axis in range(self.count):
            high = low.copy()
            high[..., axis] += high[..., axis] < 255
            result += (self._convert_deep(high) - start) * (rest[..., axis : axis + 1] / np.float32(257))
        return result.round().clip(0, 65535).astype(np.uint16)

    def _convert_deep(self, values: np.ndarray) -> np.ndarray:
        """sRGB [h, w, 3] uint16 of 8 bits, computed in this thread: those of libvips do not survive a fork."""
        vips, values = load_vips(), np.ascontiguousarray(self._in_space(values))
        height, width, bands = values.shape
        image = vips.Image.new_from_memory(values.data, width, height, bands, "uchar")
        image = image.copy(interpretation=INTERPRETATIONS[self._space])
        image.set_type(vips.GValue.blob_type, "icc-profile-data", self._profile)
        image = image.icc_transform("srgb", embedded=True, intent="perceptual", depth=16)
        return np.frombuffer(vips.Region.new(image).fetch(0, 0, width, height), np.uint16).reshape(height, width, 3)

    def _in_space(self, values: np.ndarray) -> np.ndarray:
        """Grey as colours where its profile is one of colours."""
        return np.repeat(values, 3, axis=2) if self.count == 1 and self._space == "RGB" else values


def noted_colours(count: int, profile: Callable[[], bytes | None], deep: bool, notes: list[str]) -> Colours:
    """As `Colours`, but a profile that cannot be used, or made, costs a note."""
    try:
        return Colours(count, profile(), deep)
    except ValueError as error:
        notes.append(f"its colour profile cannot be used ({error}); the colours count as sRGB")
        return Colours(count)


def from_lab() -> Colours:
    """What makes sRGB of L*a*b* of 8 bits, as Pillow has it."""
    return Colours(3, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes(), space="Lab")


def from_curve(
    primaries: Sequence[float] = PRIMARIES[1],  # x, y of red, green, blue
    curve: Sequence[float] = SRGB_CURVE,  # gamma, or five parameters as of SRGB_CURVE
    white: Sequence[float] = D65,
) -> bytes:
    """The ICC profile of RGB colours with these primaries; by default that of sRGB, which results carry.

    ValueError for primaries that span no colours.
    """
    x, y = np.array([*primaries, *white], np.float64).reshape(4, 2).T
    if not y.all():
        raise ValueError("primaries without light")
    points = np.stack([x / y, np.ones(4), (1 - x - y) / y])  # XYZ
    cones = BRADFORD @ points[:, 3]
    adapt = np.linalg.inv(BRADFORD) @ np.diag(BRADFORD @ D50 / cones) @ BRADFORD
    try:
        colours = adapt @ (points[:, :3] * np.linalg.solve(points[:, :3], points[:, 3]))
    except np.linalg.LinAlgError as error:
        raise ValueError("primaries that span no colours") from error
    profile = bytearray(_template())
    profile[24:36] = struct.pack(">6H", 2000, 1, 1, 0, 0, 0)  # equal profiles are equal files
    curve = tuple(curve) if len(curve) > 1 else (curve[0], 1, 0, 0, 0)
    values = {b"rXYZ": colours[:, 0], b"gXYZ": colours[:, 1], b"bXYZ": colours[:, 2], b"rTRC": curve}
    for entry in range(132, 132 + 12 * struct.unpack_from(">I", profile, 128)[0], 12):
        tag, place = struct.unpack_from(">4sI", profile, entry)
        if tag in values:  # red's curve is that of all
            start = place + (12 if tag == b"rTRC" else 8)
            numbers = np.round(np.array(values[tag]) * 65536).clip(-(2**31), 2**31 - 1).astype(int)
            struct.pack_into(f">{len(numbers)}i", profile, start, *numbers.tolist())
    return bytes(profile)


@cache
def _template() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def _from_cmyk(values: np.ndarray) -> np.ndarray:
    """RGB [h, w, 3] of CMYK [h, w, 4] without a profile, by the simple formula."""
    most = np.uint32(np.iinfo(values.dtype).max)
    light = most - values.astype(np.uint32)
    return ((light[..., :3] * light[..., 3:] + most // 2) // most).astype(values.dtype)


def _over_grey(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """RGB [h, w, 3] where alpha [h, w, 1] shows it, over mid-grey."""
    most = np.uint32(np.iinfo(colours.dtype).max)
    colours, wide = colours.astype(np.uint32), alpha.astype(np.uint32)
    grey = (most + 1) // 2
    return ((colours * wide + grey * (most - wide) + most // 2) // most).astype(alpha.dtype)
