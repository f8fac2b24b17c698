"""The training images, read again whenever they are asked for."""

import sys
from pathlib import Path

import numpy as np

from data.images import ImageError, read_ahead, read_resized
from utils.config import DataConfig
from utils.errors import UserError


class OnDemand:
    """Looks like the array that `data.cache.decode_all` gives, but holds no image.

    For detectors that see each image once: there is nothing to gain from keeping it.

    Args:
        paths: image files.
        data: how to read them, and the size that they are resized to.
    """

    def __init__(self, paths: list[Path], data: DataConfig) -> None:
        self.paths = paths
        self.data = data
        self.unreadable: set[Path] = set()

    def __len__(self) -> int:
        """Number of files, readable or not."""
        return len(self.paths)

    def __getitem__(self, places: np.ndarray | slice) -> np.ndarray:
        """Images at these places, uint8 [B, h, w, 3] of `data.size`.

        Unreadable files are reported on stderr and left out.

        Raises:
            UserError: if not a single file can be read.
        """
        chosen = [self.paths[place] for place in np.arange(len(self))[places]]
        found = []
        for path, image in read_ahead(chosen, lambda path: read_resized(path, self.data)):
            if not isinstance(image, ImageError):
                found.append(image)
            elif path not in self.unreadable:
                self.unreadable.add(path)
                print(f"left out: {image}", file=sys.stderr)
        if len(self.unreadable) == len(self):
            raise UserError(f"none of the {len(self)} images in {self.paths[0].parent} can be read")
        return np.stack(found) if found else np.empty((0, *self.data.size, 3), np.uint8)
