"""Draw polished granite that fills the frame, with the five defects of MVTec AD's tiles.

Those are crack, glue_strip, gray_stroke, oil and rough, as named by Bergmann et al., "MVTec AD -- A
Comprehensive Real-World Dataset for Unsupervised Anomaly Detection", CVPR 2019. Each is a function
of a stone, [1, 3, S, S] of RGB values in [0, 1], and returns what to lay over it, [1, 3, S, S], and
with what opacity, [1, 1, S, S]. Lengths are in sides of the image.
"""

import math
from collections.abc import Callable

import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from data.drawing import (
    blob,
    blurred,
    coins,
    frame,
    log_uniform,
    random_points,
    resampled,
    sampled,
    smoothstep,
    uniform,
    unit_noise,
)

AREA = (0.0005, 0.25)  # least and greatest share of the image that a mask covers
VISIBLE = 0.1  # least opacity; below it nothing is painted, so that the mask holds all changes

# Mineral grains from the back to the front: grains across the image, share of the grains that
# are this mineral, RGB colour, standard deviation of the brightness from grain to grain.
MINERALS = (
    (42, 1.00, (0.70, 0.685, 0.66), 0.050),  # feldspar
    (36, 0.30, (0.80, 0.79, 0.77), 0.035),  # pale quartz
    (32, 0.14, (0.69, 0.63, 0.56), 0.040),  # beige feldspar
    (60, 0.20, (0.53, 0.52, 0.51), 0.060),  # grey quartz
    (52, 0.10, (0.23, 0.22, 0.22), 0.050),  # biotite
    (110, 0.09, (0.30, 0.285, 0.28), 0.070),  # fine dark specks
    (120, 0.05, (0.87, 0.865, 0.85), 0.030),  # fine bright specks
)

Drawn = tuple[Tensor, Tensor]


def granite(size: int) -> Tensor:
    """Draw polished granite: minerals over one another, each filling some cells of a diagram."""
    image = torch.zeros(1, 3, size, size)
    for across, share, colour, deviation in MINERALS:
        grain = _voronoi(image, across)
        # One draw for each grain, looked up by the pixel that its cell grew from.
        present = torch.rand(size * size)[grain] < share
        tone = 1 + deviation * torch.randn(size * size)[grain]
        image[0, :, present] = torch.tensor(colour)[:, None] * tone[present]
    # Crystals are cloudy inside, and the stone is not the same all over.
    image *= 1 + 0.022 * unit_noise(image, 90) + 0.012 * unit_noise(image, 5)
    return blurred(image, 1.3 * size / 512).clamp(0, 1)  # lens


