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

LEAST = 0.1
"""Share of the mean peak that is added to the spread: a few images may happen to be alike."""


class Standardisation(nn.Module):
    """Subtracts the mean of maps over good images and divides by how much their peaks vary.

    The mean is that of the place, as far as there are images enough to know it, and otherwise of
    all places as far from the border, where a network sees but half of the surroundings: edges of
    aligned objects are harder to restore than their faces. What divides is the spread, from image
    to image, of the mean of the strangest hundredth of a map: that is the noise in which a defect
    has to be seen. So maps of different units can be added, and one that is restless on good parts
    weighs less.

    Args:
        terms: number of maps.
        size: (height, width) of the maps that it is fitted on.
    """

    def __init__(self, terms: int, size: tuple[int, int]) -> None:
        super().__init__()
        grid = (-(-size[0] // CELL), -(-size[1] // CELL))
        self.register_buffer("mean", torch.zeros(terms, *grid))
        self.register_buffer("noise", torch.ones(terms))

    def fit(self, maps: Iterable[Tensor]) -> None:
        """Set the statistics from the maps [B, T, H, W] of good images, one batch at a time."""
        kept = [batch.detach().cpu() for batch in maps]
        grid = self.mean.shape[-2:]
        cells = torch.cat([F.adaptive_avg_pool2d(batch, grid) for batch in kept])
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
        self.noise.fill_(1)
        peaks = []
        for batch in kept:
            above = self(batch.to(self.mean)).flatten(2)
            peaks.append(above.topk(max(1, above.shape[2] // 100), dim=2).values.mean(dim=2))
        peaks = torch.cat(peaks)
        spread = peaks.std(dim=0, correction=0) + LEAST * peaks.mean(dim=0)
        self.noise.copy_(spread.clamp_min(1e-8))

    def forward(self, maps: Tensor) -> Tensor:
        """The maps [B, T, H, W], standardised."""
        mean = F.interpolate(self.mean[None], maps.shape[-2:], mode="bilinear", align_corners=False)
        return (maps - mean) / self.noise[:, None, None]
