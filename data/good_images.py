"""Which good images a run knows, and what each of them is for."""

import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from utils.errors import UserError

FOLDS = 20
"""Folds at least, where there are as many groups: what is known without one is nearly all."""

FOLD = 32  # images of a fold at most


@dataclass
class GoodImages:
    """The good images that a run knows, by name, and what each of them is for.

    Attributes:
        names: files relative to data.root, with forward slashes: the category comes first. What was
            added from elsewhere is named by its whole path.
        groups: a number for each; shots of one part share theirs.
        folds: number of the fold of each.
        held_out: whether training does not see it.
    """

    names: list[str] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    folds: list[int] = field(default_factory=list)
    held_out: list[bool] = field(default_factory=list)

    @classmethod
    def dealt(
        cls, names: list[str], groups: list[int], share: float, seed: int, limit: int = 0
    ) -> "GoodImages":
        """Hold a share of the images out and deal all into folds; groups stay together.

        Args:
            names: files of one category, relative to data.root.
            groups: a number for each.
            share: of the images, to hold out: whole groups until it is reached.
            seed: decides which.
            limit: images at most that are not held out, at random; a higher limit adds to those of
                a lower one. 0: all.

        Raises:
            UserError: if they are all of one group.
        """
        sizes = Counter(groups)
        if len(sizes) < 2:
            raise UserError(
                f"all {len(names)} good images beside {names[0]} are of one group by "
                "calibration.group; at least two groups are needed, one to judge by the other"
            )
        order = [int(group) for group in np.random.default_rng(seed).permutation(sorted(sizes))]
        held_out: set[int] = set()
        for group in order[:-1]:
            if sum(sizes[one] for one in held_out) >= share * len(names):
                break
            held_out.add(group)
        places = sorted(range(len(names)), key=lambda place: order.index(groups[place]))
        learned = [place for place in places if groups[place] not in held_out]
        dropped = learned[limit:] if limit else []
        kept = sorted({*places} - {*dropped})
        groups = [groups[place] for place in kept]
        return cls(
            [names[place] for place in kept],
            groups,
            deal(groups),
            [group in held_out for group in groups],
        )

    @classmethod
    def together(cls, parts: Sequence["GoodImages"]) -> "GoodImages":
        """Those of several categories; each of these is spread over the folds."""
        groups = [group for part in parts for group in part.groups]
        return cls(
            [name for part in parts for name in part.names],
            groups,
            deal(groups),
            [held_out for part in parts for held_out in part.held_out],
        )

    def with_added(
        self, names: list[str], groups: list[int], share: float, seed: int
    ) -> "GoodImages":
        """The same with further images, in folds of their own unless they are of a known group.

        Args:
            names: of the further images.
            groups: a number for each image, known or further.
            share: of all images, to hold out at most.
            seed: decides which.
        """
        known = groups[: len(self.names)]
        fold_of = dict(zip(known, self.folds, strict=True))
        held_out = dict(zip(known, self.held_out, strict=True))
        new = [group for group in groups[len(known) :] if group not in fold_of]
        first, sizes = max(self.folds) + 1, Counter(new)
        fold_of |= {group: first + fold for group, fold in zip(new, deal(new), strict=True)}
        room = share * len(groups) - sum(self.held_out)
        for group in np.random.default_rng(seed).permutation(sorted(sizes)).tolist():
            held_out[group] = sizes[group] <= room
            room -= held_out[group] * sizes[group]
        return GoodImages(
            self.names + names,
            groups,
            [fold_of[group] for group in groups],
            [held_out[group] for group in groups],
        )

    @property
    def learned(self) -> np.ndarray:
        """Places of the images that training sees."""
        return np.flatnonzero(~np.array(self.held_out))

    @property
    def examined(self) -> np.ndarray:
        """Places of the images to examine a detector with: those held out, or else a tenth."""
        if any(self.held_out):
            return np.flatnonzero(self.held_out)
        return np.concatenate([own[:: min(10, len(own))] for own in self.by_category().values()])

    def by_fold(self) -> list[np.ndarray]:
        """Places of the images of each fold."""
        folds = np.array(self.folds)
        return [np.flatnonzero(folds == number) for number in range(folds.max() + 1)]

    def by_category(self) -> dict[str, np.ndarray]:
        """Places of the images of each part: of each category."""
        return by_category(self.names)

    def paths(self, root: str | Path) -> list[Path]:
        """Their files, below data.root or elsewhere; raises `UserError` if one of them is gone."""
        paths = [Path(root) / name for name in self.names]
        gone = [path for path in paths if not path.is_file()]
        if gone:
            raise UserError(
                f"the run knows {len(paths)} good images, but {gone[0]} "
                + (f"and {len(gone) - 1} more are gone" if len(gone) > 1 else "is gone")
                + "; restore what is missing, or train a new run"
            )
        return paths


def category_in_path(path: str | Path, parts: Sequence[str]) -> str | None:
    """The part that a file's nearest folder of such a name says; a single part is always meant."""
    names = Path(os.path.abspath(path)).parts  # noqa: PTH100  (links)
    named = next((name for name in reversed(names) if name in parts), None)
    return parts[0] if named is None and len(parts) == 1 else named


def by_category(names: Sequence[str]) -> dict[str, np.ndarray]:
    """Places of the names of each category, in the order of the categories.

    A name begins with its category, or is the whole path of a file that shows one.
    """
    inside = {name: name.partition("/")[0] for name in names if not Path(name).is_absolute()}
    known = list(dict.fromkeys(inside.values()))
    parts = np.array([inside[n] if n in inside else category_in_path(n, known) for n in names])
    return {part: np.flatnonzero(parts == part) for part in dict.fromkeys(parts.tolist())}


def deal(groups: list[int]) -> list[int]:
    """Deal images into folds of about equal size that keep groups together: a number for each."""
    sizes = Counter(groups)
    totals = [0] * min(len(sizes), max(FOLDS, math.ceil(len(groups) / FOLD)))
    fold_of = {}
    for group, size in sizes.most_common():  # large ones first
        fold_of[group] = int(np.argmin(totals))
        totals[fold_of[group]] += size
    return [fold_of[group] for group in groups]
