"""How many of the 16 bits in its files a camera uses."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.images import is_deep_colour, opened, read_ahead, sixteen_bit
from utils.config import Config, DataConfig, changed

DEPTHS = (8, 10, 12, 14, 16)
SAMPLE = 64
"""Files at most that are looked at."""


def find_depth(paths: Sequence[Path], data: DataConfig) -> int:
    """The fewest bits, of `DEPTHS`, that hold the values of 16-bit images; 16 where there are none.

    Looks at a sample of the files, and decodes those with 16 bits; what cannot be read is left out.
    """
    sample = paths[:: -(-len(paths) // SAMPLE)] if paths else []
    found = [highest for _, highest in read_ahead(sample, lambda path: _highest(path, data))]
    values = [highest for highest in found if isinstance(highest, int)]
    return next(depth for depth in DEPTHS if max(values, default=2**16 - 1) < 2**depth)


def with_depth(config: Config, paths: Sequence[Path]) -> Config:
    """The settings with the number in place of `data.depth: auto`, as it is kept with a run."""
    if config.data.depth != "auto":
        return config
    return changed(config, {"data.depth": find_depth(paths, config.data)})


def _highest(path: Path, data: DataConfig) -> int | None:
    """The highest value in a 16-bit file, None for any other."""
    with opened(path, data) as image:
        if image.mode.startswith("I"):
            return int(sixteen_bit(image).max())
        if is_deep_colour(image):  # decoded to its upper 8 bits
            return int(np.asarray(image.convert("RGB")).max()) * 256 + 255
    return None
