"""What the drawn categories share: smooth noise, soft thresholds, shrinking, and the camera."""

import math

import numpy as np


def noise(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Smooth noise [size, size] of zero mean and unit variance, with features of 1/cells."""
    field = rng.standard_normal((cells + 4, cells + 4))
    at = np.linspace(0, cells, size)
    node = at.astype(int)
    t = at - node
    s = 1 - t
    # The four weights of a uniform cubic B-spline, applied along one axis and then the other.
    weights = (s * s * s, 4 - 3 * t * t * (1 + s), 4 - 3 * s * s * (1 + t), t * t * t)
    for _ in range(2):
        field = sum(w[:, None] / 6 * field[node + k] for k, w in enumerate(weights)).T
    return field / 0.479  # the share of the deviation that the spline leaves


def ramp(value: np.ndarray, start: float, stop: float) -> np.ndarray:
    """Smoothstep: 0 where value is on the far side of start, 1 beyond stop."""
    t = np.clip((value - start) / (stop - start), 0, 1)
    return t * t * (3 - 2 * t)


def shrink(image: np.ndarray, factor: int) -> np.ndarray:
    """Average an image [H*factor, W*factor, ...] to [H, W, ...]."""
    height, width = image.shape[0] // factor, image.shape[1] // factor
    return image.reshape(height, factor, width, factor, *image.shape[2:]).mean((1, 3))


def expose(
    rng: np.random.Generator, image: np.ndarray, slope: float, falloff: float, jitter: float
) -> np.ndarray:
    """Photograph a picture [S, S, 3] in [0, 1]: uneven light, brightness and sensor noise.

    A side lacks `slope` of the light at most, a corner twice `falloff`; brightness varies by
    `jitter`.
    """
    side = 1j * len(image)
    y, x = np.mgrid[-1:1:side, -1:1:side]
    angle, slope = rng.uniform(0, 2 * math.pi), rng.uniform(0, slope)
    light = 1 + slope * (x * math.cos(angle) + y * math.sin(angle)) - falloff * (x * x + y * y)
    light *= rng.normal(1, jitter)
    return np.clip(image * light[..., None] + rng.normal(0, 0.008, image.shape), 0, 1)
