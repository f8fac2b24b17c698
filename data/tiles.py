"""Input of a detector, a whole image resized or overlapping tiles, and joining its output."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from data.images import check_size, upright_size
from data.region import valid_pixels
from utils.config import Config, DataConfig, changed

OVERLAP = 0.25  # share of a tile that neighbours have in common, at least: a defect is whole in one
HINT_FACTOR = 4.0  # images that are shrunk by so much or more are worth a line
OBLONG_RATIO = 1.5  # of the longer side to the shorter one, from which images are not made square
RATIO_IMAGES = 50  # about, whose headers are read to find it
MIN_ALIKE = 0.9  # share of the images that are to have about this ratio
STRIDE = 32  # pixels, the coarsest stride of a network
MIN_DEFECT = 3.0  # pixels, after shrinking, that a defect has to measure to be found at all

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


@dataclass(frozen=True)
class Grid:
    """Positions of the tiles of an image, evenly from edge to edge.

    Attributes:
        size: (height, width) of the image.
        tile: (height, width) of a tile in its pixels.
        tops: first rows of the tiles.
        lefts: their first columns.
        source: rows and columns of the image that the tiles cover: all, unless it is cropped.
        target: rows and columns of the joined tiles without padding.
    """

    size: tuple[int, int]
    tile: tuple[int, int]
    tops: tuple[int, ...]
    lefts: tuple[int, ...]
    source: Slices = WHOLE
    target: Slices = WHOLE

    @classmethod
    def over(cls, size: tuple[int, int], data: DataConfig) -> "Grid":
        """Return the grid of an image of this (height, width).

        Without `data.tile` it has one tile, the whole image resized.
        """
        if not data.tile:
            return cls(size, size, (0,), (0,), *placement(size, data))
        tops, lefts = (_starts(side, data.tile) for side in size)
        return cls(size, (data.tile, data.tile), tops, lefts)

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self.tops) * len(self.lefts)

    def cut(self, image: np.ndarray, data: DataConfig) -> np.ndarray:
        """Cut an image into its tiles, row by row, and resize them to `data.size`.

        Args:
            image: uint8 [H, W, C].
            data: settings that the grid was made with.

        Returns:
            uint8 [T, h, w, C].

        Raises:
            ImageError: if the image is smaller than a tile.
        """
        if not data.tile:
            return resize_to_input(image, data)[None]
        height, width = self.tile
        check_size(self.size, data)
        return np.stack(
            [
                resize(image[top : top + height, left : left + width], data.size)
                for top in self.tops
                for left in self.lefts
            ]
        )

    def valid_pixels(self, tiles: np.ndarray) -> np.ndarray:
        """Return the valid mask of the tiles of `cut`, bool [T, h, w].

        It is False in padding and outside of the region of interest.
        """
        covered = np.zeros(tiles.shape[:3], bool)
        covered[:, *self.target] = True
        return covered & valid_pixels(tiles)

    def join(self, tiles: np.ndarray) -> np.ndarray:
        """Join tiles, each fading into its neighbours where they overlap, and cut off padding.

        Args:
            tiles: [T, h, w] or [T, h, w, C], in the order of `cut`; bool tiles are joined by "or".

        Returns:
            Of the type of the tiles: [rows, columns] of `target`, and C.
        """
        if len(self) == 1:
            return tiles[0][self.target]
        inner = tiles.shape[1:3]
        scales = np.divide(inner, self.tile)
        tops, lefts = (
            np.rint(np.multiply(starts, scale)).astype(int)
            for starts, scale in zip((self.tops, self.lefts), scales, strict=True)
        )
        joined = np.zeros((tops[-1] + inner[0], lefts[-1] + inner[1], *tiles.shape[3:]), np.float32)
        numbers = iter(range(len(tiles)))
        for top, down in zip(tops, _weights(tops, inner[0]), strict=True):
            for left, across in zip(lefts, _weights(lefts, inner[1]), strict=True):
                weight = np.outer(down, across).reshape(*inner, *[1] * (tiles.ndim - 3))
                area = slice(top, top + inner[0]), slice(left, left + inner[1])
                joined[area] += weight * tiles[next(numbers)]
        if np.issubdtype(tiles.dtype, np.integer):
            np.rint(joined, out=joined)
        return joined.astype(tiles.dtype, copy=False)


def shrinking_hint(grids: Sequence[Grid], data: DataConfig) -> str | None:
    """Return a line about what is lost where images are shrunk by far; None where they are not."""
    if data.tile:
        return None
    sizes = np.array([grid.size for grid in grids])
    factors = sizes / data.size
    factor = np.median(factors.max(axis=1) if data.resize == "pad" else factors.min(axis=1))
    if factor < HINT_FACTOR:
        return None
    and_squash = "" if data.resize in ("auto", "squash") else " --set data.resize=auto"
    (height, width), (rows, columns) = np.median(sizes, axis=0).astype(int), data.size
    return (
        f"images are {height}x{width}, shrunk to {rows}x{columns}: defects below about "
        f"{MIN_DEFECT * factor:.0f} pixels vanish; --set data.tile={min(rows, columns)}"
        f"{and_squash} inspects them at full resolution, tile by tile"
    )


def with_ratio(config: Config, paths: Sequence[Path]) -> tuple[Config, str | None]:
    """Return the settings with the ratio of oblong images, as a run keeps them, and a line on it.

    With `data.resize: auto`, a square `data.size` becomes [height, width] of as many pixels where
    images are oblong and nearly all of one ratio: squashed, their thin defects would fade. The line
    is None where the size stays.
    """
    data = config.data
    if data.tile or data.resize != "auto" or data.size[0] != data.size[1]:
        return config, None
    sizes = []
    for path in paths[:: 1 + len(paths) // RATIO_IMAGES]:
        with suppress(Exception):  # of many kinds; whoever reads the image reports it
            sizes.append(upright_size(path))
    if not sizes:
        return config, None
    ratios = np.divide(*np.transpose(sizes))
    ratio = np.median(ratios)
    alike = np.mean(np.abs(np.log(ratios / ratio)) < np.log(OBLONG_RATIO) / 2)
    if max(ratio, 1 / ratio) < OBLONG_RATIO or alike < MIN_ALIKE:
        return config, None
    # height * width = size ** 2 and height / width = ratio, in multiples of the coarsest stride.
    sides = data.size * np.sqrt([ratio, 1 / ratio])
    height, width = (np.rint(sides / STRIDE).clip(min=2) * STRIDE).astype(int).tolist()
    line = (
        f"images are {'higher than wide' if ratio > 1 else 'wider than high'}: data.size is "
        f"[{height},{width}], which keeps their ratio and has about as many pixels as "
        f"{data.size[0]}x{data.size[0]}; data.resize=squash takes that"
    )
    return changed(config, {"data.size": (height, width)}), line


def _starts(length: int, tile: int) -> tuple[int, ...]:
    """Return the first pixels of the tiles that cover a length evenly, as few as possible."""
    if length <= tile:
        return (0,)
    count = 1 + int(np.ceil((length - tile) / (tile * (1 - OVERLAP))))
    return tuple(np.rint(np.linspace(0, length - tile, count)).astype(int).tolist())


def _weights(starts: np.ndarray, length: int) -> list[np.ndarray]:
    """Return the weights [length] of tiles along a line; at each pixel they add up to one."""
    # A raised cosine: highest in the middle of a tile, where the detector has the most context.
    window = np.sin(np.pi * (np.arange(length) + 0.5) / length) ** 2
    total = np.zeros(starts[-1] + length)
    for start in starts:
        total[start : start + length] += window
    return [window / total[start : start + length] for start in starts]


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
