"""Tiles of polished granite that fill the frame, with the five defects of MVTec AD's tiles.

Those are crack, glue_strip, gray_stroke, oil and rough, as named by Bergmann et al., "MVTec AD -- A
Comprehensive Real-World Dataset for Unsupervised Anomaly Detection", CVPR 2019. Each is a function
of a source of randomness and of a stone, [S, S, 3] of RGB values in [0, 1], and returns the stone
with the defect, and the defect's mask, bool [S, S].
"""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from data.sample.drawing import expose, noise, ramp, shrink

# Below this opacity a defect is not seen: it is neither painted nor part of the mask, so that
# pixels outside the mask stay exactly as they were.
SEEN = 0.1
AREA = (0.0005, 0.25)  # share of the image that a mask may cover

# Mineral grains from the back to the front: grains across the image, share of the grains that
# are this mineral, RGB colour, spread of the brightness from grain to grain.
MINERALS = (
    (42, 1.00, (0.70, 0.685, 0.66), 0.050),  # feldspar ground
    (36, 0.30, (0.80, 0.79, 0.77), 0.035),  # pale quartz
    (32, 0.14, (0.69, 0.63, 0.56), 0.040),  # beige feldspar
    (60, 0.20, (0.53, 0.52, 0.51), 0.060),  # grey quartz
    (52, 0.10, (0.23, 0.22, 0.22), 0.050),  # biotite
    (110, 0.09, (0.30, 0.285, 0.28), 0.070),  # fine dark specks
    (120, 0.05, (0.87, 0.865, 0.85), 0.030),  # fine bright specks
)


def _paint(image: np.ndarray, layer: np.ndarray, alpha: np.ndarray):
    """Lay layer [H,W,3] over image [H,W,3] with opacity alpha [H,W]; return it and the mask."""
    mask = alpha >= SEEN
    alpha = (alpha * mask)[..., None]
    return np.clip(image + alpha * (layer - image), 0, 1), mask


