"""Resizing images of any size to the size that a detector takes, and finding the way back."""

from typing import NamedTuple

import numpy as np
from PIL import Image

from utils.config import DataConfig

Slices = tuple[slice, slice]  # rows and columns
WHOLE: Slices = (slice(None), slice(None))


class Placement(NamedTuple):
    """Rows and columns of an image that become those of a resized one.

    Attributes:
        source: of the image: all of it, unless it is cropped.
        target: of the resized image: all of it, unless it is padded.
    """

    source: Slices
    target: Slices


def placement(size: tuple[int, int], data: DataConfig) -> Placement:
    """Return the placement of an image of this (height, width).

    Args:
        size: of the image.
        data: settings; `size`, that of the resized image, and `resize` are read.
    """
    ratios = np.divide(data.size, size)
    source, target = size, data.size
    if data.resize == "pad":
        target = _scaled(size, ratios.min(), data.size)
    elif data.resize == "crop":
        source = _scaled(data.size, 1 / ratios.max(), size)
    return Placement(_central(source, size), _central(target, data.size))


def resize_to_input(image: np.ndarray, data: DataConfig) -> np.ndarray:
    """Resize an image uint8 [H, W, C] of any size to `data.size`, as `data.resize` says."""
    source, target = placement(image.shape[:2], data)
    height, width = (side.stop - side.start for side in target)
    pixels = resize(image[source], (height, width))
    margins = [(side.start, end - side.stop) for side, end in zip(target, data.size, strict=True)]
    # The border is repeated: the edge of a black margin would be an anomaly by itself.
    return np.pad(pixels, [*margins, (0, 0)], mode="edge")


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize uint8 [H, W, C] to size (height, width), without aliasing; ratios are not kept.

    C is 3, or 4 with alpha, by which Pillow weights the colours.
    """
    height, width = size
    if image.shape[:2] == (height, width):
        return image
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def _scaled(size: tuple[int, int], scale: float, limit: tuple[int, int]) -> tuple[int, int]:
    """Return a (height, width) scaled and rounded: at least a pixel, at most the limit."""
    height, width = (
        min(most, max(1, round(side * scale))) for side, most in zip(size, limit, strict=True)
    )
    return height, width


def _central(size: tuple[int, int], outer: tuple[int, int]) -> Slices:
    """Return rows and columns of this (height, width) in the middle of a larger one."""
    starts = [(most - side) // 2 for side, most in zip(size, outer, strict=True)]
    rows, columns = (slice(start, start + side) for start, side in zip(starts, size, strict=True))
    return rows, columns
