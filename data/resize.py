"""Fitting images of any size into the frame that a detector sees, and finding the way back."""

from typing import NamedTuple

import numpy as np
from PIL import Image

from utils.config import DataConfig

Window = tuple[slice, slice]
"""Rows and columns."""

WHOLE: Window = (slice(None), slice(None))


class Placement(NamedTuple):
    """Which part of an image lies where in the frame.

    Attributes:
        shown: rows and columns of the image that can be seen: all of them, unless it is cropped.
        inside: rows and columns of the frame where they are: all of them, unless it is padded.
    """

    shown: Window
    inside: Window


def placement(size: tuple[int, int], data: DataConfig) -> Placement:
    """Where an image of this (height, width) lies in the frame.

    Args:
        size: of the image.
        data: settings; `size`, that of the frame, and `resize` are read.
    """
    ratios = np.divide(data.size, size)
    shown, inside = size, data.size
    if data.resize == "pad":
        inside = _sides(size, ratios.min(), data.size)
    elif data.resize == "crop":
        shown = _sides(data.size, 1 / ratios.max(), size)
    return Placement(_central(shown, size), _central(inside, data.size))


def fit(image: np.ndarray, data: DataConfig) -> np.ndarray:
    """An image uint8 [H, W, C] of any size as the detector sees it, uint8 [h, w, C] of `data.size`.

    Around a padded image its border is repeated: an edge would be something to look at.
    """
    shown, inside = placement(image.shape[:2], data)
    height, width = (side.stop - side.start for side in inside)
    pixels = resize(image[shown], (height, width))
    if (height, width) == data.size:
        return pixels
    margins = [
        (side.start, whole - side.stop) for side, whole in zip(inside, data.size, strict=True)
    ]
    return np.pad(pixels, [*margins, (0, 0)], mode="edge")


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize uint8 [H, W, C] to size (height, width), without aliasing; ratios are not kept.

    C is 3, or 4 with alpha: Pillow weighs the colours by it.
    """
    height, width = size
    if image.shape[:2] == (height, width):
        return image
    picture = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.array(picture)


def _sides(size: tuple[int, int], scale: float, limit: tuple[int, int]) -> tuple[int, int]:
    """A (height, width) scaled and rounded: at least a pixel, and no more than the limit."""
    height, width = (
        min(most, max(1, round(side * scale))) for side, most in zip(size, limit, strict=True)
    )
    return height, width


def _central(size: tuple[int, int], whole: tuple[int, int]) -> Window:
    """The window of this (height, width) in the middle of a larger one."""
    starts = [(outer - inner) // 2 for inner, outer in zip(size, whole, strict=True)]
    rows, columns = (slice(start, start + side) for start, side in zip(starts, size, strict=True))
    return rows, columns
