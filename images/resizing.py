"""Images of another size."""

from __future__ import annotations

import cv2
import numpy as np

from images.headers import ImageError
from images.reading import Image
from utils.errors import UserError


def check_side(key: str, side: int, max_pixels: int) -> None:
    """UserError, naming the option `key`, where a shorter side is too long for every image, whatever its shape."""
    if side**2 > max_pixels:
        raise UserError(f"{key}={side}: even a square has more pixels then than max_pixels={max_pixels} allows")


def with_shorter_side(image: Image, side: int, max_pixels: int) -> Image:
    """The image resized so that its shorter side has `side` pixels, at 8 bits; an image of that size as it is.

    ImageError where it would have more than `max_pixels` pixels.
    """
    shorter = min(image.height, image.width)
    if shorter == side:
        return image
    height, width = (max(1, round(length * side / shorter)) for length in (image.height, image.width))
    if height * width > max_pixels:
        raise ImageError(
            image.name, f"resized to {height} x {width} is more than max_pixels ({max_pixels}) allows"
        )
    pixels = image.window(0, 0, image.height, image.width)
    method = cv2.INTER_AREA if side < shorter else cv2.INTER_LANCZOS4
    resized = cv2.resize(np.ascontiguousarray(pixels), (width, height), interpolation=method)
    return Image(resized, image.name, notes=image.notes)
