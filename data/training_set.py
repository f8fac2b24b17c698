"""The good images of a run: decoded, and fold by fold."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from data.cache import DecodedImages, decode_all
from data.depth import with_depth
from data.mvtec import Category
from data.region import keep_region
from data.tensors import to_batch
from data.tiles import shrinking_hint
from data.twins import find_twins, groups, thumbnail, twins_warning
from runs import distributed
from runs.good_images import GoodImages, by_part
from runs.run import Run
from utils.batches import batches
from utils.errors import UserError


def load_images(run: Run, hold_out: bool) -> DecodedImages:
    """The good images of a run; a new run learns here which they are."""
    settings = run.config
    if not hold_out and distributed.world_size() > 1:
        raise UserError(f"{settings.model} is fitted in one process; start it without torchrun")
    if run.resumed:
        paths = run.good.paths(settings.data.root)
    else:
        categories = Category.chosen(settings.data)
        paths = [path for category in categories for path in category.train_images()]
        run.config = settings = keep_region(with_depth(settings, paths), paths)
    images, readable = decode_all(paths, settings.data, quiet=not distributed.is_writer())
    if run.resumed and len(readable) < len(paths):
        raise UserError(f"{len(paths) - len(readable)} images of this run can no longer be read")
    if not run.resumed:
        names = [path.relative_to(settings.data.root).as_posix() for path in readable]
        share = settings.calibration.holdout if hold_out else 0
        of_groups, dealt = groups(readable, settings.calibration.group), []
        for part, own in by_part(names).items():
            if settings.calibration.group is None:
                twins = find_twins(np.stack([thumbnail(images.image(place)) for place in own]))
                run.warn(twins_warning(part, [readable[place] for place in own], twins))
            own_names, own_groups = (
                [values[place] for place in own] for values in (names, of_groups)
            )
            dealt.append(
                GoodImages.dealt(own_names, own_groups, share, settings.seed, settings.data.limit)
            )
        run.warn(shrinking_hint(images.grids, settings.data))
        run.good = GoodImages.together(dealt)
        images = images.only(np.flatnonzero(np.isin(names, run.good.names)))
    if settings.data.tile:
        count, side = len(images.places(range(len(images)))), settings.data.tile
        run.say(f"{len(images)} good images are {count} tiles of {side}x{side}")
    return images


ENOUGH = 20
"""Images that training does not see, from which on they alone tell how unseen ones vary."""


class Fold:
    """Images, or tiles, of one fold, a few at a time: [B, 3, H, W] in [0, 1] on the device.

    Args:
        images: all images, uint8 [N, H, W, 3].
        places: those of the fold.
        size: images at a time.
        device: where to put them.

    Attributes:
        unseen: those of them that training does not see, if it is to tell; else all of them.
    """

    def __init__(
        self, images: np.ndarray, places: Sequence[int], size: int, device: torch.device
    ) -> None:
        self.images, self.places, self.size, self.device = images, places, size, device
        self.unseen = self

    def __len__(self) -> int:
        """Batches in it."""
        return -(-len(self.places) // self.size)

    def __iter__(self) -> Iterator[Tensor]:
        for group in batches(self.places, self.size):
            yield to_batch(self.images[np.array(group)], self.device)


def in_folds(
    images: DecodedImages, good: GoodImages, size: int, device: torch.device
) -> list[Fold]:
    """The good images by fold, `size` tiles at a time; all tiles of an image are of its fold."""
    held_out = np.array(good.held_out)
    folds = []
    for own in good.by_fold():
        fold = Fold(images.tiles, images.places(own), size, device)
        if held_out.sum() >= ENOUGH:
            unseen = [place for place in own if held_out[place]]
            fold.unseen = Fold(images.tiles, images.places(unseen), size, device)
        folds.append(fold)
    return folds