def _voronoi(like: Tensor, across: int) -> Tensor:
    """Draw the grain number of each pixel [S, S]: a Voronoi diagram with ragged borders."""
    size = like.shape[-1]
    empty = torch.ones(size, size, dtype=torch.bool)
    empty[torch.randint(size, (across**2,)), torch.randint(size, (across**2,))] = False
    nearest = ndimage.distance_transform_edt(empty, return_distances=False, return_indices=True)
    y, x = torch.from_numpy(nearest).long()
    # Read the diagram through a small random displacement: straight borders look like mosaic.
    reach = 0.25 * size / across
    rows, columns = (
        (torch.arange(size).view(shape) + reach * unit_noise(like, 3 * across // 2)[0, 0])
        .round()
        .long()
        .clamp(0, size - 1)
        for shape in ((size, 1), (1, size))
    )
    return (y * size + x)[rows, columns]


def _band(stone: Tensor, length: Tensor, most_bend: float) -> Drawn:
    """Draw coordinates along and across a bent band, [1, 1, S, S] each, in sides of the image."""
    side, bend = stone.shape[-1], 4 * uniform(-most_bend, most_bend, 1)
    at, turn = random_points(stone, margin=0.08), uniform(0, 2 * math.pi, 1)
    along, across = frame(stone, at, turn, bend / side)
    # Half of the arc's height back: the point is the centre of the band.
    return along / side, across / side + bend * length**2 / 12


def _streaks(along: Tensor, across: Tensor, cells_across: int, cells_along: int) -> Tensor:
    """Draw noise of unit deviation that is fine across a band and long along it."""
    noise, side = unit_noise(along, cells_across, cells_along), along.shape[-1]
    return sampled(noise, (along[:, 0] + 0.5) * side, (across[:, 0] + 0.5) * side)


def _crack_line(
    like: Tensor, start: Tensor, turn: Tensor, length: float, width: float, branches: int
) -> Tensor:
    """Draw the opacity of a jagged line that tapers from its start, and of its branches."""
    side = like.shape[-1]
    along, across = frame(like, start, turn)
    # A random walk aside, in steps of an 80th of the side, with straight lines between them.
    walk = (0.006 * side * torch.randn(1, 1, 1, 80)).cumsum(dim=3)
    walk = F.interpolate(walk - walk[..., :1], (1, side), mode="bilinear")
    aside, slope = (
        sampled(field, along[:, 0], torch.full_like(along[:, 0], 0.5))
        for field in (walk, walk.diff(dim=3, append=walk[..., -1:]))
    )
    distance = (across - aside).abs() / (1 + slope.square()).sqrt()
    # It tapers to its tip; fine cracks stay about a pixel wide or they would not be seen.
    half = (width * side * (1 - 0.55 * along / (length * side))).clamp_min(1) / 2
    within = (along >= 0) & (along <= length * side)
    line = (half - distance + 0.5).clamp(0, 1) * within
    for _ in range(branches):
        at = int(side * length * uniform(0.2, 0.8, 1))
        ahead, beside = torch.tensor(float(at)), walk[0, 0, 0, at]
        cos, sin = turn.cos(), turn.sin()
        fork = start + torch.stack([ahead * sin + beside * cos, ahead * cos - beside * sin], dim=1)
        away = turn + uniform(0.4, 1.1, 1) * (1 - 2 * coins(1).float())
        shorter = length * float(uniform(0.2, 0.5, 1))
        branch = _crack_line(like, fork, away, shorter, 0.65 * width, branches // 3)
        line = torch.maximum(line, branch)
    return line


def crack(stone: Tensor) -> Drawn:
    """Break the stone: a thin dark jagged line with branches and a lighter lip on one side."""
    side = stone.shape[-1]
    start = random_points(stone, margin=0.05)
    if coins(1):  # half of them come in from an edge of the tile
        start[0, torch.randint(2, (1,))] = side * torch.randint(2, (1,)).float()
    y, x = (side / 2 - start[0]).unbind()
    inward = torch.atan2(y, x) + 0.4 * torch.randn(1)
    length, width = float(log_uniform(0.15, 0.9, 1)), float(uniform(0.0045, 0.01, 1))
    line = _crack_line(stone, start, inward, length, width, int(torch.randint(4, (1,))))
    # The lip is the line, moved aside and blurred.
    lit, shift = uniform(0, 2 * math.pi, 1), max(0.7 * width * side, 0.8)
    aside = torch.stack([lit.sin(), lit.cos()], dim=1) * shift
    lip = blurred(resampled(line, at=side / 2 + aside, beyond="zeros"), 0.0016 * side)
    lip = lip * uniform(0.3, 0.6, 1)
    dark = blurred(line, 0.0012 * side) * uniform(0.65, 0.95, 1)
    edged = torch.lerp(stone, (stone * 1.15 + 0.12).clamp(max=1), lip)
    layer = torch.lerp(edged, stone * 0.3 + 0.03, dark)
    return layer, (torch.maximum(lip, dark) >= VISIBLE).float()


def glue_strip(stone: Tensor) -> Drawn:
    """Leave a strip of glue: yellowish and glossy, bright at its edges, the stone dim below."""
    length, half = uniform(0.2, 1.0, 1), log_uniform(0.016, 0.06, 1)
    along, across = _band(stone, length, most_bend=0.12)
    across = across + 0.12 * half * unit_noise(stone, 6)
    width = half * (1 + 0.12 * unit_noise(stone, 5) + 0.04 * unit_noise(stone, 24))
    # Depth below the edge, as a share of the half width; the ends are round.
    beyond = (along.abs() - length / 2 + half).clamp_min(0)
    depth = 1 - torch.hypot(beyond, across) / width
    rim = torch.exp(-((depth - 0.14) / 0.1).square())
    gloss = torch.exp(-((across / half - 0.25) / 0.16).square())
    gloss = gloss * smoothstep(unit_noise(stone, 7), -0.5, 1.5)
    tint = torch.tensor([0.80, 0.74, 0.56]).view(1, 3, 1, 1) * uniform(0.92, 1.06, 1)
    layer = 0.45 * blurred(stone, 0.006 * stone.shape[-1]) + 0.55 * tint
    layer = layer + 0.13 * rim + 0.16 * gloss + 0.012 * unit_noise(stone, 60)
    return layer, uniform(0.55, 0.85, 1) * smoothstep(depth, 0, 0.16)


def gray_stroke(stone: Tensor) -> Drawn:
    """Smear matt grey paint over the stone with a brush: streaks along it, and dry ends."""
    length, half = uniform(0.15, 0.75, 1), log_uniform(0.02, 0.085, 1)
    along, across = _band(stone, length, most_bend=0.3)
    bristles = _streaks(along, across, 180, 8)
    reach = length / 2 * (1 + 0.16 * bristles)  # each bristle ends where it runs dry
    ends = smoothstep((reach - along.abs()) / half, 0, 0.8)
    sides = smoothstep(1 - across.abs() / half + 0.06 * unit_noise(stone, 20), 0, 0.3)
    dry = (0.78 + 0.2 * bristles - 0.3 * (2 * along / length).square()).clamp(0.12, 1)
    grey = uniform(0.40, 0.56, 1) + 0.025 * bristles + 0.01 * unit_noise(stone, 100)
    return grey.expand_as(stone), uniform(0.65, 0.95, 1) * ends * sides * dry


def oil(stone: Tensor) -> Drawn:
    """Spill oil: a smooth blot in which the stone is darker and its colours are stronger."""
    side = stone.shape[-1]
    at = random_points(stone, margin=0.02)
    depth, _, _ = blob(stone, at, 0.045, 0.23, stretch=2.5, rag=(0.1, 0.5), finest=8)
    depth = depth / (0.1 * side)
    grey = stone.mean(dim=1, keepdim=True)
    tint = torch.tensor([0.74, 0.69, 0.60]).view(1, 3, 1, 1) * uniform(0.85, 1.1, 1)
    layer = torch.lerp(grey, stone, 1.5).clamp(0, 1) ** 1.15 * tint
    rim = torch.exp(-((depth - 0.1) / 0.07).square())  # it dries darkest at its edge
    return layer * (1 - 0.14 * rim), uniform(0.4, 0.9, 1) * smoothstep(depth, 0, 0.14)


def rough(stone: Tensor) -> Drawn:
    """Spoil the polish: a ragged patch that is pale, matt, pitted and scratched."""
    side = stone.shape[-1]
    at = random_points(stone, margin=0.02)
    depth, _, _ = blob(stone, at, 0.07, 0.24, stretch=2, rag=(0.2, 0.5), finest=32)
    depth = depth / (0.1 * side) + 0.06 * unit_noise(stone, 60)
    # A lit relief: the difference of a fine height map along the light gives pits and bumps.
    fine = blurred(torch.randn(1, 1, side, side), max(0.0015 * side, 0.4))
    relief = fine - fine.roll((1, 1), (2, 3))
    scratches = (_streaks(*_band(stone, torch.ones(1), 0.1), 140, 11) - 0.9).clamp_min(0)
    layer = 0.6 * blurred(stone, 0.005 * side) + 0.4 * uniform(0.70, 0.86, 1)
    layer = layer + uniform(0.07, 0.12, 1) * relief / relief.std() + 0.16 * scratches
    return layer, uniform(0.65, 0.95, 1) * smoothstep(depth, 0, 0.15)


DEFECTS: dict[str, Callable[[Tensor], Drawn]] = {
    defect.__name__: defect for defect in (crack, glue_strip, gray_stroke, oil, rough)
}


def spoil(stone: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Put a defect on a stone, drawn again until its mask, bool [1, 1, S, S], fits `AREA`."""
    while True:
        layer, alpha = DEFECTS[kind](stone)
        mask = alpha >= VISIBLE
        if AREA[0] <= mask.float().mean() <= AREA[1]:
            return torch.lerp(stone, layer, alpha * mask).clamp(0, 1), mask


def draw(size: int, kind: str = "good") -> tuple[Tensor, Tensor | None]:
    """Draw a tile, [1, 3, size, size] in [0, 1], and the mask of its defect, None for "good"."""
    stone = granite(size)
    return (stone, None) if kind == "good" else spoil(stone, kind)
