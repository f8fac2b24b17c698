"""Where in an image the part is, judged by its own structure."""

import torch
from torch import Tensor
from torch.nn import functional as F

CELL = 8
"""Pixels a side of the cells whose structure is measured."""

GROUND = 0.15
"""Weight of a place without any structure, beside 1 where it is rich."""


def structure(images: Tensor) -> Tensor:
    """How much there is to see at each place: [B, 3, H, W] in [0, 1] -> [B, h, w] in [0, 1].

    The spread of grey values within cells of `CELL` pixels and between them, smoothed over the
    neighbours, in shares of what the richest twentieth of the cells have. Empty ground, even with a
    gradient of light or a soft shadow, has little; a texture has about as much everywhere.
    """
    grey = (images[:, :1] + images[:, 1:2]).add_(images[:, 2:]).div_(3)
    cell = min(CELL, *(side // 4 for side in grey.shape[-2:]))
    rows, columns = (side // cell for side in grey.shape[-2:])
    cells = grey[..., : rows * cell, : columns * cell].unflatten(3, (columns, cell))
    cells = cells.unflatten(2, (rows, cell))
    mean, power = cells.mean(dim=(3, 5)), cells.square_().mean(dim=(3, 5))
    within = (power - mean.square()).clamp_min(0)
    around = F.avg_pool2d(mean, 3, 1, 1, count_include_pad=False)
    between = F.avg_pool2d(mean.square(), 3, 1, 1, count_include_pad=False) - around.square()
    found = (within + between.clamp_min(0)).sqrt()
    found = F.avg_pool2d(found, 3, 1, 1, count_include_pad=False)
    # What structure surrounds is part of the object, too, such as the face within an edge.
    found = torch.maximum(found, F.avg_pool2d(found, 9, 1, 4, count_include_pad=False))[:, 0]
    rich = found.flatten(1).quantile(0.95, dim=1)[:, None, None].clamp_min(1e-3)
    return (found / rich).clamp(0, 1)


def random_places(rich: Tensor, size: tuple[int, int], count: int = 1) -> Tensor:
    """Points where the part is rather than on empty ground: [B, count, 2], y and x in pixels.

    A share falls on the ground all the same (`GROUND`), for there are defects, too.

    Args:
        rich: what `structure` says of the images, [B, h, w].
        size: (height, width) of the images.
        count: points in each.
    """
    rows, columns = rich.shape[-2:]
    weight = rich.cpu().flatten(1).clamp_min(GROUND)
    cells = torch.multinomial(weight, count, replacement=True)
    y = (cells // columns + torch.rand(len(rich), count)) * size[0] / rows
    x = (cells % columns + torch.rand(len(rich), count)) * size[1] / columns
    return torch.stack([y, x], dim=2)


def ground(images: Tensor, rich: Tensor) -> Tensor:
    """What would be seen if the part were not there, roughly: [B, 3, H, W].

    The smooth mean of what is around, in which places count by how little structure they have. Of a
    texture it is the texture blurred away.

    Args:
        images: [B, 3, H, W].
        rich: what `structure` says of them, [B, h, w].
    """
    weight = (1 - rich)[:, None].pow(4) + 1e-3
    small = F.adaptive_avg_pool2d(images, rich.shape[-2:])
    for window in (3, 5, 9):  # near ground first; what has none nearby takes it from afar
        radius = min(window, *(side - 1 for side in rich.shape[-2:])) // 2
        pool = [2 * radius + 1, 1, radius]
        weighed = F.avg_pool2d(small * weight, *pool, count_include_pad=False)
        density = F.avg_pool2d(weight, *pool, count_include_pad=False)
        small = torch.lerp(weighed / density, small, weight.clamp(max=1))
        weight = torch.maximum(weight, density)
    return F.interpolate(small, images.shape[-2:], mode="bilinear", align_corners=False)
