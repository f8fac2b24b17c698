"""The good images of a run: decoded, and fold by fold."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.cache import DecodedImages, decode_all
from data.depth import with_depth
from data.good_images import GoodImages, by_category, category_in_path
from data.listing import expand
from data.mvtec import Category
from data.region import keep_region
from data.tensors import to_batch
from data.tiles import Grid, shrinking_hint
from data.twins import find_twins, groups, thumbnail, twins_warning
from training import distributed
from training.run import Run
from utils.batches import batches
from utils.errors import UserError


def load_images(run: Run, hold_out: bool) -> DecodedImages:
    """The good images of a run; a new run, or one that is added to, learns here which they are."""
    settings = run.config
    if not hold_out and distributed.world_size() > 1:
        raise UserError(f"{settings.model} is fitted in one process; start it without torchrun")
    if run.additions:
        return _with_added(run, hold_out)
    if run.resumed:
        paths = run.good.paths(settings.data.root)
        images, readable = decode_all(paths, settings.data, not distributed.is_writer())
        if gone := len(paths) - len(readable):
            raise UserError(f"{gone} images of this run can no longer be read")
    else:
        images = _first_images(run, hold_out)
    if side := settings.data.tile:
        count = len(images.places(range(len(images))))
        run.say(f"{len(images)} good images are {count} tiles of {side}x{side}")
    return images


def _first_images(run: Run, hold_out: bool) -> DecodedImages:
    """The good images of a new run, which learns its settings by them, too."""
    categories = Category.chosen(run.config.data)
    paths = [path for category in categories for path in category.train_images()]
    run.config = settings = keep_region(with_depth(run.config, paths), paths)
    images, readable = decode_all(paths, settings.data, not distributed.is_writer())
    names = [path.relative_to(settings.data.root).as_posix() for path in readable]
    of_groups = groups(readable, settings.calibration.group)
    share = settings.calibration.holdout if hold_out else 0
    _warn_of_twins_and_shrinking(run, images, names)
    dealt = []
    for own in by_category(names).values():
        named, grouped = ([values[place] for place in own] for values in (names, of_groups))
        dealt.append(GoodImages.dealt(named, grouped, share, settings.seed, settings.data.limit))
    run.good = GoodImages.together(dealt)
    return images.only(np.flatnonzero(np.isin(names, run.good.names)))


def _warn_of_twins_and_shrinking(run: Run, images: DecodedImages, names: list[str]) -> None:
    if run.config.calibration.group is None:
        for part, own in by_category(names).items():
            twins = find_twins(np.stack([thumbnail(images.image(place)) for place in own]))
            run.warn(twins_warning(part, [Path(names[place]) for place in own], twins))
    run.warn(shrinking_hint(images.grids, run.config.data))


def _with_added(run: Run, hold_out: bool) -> DecodedImages:
    """The good images of a run that others are added to, which come last.

    Those that are gone have no tiles: a fit has taken them in, and their scores are known.
    """
    settings, root, parts = run.config, Path(run.config.data.root), list(run.good.by_category())
    known = [root / name for name in run.good.names]
    added = _unknown(run, known, parts)
    there = run.good.paths(root) if hold_out else [path for path in known if path.is_file()]
    images, readable = decode_all(there + added, settings.data, not distributed.is_writer())
    place_of = {path: place for place, path in enumerate(readable)}
    added = [path for path in added if path in place_of]
    gone = sum(path not in place_of for path in known)
    if not added:
        raise UserError("nothing is added, for none of the images can be read")
    if gone and hold_out:
        raise UserError(f"{gone} images of this run can no longer be read")
    if gone:
        run.warn(f"{gone} of {len(known)} known images are gone; they keep the scores they had")
    names = [_name(path, root, parts) for path in added]
    name_of = dict(zip(known + added, run.good.names + names, strict=True))
    _warn_of_twins_and_shrinking(run, images, [name_of[path] for path in readable])
    # An image from elsewhere may be of a known group, as if it lay among those of its part.
    grouped = [
        Path(str(category_in_path(name, parts)), "train/good", Path(name).name)
        if Path(name).is_absolute()
        else Path(name)
        for name in run.good.names + names
    ]
    of_groups = groups(grouped, settings.calibration.group)
    share = settings.calibration.holdout if hold_out else 0
    run.good = run.good.with_added(names, of_groups, share, settings.seed)
    run.say(f"good images: {len(known)} known, {len(added)} added")
    nothing = Grid((0, 0), (0, 0), (), ())
    images = replace(images, grids=[*images.grids, nothing], firsts=[*images.firsts, 0])
    return images.only([place_of.get(path, -1) for path in known + added])


def _unknown(run: Run, known: list[Path], parts: list[str]) -> list[Path]:
    """The images to add, but for those that are known by their place or their bytes.

    Raises:
        UserError: if there are none, one is of the test split, or none of the parts.
    """
    paths = [path.resolve() for path in expand(run.additions)]
    tests = [Path(run.config.data.root, part, "test").resolve() for part in parts]
    for path in paths:
        if not path.is_file():
            raise UserError(f"--add finds no images at {path}")
        if any(path.is_relative_to(test) for test in tests):
            raise UserError(f"{path} is there to measure on, which takes images never learned from")
        if category_in_path(path, parts) is None:
            raise UserError(
                f"{path} lies in no folder named as one of the parts {', '.join(parts)}"
            )
    sizes = {path.stat().st_size for path in paths}
    there = [path for path in known if path.is_file()]
    seen: set[Path | bytes] = {path.resolve() for path in there}
    seen |= {_digest(path) for path in there if path.stat().st_size in sizes}
    unknown = []
    for path in paths:
        digest = _digest(path)
        if path not in seen and digest not in seen:
            unknown.append(path)
        seen.add(digest)
    if twice := len(paths) - len(unknown):
        run.warn(f"left out: {twice} of {len(paths)} images, known to the run or there twice")
    if not unknown:
        raise UserError("nothing is added, for the run knows all of these images")
    return unknown


def _name(path: Path, root: Path, parts: list[str]) -> str:
    """What the run calls an image: its name below data.root, or its whole path."""
    for part in parts:
        train = (root / part / "train").resolve()
        if path.is_relative_to(train):
            return f"{part}/train/{path.relative_to(train).as_posix()}"
    return path.as_posix()


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


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
    images: DecodedImages, good: GoodImages, size: int, device: torch.device, first: int = 0
) -> list[Fold]:
    """The good images by fold, `size` tiles at a time; all tiles of an image are of its fold.

    Those before the `first` one are left out.
    """
    held_out = np.array(good.held_out)
    folds = []
    for own in (own[own >= first] for own in good.by_fold()):
        fold = Fold(images.tiles, images.places(own), size, device)
        if held_out.sum() >= ENOUGH:
            unseen = [place for place in own if held_out[place]]
            fold.unseen = Fold(images.tiles, images.places(unseen), size, device)
        folds.append(fold)
    return folds
