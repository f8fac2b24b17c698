"""Normalisation: from raw distances to a verdict, in five steps; docs/scaling.md shows figures.

1. Distance of a patch x to its nearest bank entry b, divided by the local spacing of good patches:
   d = |x - b| / spacing(b), where spacing(b) is the mean distance of b to its 50 nearest good
   patches (`memory_bank.py`). So a varied texture is not anomalous for being varied.
2. z-score of each term of the anomaly map by position:
   z = (d - mean[cell]) / std[cell], over good images (here). So an edge, or the border of the
   image, whose values are always high, is not anomalous.
3. Division by the noise of good images:
   z / noise, noise = std of the peaks of z + 0.1 * their mean (here). So terms of different units
   can be added, and a term whose peaks vary on good images weighs less. The image score is the mean
   of the highest 1% of the resulting map.
4. Threshold: the score that a share `calibration.false_alarms` of good images to come exceeds, from
   out-of-fold scores of all good images; scores of images that a network was trained on are first
   moved to where held-out ones lie (`inspection/calibration.py`, `inspection/threshold.py`).
5. severity = 1 + (score - threshold) / (threshold - median): 0 is the median good image, 1 the
   threshold (`inspection/threshold.py`). For people to read; it changes no ranking.

Steps 1 to 3 belong to the detector, are in its `state_dict()` and in an exported graph; steps 4 and
5 only read scores.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.good_images import Fold
from models.detector import VariableLengthBuffers
from models.image_score import image_score
from utils.config import ALL, DataConfig

# Side of the cells, in pixels of the images, that share a mean and a std.
CELL_PIXELS = 8

# Weight, in images, of the statistics of all cells at the same distance from the border.
PRIOR_IMAGES = 30

# Cells from the border inwards that have statistics of their own; all further in are alike.
BORDER_CELLS = 5

# Least std of a cell, as a share of that of all cells: where good images never vary, dust may.
MIN_STD_SHARE = 0.5

# Least std of all cells together; below that, differences are rounding.
MIN_STD = 1e-5

# Share of the mean peak added to the noise, for a few images may happen to be alike; and its least
# value, in standard deviations.
MIN_NOISE = 0.1

# Good images, about, whose maps set the normalisation: they are held in memory.
MAX_IMAGES = 200

# Images whose z-scores are computed at a time.
CHUNK_IMAGES = 16


class Normalisation(VariableLengthBuffers, nn.Module):
    """z-scores of T terms of an anomaly map: z = (map - mean[cell]) / (std[cell] * noise).

    Mean and std are those of the cell as far as there are images enough to know them, and otherwise
    those of all cells at the same distance from the border. One mean and one std serve all cells
    where cells of different images do not show the same: for several categories, tiles of a large
    image, and parts that lie anywhere. The last is found by cross-validation; see `_cells_help`.

    Row 0 of the buffers is fitted to all folds, row 1 + k without fold k.

    Args:
        terms: T.
        data: settings; size, tile and category are read.
    """

    def __init__(self, terms: int, data: DataConfig) -> None:
        super().__init__()
        several = data.category == ALL or "," in data.category
        self.by_cell = not data.tile and not several
        cells = tuple(-(-side // CELL_PIXELS) for side in data.size)
        self.register_buffer("mean", torch.zeros(1, terms, *cells))
        self.register_buffer("std", torch.ones(1, terms, *cells))
        self.register_buffer("noise", torch.ones(1, terms))
        self._row = 0

    def fit(self, maps: Sequence[Tensor]) -> None:
        """Fit to raw maps of good images, those of each fold, [n, T, H, W], without that fold."""
        every = torch.cat(list(maps))
        cells = F.adaptive_avg_pool2d(every, self.mean.shape[-2:]).double()
        fold_of = torch.repeat_interleave(torch.tensor([len(own) for own in maps]))
        rows = [self._statistics(every, cells)]
        for number in range(len(maps)):
            others = fold_of != number
            # With all maps of one fold, there are none to fit without it.
            rows.append(self._statistics(every[others], cells[others]) if others.any() else rows[0])
        self.mean, self.std, self.noise = (
            torch.stack(values).to(self.mean) for values in zip(*rows, strict=True)
        )

    @contextmanager
    def without(self, fold: Fold) -> Iterator[None]:
        """Within it, use the statistics that were fitted without this fold."""
        self._row = 1 + fold.number
        try:
            yield
        finally:
            self._row = 0

    def forward(self, maps: Tensor) -> Tensor:
        """Return the z-scores of maps [B, T, H, W]."""
        return _z_scores(maps, self.mean[self._row], self.std[self._row], self.noise[self._row])

    def _statistics(self, maps: Tensor, cells: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and std [T, h, w] and noise [T], of maps [N, T, H, W] and their means in cells."""
        mean, std = (values.expand(cells.shape[1:]) for values in _over_all_cells(cells))
        if self.by_cell:
            own_mean, own_std = _by_cell(cells)
            helps = _cells_help(cells)[:, None, None]  # for each term by itself
            mean, std = torch.where(helps, own_mean, mean), torch.where(helps, own_std, std)
        mean, std = mean.float(), std.float()
        # In chunks: z-scores of all maps would take as much memory again as the maps.
        ones = mean.new_ones(len(mean))
        chunks = maps.split(CHUNK_IMAGES)
        peaks = torch.cat([_peaks(_z_scores(chunk, mean, std, ones)) for chunk in chunks])
        noise = peaks.std(dim=0, correction=0) + MIN_NOISE * peaks.mean(dim=0)
        return mean, std, noise.clamp_min(MIN_NOISE)


