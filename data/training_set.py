"""Which good images a run learns from, decoded: those of a new run, and those of a longer one."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.cache import DecodedImages, decode_all
from data.depth import with_depth
from data.good_images import GoodImages, by_category
from data.listing import expand
from data.mvtec import Category, category_in_path
from data.region import keep_region
from data.tiles import shrinking_hint
from data.twins import find_twins, groups, thumbnail, twins_warning
from utils.config import Config
from utils.errors import UserError


def first_images(
    config: Config, hold_out: bool, quiet: bool = False
) -> tuple[Config, GoodImages, DecodedImages]:
    """Read train/good of each category for a new run.

    Args:
        config: its settings.
        hold_out: whether `calibration.holdout` of the images are kept from training.
        quiet: no progress bar and no reports, as in all processes but one.

    Returns:
        The settings with what the files decide (depth and region), the images' names and roles,
        and the decoded images in the same order.
    """
    paths = [path for one in Category.chosen(config.data) for path in one.train_images()]
    config = keep_region(with_depth(config, paths), paths)
    images, readable = decode_all(paths, config.data, quiet)
    names = [path.relative_to(config.data.root).as_posix() for path in readable]
    distinct = _distinct(names, images.digests)
    names, images = [names[one] for one in distinct], images.only(distinct)
    if copies := len(readable) - len(distinct):
        _warn(f"left out: {copies} of {len(readable)} good images, copies of others", quiet)
    _warn_of_twins_and_shrinking(config, images, names, quiet)
    good = GoodImages.dealt(
        names,
        groups(names, config.calibration.group),
        config.calibration.holdout if hold_out else 0,
        config.seed,
        config.data.limit,
    )
    return config, good, images.only(np.flatnonzero(np.isin(names, good.names)))


def known_images(config: Config, good: GoodImages, quiet: bool = False) -> DecodedImages:
    """Decode the images of a run anew; raises `UserError` if one is gone or can't be read."""
    paths = good.paths(config.data.root)
    images, readable = decode_all(paths, config.data, quiet)
    _refuse_lost(paths, readable)
    return images


def with_added(
    config: Config, good: GoodImages, additions: Sequence[str], hold_out: bool, quiet: bool = False
) -> tuple[GoodImages, DecodedImages]:
    """Read the images of a run and further ones, which come last.

    Args:
        config: settings of the run.
        good: its images.
        additions: image files, folders or patterns.
        hold_out: as of `first_images`.
        quiet: likewise.

    Raises:
        UserError: if nothing is new, one is of the test split or of no category of the run, or an
            image of the run is gone.
    """
    root, categories = Path(config.data.root), list(good.by_category())
    known = good.paths(root)
    there = {path.resolve() for path in known}
    asked = _additions(additions, root, categories)
    new = [path for path in asked if path not in there]
    images, readable = decode_all(known + new, config.data, quiet)
    _refuse_lost(known, readable)
    names = good.names + [_name(path, root, categories) for path in readable[len(known) :]]
    distinct = _distinct(names, images.digests)
    if repeated := len(asked) - len(new) + len(names) - len(distinct):
        _warn(f"left out: {repeated} of {len(asked)} images, known to the run or copies", quiet)
    if len(distinct) == len(known):
        raise UserError("nothing is added, for the run knows all of these images that can be read")
    names, images = [names[one] for one in distinct], images.only(distinct)
    _warn_of_twins_and_shrinking(config, images, names, quiet)
    # An image from elsewhere may be of a known group, as if it lay beside those of its category.
    grouped = [
        f"{category_in_path(name, categories)}/train/good/{Path(name).name}"
        if Path(name).is_absolute()
        else name
        for name in names
    ]
    good = good.with_added(
        names[len(known) :],
        groups(grouped, config.calibration.group),
        config.calibration.holdout if hold_out else 0,
        config.seed,
    )
    return good, images


def _distinct(names: Sequence[str], digests: Sequence[str]) -> list[int]:
    """Return the indices of images that aren't pixel-identical to an earlier one of a category.

    A copy scored out of fold would be as close to its original as if it had been learned, and a
    threshold set on such scores lies far too low.
    """
    first: dict[tuple[str, str], int] = {}
    for category, own in by_category(names).items():
        for index in own.tolist():
            first.setdefault((category, digests[index]), index)
    return sorted(first.values())


def _refuse_lost(paths: Sequence[Path], readable: Sequence[Path]) -> None:
    if lost := sorted(set(paths) - set(readable)):
        raise UserError(
            f"{len(lost)} images of this run can no longer be read, such as {lost[0]}; restore "
            "what is damaged, or train a new run"
        )


def _additions(names: Sequence[str], root: Path, categories: list[str]) -> list[Path]:
    """Return the files that `--add` names, resolved; raises `UserError` for wrong ones."""
    paths = [path.resolve() for path in expand(names)]
    tests = [(root / category / "test").resolve() for category in categories]
    for path in paths:
        if not path.is_file():
            raise UserError(f"--add finds no images at {path}")
        if any(path.is_relative_to(test) for test in tests):
            raise UserError(
                f"{path} is of the test split, which measures on images never learned from"
            )
        if category_in_path(path, categories) is None:
            raise UserError(
                f"{path} lies in no folder named as one of the categories {', '.join(categories)}"
            )
    return paths


def _name(path: Path, root: Path, categories: list[str]) -> str:
    """Return the name of an added image in a run: below data.root, or its whole path."""
    for category in categories:
        train = (root / category / "train").resolve()
        if path.is_relative_to(train):
            return f"{category}/train/{path.relative_to(train).as_posix()}"
    return path.as_posix()


def _warn_of_twins_and_shrinking(
    config: Config, images: DecodedImages, names: list[str], quiet: bool
) -> None:
    if config.calibration.group is None:
        for category, own in by_category(names).items():
            twins = find_twins(np.stack([thumbnail(images.image(one)) for one in own]))
            _warn(twins_warning(category, [names[one] for one in own], twins), quiet)
    _warn(shrinking_hint(images.grids, config.data), quiet)


def _warn(text: str | None, quiet: bool) -> None:
    if text is not None and not quiet:
        print(text, file=sys.stderr)
