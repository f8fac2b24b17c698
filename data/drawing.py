"""Primitives of drawn defects: random parameters, and fields over the pixels of a batch.

Shared by all that draws: the corruption that networks are trained on, the defects that
`eval.py --synthetic` examines with, and the sample set. Parameters [B], one an image, come from
torch's global generator of the CPU, so that equal seeds give equal numbers on every device. Fields
[B, 1, H, W] (coordinates, noise, outlines) lie on the device of the images. Angles are in radians,
from the x axis towards y; points are [B, 2], y and x in pixels.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

GENERATOR_LOCK = Lock()


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Seed torch's CPU generator by a tuple of numbers, and restore its state afterwards."""
    # All threads share the generator: those that read images ahead draw one after the other.
    with GENERATOR_LOCK, torch.random.fork_rng(devices=[]):
        # SeedSequence mixes the numbers: (0, 1) and (1, 0) have nothing in common.
        torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]))
        yield


def uniform(low: float, high: float, count: int) -> Tensor:
    """Draw numbers [count] between `low` and `high`."""
    return low + (high - low) * torch.rand(count)


def log_uniform(low: float, high: float, count: int) -> Tensor:
    """Draw numbers [count] between `low` and `high`, each factor of two as likely as another."""
    return uniform(math.log(low), math.log(high), count).exp()


def coins(count: int, chance: float = 0.5) -> Tensor:
    """Draw bool [count], each True with the given chance."""
    return torch.rand(count) < chance


def signed(values: Tensor, negative: float = 0.5) -> Tensor:
    """Turn the sign of each of the values [B] with the given chance."""
    return values * torch.where(coins(len(values), negative), -1.0, 1.0)


def random_points(like: Tensor, margin: float = 0.0) -> Tensor:
    """Draw a point [B, 2] in each image, at least `margin`, a share of it, from its borders."""
    size = torch.tensor(like.shape[-2:])
    return (margin + (1 - 2 * margin) * torch.rand(len(like), 2)) * size


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """Reshape parameters [B] to [B, 1, 1, 1], on the device of `like`."""
    return values.to(like.device, like.dtype)[:, None, None, None]


