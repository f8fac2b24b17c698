"""Several views of an image for one network: shrunk, and in the mirror.

A defect that fills what a network sees looks to it like the part itself, and is restored as it is.
In a smaller image the same network sees more of the part; thin defects are seen in the large one.
The mean over mirror images errs less than a single look. Training, too, sees the shrunk views.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from data.corruption import corrupt
from utils.config import Config

MIRRORS = ((), (-1,), (-2,), (-2, -1))
"""Axes that are mirrored in each view: none, left and right, top and bottom, both."""

Look = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""From images [B, 3, h, w] and the scale that shrunk them to maps [B, T, h, w] and a reconstruction
[B, 3, h, w]."""


def at_scales(images: Tensor, scales: Sequence[int]) -> list[Tensor]:
    """Images [B, C, H, W], shrunk by each of `scales`: [B, C, H // scale, W // scale]."""
    return [images if scale == 1 else F.avg_pool2d(images, scale) for scale in scales]


def corrupted_at_scales(images: Tensor, config: Config) -> tuple[Tensor, ...]:
    """For each of `unet.scales` good images [B, 3, H, W] corrupted, as they were, and where.

    Three tensors a scale: two [B, 3, h, w] in [0, 1] and bool [B, 1, h, w].
    """
    sample: list[Tensor] = []
    for clean in at_scales(images, config.unet.scales):
        corrupted, mask = corrupt(clean, config.corruption)
        sample += [corrupted, clean, mask]
    return tuple(sample)


def mean_over_scales(
    loss: Callable[..., Tensor], scales: Sequence[int], sample: Sequence[Tensor]
) -> Tensor:
    """Mean of a loss of a scale and the three tensors that `corrupted_at_scales` gives for it."""
    each = zip(scales, sample[::3], sample[1::3], sample[2::3], strict=True)
    return torch.stack([loss(*one) for one in each]).mean()


def maps_of_views(images: Tensor, config: Config, look: Look) -> tuple[Tensor, Tensor]:
    """What `look` says of images [B, 3, H, W] at each of `unet.scales`.

    With `score.flips` it is the mean over `MIRRORS`. A network that was not trained on mirror
    images still finds a texture's defects in them; of a part that no mirror leaves as it is, it may
    not.

    Returns:
        The maps of one scale after the other, [B, S * T, H, W], and the first one's reconstruction
        [B, 3, H, W].
    """
    scales = config.unet.scales
    if not config.score.flips:
        return _maps_at_scales(images, scales, look)
    views = [
        [found.flip(axes) for found in _maps_at_scales(images.flip(axes), scales, look)]
        for axes in MIRRORS
    ]
    maps, reconstruction = (torch.stack(found).mean(dim=0) for found in zip(*views, strict=True))
    return maps, reconstruction


def over_scales(maps: Tensor, combine: str) -> Tensor:
    """One map of those of all scales: [B, S, H, W] -> [B, 1, H, W].

    Args:
        maps: on one scale of values, such as spreads of good parts.
        combine: "mean", or "max" where a defect need show at one of the scales only.
    """
    return maps.amax(1, keepdim=True) if combine == "max" else maps.mean(1, keepdim=True)


def _maps_at_scales(images: Tensor, scales: Sequence[int], look: Look) -> tuple[Tensor, Tensor]:
    looks = map(look, at_scales(images, scales), scales)
    maps, reconstructions = zip(*looks, strict=True)
    size = images.shape[-2:]
    return torch.cat([_enlarged(one, size) for one in maps], 1), _enlarged(reconstructions[0], size)


def _enlarged(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps [B, C, h, w] brought back to (H, W), bilinearly."""
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)
