"""Putting maps of different kinds on one scale, as held-out good images set it."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Standardisation(nn.Module):
    """Subtracts the mean of maps over good images and divides by how far good parts rise above it.

    After it 0 is ordinary and 1 is as high as the strangest hundredth of a good part, on average.
    So maps of different units can be added, and one that is restless on good parts weighs less: its
    peaks, not its spread, are what it would drown the others with.

    Args:
        terms: number of maps.
    """

    def __init__(self, terms: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(terms))
        self.register_buffer("rise", torch.ones(terms))

    def fit(self, maps: Iterable[Tensor]) -> None:
        """Set the statistics from the maps [B, T, H, W] of good images, one batch at a time."""
        means, peaks = [], []
        for batch in maps:
            pixels = batch.detach().flatten(2)
            means.append(pixels.mean(dim=2))
            count = max(1, pixels.shape[2] // 100)
            peaks.append(pixels.topk(count, dim=2).values.mean(dim=2))
        self.mean.copy_(torch.cat(means).mean(dim=0))
        self.rise.copy_((torch.cat(peaks).mean(dim=0) - self.mean).clamp_min(1e-8))

    def forward(self, maps: Tensor) -> Tensor:
        """The maps [B, T, H, W], standardised."""
        return (maps - self.mean[:, None, None]) / self.rise[:, None, None]