def _grains(rng: np.random.Generator, size: int, across: int) -> np.ndarray:
    """Grain number of each pixel [size, size]: a Voronoi diagram with ragged borders."""
    count = across * across
    points = rng.integers(0, size, (count, 2))
    empty = np.ones((size, size), bool)
    empty[points[:, 0], points[:, 1]] = False
    nearest = ndimage.distance_transform_edt(empty, return_distances=False, return_indices=True)
    cell = nearest[0] * size + nearest[1]
    # Read the diagram through a small random displacement: straight borders look like mosaic.
    reach = 0.25 * size / across
    y, x = np.indices((size, size))
    y = np.clip(np.rint(y + reach * noise(rng, size, 3 * across // 2)), 0, size - 1).astype(int)
    x = np.clip(np.rint(x + reach * noise(rng, size, 3 * across // 2)), 0, size - 1).astype(int)
    return cell[y, x]


def granite(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw polished granite that fills the frame: [size, size, 3] of RGB values in [0, 1].

    Minerals are laid over one another, each on its own Voronoi diagram with only a share of the
    cells filled. Grains are a fixed fraction of the image, so a small image looks like a large
    one scaled down.
    """
    factor = math.ceil(256 / size)  # grains need some pixels: draw small images larger
    full = size * factor
    image = np.zeros((full, full, 3))
    for across, share, colour, spread in MINERALS:
        grain = _grains(rng, full, across)
        # One draw for each grain, looked up by the pixel its cell grew from.
        present = rng.random(full * full)[grain] < share
        tone = rng.normal(1, spread, full * full)[grain]
        image[present] = np.asarray(colour) * tone[present][:, None]
    # Crystals are cloudy inside, and the stone is not the same all over.
    cloud = 0.022 * noise(rng, full, 90) + 0.012 * noise(rng, full, 5)
    image *= 1 + cloud[..., None]
    blur = 1.3 * full / 512  # lens
    image = ndimage.gaussian_filter(image, (blur, blur, 0))
    return np.clip(shrink(image, factor), 0, 1)


def _frame(rng: np.random.Generator, size: int, margin: float, turns: float):
    """Coordinates [size, size] along and across a random direction, in image sides from a point.

    The point is so far from the borders at least; the direction is within so many half turns.
    """
    at = np.linspace(0, 1, size)
    y, x = np.meshgrid(at, at, indexing="ij")
    cy, cx = rng.uniform(margin, 1 - margin, 2)
    turn = rng.uniform(0, turns * math.pi)
    u = (x - cx) * math.cos(turn) + (y - cy) * math.sin(turn)
    return u, (y - cy) * math.cos(turn) - (x - cx) * math.sin(turn)


def _blob(rng: np.random.Generator, size: int, radius: float, rag: float, cells: int):
    """Signed field [size, size] of a blob: > 0 inside, about 1 in the middle.

    radius is in image sides; rag is how far the outline strays, as a share of the radius, with
    features of 1/cells of the image.
    """
    u, v = _frame(rng, size, margin=0.02, turns=1)
    stretch = math.sqrt(rng.uniform(1, 2))
    return 1 - np.hypot(u / stretch, v * stretch) / radius + rag * noise(rng, size, cells)


def _band(rng: np.random.Generator, size: int, length: float, bend: float):
    """Coordinates along and across a bent band, [size, size] each, in image sides from its middle.

    The bend is the sagitta of a parabola one image side long.
    """
    u, v = _frame(rng, size, margin=0.08, turns=2)
    return u, v + bend * 4 * (u * u - length * length / 12)


def _crack_path(rng: np.random.Generator, start: np.ndarray, heading: float, length: float):
    """Points [N, 2] (x, y in image sides) of a jagged line and its heading at each."""
    points, headings, walked, lean = [start], [heading], 0.0, 0.0
    while walked < length:
        step = rng.uniform(0.004, 0.02)
        lean = 0.8 * lean + rng.normal(0, 0.16)  # it wanders, but comes back to its course
        turn = heading + lean + rng.normal(0, 0.4)
        points.append(points[-1] + step * np.array([math.cos(turn), math.sin(turn)]))
        headings.append(heading + lean)
        walked += step
    return np.array(points), headings


def crack(rng: np.random.Generator, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Break the stone: a thin dark jagged line with branches and a lighter lip on one side."""
    size, over = len(image), 4
    canvas = Image.new("L", (size * over, size * over))
    draw = ImageDraw.Draw(canvas)

    def line(start, heading, length, width, branches):
        points, headings = _crack_path(rng, start, heading, length)
        steps = len(points) - 1
        # It tapers to its tip; fine cracks stay about a pixel wide or they would not be seen.
        taper = width * np.linspace(1, 0.45, steps) * rng.uniform(0.6, 1.4, steps)
        for a, b, w in zip(points[:-1], points[1:], taper, strict=True):
            pixels = max(w * size, 1.0) * over
            ends = [tuple(a * size * over), tuple(b * size * over)]
            draw.line(ends, fill=255, width=round(pixels))
            r = 0.45 * pixels
            draw.ellipse([ends[1][0] - r, ends[1][1] - r, ends[1][0] + r, ends[1][1] + r], fill=255)
        for _ in range(branches):
            at = rng.integers(steps // 5, max(steps * 4 // 5, steps // 5 + 1))
            away = headings[at] + rng.choice([-1, 1]) * rng.uniform(0.4, 1.1)
            line(points[at], away, length * rng.uniform(0.2, 0.5), 0.65 * width, branches // 3)

    length = math.exp(rng.uniform(math.log(0.15), math.log(0.9)))
    start = rng.uniform(0.05, 0.95, 2)
    if rng.random() < 0.5:  # half of them come in from an edge of the tile
        start[rng.integers(2)] = rng.integers(2)
    inward = math.atan2(0.5 - start[1], 0.5 - start[0]) + rng.normal(0, 0.4)
    width = rng.uniform(0.0045, 0.01)
    line(start, inward, length, width, int(rng.integers(0, 4)))

    alpha = np.asarray(canvas.reduce(over), float) / 255
    lit = rng.uniform(0, 2 * math.pi)
    shift = max(0.7 * width * size, 0.8)
    lip = ndimage.shift(alpha, (shift * math.sin(lit), shift * math.cos(lit)), order=1)
    lip = ndimage.gaussian_filter(lip, 0.0016 * size) * rng.uniform(0.3, 0.6)
    edged, lip_mask = _paint(image, np.minimum(image * 1.15 + 0.12, 1), lip)
    soft = ndimage.gaussian_filter(alpha, 0.0012 * size) * rng.uniform(0.65, 0.95)
    broken, mask = _paint(edged, image * 0.3 + 0.03, soft)
    return broken, mask | lip_mask


def glue_strip(rng: np.random.Generator, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Leave a strip of glue: yellowish and glossy, bright at its edges, the stone dim below."""
    size = len(image)
    length = rng.uniform(0.2, 1.0)
    half = math.exp(rng.uniform(math.log(0.016), math.log(0.06)))
    u, v = _band(rng, size, length, rng.uniform(-0.12, 0.12))
    v = v + 0.12 * half * noise(rng, size, 6)
    width = half * (1 + 0.12 * noise(rng, size, 5) + 0.04 * noise(rng, size, 24))
    # Depth below the edge, as a share of the half width; the ends are round.
    along = np.maximum(np.abs(u) - length / 2 + half, 0)
    depth = 1 - np.hypot(along, v) / width

    rim = np.exp(-(((depth - 0.14) / 0.1) ** 2))
    gloss = np.exp(-(((v / half - 0.25) / 0.16) ** 2)) * ramp(noise(rng, size, 7), -0.5, 1.5)
    below = ndimage.gaussian_filter(image, (0.006 * size, 0.006 * size, 0))
    tint = np.array([0.80, 0.74, 0.56]) * rng.uniform(0.92, 1.06)
    layer = 0.45 * below + 0.55 * tint
    layer = layer + (0.13 * rim + 0.16 * gloss + 0.012 * noise(rng, size, 60))[..., None]
    return _paint(image, layer, rng.uniform(0.55, 0.85) * ramp(depth, 0, 0.16))


def gray_stroke(rng: np.random.Generator, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smear matt grey paint over the stone with a brush: streaks along it, and dry ends."""
    size = len(image)
    length = rng.uniform(0.15, 0.75)
    half = math.exp(rng.uniform(math.log(0.012), math.log(0.085)))
    u, v = _band(rng, size, length, rng.uniform(-0.3, 0.3))
    # Bristles: noise drawn in the coordinates of the band, fine across it and long along it.
    bristle = rng.standard_normal((400, 24))
    at = (200 + v / 0.0055, 12 + u / 0.12)
    streak = ndimage.map_coordinates(bristle, at, order=3, mode="mirror") / 0.75
    reach = length / 2 * (1 + 0.16 * streak)  # each bristle ends where it runs dry
    ends = ramp((reach - np.abs(u)) / half, 0, 0.8)
    sides = ramp(1 - np.abs(v) / half + 0.06 * noise(rng, size, 20), 0, 0.3)
    dry = np.clip(0.78 + 0.2 * streak - 0.3 * (2 * u / length) ** 2, 0.12, 1)
    grey = rng.uniform(0.40, 0.56) * np.array([0.99, 1.0, 1.01])
    shade = 0.025 * streak + 0.01 * noise(rng, size, 100)
    return _paint(image, grey + shade[..., None], rng.uniform(0.65, 0.95) * ends * sides * dry)


def oil(rng: np.random.Generator, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Spill oil: a smooth blot in which the stone is darker and its colours are stronger."""
    size = len(image)
    radius = math.exp(rng.uniform(math.log(0.045), math.log(0.23)))
    depth = _blob(rng, size, radius, 0.3, max(4, round(0.9 / radius)))
    grey = image.mean(2, keepdims=True)
    tint = np.array([0.74, 0.69, 0.60]) * rng.uniform(0.85, 1.1)
    layer = np.clip(grey + 1.5 * (image - grey), 0, 1) ** 1.15 * tint
    rim = np.exp(-(((depth - 0.1) / 0.07) ** 2))  # it dries darkest at its edge
    layer = layer * (1 - 0.14 * rim)[..., None]
    return _paint(image, layer, rng.uniform(0.4, 0.9) * ramp(depth, 0, 0.14))


def rough(rng: np.random.Generator, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Spoil the polish: a ragged patch that is pale, matt, pitted and scratched."""
    size = len(image)
    radius = math.exp(rng.uniform(math.log(0.055), math.log(0.24)))
    depth = _blob(rng, size, radius, 0.16, max(6, round(1.0 / radius)))
    depth = depth + 0.06 * noise(rng, size, 60)

    # A lit relief: the difference of a fine height map along the light gives pits and bumps.
    fine = ndimage.gaussian_filter(rng.standard_normal((size, size)), max(0.0015 * size, 0.4))
    relief = fine - np.roll(fine, (1, 1), (0, 1))
    relief = relief / relief.std()
    # Scratches in about one direction: fine noise, long along it.
    u, v = _band(rng, size, 1.0, rng.uniform(-0.1, 0.1))
    lines = rng.standard_normal((300, 30))
    at = (150 + v / 0.007, 15 + u / 0.09)
    scratch = ndimage.map_coordinates(lines, at, order=1, mode="mirror")
    scratch = np.maximum(scratch - 0.9, 0)

    dull = ndimage.gaussian_filter(image, (0.005 * size, 0.005 * size, 0))
    layer = 0.6 * dull + 0.4 * rng.uniform(0.70, 0.86)
    layer = layer + (rng.uniform(0.07, 0.12) * relief + 0.16 * scratch)[..., None]
    return _paint(image, layer, rng.uniform(0.65, 0.95) * ramp(depth, 0, 0.3))


Defect = Callable[[np.random.Generator, np.ndarray], tuple[np.ndarray, np.ndarray]]

DEFECTS: dict[str, Defect] = {
    defect.__name__: defect for defect in (crack, glue_strip, gray_stroke, oil, rough)
}


def draw(
    rng: np.random.Generator, size: int, kind: str = "good"
) -> tuple[np.ndarray, np.ndarray | None]:
    """Draw a photographed tile; a defect is drawn again until its mask has a size within AREA.

    Returns:
        [size, size, 3] of RGB values in [0, 1], and the mask, bool [size, size]; None for "good".
    """
    stone, mask = granite(rng, size), None
    if kind != "good":
        whole = stone
        while mask is None or not AREA[0] <= mask.mean() <= AREA[1]:
            stone, mask = DEFECTS[kind](rng, whole)
    return expose(rng, stone, slope=0.04, falloff=0.02, jitter=0.02), mask
