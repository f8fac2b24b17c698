"""The good images of a run, decoded: train/good of a new one, or its own and further ones.

Frames of a video, or several shots of a part, are not independent: a detector that has learned one
of them finds the others all too ordinary, a threshold set on them lies too low, and a hundred of
them promise no more than the few parts they show. Their names may tell which belong together
(`groups`); otherwise their pixels may (`find_twins`).
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.sparse.csgraph import connected_components

from data.good_images import DecodedImages, GoodImages, by_category, decode_all
from data.images import with_depth
from data.listing import expand
from data.mvtec import Category, category_in_path
from data.parts import below_split, part_name
from data.region import keep_region
from data.tiles import shrinking_hint
from utils.config import Config
from utils.errors import UserError

SIDE = 64  # of a thumbnail, in pixels

# Standard deviations of a band-pass, in pixels of a thumbnail: finer detail is noise of the sensor,
# and coarser differences are light.
NOISE_STD, LIGHT_STD = 1.0, 8.0

# Shifts of the camera that are compared, in pixels of a thumbnail; their opposites follow by
# symmetry.
SHIFTS = [(0, 0), (0, 1), (1, -1), (1, 0), (1, 1)]

# Share of the typical distance below which two images are twins.
MAX_DISTANCE = 0.25

# The typical distance of an image is that to the nearest quarter of the others. So parts that are
# all alike are no twins, nor are a few kinds of parts in one set: twins come in smaller groups.
TYPICAL_RANK = 0.25

# Share of the images with a twin that is worth a warning: fewer may be alike by chance.
MIN_SHARE = 0.05


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
        again = [path for path, name in further.items() if name in good.excluded]
        for path in again:
            del further[path]
        if again and not quiet:
            print(f"left out: {len(again)} images, as before by data.contaminated", file=sys.stderr)
    else:
        paths = [path for one in Category.chosen(config.data) for path in one.train_images()]
        further = {path: path.relative_to(root).as_posix() for path in paths}
        # Kept with the run, so that later images are read as these.
        config = keep_region(with_depth(config, paths), paths)
    images, readable = decode_all([*known, *further], config.data, quiet)
    if lost := sorted(known.keys() - set(readable)):
        raise UserError(f"{len(lost)} images of this run can no longer be read, such as {lost[0]}")
    if not further and not additions:
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
    warnings = [shrinking_hint(images.grids, config.data)]
    for category, own in by_category(names).items() if config.calibration.group is None else ():
        twins = find_twins(np.stack([thumbnail(images.image(one)) for one in own]))
        warnings.append(twins_warning(category, [names[one] for one in own], twins))
    for warning in filter(None, warnings):
        print(warning, file=sys.stderr)


def groups(names: Sequence[str], pattern: str | None) -> list[int]:
    """Return the number of the group of each good image: those that show one part share it.

    Args:
        names: as of `GoodImages`.
        pattern: of `part_name`, by which they are told.

    Raises:
        UserError: if it matches in no file at all.
    """
    parts = list(names)
    for category, own in by_category(names).items():
        for index in own.tolist():
            parts[index] = part_name(names[index], category, pattern)
    if pattern and parts == list(names):
        _, below = below_split(names[0], next(iter(by_category(names))))
        raise UserError(
            f"calibration.group is {pattern!r}, which is found in no good image's name, such as "
            f"{below}; null takes each image for a part of its own"
        )
    numbers = {part: number for number, part in enumerate(dict.fromkeys(parts))}
    return [numbers[part] for part in parts]


def thumbnail(image: np.ndarray) -> np.ndarray:
    """Return a small grey copy of an image, uint8 [H, W, 3] -> float32 [SIDE, SIDE] in [0, 255]."""
    grey = Image.fromarray(image).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(grey, np.float32)


def find_twins(thumbnails: np.ndarray) -> list[int]:
    """Return the number of the group of each image; images that are nearly the same share one.

    Two are twins if they lie far nearer to one another than to the nearest quarter of the others,
    once noise, light and a small shift are discounted. That tells several shots of a part from
    parts that are merely alike, such as bottles in one position. In a set of less than about four
    parts, none are found: there is nothing to compare with.

    Args:
        thumbnails: [N, SIDE, SIDE], as of `thumbnail`.
    """
    distance = _distances(thumbnails)
    np.fill_diagonal(distance, np.inf)
    rank = int(np.ceil(TYPICAL_RANK * len(distance))) - 1
    typical = np.partition(distance, rank, axis=1)[:, rank]
    twins = distance < MAX_DISTANCE * np.minimum(typical[:, None], typical)
    return connected_components(twins, directed=False)[1].tolist()


def twins_warning(category: str, names: Sequence[str], twins: Sequence[int]) -> str | None:
    """Return one line about the twins among files, or None where they are too few to matter.

    Args:
        category: that of the files.
        names: image files, with forward slashes.
        twins: the number of the group of each.
    """
    sizes = np.bincount(twins)
    count = int(sizes[sizes > 1].sum())
    if count <= MIN_SHARE * len(names):
        return None
    largest = np.flatnonzero(np.array(twins) == sizes.argmax())
    first, second = (below_split(names[index], category)[1] for index in largest[:2])
    return (
        f"{count} of {len(names)} good images of {category} have a near-twin, such as {first} and "
        f"{second}: the threshold holds for parts that have one too; if new parts have none, set "
        "calibration.group to a pattern of the part's number"
    )


def _distances(thumbnails: np.ndarray) -> np.ndarray:
    """Return distances [N, N] in [0, 2] without noise and light, at the best of `SHIFTS`."""
    # A difference of Gaussians keeps the band between noise and light.
    fine, coarse = (gaussian_filter(thumbnails, (0, std, std)) for std in (NOISE_STD, LIGHT_STD))
    detail = fine - coarse

    def normalised(down: int, right: int) -> np.ndarray:
        inner = SIDE - 2
        rows = detail[:, 1 + down : 1 + down + inner, 1 + right : 1 + right + inner]
        rows = rows.reshape(len(rows), -1)
        rows = rows - rows.mean(axis=1, keepdims=True)
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)

    unshifted = normalised(0, 0)
    correlation = unshifted @ unshifted.T
    for down, right in SHIFTS[1:]:
        np.maximum(correlation, unshifted @ normalised(down, right).T, out=correlation)
    correlation = np.maximum(correlation, correlation.T)
    # Of unit vectors: |a - b|^2 = 2 - 2 a.b
    return np.sqrt(np.maximum(2 - 2 * correlation, 0))
