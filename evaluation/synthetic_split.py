"""A test split made of good images alone: as they are, and with a synthesised defect each."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from data.cache import decode_all
from data.good_images import in_folds
from data.images import ImageError, read_ahead
from inspection.inspector import Inspector
from inspection.torch_inspector import TorchInspector
from models.drawn_defects.synthetic import PseudoImage, pseudo_split
from utils.errors import UserError

Read = tuple[np.ndarray, np.ndarray | None]


def pseudo_readers(
    inspector: Inspector, root: Path, part: str
) -> tuple[list[PseudoImage], Iterator[Iterator[tuple[PseudoImage, Read | ImageError]]]]:
    """The split's images, each to be scored as if its good image had not been learned from.

    Args:
        inspector: of the detector to examine. It is without a fold while that fold is read.
        root: folder that holds its categories.
        part: the one of them to be examined on.

    Returns:
        The images, and readers, one after the other: all that one gives is to be scored before the
        next one is asked for.

    Raises:
        UserError: for an export, or if an image that the run knows is gone.
    """
    if not isinstance(inspector, TorchInspector):
        raise UserError("--synthetic needs the checkpoint: an export cannot leave images out")
    good, data = inspector.good, inspector.config.data
    paths = good.paths(root)
    places = np.intersect1d(good.examined, good.by_category()[part])
    tests = pseudo_split([paths[place] for place in places], data)
    fold_of = dict(zip(paths, good.folds, strict=True))

    @torch.inference_mode()
    def readers() -> Iterator[Iterator[tuple[PseudoImage, Read | ImageError]]]:
        images, _ = decode_all(paths, data)
        folds = in_folds(images, good, inspector.batch, inspector.device)
        for number in inspector.detector.leaving_out(folds):
            own = [test for test in tests if fold_of[test.path] == number]
            if own:
                yield read_ahead(own, PseudoImage.read)

    return tests, readers()
