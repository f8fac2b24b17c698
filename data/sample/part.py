"""A hexagon bolt that lies anywhere on a plain ground, with four defects of small metal parts.

The defects are made in the bolt's map of heights, so that its shine, its outline and its shadow
follow: each is a function of a source of randomness and of a whole bolt, which is left as it is,
and returns the spoilt one. All lengths are in sides of the image.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy import ndimage

from data.sample.drawing import noise, ramp, shrink
from data.sample.relief import OVER, Layers, Relief, Scene, compose, photograph

AREA = (0.0005, 0.03)  # share of the image that a mask may cover
SEEN = 0.06  # what changes by less, of a range of 1, is not seen and not part of the mask
CONTRAST = 0.1  # of a mask's pixels on average, at least: nobody should have to search for it

# The bolt from the top of its head, u = 0, to its tip.
LENGTH = 0.56
HEAD = 0.054  # where the hexagon ends
APOTHEM = 0.064  # of the hexagon
FLANGE = (0.068, 0.085)  # where the washer face ends, its radius
SHANK = (0.135, 0.0395)  # where the plain shank ends, its radius
PITCH, DEPTH = 0.0235, 0.0088  # of the thread
TIP = (0.515, 0.022)  # where the bolt begins to taper, the radius it tapers to

MARGIN = 0.01  # around the bolt in its map


def bolt(rng: np.random.Generator, size: int) -> Relief:
    """Draw a whole bolt; only the turn of its thread and its finish differ from bolt to bolt."""
    step = 1 / (OVER * size)
    u = np.arange(-MARGIN, LENGTH + MARGIN, step)[None]
    v = np.arange(-FLANGE[1] - MARGIN, FLANGE[1] + MARGIN, step)[:, None]

    # The shaft: a radius along the axis, less the groove that winds about it.
    core = SHANK[1] - (SHANK[1] - TIP[1]) * np.clip((u - TIP[0]) / (LENGTH - TIP[0]), 0, 1) ** 1.3
    winding = np.arcsin(np.clip(v / SHANK[1], -1, 1)) / (2 * math.pi)
    phase = u / PITCH - winding + rng.random()
    groove = np.clip((np.abs(2 * (phase % 1) - 1) - 0.1) / 0.75, 0, 1)
    run_out = ramp(u, SHANK[0] - 0.01, SHANK[0] + 0.02) * ramp(u, LENGTH, TIP[0] - 0.01)
    radius = (core - DEPTH * groove * run_out) * ((u > HEAD) & (u < LENGTH))
    shaft = np.sqrt(np.maximum(radius**2 - v**2, 0))

    # The flange is a flat cone; the head lies on a side of its hexagon, its corners turned off.
    rim = FLANGE[1] - 0.006 * ramp(u, HEAD + 0.006, HEAD - 0.002)
    disc = np.sqrt(np.maximum(rim**2 - v**2, 0)) * ((u > HEAD - 0.002) & (u < FLANGE[0]))
    hexagon = np.minimum(APOTHEM, 2 * APOTHEM - math.sqrt(3) * np.abs(v))
    crown = APOTHEM * (0.94 + 0.24 * np.clip(u / 0.022, 0, 1))
    turned = np.sqrt(np.maximum(crown**2 - v**2, 0))
    head = np.minimum(hexagon, turned) * ((u > 0) & (u < HEAD))
    height = np.maximum(shaft, np.maximum(head, disc))

    rows = slice(0, v.size)
    satin = noise(rng, u.size, 150)[rows] + noise(rng, u.size, 280)[rows]
    stain = noise(rng, u.size, 14)[rows]
    tint = 1 + rng.uniform(0.01, 0.025) * satin + rng.uniform(0.015, 0.04) * stain
    # The lathe leaves marks around whatever it turned last; the thread is rolled.
    marks = ndimage.gaussian_filter1d(rng.standard_normal(u.size), 0.0007 / step)
    tint = tint + 0.03 * marks / marks.std() * (1 - run_out)

    # It lies on its flange and its tip.
    axis = FLANGE[1] + (TIP[1] - FLANGE[1]) * np.clip(u / LENGTH, 0, 1)
    return Relief(u, v, axis, height, tint)


def place(rng: np.random.Generator) -> Scene:
    """Lay a bolt anywhere, at any angle, wholly in the frame, under a lamp that hardly moves."""
    turn = rng.uniform(0, 2 * math.pi)
    cos, sin = abs(math.cos(turn)), abs(math.sin(turn))
    half_x = cos * LENGTH / 2 + sin * FLANGE[1] + 0.015
    half_y = sin * LENGTH / 2 + cos * FLANGE[1] + 0.015
    return Scene(
        x=rng.uniform(half_x, 1 - half_x),
        y=rng.uniform(half_y, 1 - half_y),
        turn=turn,
        azimuth=math.radians(rng.uniform(-135, -105)),
        elevation=math.radians(rng.uniform(54, 66)),
        gloss=rng.uniform(0, 1),
        blur=rng.uniform(0.005, 0.013),
        shadow=rng.uniform(0.3, 0.5),
        ground=rng.uniform(0.69, 0.73),
    )


def damaged_edge(rng: np.random.Generator, part: Relief) -> Relief:
    """Flatten one to four threads on one side: their crests are pressed into the grooves."""
    u, v = part.u, part.v
    at = rng.uniform(SHANK[0] + 0.035, TIP[0] - 0.03)
    half = PITCH * rng.uniform(0.5, 1.8)
    around = rng.choice([-1, 1]) * rng.uniform(0.5, 1.4)  # radians from the top
    angle = np.arcsin(np.clip(v / SHANK[1], -1, 1))
    uneven = noise(rng, u.size, 60)[: v.size]
    inside = 1.25 - np.hypot((u - at) / half, (angle - around) / rng.uniform(0.6, 0.9))
    inside = ramp(inside + 0.12 * uneven, 0, 0.6)
    # There the bolt is a thinner cylinder, which cuts the crests and which their metal fills up to.
    dent = SHANK[1] - DEPTH * (rng.uniform(0.45, 0.75) + 0.07 * uneven)
    square = part.height**2 + inside * (dent**2 - v**2 - part.height**2)
    return replace(part, height=np.sqrt(np.maximum(square, 0)))


def missing_piece(rng: np.random.Generator, part: Relief) -> Relief:
    """Break a piece off the outline; the break is ragged, steep and dull."""
    u, v = part.u, part.v
    radius = rng.uniform(0.014, 0.03)
    if rng.random() < 0.2:
        middle = LENGTH + 0.3 * radius, rng.uniform(-1, 1) * TIP[1]
    else:
        column = np.searchsorted(u[0], rng.uniform(0.005, LENGTH - 0.005))
        edge = v[part.height[:, column] > 0].max()
        middle = u[0, column], rng.choice([-1, 1]) * (edge + rng.uniform(0, 0.5) * radius)
    stretch = math.sqrt(rng.uniform(0.7, 1.8))
    away = np.hypot((u - middle[0]) / stretch, (v - middle[1]) * stretch)
    rag = noise(rng, u.size, 30)[: v.size] + 0.4 * noise(rng, u.size, 110)[: v.size]
    face = 3.5 * np.maximum(away - radius * (1 + 0.12 * rag), 0)
    grain = 0.8 + 0.12 * noise(rng, u.size, 200)[: v.size]
    tint = part.tint * np.where(face < part.height, grain, 1)
    height = np.minimum(part.height, face)
    pieces, _ = ndimage.label(height > 0)
    largest = np.bincount(pieces[pieces > 0]).argmax()  # splinters would float
    return replace(part, height=height * (pieces == largest), tint=tint)


def scratch(rng: np.random.Generator, part: Relief) -> Relief:
    """Scratch the metal: a thin line, dark or bright, with a lip that is the other of the two."""
    u, v = part.u, part.v
    length, half = rng.uniform(0.09, 0.22), rng.uniform(0.0014, 0.0022)
    at = rng.uniform(0.02, LENGTH - 0.08), rng.uniform(-0.6, 0.6) * SHANK[1]
    turn = rng.normal(0, 0.4)
    along = (u - at[0]) * math.cos(turn) + (v - at[1]) * math.sin(turn)
    across = (v - at[1]) * math.cos(turn) - (u - at[0]) * math.sin(turn)
    across = across + rng.uniform(-1.5, 1.5) * along**2
    pressure = ramp(np.abs(along), length / 2, length / 2 - 0.03)
    pressure = pressure * np.clip(1 + 0.25 * noise(rng, u.size, 50)[: v.size], 0.4, 1)
    # It hardly reaches into the grooves of the thread.
    crest = ndimage.maximum_filter1d(part.height, round(PITCH / part.step), axis=1)
    pressure = pressure * (0.35 + 0.65 * ramp(crest - part.height, 0.009, 0.003))
    furrow = np.exp(-((across / half) ** 2))
    lip = np.exp(-((across / half - 1.8) ** 2))
    dark, bright = (furrow, lip) if rng.random() < 0.5 else (lip, furrow)
    return replace(part, tint=part.tint * (1 - 0.75 * pressure * dark) + pressure * bright)


def bent_tip(rng: np.random.Generator, part: Relief) -> Relief:
    """Bend the end of the bolt to a side."""
    bend = 0.03  # length over which it turns into its new direction
    beyond = np.maximum(part.u - rng.uniform(0.4, 0.46), 0)
    aside = np.where(beyond < bend, beyond**2 / (2 * bend), beyond - bend / 2)
    aside = aside * rng.choice([-1, 1]) * math.tan(math.radians(rng.uniform(10, 21)))
    rows, columns = np.indices(part.height.shape, np.float32)
    source = (rows - aside / part.step, columns)
    height, tint = (
        ndimage.map_coordinates(layer, source, order=1, mode="nearest")
        for layer in (part.height, part.tint)
    )
    return replace(part, height=height, tint=tint)


Defect = Callable[[np.random.Generator, Relief], Relief]

DEFECTS: dict[str, Defect] = {
    defect.__name__: defect for defect in (damaged_edge, missing_piece, scratch, bent_tip)
}


def _seen(change: np.ndarray) -> np.ndarray:
    """Mask, bool [S, S], of what is seen of a change [S, S]; gaps are closed, crumbs left out."""
    size = len(change)
    mask = ndimage.binary_closing(change >= SEEN, iterations=max(1, round(0.008 * size)))
    pieces, _ = ndimage.label(ndimage.binary_fill_holes(mask))
    share = np.bincount(pieces.ravel()) / size**2
    share[0] = 0  # all that is no piece
    return (share >= AREA[0] / 5)[pieces]


def spoil(
    rng: np.random.Generator, part: Relief, scene: Scene, size: int, kind: str
) -> tuple[Layers, np.ndarray]:
    """Put a defect on a bolt, drawn again until it is small and well seen.

    Returns:
        The layers of the spoilt bolt, and the mask of what is seen to have changed, bool
        [size, size]; a change of the shadow alone is not in it.
    """
    whole = compose(part, scene, size).unshadowed(scene.ground)
    while True:
        layers = compose(DEFECTS[kind](rng, part), scene, size)
        change = np.abs(layers.unshadowed(scene.ground) - whole)
        mask = _seen(change)
        if AREA[0] <= mask.mean() <= AREA[1] and change[mask].mean() >= CONTRAST:
            return layers, mask


def draw(
    rng: np.random.Generator, size: int, kind: str = "good"
) -> tuple[np.ndarray, np.ndarray | None]:
    """Draw a photographed bolt.

    Returns:
        [size, size, 3] of RGB values in [0, 1], and the mask, bool [size, size]; None for "good".
    """
    factor = math.ceil(256 / size)  # a thread needs some pixels: draw small images larger
    full = size * factor
    scene = place(rng)
    part = bolt(rng, full)
    if kind == "good":
        layers, mask = compose(part, scene, full), None
    else:
        layers, mask = spoil(rng, part, scene, full, kind)
        mask = shrink(mask, factor) > 0
    layers = Layers(*(shrink(layer, factor) for layer in layers))
    return photograph(rng, scene, layers), mask
