"""Which good images show the same part, so that none is scored by what its twin has taught.

Frames of a video, or several shots of a part, are no independent witnesses: a detector that has
learned from one of them finds the others all too ordinary, a threshold set on them lies too low,
and a hundred of them promise no more than the few parts they show. Their names may say which
belong together (`groups`); otherwise their pixels may (`find_twins`).
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.sparse.csgraph import connected_components

from utils.errors import UserError

SIDE = 64
"""Side of a thumbnail in pixels."""

NOISE, LIGHT = 1.0, 8.0
"""Standard deviations in pixels of a thumbnail: finer detail is taken for noise of the sensor, and
coarser differences for light."""

SHIFTS = [(0, 0), (0, 1), (1, -1), (1, 0), (1, 1)]
"""Shifts of the camera that are tried, in pixels of a thumbnail; their opposites come for free."""

NEAR = 0.25
"""Share of the usual distance below which two images are twins."""

USUAL = 0.25
"""The usual distance of an image is that to the nearest quarter of the others. So parts that are
all alike are no twins, nor are a few kinds of parts in one set: twins come in smaller groups."""

FEW = 0.05
"""Share of the images that may have a twin by chance, and is not worth a word."""


def groups(paths: Sequence[Path], pattern: str | None) -> list[int]:
    """The number of the group that each file belongs to: those that show one part share it.

    Args:
        paths: image files.
        pattern: a regular expression, looked for in the path below train/good. Files that give it
            the same match, or the same values of its (groups), belong together; a file in which it
            finds nothing is by itself. None: each file is.

    Raises:
        UserError: if it matches in no file at all.
    """
    keys: list[object] = list(range(len(paths)))
    if pattern is None:
        return keys
    matched = False
    for place, path in enumerate(paths):
        match = re.search(pattern, _name(path))
        if match and match[0]:
            matched = True
            folder = path.as_posix().rpartition("train/good/")[0]  # of its category
            keys[place] = folder, match.groups() or match[0]
    if not matched:
        raise UserError(
            f"calibration.group is {pattern!r}, which is found in no good image's name, such as "
            f"{_name(paths[0])}; null takes each image for a part of its own"
        )
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return [numbers[key] for key in keys]


def thumbnail(image: np.ndarray) -> np.ndarray:
    """A small grey copy of an image, uint8 [H, W, 3] -> float32 [SIDE, SIDE] in [0, 255]."""
    grey = Image.fromarray(image).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(grey, np.float32)


def find_twins(thumbnails: np.ndarray) -> list[int]:
    """The number of the group of each image, where images that are nearly the same share one.

    Two are twins if they lie far nearer to one another than to the nearest quarter of the others,
    once noise, light and a small shift are discounted. That tells several shots of a part from
    parts that are merely alike, such as bottles in one place. A set that shows less than about
    four parts has nothing to compare with: no twins are found in it.

    Args:
        thumbnails: [N, SIDE, SIDE], those that `thumbnail` makes.
    """
    distance = _distances(thumbnails)
    np.fill_diagonal(distance, np.inf)
    rank = int(np.ceil(USUAL * len(distance))) - 1
    usual = np.partition(distance, rank, axis=1)[:, rank]
    twins = distance < NEAR * np.minimum(usual[:, None], usual)
    return connected_components(twins, directed=False)[1].tolist()


def twins_warning(part: str, paths: Sequence[Path], twins: Sequence[int]) -> str | None:
    """One line about the twins among the files, or None where there are none worth mentioning.

    Args:
        part: the category of the files.
        paths: image files.
        twins: the number of the group of each.
    """
    sizes = np.bincount(twins)
    count = int(sizes[sizes > 1].sum())
    if count <= FEW * len(paths):
        return None
    largest = np.flatnonzero(np.array(twins) == sizes.argmax())
    first, second = (_name(paths[place]) for place in largest[:2])
    return (
        f"{count} of {len(paths)} good images of {part} have a near-twin, such as {first} and "
        f"{second}: the threshold speaks for parts that have one too; if new parts have none, set "
        "calibration.group to a pattern of the part's number"
    )


def _name(path: Path) -> str:
    """The path below train/good, with forward slashes; the mere name outside of it."""
    _, found, name = path.as_posix().rpartition("train/good/")
    return name if found else path.name


def _distances(thumbnails: np.ndarray) -> np.ndarray:
    """Distances [N, N] in [0, 2] of what is neither noise nor light, at the best of `SHIFTS`."""
    blurred = (gaussian_filter(thumbnails, (0, sigma, sigma)) for sigma in (NOISE, LIGHT))
    detail = np.subtract(*blurred)

    def cut(down: int, right: int) -> np.ndarray:
        inner = SIDE - 2
        rows = detail[:, 1 + down : 1 + down + inner, 1 + right : 1 + right + inner]
        rows = rows.reshape(len(rows), -1)
        rows = rows - rows.mean(axis=1, keepdims=True)
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)

    middle = cut(0, 0)
    likeness = middle @ middle.T
    for down, right in SHIFTS[1:]:
        np.maximum(likeness, middle @ cut(down, right).T, out=likeness)
    likeness = np.maximum(likeness, likeness.T)
    return np.sqrt(np.maximum(2 - 2 * likeness, 0))