def smoothstep(value: Tensor, start: float, stop: float) -> Tensor:
    """Rise smoothly from 0 where value is `start` to 1 at `stop`, which may be the lower one."""
    t = ((value - start) / (stop - start)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def frame(
    like: Tensor, centre: Tensor, turn: Tensor, bend: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Measure pixels from a point, along and across a direction: two [B, 1, H, W].

    Args:
        like: [B, C, H, W], of which only size and device are used.
        centre: [B, 2].
        turn: [B], the direction's angle.
        bend: [B], per pixel; `across` is then measured from the arc across = bend * along^2.
    """
    height, width = like.shape[-2:]
    cos, sin = per_image(turn.cos(), like), per_image(turn.sin(), like)
    y = torch.arange(height, device=like.device)[:, None] - per_image(centre[:, 0], like)
    x = torch.arange(width, device=like.device)[None, :] - per_image(centre[:, 1], like)
    along, across = x * cos + y * sin, y * cos - x * sin
    return along, across if bend is None else across - per_image(bend, like) * along.square()


def perlin_noise(like: Tensor, cells_y: Tensor, cells_x: Tensor) -> Tensor:
    """Draw gradient noise (Perlin, SIGGRAPH 1985): [B, 1, H, W], mostly within [-1, 1].

    Args:
        like: [B, C, H, W], of which only size and device are used.
        cells_y: [B] whole numbers of lattice cells from top to bottom; more cells, finer noise.
        cells_x: [B] lattice cells from left to right.
    """
    rows, rows_away = _lattice_weights(cells_y, like.shape[-2])
    columns, columns_away = _lattice_weights(cells_x, like.shape[-1])
    angle = 2 * math.pi * torch.rand(len(like), rows.shape[2], columns.shape[2])
    factors = (rows, rows_away, columns, columns_away, angle.cos(), angle.sin())
    rows, rows_away, columns, columns_away, right, down = (f.to(like) for f in factors)
    # noise(y, x) = sum over nodes i, j of w(y - i) w(x - j) (right_ij (x - j) + down_ij (y - i)):
    # each term is a factor of the row times one of the column, so matrix products sum all pixels.
    noise = (rows_away @ down) @ columns.mT + (rows @ right) @ columns_away.mT
    return math.sqrt(2) * noise[:, None]


def _lattice_weights(cells: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Return each lattice line's weight at each pixel, and weight times distance: [B, side, K]."""
    nodes = torch.arange(int(cells.max()) + 1)
    at = (torch.arange(side) + 0.5) / side * cells[:, None]
    away = at[:, :, None] - nodes
    t = away.abs().clamp(max=1)
    weight = 1 - t * t * t * (t * (6 * t - 15) + 10)  # 1 on the line, 0 from the next one on
    return weight, weight * away


def random_perlin(like: Tensor, finest: int) -> Tensor:
    """Draw Perlin noise [B, 1, H, W] with a random power of two of cells along each axis."""
    powers = round(math.log2(finest)) + 1
    y, x = (2 ** torch.randint(powers, (len(like),)) for _ in range(2))
    return perlin_noise(like, y.clamp(max=like.shape[-2]), x.clamp(max=like.shape[-1]))


def unit_noise(like: Tensor, cells_y: int, cells_x: int | None = None) -> Tensor:
    """Draw Perlin noise [B, 1, H, W] of mean 0 and standard deviation 1 in each image."""
    cells = (torch.full((len(like),), n) for n in (cells_y, cells_x or cells_y))
    noise = perlin_noise(like, *cells)
    std, mean = torch.std_mean(noise, dim=(2, 3), keepdim=True)
    return (noise - mean) / std


def grain(like: Tensor, cells: Tensor) -> Tensor:
    """Draw noise of a given grain [B], in pixels, and roughly of unit deviation: [B, 1, H, W].

    One sheet of noise serves the whole batch, as the CPU's generator is slow; each image has it
    enlarged, moved and mirrored at random.
    """
    height, width = like.shape[-2:]
    sheet = torch.randn(1, 1, height, width).to(like).expand(len(like), -1, -1, -1)
    source = torch.stack([uniform(0, side, len(like)) for side in (height, width)], dim=1)
    flip = torch.where(coins(len(like)), 1.0, -1.0)
    return resampled(sheet, source=source, zoom=cells * flip)


def blob(
    images: Tensor,
    at: Tensor,
    least: float,
    most: float,
    stretch: float = 10.0,
    rag: tuple[float, float] = (0.1, 0.9),
    finest: int = 16,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw a ragged ellipse of random size and direction.

    Args:
        images: [B, 3, H, W], of which only size and device are used.
        at: [B, 2] its centre.
        least: smallest mean radius, as a share of the shorter side.
        most: largest mean radius.
        stretch: largest ratio of its axes.
        rag: least and greatest depth of the ragged outline, in radii.
        finest: most cells of the Perlin noise that makes it ragged, across the image.

    Returns:
        Depth in pixels, negative outside, and the coordinates along and across, which are 1 on the
        outline without rag: [B, 1, H, W] each.
    """
    count, side = len(images), min(images.shape[-2:])
    radius = log_uniform(least, most, count) * side
    ratio = log_uniform(1, stretch, count).sqrt()
    along, across = frame(images, at, uniform(0, math.pi, count))
    along = along / per_image(radius * ratio, images)
    across = across / per_image(radius / ratio, images)
    noise = per_image(uniform(*rag, count), images) * random_perlin(images, finest)
    # 1 - sqrt(along^2 + across^2) is the depth in radii; the shorter axis makes it pixels.
    depth = (1 + noise - torch.hypot(along, across)) * per_image(radius / ratio, images)
    return depth, along, across


def opacity(depth: Tensor, softest: float, least: float) -> Tensor:
    """Fill an outline of random softness with a random opacity: [B, 1, H, W] in [0, 1].

    Args:
        depth: [B, 1, H, W] pixels inside the outline, from `blob`.
        softest: widest soft edge, in pixels.
        least: least opacity of its inside.
    """
    count = len(depth)
    edge = per_image(log_uniform(0.7, softest + 0.7, count), depth)  # 0.7: antialiased
    return (depth / edge).clamp(0, 1) * per_image(uniform(least, 1, count), depth)


def contour_distance(noise: Tensor, at: Tensor) -> Tensor:
    """Measure pixels from the contour line of the noise that runs through a point: [B, 1, H, W].

    To first order: |noise - noise(at)| / |gradient of the noise|.
    """
    height, width = noise.shape[-2:]
    slope = torch.hypot(*torch.gradient(noise, dim=(2, 3))).clamp_min(1e-4)
    y, x = at[:, 0].long().clamp(max=height - 1), at[:, 1].long().clamp(max=width - 1)
    level = noise.flatten(1).gather(1, (y * width + x).to(noise.device)[:, None])
    return (noise - level[:, :, None, None]).abs() / slope


def stroke(along: Tensor, across: Tensor, length: Tensor, half_width: Tensor) -> Tensor:
    """Draw a line with soft sides that fades over its ends: [B, 1, H, W] in [0, 1].

    Args:
        along: [B, 1, H, W] coordinates of `frame`; bent ones make a bent line.
        across: the same, across the line.
        length: [B] in the unit of the coordinates.
        half_width: [B] where the opacity is 1/e.
    """
    length, half_width = per_image(length, along), per_image(half_width, along)
    ends = ((length / 2 - along.abs()) / (0.2 * length)).clamp(0, 1)
    line = torch.exp(-(across / half_width).square())
    return line * ends * (line > 0.05)  # no faint halo that covers the whole image


def blend(images: Tensor, layer: Tensor, alpha: Tensor, visible: float) -> tuple[Tensor, Tensor]:
    """Lay `layer` over the images where the change is visible; leave all other pixels as they are.

    Args:
        images: [B, 3, H, W] in [0, 1]; overwritten.
        layer: [B, 3, H, W]; overwritten.
        alpha: [B, 1, H, W] opacity of the layer.
        visible: least visible change, of a range of 1, in the mean of 3x3 pixels.

    Returns:
        The images, and the mask of what changed: bool [B, 1, H, W].
    """
    change = layer.clamp_(0, 1).sub_(images).mul_(alpha)
    seen = F.pad(change.abs().amax(dim=1, keepdim=True), (1, 1, 1, 1))
    # The mean of 3x3 pixels, by sums: pooling takes several times as long on a CPU.
    seen = (seen[..., :-2] + seen[..., 1:-1]).add_(seen[..., 2:])
    seen = (seen[..., :-2, :] + seen[..., 1:-1, :]).add_(seen[..., 2:, :])
    mask = (seen > 9 * visible) & (alpha > 0)
    return images.add_(change.mul_(mask)), mask


def blurred(images: Tensor, sigma_y: float, sigma_x: float | None = None) -> Tensor:
    """Blur images [B, C, H, W] by a Gaussian whose deviations are in pixels."""
    # A Gaussian is separable: a matrix of weights for the rows and one for the columns.
    rows, columns = (
        _gaussian_weights(side, max(sigma, 1e-3)).to(images)
        for side, sigma in zip(images.shape[-2:], (sigma_y, sigma_x or sigma_y), strict=True)
    )
    return rows @ images @ columns.mT


def _gaussian_weights(side: int, sigma: float) -> Tensor:
    at = torch.arange(side) / sigma
    weights = torch.exp(-(at[:, None] - at).square() / 2)
    return weights / weights.sum(dim=1, keepdim=True)  # at the borders over what is within


def resampled(
    images: Tensor,
    at: Tensor | None = None,
    source: Tensor | None = None,
    turn: Tensor | None = None,
    zoom: Tensor | None = None,
    size: tuple[int, int] | None = None,
    beyond: str = "reflection",
) -> Tensor:
    """Turn and enlarge images about a point and move it to another: [B, C, *size].

    Args:
        images: [B, C, H, W].
        at: [B, 2] the point in the result; the centre by default.
        source: [B, 2] the point in the images; the centre by default.
        turn: [B] angles, counterclockwise as seen: the opposite of `frame`.
        zoom: [B] factors of enlargement; negative ones mirror as well.
        size: (height, width) of the result; that of the images by default.
        beyond: their borders, "reflection" or "zeros".
    """
    count, (height, width) = len(images), size or images.shape[-2:]
    at = torch.tensor([height, width]).expand(count, 2) / 2 if at is None else at
    source = torch.tensor(images.shape[-2:]).expand(count, 2) / 2 if source is None else source
    turn = torch.zeros(count) if turn is None else turn
    zoom = torch.ones(count) if zoom is None else zoom
    cos, sin = turn.cos() / zoom.abs(), turn.sin() / zoom.abs()
    mirror = zoom.sign()
    # position in the images = source + M (position in the result - at), in pixels (x, y)
    matrix = torch.stack([cos * mirror, -sin * mirror, sin, cos], dim=1).view(count, 2, 2)
    xy = source.flip(1) - (matrix @ at.flip(1)[:, :, None])[:, :, 0]
    matrix, xy = matrix.to(images)[:, :, :, None, None], xy.to(images)[:, :, None, None]
    x = torch.arange(width, device=images.device) + 0.5
    y = torch.arange(height, device=images.device)[:, None] + 0.5
    x, y = (matrix[:, :, 0] * x + (matrix[:, :, 1] * y + xy)).unbind(dim=1)
    return sampled(images, x, y, beyond)


def displaced(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Take each pixel from elsewhere: from `down` and `right` [B, 1, H, W] pixels away."""
    height, width = images.shape[-2:]
    y = torch.arange(height, device=images.device)[:, None] + 0.5 + down[:, 0]
    x = torch.arange(width, device=images.device) + 0.5 + right[:, 0]
    return sampled(images, x, y)


def sampled(images: Tensor, x: Tensor, y: Tensor, beyond: str = "reflection") -> Tensor:
    """Read images [B, C, H, W] at points, x and y [B, H', W'] in pixels: [B, C, H', W']."""
    height, width = images.shape[-2:]
    grid = torch.stack([x * (2 / width) - 1, y * (2 / height) - 1], dim=3)
    return F.grid_sample(images, grid, padding_mode=beyond, align_corners=False)
