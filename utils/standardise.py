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


class Standardisation(nn.Module):
    """Subtracts the mean of maps over good images and divides by their spread, then adds up.

    After it a value says by how many standard deviations a place is stranger than good parts are,
    so that terms of different units can be added and none drowns the others. Globally, one mean and
    one spread a term hold everywhere: right for textures. By position, each place has its own:
    right for aligned objects, whose edges are harder to reconstruct than their faces. Both are
    fitted and kept in the state; the caller chooses at every call.

    Args:
        terms: maps to add up.
        size: (height, width) of the maps that it is fitted on.
    """

    def __init__(self, terms: int, size: tuple[int, int]) -> None:
        super().__init__()
        grid = (-(-size[0] // CELL), -(-size[1] // CELL))
        self.register_buffer("mean", torch.zeros(terms, 1, 1))
        self.register_buffer("spread", torch.ones(terms, 1, 1))
        self.register_buffer("mean_at", torch.zeros(terms, *grid))
        self.register_buffer("spread_at", torch.ones(terms, *grid))

    def fit(self, maps: Iterable[Tensor]) -> None:
        """Set the statistics from the maps [B, T, H, W] of good images, one batch at a time."""
        count, total, square = 0, 0.0, 0.0
        for batch in maps:
            batch = batch.detach().cpu().double()  # MPS knows no float64
            grid = self.mean_at.shape[-2:]
            count += len(batch)
            total = total + F.adaptive_avg_pool2d(batch, grid).sum(dim=0)
            square = square + F.adaptive_avg_pool2d(batch.square(), grid).sum(dim=0)
        mean_at, square_at = total / count, square / count
        mean = mean_at.mean(dim=(1, 2), keepdim=True)
        variance = square_at.mean(dim=(1, 2), keepdim=True) - mean.square()
        variance = variance.clamp_min(1e-16)
        variance_at = (square_at - mean_at.square()).clamp_min(0)
        typical = variance_at.mean(dim=(1, 2), keepdim=True).clamp_min(1e-16)
        variance_at = (count * variance_at + PRIOR * typical) / (count + PRIOR)
        self.mean.copy_(mean)
        self.spread.copy_(variance.sqrt())
        self.mean_at.copy_(mean_at)
        self.spread_at.copy_(variance_at.sqrt())

    def forward(self, maps: Tensor, weights: list[float], by_position: bool) -> Tensor:
        """Weighted sum of the standardised maps: [B, T, H, W] -> [B, 1, H, W]."""
        mean, spread = self.mean, self.spread
        if by_position:
            size = maps.shape[-2:]
            mean, spread = (
                F.interpolate(grid[None], size, mode="bilinear", align_corners=False)[0]
                for grid in (self.mean_at, self.spread_at)
            )
        factors = maps.new_tensor(weights)[:, None, None]
        return ((maps - mean) / spread * factors).sum(dim=1, keepdim=True)
