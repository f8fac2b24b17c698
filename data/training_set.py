"""The good images of a run, decoded: train/good of a new one, or its own and further ones."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.good_images import DecodedImages, GoodImages, by_category, decode_all
from data.images import with_depth
from data.listing import expand
from data.mvtec import Category, category_in_path
from data.region import keep_region
from data.tiles import ratio_hint, shrinking_hint
from data.twins import find_twins, groups, thumbnail, twins_warning
from utils.config import Config
from utils.errors import UserError


def load_images(
    config: Config, good: GoodImages, additions: Sequence[str], share: float, quiet: bool
) -> tuple[Config, GoodImages, DecodedImages]:
    """Decode the good images of a run.

    Args:
        config: its settings.
        good: its images; none for a new run, which takes train/good of each category.
        additions: further image files, folders or patterns.
        share: share of the images to keep from training.
        quiet: no progress bar and no reports, as in all processes but one.

    Returns:
        The settings, with what the files of a new run decide (depth and region); the images by
        name; and the decoded images in the same order.

    Raises:
        UserError: if an image of the run is gone or cannot be read, or nothing is added by
            `additions`.
    """
    root = Path(config.data.root)
    known = dict(zip(good.paths(root), good.names, strict=True))
    if known:
        further = _additions(additions, root, list(good.by_category()))
    else:
        paths = [path for one in Category.chosen(config.data) for path in one.train_images()]
        further = {path: path.relative_to(root).as_posix() for path in paths}
        # Kept with the run, so that later images are read as these.
        config = keep_region(with_depth(config, paths), paths)
    images, readable = decode_all([*known, *further], config.data, quiet)
    if lost := sorted(known.keys() - set(readable)):
        raise UserError(f"{len(lost)} images of this run can no longer be read, such as {lost[0]}")
    if not further:
        return config, good, images
    all_names = [(known | further)[path] for path in readable]
    # Before any is held out: a copy may not be, while its original is learned from.
    distinct = _distinct(all_names, images.digests)
    names, images = [all_names[one] for one in distinct], images.only(distinct)
    if not quiet:
        if copies := len(all_names) - len(names):
            what = "of the run, or of each other" if known else "of others"
            print(f"left out: {copies} of {len(further)} images, copies {what}", file=sys.stderr)
        _print_hints(config, names, images)
    if len(names) == len(known):
        raise UserError("nothing is added: the run has these images, or they cannot be read")
    of_groups = groups(names, config.calibration.group)
    good = good.extended(names, of_groups, share, config.seed, 0 if known else config.data.limit)
    return config, good, images.only(np.flatnonzero(np.isin(names, good.names)))


def _additions(names: Sequence[str], root: Path, categories: list[str]) -> dict[Path, str]:
    """Return the files that are to be added, and their names in the run.

    Raises:
        UserError: if one is not there, is of the test split, or of no category of the run.
    """
    found = {}
    for path in (path.resolve() for path in expand(names)):
        category = category_in_path(path, categories)
        if not path.is_file():
            raise UserError(f"--add finds no images at {path}")
        if category is None:
            raise UserError(
                f"{path} lies in no folder named as one of the categories {', '.join(categories)}"
            )
        folder = (root / category).resolve()
        if path.is_relative_to(folder / "test"):
            raise UserError(f"{path} is of the test split, whose images are never learned from")
        inside = path.is_relative_to(folder / "train")
        below = f"{category}/{path.relative_to(folder).as_posix()}" if inside else path.as_posix()
        found[path] = below
    return found


def _distinct(names: Sequence[str], digests: Sequence[str]) -> list[int]:
    """Return the indices of images that are not copies of an earlier one of their category.

    A copy that is scored without its fold is as close to its original as if it had been learned:
    a threshold set on such scores lies far too low.
    """
    first: dict[tuple[str, str], int] = {}
    for category, own in by_category(names).items():
        for index in own.tolist():
            first.setdefault((category, digests[index]), index)
    return sorted(first.values())


def _print_hints(config: Config, names: list[str], images: DecodedImages) -> None:
    warnings = [hint(images.grids, config.data) for hint in (shrinking_hint, ratio_hint)]
    for category, own in by_category(names).items() if config.calibration.group is None else ():
        twins = find_twins(np.stack([thumbnail(images.image(one)) for one in own]))
        warnings.append(twins_warning(category, [names[one] for one in own], twins))
    for warning in filter(None, warnings):
        print(warning, file=sys.stderr)
