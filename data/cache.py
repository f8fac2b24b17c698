"""The training images, decoded once and kept at training size."""

import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.images import ImageError, header_size, pixel_digest, read_ahead
from data.region import read_with_region
from data.tiles import Grid
from utils.config import DataConfig
from utils.errors import UserError

# Up to this size decoded images are kept in memory.
MEMORY_GIB = 4.0


@dataclass(frozen=True)
class DecodedImages:
    """Images at the size of the detector: one frame each, or its tiles.

    Attributes:
        tiles: uint8 [T, h, w, C], frames or tiles. C is 3, or 4 with a region of interest.
        grids: layout of the tiles of each image.
        firsts: index of the first tile of each image; its others follow.
        digests: `pixel_digest` of each image.
    """

    tiles: np.ndarray
    grids: list[Grid]
    firsts: list[int]
    digests: list[str]

    @classmethod
    def whole(cls, images: np.ndarray) -> "DecodedImages":
        """Return images, uint8 [N, h, w, 3], as they are: a frame each."""
        size, count = images.shape[1:3], len(images)
        grids = [Grid(size, size, (0,), (0,))] * count
        return cls(images, grids, list(range(count)), list(map(pixel_digest, images)))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.grids)

    def tile_indices(self, images: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the indices of the tiles of images, given by index, in their order."""
        owned = [np.arange(len(self.grids[one])) + self.firsts[one] for one in images]
        return np.concatenate([np.empty(0, int), *owned])

    def only(self, images: Sequence[int] | np.ndarray) -> "DecodedImages":
        """Return some of the images, given by index; nothing is copied."""
        grids, firsts, digests = (
            [values[one] for one in images] for values in (self.grids, self.firsts, self.digests)
        )
        return replace(self, grids=grids, firsts=firsts, digests=digests)

    def image(self, index: int) -> np.ndarray:
        """Return an image joined of its tiles, without padding: uint8 [H, W, 3]."""
        return self.grids[index].join(self.tiles[self.tile_indices([index])])[..., :3]


def decode_all(
    paths: Sequence[Path], data: DataConfig, quiet: bool = False, memory_gib: float = MEMORY_GIB
) -> tuple[DecodedImages, list[Path]]:
    """Decode images and resize or cut them to `data.size`, in the order of `paths`.

    Unreadable files are reported on stderr and left out.

    Args:
        paths: image files.
        data: how to read, resize and cut them.
        quiet: no progress bar and no reports.
        memory_gib: up to this size the images are kept in memory, beyond it in a temporary file
            that the operating system deletes with the process.

    Returns:
        The images, and the paths of those that could be read.

    Raises:
        UserError: if no file can be read, or the disk cannot hold them.
    """
    count = len(paths)
    if data.tile:  # headers do: turned by EXIF, an image has as many tiles
        count = sum(len(Grid.over(header_size(path), data)) for path in paths)
    shape = (count, *data.size, 3 if data.region is None else 4)
    needed = int(np.prod(shape, dtype=np.int64))
    tiles: np.ndarray
    if needed <= memory_gib * 2**30:
        tiles = np.empty(shape, np.uint8)
    else:
        try:
            file = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the array)
            if hasattr(os, "posix_fallocate"):  # a full disk is an error now, not a crash later
                os.posix_fallocate(file.fileno(), 0, needed)
            tiles = np.memmap(file, np.uint8, "w+", shape=shape)
        except OSError as error:
            raise UserError(
                f"{needed / 2**30:.1f} GiB of decoded images do not fit the temporary "
                f"folder {tempfile.gettempdir()} ({error.strerror}); lower --size, or set TMPDIR"
            ) from None

    def read(path: Path) -> tuple[np.ndarray, Grid, str]:
        image = read_with_region(path, data)
        grid = Grid.over(image.shape[:2], data)
        return grid.cut(image, data), grid, pixel_digest(image)

    readable: list[Path] = []
    grids, firsts, digests, used, failure = [], [], [], 0, ""
    reader = tqdm(
        read_ahead(paths, read), "decoding", len(paths), unit="image", disable=quiet or None
    )
    for path, found in reader:
        if isinstance(found, ImageError):
            failure = str(found)
            if not quiet:
                print(f"left out: {failure}", file=sys.stderr)
            continue
        own, grid, digest = found
        tiles[used : used + len(own)] = own
        readable.append(path)
        grids.append(grid)
        firsts.append(used)
        digests.append(digest)
        used += len(own)
    if not readable:
        raise UserError(
            f"none of the {len(paths)} images in {paths[0].parent} can be read; the last: {failure}"
        )
    return DecodedImages(tiles[:used], grids, firsts, digests), readable
