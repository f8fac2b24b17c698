"""Putting the terms of an anomaly map on one scale, as held-out good images set it."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CELL = 8
"""Statistics by position are kept for cells of this many pixels a side: each then rests on
64 pixels of every image, and a checkpoint stays small."""

PRIOR = 8
"""Images' worth of the typical variance that is mixed into that of each position."""

RINGS = 5
"""Cells from the border inwards that count as border: beyond them, one place is like another."""


class Standardisation(nn.Module):
    """Subtracts the mean of maps over good images and divides by their spread, then adds up.

    After it a value says by how many standard deviations a place is stranger than good parts are,
    so that terms of different units can be added and none drowns the others. Globally, mean and
    spread depend on the distance to the border of the image alone, where a network sees but half of
    the surroundings: right for textures. By position, each place has its own: right for aligned
    objects, whose edges are harder to restore than their faces. Both are fitted and kept in the
    state; the caller chooses at every call.

    Args:
        terms: maps to add up.
        size: (height, width) of the maps that it is fitted on.
    """

    def __init__(self, terms: int, size: tuple[int, int]) -> None:
        super().__init__()
        grid = (terms, -(-size[0] // CELL), -(-size[1] // CELL))
        for name in ("globally", "by_position"):
            self.register_buffer(f"mean_{name}", torch.zeros(grid))
            self.register_buffer(f"spread_{name}", torch.ones(grid))

    def fit(self, maps: Iterable[Tensor]) -> None:
        """Set the statistics from the maps of good images, batches [B, T, H, W] of any length."""
        grid = self.mean_globally.shape[-2:]
        count, total, square = 0, 0.0, 0.0
        # One image at a time, for in float64 the maps of a batch would take gigabytes.
        for terms in (image for batch in maps for image in batch.detach()):
            terms = (terms.cpu() if terms.is_mps else terms).double()  # MPS knows no float64
            count += 1
            total = total + F.adaptive_avg_pool2d(terms, grid).cpu()
            square = square + F.adaptive_avg_pool2d(terms.square(), grid).cpu()
        mean, square = total / count, square / count
        variance = (square - mean.square()).clamp_min(0)
        typical = variance.mean(dim=(1, 2), keepdim=True).clamp_min(1e-16)
        variance = (count * variance + PRIOR * typical) / (count + PRIOR)
        self.mean_by_position.copy_(mean)
        self.spread_by_position.copy_(variance.sqrt())

        rows, columns = (torch.arange(side) for side in grid)
        from_border = torch.minimum(
            torch.minimum(rows, rows.flip(0))[:, None], torch.minimum(columns, columns.flip(0))
        ).clamp(max=RINGS - 1)
        for distance in range(RINGS):
            ring = from_border == distance
            ring_mean = mean[:, ring].mean(dim=1, keepdim=True)
            ring_square = square[:, ring].mean(dim=1, keepdim=True)
            spread = (ring_square - ring_mean.square()).clamp_min(1e-16).sqrt()
            self.mean_globally[:, ring] = ring_mean.to(self.mean_globally)
            self.spread_globally[:, ring] = spread.to(self.spread_globally)

    def forward(self, maps: Tensor, weights: list[float], by_position: bool) -> Tensor:
        """Weighted sums of the standardised maps: [B, S * T, H, W] -> [B, S, H, W].

        Args:
            maps: T terms of the first of S scales, then those of the next.
            weights: T of them, the same at every scale.
            by_position: take the statistics of each place.
        """
        grids = (
            (self.mean_by_position, self.spread_by_position)
            if by_position
            else (self.mean_globally, self.spread_globally)
        )
        mean, spread = (
            F.interpolate(grid[None], maps.shape[-2:], mode="bilinear", align_corners=False)[0]
            for grid in grids
        )
        factors = maps.new_tensor(weights)[:, None, None]
        terms = ((maps - mean) / spread).unflatten(1, (-1, len(weights)))
        return (terms * factors).sum(dim=2)
