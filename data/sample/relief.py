"""Photographs of a drawn object: a map of heights is lit and laid on a plain ground.

Normals mirror a lamp, the room and the ground, as metal does; the picture is turned and laid on the
ground, on which the heights cast a soft shadow. All lengths are in sides of the image.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

from data.sample.drawing import expose, ramp

OVER = 2  # pixels of a map of heights to one of the image
REACH = 0.16  # how far beyond its map an object may cast its shadow
LEVELS = 16  # slices of the object that cast the shadow


@dataclass(frozen=True)
class Relief:
    """An object seen from above, in coordinates u along and v across its axis."""

    u: np.ndarray  # [1, W], of equal steps
    v: np.ndarray  # [H, 1], of the same steps, 0 on the axis
    axis: np.ndarray  # [1, W], height of the axis above the ground
    height: np.ndarray  # [H, W], of the surface above the axis, 0 where there is no object
    tint: np.ndarray  # [H, W], about 1: what the surface reflects of the light

    @property
    def step(self) -> float:
        """Distance between neighbours in the map."""
        return self.u[0, 1] - self.u[0, 0]


@dataclass(frozen=True)
class Scene:
    """How an object lies and is lit: angles in radians, from the image's x axis towards y."""

    x: float  # where the middle of the map lies
    y: float
    turn: float  # of the u axis
    azimuth: float  # where the lamp stands
    elevation: float  # of the lamp above the ground
    gloss: float  # 0 satin to 1 polished
    blur: float  # of the shadow
    shadow: float  # how much light the shadow takes, 0 to 1
    ground: float  # brightness of the ground, 0 to 1


class Layers(NamedTuple):
    """An object laid on the ground: arrays [S, S] with values in [0, 1]."""

    metal: np.ndarray  # brightness of the object times its share of the pixel
    share: np.ndarray  # share of the pixel that the object covers
    shadow: np.ndarray  # how much light the ground lacks

    def unshadowed(self, ground: float) -> np.ndarray:
        """The picture [S, S] on a ground of this brightness that takes no shadow."""
        return self.metal + (1 - self.share) * ground


def _shine(relief: Relief, scene: Scene) -> np.ndarray:
    """Brightness [H, W] of the metal, from 0 to about 1, under the scene's lamp."""
    slope_v, slope_u = np.gradient(ndimage.gaussian_filter(relief.height, 0.7), relief.step)
    cos, sin = math.cos(scene.turn), math.sin(scene.turn)
    up = 1 / np.sqrt(1 + slope_u**2 + slope_v**2)
    x = (slope_v * sin - slope_u * cos) * up
    y = (slope_v * -cos - slope_u * sin) * up
    flat, high = math.cos(scene.elevation), math.sin(scene.elevation)
    facing = flat * (x * math.cos(scene.azimuth) + y * math.sin(scene.azimuth)) + high * up
    # Where the mirrored line of sight goes: cosines to the lamp and to the vertical.
    to_lamp = 2 * up * facing - high
    to_zenith = 2 * up * up - 1
    soft = 0.34 - 0.16 * scene.gloss
    lamp = 0.46 * ramp(to_lamp, 0.8 - soft, 0.8 + 0.5 * soft)
    room = 0.15 + 0.16 * ramp(to_zenith, -0.2, 0.9)
    ground = 0.58 * scene.ground * ramp(to_zenith, 0.15, -0.45)
    dull = 0.18 * np.maximum(facing, 0)
    # Hollows see less of all that.
    hollow = ndimage.gaussian_filter(relief.height, 0.005 / relief.step) - relief.height
    return (lamp + room + ground + dull) * relief.tint * (1 - 0.4 * ramp(hollow, 0, 0.006))


def _shade(relief: Relief, scene: Scene) -> np.ndarray:
    """Shadow on the ground, 0 to 1, in the map at an OVERth of its pixels, padded by REACH.

    The object is taken to be the same below its axis as above it.
    """
    pixel = OVER * relief.step
    pad = round(REACH / pixel)
    height = np.pad(relief.height[::OVER, ::OVER], pad)
    axis = np.pad(relief.axis[:, ::OVER], ((0, 0), (pad, pad)), mode="edge")
    away = scene.azimuth + math.pi - scene.turn  # from the lamp, in the map
    cast = np.zeros(height.shape, np.float32)
    for level in np.linspace(0, (height + axis).max(), LEVELS, endpoint=False):
        cut = (np.abs(level - axis) <= height) & (height > 0)
        throw = level / math.tan(scene.elevation) / pixel
        shift = round(throw * math.sin(away)), round(throw * math.cos(away))
        cast = np.maximum(cast, np.roll(cut, shift, (0, 1)))
    cast = ndimage.gaussian_filter(cast, scene.blur / pixel)
    near = ndimage.gaussian_filter((height > 0).astype(np.float32), 0.016 / pixel)
    return 1 - (1 - scene.shadow * cast) * (1 - 0.45 * near)


def _lay(layer: np.ndarray, step: float, scene: Scene, size: int) -> np.ndarray:
    """Turn a layer [H, W] about its middle and lay it in the image: [size, size], 0 around it."""
    scale = 1 / (size * step)  # pixels of the layer to one of the image
    cos, sin = math.cos(scene.turn) * scale, math.sin(scene.turn) * scale
    x, y = scene.x * size, scene.y * size
    height, width = layer.shape
    matrix = (cos, sin, width / 2 - cos * x - sin * y, -sin, cos, height / 2 + sin * x - cos * y)
    soft = ndimage.gaussian_filter(layer.astype(np.float32), 0.4 * scale)  # or it would alias
    picture = Image.fromarray(soft).transform(
        (size, size), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
    )
    return np.asarray(picture)


def compose(relief: Relief, scene: Scene, size: int) -> Layers:
    """Light an object and lay it in an image of size x size pixels."""
    solid = relief.height > 0
    return Layers(
        metal=_lay(_shine(relief, scene) * solid, relief.step, scene, size),
        share=_lay(solid, relief.step, scene, size),
        shadow=_lay(_shade(relief, scene), OVER * relief.step, scene, size),
    )


def photograph(rng: np.random.Generator, scene: Scene, layers: Layers) -> np.ndarray:
    """Take the picture: dust on the ground, uneven light, exposure, lens and sensor noise.

    Returns:
        [S, S, 3] of RGB values in [0, 1].
    """
    size = len(layers.metal)
    dust = np.zeros((size, size), np.float32)
    for _ in range(rng.poisson(4)):  # each fleck is some grains, darker or brighter than the ground
        grains = rng.integers(2, size - 2, 2) + rng.integers(-1, 2, (rng.integers(1, 5), 2))
        dust[grains[:, 0], grains[:, 1]] = rng.uniform(-0.1, 0.35)
    fleck = 0.0018 * size
    dust = ndimage.gaussian_filter(dust, fleck) * 2 * math.pi * fleck**2
    grain = ndimage.gaussian_filter(rng.standard_normal((size, size), np.float32), 0.002 * size)
    ground = scene.ground * (1 + 0.005 * grain / grain.std()) * (1 - np.minimum(dust, 0.4))
    ground = ground * (1 - layers.shadow) * (1 - layers.share)

    metal, ground = (
        ndimage.gaussian_filter(layer, 0.0012 * size)[..., None] for layer in (layers.metal, ground)
    )
    image = metal * (0.985, 0.995, 1.0) + ground * (1.0, 0.995, 0.98)
    return expose(rng, image, slope=0.08, falloff=0.025, jitter=0.035)
