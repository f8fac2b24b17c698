"""One network at several scales: whole defects are seen in the small image, thin ones in the large.

A defect that fills what a network sees looks to it like the part itself, and is restored as it is.
In a smaller image the same network sees more of the part.
"""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F


def at_scales(images: Tensor, scales: Sequence[int]) -> list[Tensor]:
    """Images [B, C, H, W], shrunk by each of `scales`: [B, C, H // scale, W // scale]."""
    return [images if scale == 1 else F.avg_pool2d(images, scale) for scale in scales]


def enlarged(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps [B, C, h, w] brought back to (H, W), bilinearly."""
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)
