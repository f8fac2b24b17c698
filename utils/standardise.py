"""Putting maps of different kinds on one scale, as held-out good images set it."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CELL = 4
"""Means by position are kept for cells of this many pixels of the maps a side."""

PRIOR = 8
"""Images' worth of the common mean that is mixed into that of each position."""

RINGS = 5
"""Cells from the border inwards that count as border: beyond them, one place is like another."""


class Standardisation(nn.Module):
    """Subtracts the mean of maps over good images and divides by how far good parts rise above it.

    The mean is that of the place, as far as there are images enough to know it, and otherwise of
    all places as far from the border, where a network sees but half of the surroundings: edges of
    aligned objects are harder to restore than their faces. After it 0 is ordinary and 1 is as high
    as the strangest hundredth of a good part, on average. So maps of different units can be added,
    and one that is restless on good parts weighs less: its peaks are what it would drown the others
    with.

    Args:
        terms: number of maps.
        size: (height, width) of the maps that it is fitted on.
    """

    def __init__(self, terms: int, size: tuple[int, int]) -> None:
        super().__init__()
        grid = (-(-size[0] // CELL), -(-size[1] // CELL))
        self.register_buffer("mean", torch.zeros(terms, *grid))
        self.register_buffer("rise", torch.ones(terms))

    def fit(self, maps: Iterable[Tensor]) -> None:
        """Set the statistics from the maps [B, T, H, W] of good images, one batch at a time."""
        maps = [batch.detach().cpu() for batch in maps]
        grid = self.mean.shape[-2:]
        cells = torch.cat([F.adaptive_avg_pool2d(batch, grid) for batch in maps])
        mean = cells.double().mean(dim=0)
        common = mean.clone()
        rows, columns = (torch.arange(side) for side in grid)
        from_border = torch.minimum(
            torch.minimum(rows, rows.flip(0))[:, None], torch.minimum(columns, columns.flip(0))
        ).clamp(max=RINGS - 1)
        for distance in range(RINGS):
            ring = from_border == distance
            common[:, ring] = mean[:, ring].mean(dim=1, keepdim=True)
        share = len(cells) / (len(cells) + PRIOR)
        self.mean.copy_(torch.lerp(common, mean, share))
        self.rise.fill_(1)
        peaks = []
        for batch in maps:
            above = self(batch.to(self.mean)).flatten(2)
            peaks.append(above.topk(max(1, above.shape[2] // 100), dim=2).values.mean(dim=2))
        self.rise.copy_(torch.cat(peaks).mean(dim=0).clamp_min(1e-8))

    def forward(self, maps: Tensor) -> Tensor:
        """The maps [B, T, H, W], standardised."""
        mean = F.interpolate(self.mean[None], maps.shape[-2:], mode="bilinear", align_corners=False)
        return (maps - mean) / self.rise[:, None, None]
