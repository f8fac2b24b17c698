"""Examine a detector without test images: good images as they are, and with a drawn defect each."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import torch

from data.good_images import Fold, decode_all, in_folds
from data.images import ImageError, read_ahead
from inspection.torch_inspector import TorchInspector
from models.detector import Detector
from models.drawn_defects.synthetic import PseudoImage, pseudo_split

Read = tuple[np.ndarray, np.ndarray | None]
FoldReader = tuple[AbstractContextManager[None], Iterator[tuple[PseudoImage, Read | ImageError]]]


def pseudo_readers(
    inspector: TorchInspector, root: Path, category: str
) -> tuple[list[PseudoImage], Iterator[FoldReader]]:
    """Draw a test split on the good images of a run, to be scored out of fold.

    Args:
        inspector: of the detector to examine.
        root: folder that holds its categories.
        category: the one of them to be examined on.

    Returns:
        The images, and for each fold a context without it, and a reader of the fold's images, which
        are to be scored within the context.

    Raises:
        UserError: if an image that the run knows is missing.
    """
    good, data = inspector.good, inspector.config.data
    paths = good.paths(root)
    examined = np.intersect1d(good.examined, good.by_category()[category])
    tests = pseudo_split([paths[index] for index in examined], data)
    fold_of = dict(zip(paths, good.folds, strict=True))

    def readers() -> Iterator[FoldReader]:
        images, _ = decode_all(paths, data)
        for fold in in_folds(images, good, inspector.batch, inspector.device):
            own = [test for test in tests if fold_of[test.path] == fold.number]
            if own:
                yield _without(fold, inspector.detector), read_ahead(own, PseudoImage.read)

    return tests, readers()


@contextmanager
def _without(fold: Fold, detector: Detector) -> Iterator[None]:
    with torch.inference_mode(), detector.without(fold):
        yield
