"""Looking at an image also in the mirror: the mean of four views errs less than one."""

from collections.abc import Callable

import torch
from torch import Tensor

MIRRORS = ((), (-1,), (-2,), (-2, -1))
"""Axes that are mirrored in each view: none, left and right, top and bottom, both."""


def mirrored_mean(
    images: Tensor, look: Callable[[Tensor], tuple[Tensor, Tensor]], mirrored: bool
) -> tuple[Tensor, Tensor]:
    """What `look` says of images [B, C, H, W]: one plain look, or the mean over `MIRRORS`.

    Args:
        look: gives two maps [B, *, H, W] of images.
        mirrored: whether to look at all mirror images. A network that was not trained on them still
            finds a texture's defects in them; of a part that no mirror leaves as it is, it may not.
    """
    if not mirrored:
        return look(images)
    views = [[maps.flip(axes) for maps in look(images.flip(axes))] for axes in MIRRORS]
    first, second = (torch.stack(maps).mean(dim=0) for maps in zip(*views, strict=True))
    return first, second
