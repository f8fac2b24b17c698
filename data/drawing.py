"""What drawings are made of: random parameters, and fields over the pixels of a batch.

Parameters [B], one an image, are drawn by torch's generator of the CPU, which a training step
seeds: equal seeds give equal numbers on every device. Fields, such as coordinates, noise and
samples, take them and lie on the device of `like` or of their input.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def uniform(low: float, high: float, count: int) -> Tensor:
    """Random numbers [count] between `low` and `high`."""
    return low + (high - low) * torch.rand(count)


def log_uniform(low: float, high: float, count: int) -> Tensor:
    """Random numbers [count] between `low` and `high`, each factor of two as likely as another."""
    return uniform(math.log(low), math.log(high), count).exp()


def coins(count: int, chance: float = 0.5) -> Tensor:
    """Bool [count], each True with the given chance."""
    return torch.rand(count) < chance


def spread(values: Tensor, like: Tensor) -> Tensor:
    """Parameters [B] as [B, 1, 1, 1] on the device of `like`."""
    return values.to(like.device, like.dtype)[:, None, None, None]


def frame(like: Tensor, centre: Tensor, turn: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels from a point, along and across a direction: two [B, 1, H, W].

    Args:
        like: [B, C, H, W], only its size and its device count.
        centre: [B, 2], y and x in pixels.
        turn: [B], the direction's angle to that of x, in radians.
    """
    height, width = like.shape[-2:]
    cos, sin = spread(turn.cos(), like), spread(turn.sin(), like)
    y = torch.arange(height, device=like.device)[:, None] - spread(centre[:, 0], like)
    x = torch.arange(width, device=like.device)[None, :] - spread(centre[:, 1], like)
    return x * cos + y * sin, y * cos - x * sin


def perlin_noise(like: Tensor, cells_y: Tensor, cells_x: Tensor) -> Tensor:
    """Gradient noise (Perlin, SIGGRAPH 1985): [B, 1, H, W], mostly within [-1, 1].

    Of the four corners of a cell each adds its random gradient times the way from it, faded out
    along both axes. That is a sum of products of a factor of the row and one of the column, and so
    two products of matrices make the noise of all pixels.

    Args:
        like: [B, C, H, W], only its size and its device count.
        cells_y: [B] lattice cells from top to bottom; more cells, finer noise.
        cells_x: [B] lattice cells from left to right.
    """
    rows, rows_away = _fades(cells_y, like.shape[-2])
    columns, columns_away = _fades(cells_x, like.shape[-1])
    angle = 2 * math.pi * torch.rand(len(like), rows.shape[2], columns.shape[2])
    factors = (rows, rows_away, columns, columns_away, angle.cos(), angle.sin())
    rows, rows_away, columns, columns_away, right, down = (f.to(like) for f in factors)
    noise = (rows_away @ down) @ columns.mT + (rows @ right) @ columns_away.mT
    return math.sqrt(2) * noise[:, None]


def _fades(cells: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Weight of each lattice line at each pixel, and the same times the way there: [B, side, K]."""
    nodes = torch.arange(int(cells.max()) + 1)
    at = (torch.arange(side) + 0.5) / side * cells[:, None]
    away = at[:, :, None] - nodes
    t = away.abs().clamp(max=1)
    weight = 1 - t * t * t * (t * (6 * t - 15) + 10)
    return weight, weight * away


def random_perlin(like: Tensor, finest: int) -> Tensor:
    """Perlin noise [B, 1, H, W] with a random power of two of cells along each axis."""
    powers = round(math.log2(finest)) + 1
    y, x = (2 ** torch.randint(powers, (len(like),)) for _ in range(2))
    return perlin_noise(like, y.clamp(max=like.shape[-2]), x.clamp(max=like.shape[-1]))


def resampled(
    images: Tensor,
    at: Tensor | None = None,
    source: Tensor | None = None,
    turn: Tensor | None = None,
    zoom: Tensor | None = None,
) -> Tensor:
    """Images turned and enlarged about a point that is then moved to another, [B, C, H, W].

    What comes from outside is reflected.

    Args:
        images: [B, C, H, W].
        at: [B, 2] where the point comes to lie, y and x in pixels; by default the middle.
        source: [B, 2] where the point lies now; by default the middle.
        turn: [B] angles in radians.
        zoom: [B] factors of enlargement; negative ones mirror as well.
    """
    count, _, height, width = images.shape
    size = torch.tensor([height, width])
    at, source = (size.expand(count, 2) / 2 if p is None else p for p in (at, source))
    turn = torch.zeros(count) if turn is None else turn
    zoom = torch.ones(count) if zoom is None else zoom
    cos, sin = turn.cos() / zoom.abs(), turn.sin() / zoom.abs()
    mirror = zoom.sign()
    # In pixels (x, y): source + M (position - at).
    matrix = torch.stack([cos * mirror, -sin * mirror, sin, cos], dim=1).view(count, 2, 2)
    xy = source.flip(1) - (matrix @ at.flip(1)[:, :, None])[:, :, 0]
    matrix, xy = matrix.to(images)[:, :, :, None, None], xy.to(images)[:, :, None, None]
    x = torch.arange(width, device=images.device) + 0.5
    y = torch.arange(height, device=images.device)[:, None] + 0.5
    return _taken(images, *(matrix[:, :, 0] * x + (matrix[:, :, 1] * y + xy)).unbind(dim=1))


def displaced(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Each pixel taken from elsewhere: `down` and `right` [B, 1, H, W] pixels away."""
    height, width = images.shape[-2:]
    y = torch.arange(height, device=images.device)[:, None] + 0.5 + down[:, 0]
    x = torch.arange(width, device=images.device) + 0.5 + right[:, 0]
    return _taken(images, x, y)


def _taken(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Images [B, C, H, W] at the points (x, y) in pixels, [B, H, W] each."""
    height, width = images.shape[-2:]
    grid = torch.stack([x * (2 / width) - 1, y * (2 / height) - 1], dim=3)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def grain(like: Tensor, cells: Tensor) -> Tensor:
    """Noise of a random grain and of unit spread, roughly: [B, 1, H, W].

    One sheet of noise serves the whole batch, for numbers from the CPU's generator are slow; each
    image has it enlarged by a factor of its own.
    """
    height, width = like.shape[-2:]
    sheet = torch.randn(1, 1, height, width).to(like).expand(len(like), -1, -1, -1)
    source = torch.stack([uniform(0, side, len(like)) for side in (height, width)], dim=1)
    flip = torch.where(coins(len(like)), 1.0, -1.0)
    return resampled(sheet, source=source, zoom=cells * flip)
