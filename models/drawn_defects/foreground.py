"""Tell an object from its background by how much structure there is at each position."""

import torch
from torch import Tensor
from torch.nn import functional as F

# Side of the cells whose structure is measured.
CELL_PIXELS = 8

# Weight of a cell without structure in drawing positions, beside 1 of the most structured ones:
# defects lie on the background, too, though less often.
MIN_WEIGHT = 0.15


def structure(images: Tensor) -> Tensor:
    """Measure the structure at each position: [B, 3, H, W] in [0, 1] -> [B, h, w] in [0, 1].

    The standard deviation of grey values within cells and between neighbours, as a share of what
    the most structured twentieth of the cells have. An empty background, even with a gradient of
    light or a soft shadow, has little; a texture has about as much everywhere.
    """
    grey = (images[:, :1] + images[:, 1:2]).add_(images[:, 2:]).div_(3)
    cell = min(CELL_PIXELS, *(side // 4 for side in grey.shape[-2:]))
    rows, columns = (side // cell for side in grey.shape[-2:])
    cells = grey[..., : rows * cell, : columns * cell].unflatten(3, (columns, cell))
    cells = cells.unflatten(2, (rows, cell))
    # variance = E[x^2] - E[x]^2, within each cell and of the means of 3x3 cells
    mean, power = cells.mean(dim=(3, 5)), cells.square_().mean(dim=(3, 5))
    within = (power - mean.square()).clamp_min(0)
    around = F.avg_pool2d(mean, 3, 1, 1, count_include_pad=False)
    between = F.avg_pool2d(mean.square(), 3, 1, 1, count_include_pad=False) - around.square()
    found = (within + between.clamp_min(0)).sqrt()
    found = F.avg_pool2d(found, 3, 1, 1, count_include_pad=False)
    # What structure surrounds is part of the object, too, such as the face within an edge.
    found = torch.maximum(found, F.avg_pool2d(found, 9, 1, 4, count_include_pad=False))[:, 0]
    # Below 0.001 it is noise of an empty image, which must not be scaled up to structure.
    highest = found.flatten(1).quantile(0.95, dim=1)[:, None, None].clamp_min(1e-3)
    return (found / highest).clamp(0, 1)


def random_positions(structured: Tensor, size: tuple[int, int], count: int = 1) -> Tensor:
    """Draw positions, on the object rather than on its background.

    Args:
        structured: structure of the images, [B, h, w].
        size: (height, width) of the images.
        count: positions in each.

    Returns:
        [B, count, 2], y and x in pixels.
    """
    rows, columns = structured.shape[-2:]
    weight = structured.cpu().flatten(1).clamp_min(MIN_WEIGHT)
    cells = torch.multinomial(weight, count, replacement=True)
    y = (cells // columns + torch.rand(len(structured), count)) * size[0] / rows
    x = (cells % columns + torch.rand(len(structured), count)) * size[1] / columns
    return torch.stack([y, x], dim=2)


def background(images: Tensor, structured: Tensor) -> Tensor:
    """Guess what the images would show without the object: [B, 3, H, W].

    The smooth mean of the surroundings, weighted by their lack of structure. Of a texture it is the
    texture blurred away.

    Args:
        images: [B, 3, H, W].
        structured: their structure, [B, h, w].
    """
    weight = (1 - structured)[:, None].pow(4) + 1e-3
    small = F.adaptive_avg_pool2d(images, structured.shape[-2:])
    for window in (3, 5, 9):  # near background first; cells without any take it from afar
        radius = min(window, *(side - 1 for side in structured.shape[-2:])) // 2
        pool = [2 * radius + 1, 1, radius]
        weighted = F.avg_pool2d(small * weight, *pool, count_include_pad=False)
        density = F.avg_pool2d(weight, *pool, count_include_pad=False)
        small = torch.lerp(weighted / density, small, weight.clamp(max=1))
        weight = torch.maximum(weight, density)
    return F.interpolate(small, images.shape[-2:], mode="bilinear", align_corners=False)
