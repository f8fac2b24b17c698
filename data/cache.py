"""The training images, decoded once and kept at training size."""

import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.images import ImageError, header_size, read_ahead
from data.tiles import Grid, read_tiles
from utils.config import DataConfig
from utils.errors import UserError

MEMORY_GIB = 4.0
"""Up to this size decoded images are kept in memory."""


@dataclass(frozen=True)
class DecodedImages:
    """Images as a detector sees them: each as one frame, or as its tiles.

    Attributes:
        tiles: uint8 [T, h, w, C]; frames are tiles, too, a single one each. C is 3, or 4 with a
            region of interest.
        grids: of each image, where its tiles lie.
        firsts: of each image, the place of its first tile; the others follow.
    """

    tiles: np.ndarray
    grids: list[Grid]
    firsts: list[int]

    @classmethod
    def whole(cls, images: np.ndarray) -> "DecodedImages":
        """Images, uint8 [N, h, w, 3], that are seen as they are."""
        size = images.shape[1:3]
        return cls(images, [Grid(size, size, (0,), (0,))] * len(images), list(range(len(images))))

    def __len__(self) -> int:
        """Images."""
        return len(self.grids)

    def places(self, images: Sequence[int] | np.ndarray) -> np.ndarray:
        """Places of the tiles of some images, given by number: those of one image follow it."""
        owned = [np.arange(len(self.grids[one])) + self.firsts[one] for one in images]
        return np.concatenate([np.empty(0, int), *owned])

    def only(self, images: Sequence[int] | np.ndarray) -> "DecodedImages":
        """Some of the images, given by number; nothing is copied."""
        grids, firsts = ([values[one] for one in images] for values in (self.grids, self.firsts))
        return replace(self, grids=grids, firsts=firsts)

    def image(self, number: int) -> np.ndarray:
        """One of the images, joined of its tiles and without padding: uint8 [H, W, 3]."""
        return self.grids[number].join(self.tiles[self.places([number])])[..., :3]


def decode_all(
    paths: Sequence[Path], data: DataConfig, quiet: bool = False, memory_gib: float = MEMORY_GIB
) -> tuple[DecodedImages, list[Path]]:
    """Decode images, and fit or cut them, once for all that is done with them.

    Unreadable files are reported on stderr and left out.

    Args:
        paths: image files.
        data: how to read, fit and cut them, and the size of the result.
        quiet: no progress bar and no reports.
        memory_gib: up to this size the images are kept in memory, beyond it in a temporary file
            that the operating system deletes with the process.

    Returns:
        The images at `data.size`, in the order of `paths`, and the paths of those that are there.

    Raises:
        UserError: if not a single file can be read, or the disk cannot hold them.
    """
    count = len(paths)
    if data.tile:  # upright or not, an image has as many
        count = sum(len(Grid.over(header_size(path), data)) for path in paths)
    shape = (count, *data.size, 3 if data.region is None else 4)
    needed = int(np.prod(shape, dtype=np.int64))
    tiles: np.ndarray
    if needed <= memory_gib * 2**30:
        tiles = np.empty(shape, np.uint8)
    else:
        try:
            file = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the array)
            if hasattr(os, "posix_fallocate"):  # a full disk is told now, not by a crash later
                os.posix_fallocate(file.fileno(), 0, needed)
            tiles = np.memmap(file, np.uint8, "w+", shape=shape)
        except OSError as error:
            raise UserError(
                f"{needed / 2**30:.1f} GiB of decoded images do not fit the temporary "
                f"folder {tempfile.gettempdir()} ({error.strerror}); lower --size, or set TMPDIR"
            ) from None
    failure, readable, grids, firsts, done = "", [], [], [], 0
    reader = read_ahead(paths, lambda path: read_tiles(path, data))
    for path, found in tqdm(reader, "decoding", len(paths), unit="image", disable=quiet or None):
        if isinstance(found, ImageError):
            if not quiet:
                print(f"left out: {found}", file=sys.stderr)
            failure = str(found)
            continue
        own, grid = found
        tiles[done : done + len(own)] = own
        readable.append(path)
        grids.append(grid)
        firsts.append(done)
        done += len(own)
    if not readable:
        raise UserError(
            f"none of the {len(paths)} images in {paths[0].parent} can be read; the last: {failure}"
        )
    return DecodedImages(tiles[:done], grids, firsts), readable