def out_of_fold_maps(
    folds: Sequence[Fold],
    raw_maps: Callable[[Tensor], Tensor],
    without: Callable[[Fold], AbstractContextManager],
) -> list[Tensor]:
    """Return raw maps of about `MAX_IMAGES` good images, each made without its own fold.

    Args:
        folds: good images.
        raw_maps: images [B, 3, H, W] to maps [B, T, h, w].
        without: context in which the detector's memory banks are without a fold.

    Returns:
        Maps [n, T, h, w] of each fold, on the CPU; n may be 0.
    """
    of_folds: list[list[Tensor]] = []
    for fold in folds:
        maps: list[Tensor] = []
        # Evenly from all of the fold: the tiles of a few images may be as many as are wanted.
        every = max(1, len(fold.scored) * len(folds) // MAX_IMAGES)
        with without(fold):
            for batch in islice(fold.scored, 0, None, every):
                maps.append(raw_maps(batch).detach().cpu())
                if sum(map(len, maps)) >= MAX_IMAGES / len(folds):
                    break
        of_folds.append(maps)
    empty = next(maps[0] for maps in of_folds if maps)[:0]
    return [torch.cat(maps) if maps else empty for maps in of_folds]


def _z_scores(maps: Tensor, mean: Tensor, std: Tensor, noise: Tensor) -> Tensor:
    """(map - mean) / (std * noise): maps [B, T, H, W], statistics [T, h, w] and [T]."""
    both = torch.stack([mean, std])
    mean, std = F.interpolate(both, maps.shape[-2:], mode="bilinear", align_corners=False)
    return (maps - mean) / (std * noise[:, None, None])


def _over_all_cells(cells: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and std [T, 1, 1] of cells [N, T, h, w], over images and cells."""
    std, mean = torch.std_mean(cells, dim=(0, 2, 3), correction=0, keepdim=True)
    return mean[0], std[0].clamp_min(MIN_STD)


def _by_cell(cells: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and std [T, h, w] of each cell, shrunk towards those of its distance from the border."""
    moments = torch.stack([cells.mean(dim=0), cells.square().mean(dim=0)])
    down, across = (torch.minimum(n, n.flip(0)) for n in map(torch.arange, cells.shape[-2:]))
    from_border = torch.minimum(down[:, None], across).clamp(max=BORDER_CELLS - 1)
    of_ring = moments.clone()
    for distance in range(BORDER_CELLS):
        ring = from_border == distance
        of_ring[..., ring] = moments[..., ring].mean(dim=-1, keepdim=True)
    # weight of the cell's own statistics = n / (n + prior)
    weight = len(cells) / (len(cells) + PRIOR_IMAGES)
    (mean, variance), (ring_mean, ring_variance) = (
        (first, second - first.square()) for first, second in (moments, of_ring)
    )
    std = torch.lerp(ring_variance, variance, weight).clamp_min(0).sqrt()
    floor = MIN_STD_SHARE * _over_all_cells(cells)[1]
    return torch.lerp(ring_mean, mean, weight), torch.maximum(std, floor)


def _cells_help(cells: Tensor) -> Tensor:
    """Return for which terms unseen good images peak lower by cell than over all: bool [T].

    Two-fold cross-validation; compared is the 95% quantile of the peaks, in units of the maps. A
    part that lies anywhere has no common cells, and peaks higher by cell.
    """
    halves, heights = cells.chunk(2), []
    if len(halves) < 2:
        return torch.zeros(cells.shape[1], dtype=torch.bool)
    for statistics in (_by_cell, _over_all_cells):
        peaks = []
        for known, unseen in (halves, halves[::-1]):
            mean, std = statistics(known)
            unit = std.square().mean(dim=(1, 2), keepdim=True).sqrt()
            peaks.append(_peaks((unseen - mean) / std * unit))
        heights.append(torch.cat(peaks).quantile(0.95, dim=0))
    return heights[0] < heights[1]


def _peaks(maps: Tensor) -> Tensor:
    """Mean of the highest 1% of each map: [B, T, H, W] -> [B, T]."""
    return image_score(maps.flatten(0, 1), "top1").unflatten(0, maps.shape[:2])
