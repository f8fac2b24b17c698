"""Good images of a run: decoded once, held out in part, and dealt into folds."""

import math
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data.images import ImageError, header_size, pixel_digest, read_ahead
from data.input_profile import Measures, measure
from data.light import FACTORS, draw_light, relight
from data.mvtec import category_in_path
from data.region import read_with_region
from data.tensors import to_batch
from data.tiles import Grid
from utils.config import DataConfig
from utils.errors import UserError

# Up to this size decoded images are kept in memory.
MEMORY_GIB = 4.0


@dataclass(frozen=True)
class DecodedImages:
    """Images at the size of the detector: one frame each, or its tiles.

    Attributes:
        tiles: uint8 [T, h, w, C], frames or tiles. C is 3, or 4 with a region of interest.
        grids: layout of the tiles of each image.
        firsts: index of the first tile of each image; its others follow.
        digests: `pixel_digest` of each image.
        measures: of each image as it was read, see `measure`.
        light: `data.light`.
    """

    tiles: np.ndarray
    grids: list[Grid]
    firsts: list[int]
    digests: list[str]
    measures: list[Measures]
    light: float = 0.0

    @classmethod
    def whole(cls, images: np.ndarray, light: float = 0.0) -> "DecodedImages":
        """Return images, uint8 [N, h, w, 3], as they are: a frame each."""
        size, count = images.shape[1:3], len(images)
        grids = [Grid(size, size, (0,), (0,))] * count
        digests, measures = list(map(pixel_digest, images)), list(map(measure, images))
        return cls(images, grids, list(range(count)), digests, measures, light)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.grids)

    def tile_indices(self, images: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the indices of the tiles of images, given by index, in their order."""
        owned = [np.arange(len(self.grids[one])) + self.firsts[one] for one in images]
        return np.concatenate([np.empty(0, int), *owned])

    def only(self, images: Sequence[int] | np.ndarray) -> "DecodedImages":
        """Return some of the images, given by index; nothing is copied."""
        each = ("grids", "firsts", "digests", "measures")
        return replace(
            self, **{name: [getattr(self, name)[one] for one in images] for name in each}
        )

    def image(self, index: int) -> np.ndarray:
        """Return an image joined of its tiles, without padding: uint8 [H, W, 3]."""
        return self.grids[index].join(self.tiles[self.tile_indices([index])])[..., :3]


def decode_all(
    paths: Sequence[Path], data: DataConfig, quiet: bool = False, memory_gib: float = MEMORY_GIB
) -> tuple[DecodedImages, list[Path]]:
    """Decode images and resize or cut them to `data.size`, in the order of `paths`.

    Unreadable files are reported on stderr and left out.

    Args:
        paths: image files.
        data: how to read, resize and cut them.
        quiet: no progress bar and no reports.
        memory_gib: up to this size the images are kept in memory, beyond it in a temporary file
            that the operating system deletes with the process.

    Returns:
        The images, and the paths of those that could be read.

    Raises:
        UserError: if no file can be read, or the disk cannot hold them.
    """
    count = len(paths)
    if data.tile:  # headers do: turned by EXIF, an image has as many tiles
        count = sum(len(Grid.over(header_size(path), data)) for path in paths)
    shape = (count, *data.size, 3 if data.region is None else 4)
    needed = int(np.prod(shape, dtype=np.int64))
    tiles: np.ndarray
    if needed <= memory_gib * 2**30:
        tiles = np.empty(shape, np.uint8)
    else:
        try:
            file = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the array)
            if hasattr(os, "posix_fallocate"):  # a full disk is an error now, not a crash later
                os.posix_fallocate(file.fileno(), 0, needed)
            tiles = np.memmap(file, np.uint8, "w+", shape=shape)
        except OSError as error:
            raise UserError(
                f"{needed / 2**30:.1f} GiB of decoded images do not fit the temporary "
                f"folder {tempfile.gettempdir()} ({error.strerror}); lower --size, or set TMPDIR"
            ) from None

    def read(path: Path) -> tuple[np.ndarray, Grid, str, Measures]:
        image = read_with_region(path, data)
        grid = Grid.over(image.shape[:2], data)
        return grid.cut(image, data), grid, pixel_digest(image), measure(image)

    readable: list[Path] = []
    grids, firsts, digests, measures, used, failure = [], [], [], [], 0, ""
    reader = tqdm(
        read_ahead(paths, read), "decoding", len(paths), unit="image", disable=quiet or None
    )
    for path, found in reader:
        if isinstance(found, ImageError):
            failure = str(found)
            if not quiet:
                print(f"left out: {failure}", file=sys.stderr)
            continue
        own, grid, digest, measured = found
        tiles[used : used + len(own)] = own
        readable.append(path)
        grids.append(grid)
        firsts.append(used)
        digests.append(digest)
        measures.append(measured)
        used += len(own)
    if not readable:
        raise UserError(
            f"none of the {len(paths)} images in {paths[0].parent} can be read; the last: {failure}"
        )
    return DecodedImages(tiles[:used], grids, firsts, digests, measures, data.light), readable


# Folds, where there are as many groups: without one of them, nearly all images are still known.
MIN_FOLDS = 20

MAX_FOLD_IMAGES = 32

# Held-out images from which on they alone show how maps of images not trained on vary.
MIN_HELD_OUT = 20


@dataclass
class GoodImages:
    """The good images of a run, by name, and what each of them is for.

    Attributes:
        names: files relative to data.root, with forward slashes: the category comes first. Images
            added from elsewhere are named by their whole path.
        groups: a number for each; shots of one part share theirs.
        folds: number of the fold of each.
        held_out: whether it is kept from training.
        excluded: names of others, which may be defective and take no part; see
            `data.contaminated`.
    """

    names: list[str] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    folds: list[int] = field(default_factory=list)
    held_out: list[bool] = field(default_factory=list)
    excluded: list[str] = field(default_factory=list)

    def extended(
        self, names: Sequence[str], groups: Sequence[int], share: float, seed: int, limit: int = 0
    ) -> "GoodImages":
        """Return these images and further ones, some of these held out, all dealt into folds anew.

        Of each category whole groups are held out, at random, until the share is reached; what is
        held out already stays so, and of the further groups one at least is learned from.

        Args:
            names: of all images, these first.
            groups: a number for each.
            share: share of the images of a category to hold out.
            seed: decides which.
            limit: further images of a category at most that are not held out, at random; a higher
                limit adds to those of a lower one. 0: all.

        Raises:
            UserError: if those of a category are all of one group.
        """
        known = len(self.names)
        held_out = dict(zip(groups[:known], self.held_out, strict=True))  # by group
        kept = list(range(known))
        for category, own in by_category(names).items():
            if len({groups[one] for one in own}) < 2:
                raise UserError(_too_few(category, len(own)))
            sizes = Counter(groups[one] for one in own if groups[one] not in held_out)
            order = np.random.default_rng(seed).permutation(sorted(sizes)).tolist()
            count = sum(held_out.get(groups[one], False) for one in own)
            for group in order:
                held_out[group] = count < share * len(own) and group != order[-1]
                count += held_out[group] * sizes[group]
            further = own[own >= known].tolist()
            rank = {group: number for number, group in enumerate(order)}
            learned = [one for one in further if not held_out[groups[one]]]
            learned.sort(key=lambda one: rank.get(groups[one], -1))  # those of known groups first
            kept += [one for one in further if held_out[groups[one]]] + learned[: limit or None]
        kept.sort()
        groups = [groups[one] for one in kept]
        return GoodImages(
            [names[one] for one in kept],
            groups,
            deal(groups),
            [held_out[one] for one in groups],
            self.excluded,
        )

    @property
    def learned(self) -> np.ndarray:
        """Indices of the images that training learns from."""
        return np.flatnonzero(~np.array(self.held_out))

    @property
    def examined(self) -> np.ndarray:
        """Indices of the images to examine a detector with: those held out, or else a tenth.

        Images of one group are together in it or out of it.
        """
        if any(self.held_out):
            return np.flatnonzero(self.held_out)
        groups, chosen = np.array(self.groups), []
        for own in self.by_category().values():
            numbers = np.unique(groups[own])
            chosen.append(own[np.isin(groups[own], numbers[:: min(10, len(numbers))])])
        return np.concatenate(chosen)

    def by_fold(self) -> list[np.ndarray]:
        """Return the indices of the images of each fold."""
        folds = np.array(self.folds)
        return [np.flatnonzero(folds == number) for number in range(folds.max() + 1)]

    def by_category(self) -> dict[str, np.ndarray]:
        """Return the indices of the images of each category."""
        return by_category(self.names)

    def paths(self, root: str | Path) -> list[Path]:
        """Return their files; raises `UserError` if one of them is gone."""
        paths = [Path(root) / name for name in self.names]
        gone = [path for path in paths if not path.is_file()]
        if gone:
            raise UserError(
                f"the run knows {len(paths)} good images, but {gone[0]} "
                + (f"and {len(gone) - 1} more are gone" if len(gone) > 1 else "is gone")
                + "; restore what is missing, name a moved folder by --data-root, or train anew"
            )
        return paths


class Fold:
    """Images, or tiles, of one fold, batch by batch: float [B, 3, H, W] in [0, 1] on the device.

    It can be iterated over again, and gives the same batches in the same order. With `data.light`
    each image comes twice: as it is, and under drawn light, always the same.

    Args:
        number: which fold it is.
        tiles: of all images, uint8 [T, H, W, C].
        indices: those of the fold, in order.
        size: images in a batch.
        device: where to put the batches.
        lights: factors [n, FACTORS] for the light of each; None: as they are.

    Attributes:
        scored: the same images, each once: half of them as they are, the others under drawn light.
            Their scores set the threshold; n images tell no more than n scores.
        held_out: the fold of those of its images that training did not see; the fold itself where
            these are too few to tell anything, as for fitted detectors, which hold none out.
    """

    def __init__(
        self,
        number: int,
        tiles: np.ndarray,
        indices: Sequence[int],
        size: int,
        device: torch.device,
        lights: Tensor | None = None,
    ) -> None:
        self.number, self.tiles, self.indices = number, tiles, indices
        self.size, self.device, self.lights = size, device, lights
        self.held_out = self.scored = self

    def __len__(self) -> int:
        """Return the number of batches."""
        return math.ceil(len(self.indices) / self.size)

    def __iter__(self) -> Iterator[Tensor]:
        for start in range(0, len(self.indices), self.size):
            own = slice(start, start + self.size)
            batch = to_batch(self.tiles[np.array(self.indices[own])], self.device)
            yield batch if self.lights is None else relight(batch, self.lights[own])


def in_folds(
    images: DecodedImages, good: GoodImages, size: int, device: torch.device
) -> list[Fold]:
    """Return the folds of good images, `size` tiles a batch; tiles of an image share its fold."""
    held_out, folds = np.array(good.held_out), []
    # The light of an image is the same in every program: scored without its fold, a detector has to
    # lack what it has learned. It is that of all its tiles.
    generator = torch.Generator().manual_seed(0)
    lights = draw_light(len(images), images.light, generator)
    scored_lit = torch.randperm(len(images), generator=generator) % 2 > 0  # at random: half of them

    def fold_of(number: int, own: np.ndarray) -> Fold:
        indices = images.tile_indices(own)
        if not images.light:
            return Fold(number, images.tiles, indices, size, device)
        image = np.repeat(own, [len(images.grids[index]) for index in own])
        lit, as_they_are = lights[image], torch.ones(len(image), FACTORS)
        both = torch.cat([as_they_are, lit])
        fold = Fold(number, images.tiles, np.tile(indices, 2), size, device, both)
        one = torch.where(scored_lit[image, None], lit, as_they_are)
        fold.scored = Fold(number, images.tiles, indices, size, device, one)
        return fold

    for number, own in enumerate(good.by_fold()):
        fold = fold_of(number, own)
        if held_out.sum() >= MIN_HELD_OUT:
            fold.held_out = fold_of(number, own[held_out[own]])
        folds.append(fold)
    return folds


def by_category(names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the indices of the names of each category, in the order of the categories.

    A name begins with its category, or is the whole path of a file below a folder named so.
    """
    inside = {name: name.partition("/")[0] for name in names if not Path(name).is_absolute()}
    known = list(dict.fromkeys(inside.values()))
    categories = np.array(
        [inside[name] if name in inside else category_in_path(name, known) for name in names]
    )
    found = dict.fromkeys(categories.tolist())
    return {category: np.flatnonzero(categories == category) for category in found}


def deal(groups: Sequence[int]) -> list[int]:
    """Deal images into folds of about equal size that keep groups together: a number for each."""
    sizes = Counter(groups)
    totals = [0] * min(len(sizes), max(MIN_FOLDS, math.ceil(len(groups) / MAX_FOLD_IMAGES)))
    fold_of = {}
    for group, size in sizes.most_common():  # large ones first, so that small ones even it out
        fold_of[group] = int(np.argmin(totals))
        totals[fold_of[group]] += size
    return [fold_of[group] for group in groups]


def _too_few(category: str, count: int) -> str:
    if count == 1:
        return (
            f"a single good image of {category} can be read, or the others are copies of it; two "
            "at least are needed, one to calibrate on"
        )
    return (
        f"all {count} good images of {category} are of one group by calibration.group; at least "
        "two groups are needed, one to judge by the other"
    )
