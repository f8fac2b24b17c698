"""Putting maps of different kinds on one scale, as held-out good images set it."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.anomaly_maps import image_score
from models.detector import Folds
from utils.config import ALL, DataConfig

CELL = 8
"""Statistics by place are kept for cells of this many pixels of the images a side."""

PRIOR = 30
"""Images' worth of what is common that is mixed into the statistics of each place."""

RINGS = 5
"""Cells from the border inwards that count as border: beyond them, one place is like another."""

FLOOR = 0.5
"""Least spread of a place, as a share of that of all: where good parts never vary, dust may."""

ROUNDING = 1e-5
"""Least spread of all places together: below that, differences are none."""

LEAST = 0.1
"""Share of the mean peak that is added to the noise, for a few images may happen to be alike; and
least noise, in spreads."""

SCALED = 200
"""Good images, about, that a scale is set on: what they show is held in memory."""


class Normalisation(nn.Module):
    """Measures maps by what good images show in the same place, and by how much their peaks vary.

    The mean of the place is subtracted, and the rest divided by how much it varies there: what an
    aligned part shows at its edge, or a network where it sees but half of the surroundings, is not
    strange there. Both are those of the place, as far as there are images enough to know it, and
    otherwise of all places as far from the border. Several parts, and tiles of one, have no places
    in common, and a part that lies anywhere has none, which shows in that unseen good images peak
    higher by place: there one mean and one spread serve all.

    Then a map is divided by the spread, from image to image, of the mean of its strangest
    hundredth: that is the noise in which a defect has to be seen. So maps of different units can be
    added, and one that is restless on good parts weighs less.

    Args:
        terms: number of maps.
        data: what is seen, and at what size.
    """

    def __init__(self, terms: int, data: DataConfig) -> None:
        super().__init__()
        # Another part, and another tile of a part, show something else in the same place.
        self.has_places = not data.tile and data.category != ALL and "," not in data.category
        grid = tuple(-(-side // CELL) for side in data.size)
        self.register_buffer("mean", torch.zeros(terms, *grid))
        self.register_buffer("spread", torch.ones(terms, *grid))
        self.register_buffer("noise", torch.ones(terms))

    def fit(self, maps: Iterable[Tensor]) -> None:
        """Set the statistics from the maps [B, T, H, W] of good images, one batch at a time."""
        kept = [batch.detach().cpu() for batch in maps]
        grid = self.mean.shape[-2:]
        cells = torch.cat([F.adaptive_avg_pool2d(batch, grid) for batch in kept]).double()
        mean, spread = _everywhere(cells)
        if self.has_places:
            own_mean, own_spread = _by_place(cells)
            helps = _places_help(cells)[:, None, None]
            mean, spread = (
                torch.where(helps, own_mean, mean),
                torch.where(helps, own_spread, spread),
            )
        self.mean.copy_(mean)
        self.spread.copy_(spread)
        self.noise.fill_(1)
        peaks = torch.cat([_peaks(self(batch.to(self.mean))) for batch in kept])
        noise = peaks.std(dim=0, correction=0) + LEAST * peaks.mean(dim=0)
        self.noise.copy_(noise.clamp_min(LEAST))

    def forward(self, maps: Tensor) -> Tensor:
        """The maps [B, T, H, W], standardised."""
        both = torch.stack([self.mean, self.spread])
        both = F.interpolate(both, maps.shape[-2:], mode="bilinear", align_corners=False)
        return (maps - both[0]) / (both[1] * self.noise[:, None, None])

    def leaving_out(
        self, folds: Folds, look: Callable[[Tensor], Tensor], leave: Callable[[], Iterator[int]]
    ) -> Iterator[int]:
        """Be in turn what the scale would be without each fold, and at last that of them all.

        Args:
            folds: good images to set it on; see `Detector.leaving_out`.
            look: images [B, 3, H, W] to their maps [B, T, h, w].
            leave: starts having the detector be without what else it knows from each fold.
        """
        found: list[list[Tensor]] = []
        for _, fold in zip(leave(), folds, strict=True):
            found.append([])
            # Evenly from all of the fold: a few images may be as many tiles as are wanted.
            every = max(1, len(fold) * len(folds) // SCALED)
            for batch in islice(fold, 0, None, every):
                found[-1].append(look(batch).cpu())
                if sum(map(len, found[-1])) >= SCALED / len(folds):
                    break
        for number in leave():
            others = [maps for other, maps in enumerate(found) if other != number]
            self.fit(chain.from_iterable(others if any(others) else found))
            yield number
        if any(found):
            self.fit(chain.from_iterable(found))


def _everywhere(cells: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and spread [T, 1, 1] of cells [N, T, h, w] of all places."""
    spread, mean = torch.std_mean(cells, dim=(0, 2, 3), correction=0, keepdim=True)
    return mean[0], spread[0].clamp_min(ROUNDING)


def _by_place(cells: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and spread [T, h, w] of cells [N, T, h, w] of each place, drawn to those of its ring."""
    moments = torch.stack([cells.mean(dim=0), cells.square().mean(dim=0)])
    down, across = (torch.minimum(n, n.flip(0)) for n in map(torch.arange, cells.shape[-2:]))
    from_border = torch.minimum(down[:, None], across).clamp(max=RINGS - 1)
    of_ring = moments.clone()
    for distance in range(RINGS):
        ring = from_border == distance
        of_ring[..., ring] = moments[..., ring].mean(dim=-1, keepdim=True)
    share = len(cells) / (len(cells) + PRIOR)
    (mean, variance), (ring_mean, ring_variance) = (
        (first, second - first.square()) for first, second in (moments, of_ring)
    )
    spread = torch.lerp(ring_variance, variance, share).clamp_min(0).sqrt()
    least = FLOOR * _everywhere(cells)[1]
    return torch.lerp(ring_mean, mean, share), torch.maximum(spread, least)


def _places_help(cells: Tensor) -> Tensor:
    """Whether good images peak lower where each place has its own mean and spread: bool [T].

    Measured on one half of the images by the other: the height that one in twenty exceeds, in units
    of the maps, by the mean spread of all places.
    """
    halves, heights = cells.chunk(2), []
    if len(halves) < 2:
        return torch.zeros(cells.shape[1], dtype=torch.bool)
    for measure in (_by_place, _everywhere):
        peaks = []
        for known, unseen in (halves, halves[::-1]):
            mean, spread = measure(known)
            unit = spread.square().mean(dim=(1, 2), keepdim=True).sqrt()
            peaks.append(_peaks((unseen - mean) / spread * unit))
        heights.append(torch.cat(peaks).quantile(0.95, dim=0))
    return heights[0] < heights[1]


def _peaks(maps: Tensor) -> Tensor:
    """Mean of the strangest hundredth of each map: [B, T, H, W] -> [B, T]."""
    return image_score(maps.flatten(0, 1), "top1").unflatten(0, maps.shape[:2])
