"""A test split made of good images alone: as they are, and with a synthesised defect each."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data.cache import decode_all
from data.images import ImageError, read_ahead
from data.pseudo_defects import PseudoImage, pseudo_split
from inspection.torch_inspector import TorchInspector

Read = tuple[np.ndarray, np.ndarray | None]


def pseudo_readers(
    inspector: TorchInspector, folder: Path
) -> tuple[int, Iterator[Iterator[tuple[PseudoImage, Read | ImageError]]]]:
    """The split's images, each to be scored as if its good image had not been learned from.

    Args:
        inspector: of the detector to examine. It is without a fold while that fold is read.
        folder: train of its category.

    Returns:
        How many images there are, and readers, one after the other: all that one gives is to be
        scored before the next one is asked for.
    """
    good, data = inspector.good, inspector.config.data
    paths = good.paths(folder)
    by_fold: dict[int, list[Path]] = {}
    for place in good.examined:
        by_fold.setdefault(good.folds[place], []).append(paths[place])

    def readers() -> Iterator[Iterator[tuple[PseudoImage, Read | ImageError]]]:
        images, _ = decode_all(paths, data)
        for number in inspector.leaving_out(images):
            if number in by_fold:
                yield read_ahead(pseudo_split(by_fold[number], data), PseudoImage.read)

    return len(pseudo_split(paths, data)) * len(good.examined) // len(paths), readers()
