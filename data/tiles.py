"""What a detector sees of an image, one frame or overlapping tiles, and joining what it finds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.region import read_with_region, valid_pixels
from data.resize import WHOLE, Window, fit, placement, resize
from utils.config import DataConfig

FAR = 4.0
"""Images that are shrunk by so much or more are worth a word."""

OVERLAP = 0.25
"""Share of a tile that neighbours have in common, at least: a defect on a seam is whole in one."""

SEEN = 3.0
"""Pixels, after shrinking, that a defect has to measure to be seen at all."""


@dataclass(frozen=True)
class Grid:
    """Where the tiles of an image lie: evenly, from edge to edge.

    Attributes:
        size: (height, width) of the image.
        tile: (height, width) of a tile in its pixels; a tile may be larger than the image.
        tops: the tiles' first rows.
        lefts: their first columns.
        shown: rows and columns of the image that the tiles show: all, unless it is cropped.
        inside: rows and columns of the joined tiles where they are: all, unless it is padded.
    """

    size: tuple[int, int]
    tile: tuple[int, int]
    tops: tuple[int, ...]
    lefts: tuple[int, ...]
    shown: Window = WHOLE
    inside: Window = WHOLE

    @classmethod
    def over(cls, size: tuple[int, int], data: DataConfig) -> "Grid":
        """The tiles of an image of this (height, width).

        Neighbours overlap by `OVERLAP` of a tile or more. With `data.tile` 0 there is one, the
        frame that the image is resized into by `data.resize`.
        """
        if not data.tile:
            return cls(size, size, (0,), (0,), *placement(size, data))
        tops, lefts = (_starts(side, data.tile) for side in size)
        rows, columns = (
            slice(0, round(side * frame / data.tile))
            for side, frame in zip(size, data.size, strict=True)
        )
        return cls(size, (data.tile, data.tile), tops, lefts, inside=(rows, columns))

    def __len__(self) -> int:
        """Tiles of the image."""
        return len(self.tops) * len(self.lefts)

    def cut(self, image: np.ndarray, data: DataConfig) -> np.ndarray:
        """The tiles of an image, row by row, resized to what the detector takes.

        Args:
            image: uint8 [H, W, C]; where it is smaller than a tile, its edge is repeated.
            data: settings that the grid was made with.

        Returns:
            uint8 [T, h, w, C] of `data.size`.
        """
        if not data.tile:
            return fit(image, data)[None]
        height, width = self.tile
        lacking = [(0, max(0, t - s)) for t, s in zip(self.tile, self.size, strict=True)]
        if any(more for _, more in lacking):
            image = np.pad(image, [*lacking, (0, 0)], mode="edge")
        return np.stack(
            [
                resize(image[top : top + height, left : left + width], data.size)
                for top in self.tops
                for left in self.lefts
            ]
        )

    def valid_pixels(self, tiles: np.ndarray) -> np.ndarray:
        """What counts of the tiles that `cut` made: bool [T, h, w], False in padding.

        False, too, outside of the region of interest, if there is one.
        """
        shown = np.zeros(tiles.shape[:3], bool)
        shown[:, *self.inside] = True
        return shown & valid_pixels(tiles)

    def join(self, tiles: np.ndarray) -> np.ndarray:
        """Lay tiles side by side again, each fading into its neighbours where they overlap.

        A tile weighs by a raised cosine, most in its middle, where the detector has seen what is
        around; the weights add up to one everywhere. Padding is cut off.

        Args:
            tiles: [T, h, w] or [T, h, w, C], in the order of `cut`; of bool, what any of them says.

        Returns:
            Of the type of the tiles: [rows, columns] of `inside`, and C.
        """
        if len(self) == 1:
            return tiles[0][self.inside]
        inner = tiles.shape[1:3]
        scales = [frame / part for frame, part in zip(inner, self.tile, strict=True)]
        tops, lefts = (
            np.rint(np.multiply(starts, scale)).astype(int)
            for starts, scale in zip((self.tops, self.lefts), scales, strict=True)
        )
        joined = np.zeros((tops[-1] + inner[0], lefts[-1] + inner[1], *tiles.shape[3:]), np.float32)
        numbers = iter(range(len(tiles)))
        for top, down in zip(tops, _weights(tops, inner[0]), strict=True):
            for left, across in zip(lefts, _weights(lefts, inner[1]), strict=True):
                weight = np.outer(down, across).reshape(*inner, *[1] * (tiles.ndim - 3))
                place = slice(top, top + inner[0]), slice(left, left + inner[1])
                joined[place] += weight * tiles[next(numbers)]
        if np.issubdtype(tiles.dtype, np.integer):
            np.rint(joined, out=joined)
        return joined[self.inside].astype(tiles.dtype, copy=False)


def read_tiles(path: Path, data: DataConfig) -> tuple[np.ndarray, Grid]:
    """Read an image with its region, cut into tiles: [T, h, w, C], and where they lie."""
    image = read_with_region(path, data)
    grid = Grid.over(image.shape[:2], data)
    return grid.cut(image, data), grid


def shrinking_hint(grids: Sequence[Grid], data: DataConfig) -> str | None:
    """One line about what is lost where images are shrunk by far, or None where they are not."""
    if data.tile:
        return None
    sizes = np.array([grid.size for grid in grids])
    factors = sizes / data.size
    factor = np.median(factors.max(axis=1) if data.resize == "pad" else factors.min(axis=1))
    if factor < FAR:
        return None
    and_fit = "" if data.resize == "squash" else " --set data.resize=squash"
    (height, width), (rows, columns) = np.median(sizes, axis=0).astype(int), data.size
    return (
        f"images are {height}x{width}, shrunk to {rows}x{columns}: defects below about "
        f"{SEEN * factor:.0f} pixels vanish; --set data.tile={min(rows, columns)}{and_fit} looks "
        "at them in full, tile by tile"
    )


def _starts(whole: int, part: int) -> tuple[int, ...]:
    """First pixels of the parts that cover the whole evenly, no more of them than needed."""
    if whole <= part:
        return (0,)
    step = max(1.0, part * (1 - OVERLAP))
    count = 1 + int(np.ceil((whole - part) / step))
    return tuple(np.rint(np.linspace(0, whole - part, count)).astype(int).tolist())


def _weights(starts: np.ndarray, length: int) -> list[np.ndarray]:
    """What each part of a line weighs, [length] each; they add up to one."""
    window = np.sin(np.pi * (np.arange(length) + 0.5) / length) ** 2
    total = np.zeros(starts[-1] + length)
    for start in starts:
        total[start : start + length] += window
    return [window / total[start : start + length] for start in starts]
