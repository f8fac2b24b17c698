"""One network at several scales: whole defects are seen in the small image, thin ones in the large.

A defect that fills what a network sees looks to it like the part itself, and is restored as it is.
In a smaller image the same network sees more of the part.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def at_scales(images: Tensor, scales: Sequence[int]) -> list[Tensor]:
    """Images [B, C, H, W], shrunk by each of `scales`: [B, C, H // scale, W // scale]."""
    return [images if scale == 1 else F.avg_pool2d(images, scale) for scale in scales]


def maps_at_scales(
    images: Tensor, scales: Sequence[int], look: Callable[[Tensor, int], tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Look at images [B, 3, H, W] shrunk by each of `scales`.

    Args:
        look: gives maps [B, T, h, w] and a reconstruction [B, 3, h, w] of small images and a scale.

    Returns:
        The maps of one scale after the other, [B, S * T, H, W], and the first one's reconstruction
        [B, 3, H, W], both at the size of the images.
    """
    looks = map(look, at_scales(images, scales), scales)
    maps, reconstructions = zip(*looks, strict=True)
    size = images.shape[-2:]
    return torch.cat([_enlarged(one, size) for one in maps], 1), _enlarged(reconstructions[0], size)


def _enlarged(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps [B, C, h, w] brought back to (H, W), bilinearly."""
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)
