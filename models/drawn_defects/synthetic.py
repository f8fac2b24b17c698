"""Defects synthesised on good images, to choose settings by where no defect is at hand.

None of them is made as those of models/drawn_defects/corruption.py are, so that a network is not
examined with what it was taught. `python -m benchmarks.terms` measures on them and on real ones.

Each kind is a small function of a random generator and an image, float32 [H, W, 3] in [0, 1]; it
returns the spoilt image.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from data.images import upright_size
from data.region import read_with_region, valid_pixels
from data.resize import placement, resize_to_input
from utils.config import DataConfig

VISIBLE = 0.03  # a pixel that changed by less, of a range of 1, does not belong to the defect
SMALLEST = 0.0003  # share of the image that a defect has to cover, or it is drawn again
TRIES = 20

Generator = np.random.Generator


def _log_uniform(rng: Generator, low: float, high: float) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def _frame(rng: Generator, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turned coordinates [H, W] around a random point of the image, in sides of the image."""
    height, width = image.shape[:2]
    side = min(height, width)
    y, x = np.indices((height, width), np.float32)
    y, x = (y - rng.uniform(0, height)) / side, (x - rng.uniform(0, width)) / side
    turn = rng.uniform(0, math.pi)
    u = x * math.cos(turn) + y * math.sin(turn)
    v = y * math.cos(turn) - x * math.sin(turn)
    return u, v


def _region(rng: Generator, image: np.ndarray, low: float, high: float) -> np.ndarray:
    """Opacity [H, W, 1] of a ragged blob whose radius lies between `low` and `high` sides."""
    u, v = _frame(rng, image)
    radius, stretch = _log_uniform(rng, low, high), math.sqrt(_log_uniform(rng, 1, 2.5))
    rag = ndimage.gaussian_filter(rng.standard_normal((12, 12)), 1) * 0.8
    zoomed = ndimage.zoom(
        rag, (len(u) / 12, u.shape[1] / 12), order=3, grid_mode=True, mode="grid-wrap"
    )
    depth = 1 - np.hypot(u / radius / stretch, v / radius * stretch) + zoomed
    return np.clip(depth / 0.15, 0, 1)[..., None].astype(np.float32)


def spot(rng: Generator, image: np.ndarray) -> np.ndarray:
    """A few small pits or grains, darker or lighter than what is around them."""
    shade = rng.choice([-1, 1], p=[0.65, 0.35]) * rng.uniform(0.06, 0.5)
    for _ in range(rng.integers(1, 4)):
        image = image + shade * _region(rng, image, 0.006, 0.035)
    return image


def scratch(rng: Generator, image: np.ndarray) -> np.ndarray:
    """A long thin line, slightly bent, that fades towards its ends."""
    u, v = _frame(rng, image)
    length, bend = _log_uniform(rng, 0.1, 0.8), rng.uniform(-0.4, 0.4)
    width = _log_uniform(rng, 0.003, 0.012)
    wobble = 0.004 * np.sin(u * rng.uniform(20, 80) + rng.uniform(0, 6))
    line = np.exp(-(((v - bend * u * u + wobble) / width) ** 2))
    ends = np.clip((length / 2 - np.abs(u)) / (0.2 * length), 0, 1)
    shade = rng.choice([-1, 1], p=[0.65, 0.35]) * rng.uniform(0.06, 0.4)
    return image + shade * (line * ends)[..., None]


def smear(rng: Generator, image: np.ndarray) -> np.ndarray:
    """A patch that is blurred along one direction, as by a wipe."""
    side = min(image.shape[:2])
    sigma = [_log_uniform(rng, 0.01, 0.06) * side, 0.004 * side]
    if rng.random() < 0.5:
        sigma.reverse()
    blurred = ndimage.gaussian_filter(image, (*sigma, 0)) + rng.uniform(-0.08, 0.08)
    return image + _region(rng, image, 0.05, 0.2) * (blurred - image)


def dent(rng: Generator, image: np.ndarray) -> np.ndarray:
    """The surface pushed aside around a point, with light on one flank and shadow on the other."""
    height, width = image.shape[:2]
    u, v = _frame(rng, image)
    radius = _log_uniform(rng, 0.03, 0.12)
    bump = np.exp(-(u * u + v * v) / (2 * radius * radius))
    push = rng.uniform(-1, 1) * radius * min(height, width)
    y, x = np.indices((height, width), np.float32)
    at = np.stack([y + push * bump * u / radius, x + push * bump * v / radius])
    moved = [
        ndimage.map_coordinates(c, at, order=1, mode="reflect") for c in np.moveaxis(image, 2, 0)
    ]
    relief = rng.uniform(0.1, 0.3) * (u / radius * bump)[..., None]
    return np.stack(moved, axis=2) + relief


def shade(rng: Generator, image: np.ndarray) -> np.ndarray:
    """A part of the surface, cut off along a line, that is brighter or darker than the rest."""
    u, v = _frame(rng, image)
    edge = np.clip(u / _log_uniform(rng, 0.003, 0.05), 0, 1)
    band = edge * np.clip((_log_uniform(rng, 0.1, 0.6) - u) / 0.03, 0, 1)
    change = rng.choice([-1, 1]) * rng.uniform(0.08, 0.35)
    return image * (1 + change * band[..., None])


def rough(rng: Generator, image: np.ndarray) -> np.ndarray:
    """A patch with a grain of its own."""
    grain = ndimage.gaussian_filter(rng.standard_normal(image.shape[:2]), rng.uniform(0.5, 2.0))
    grain = rng.uniform(0.05, 0.15) * grain / grain.std()
    return image + _region(rng, image, 0.03, 0.15) * grain[..., None]


def foreign(rng: Generator, image: np.ndarray) -> np.ndarray:
    """A piece of another colour that lies on the part, with a soft shadow."""
    colour = np.clip(rng.uniform(0.1, 0.9) + 0.15 * rng.standard_normal(3), 0, 1)
    opacity = _region(rng, image, 0.015, 0.08)
    offset = 0.01 * min(image.shape[:2])
    shadow = ndimage.shift(opacity, (offset, offset, 0), order=1)
    image = image * (1 - 0.25 * shadow)
    return image + rng.uniform(0.5, 0.95) * opacity * (colour - image)


KINDS: dict[str, Callable[[Generator, np.ndarray], np.ndarray]] = {
    kind.__name__: kind for kind in (spot, scratch, smear, dent, shade, rough, foreign)
}


def spoil(image: np.ndarray, kind: str, rng: Generator) -> tuple[np.ndarray, np.ndarray]:
    """Put a defect on an image.

    Args:
        image: uint8 [H, W, 3], or [H, W, 4], of which the defect is put on what counts.
        kind: one of `KINDS`.
        rng: source of all randomness.

    Returns:
        The spoilt image, of the same shape, and the mask of what changed visibly, bool [H, W].
    """
    inside, clean = valid_pixels(image), image[..., :3].astype(np.float32) / 255
    grey = (image[..., :3] == image[..., :1]).all()
    tries = round(TRIES / max(inside.mean(), 0.01))  # few fall into a small region
    for draw in [*[KINDS[kind]] * tries, foreign]:
        # A smear of what is smooth or a shadow out of the frame is invisible: drawn again.
        spoilt = draw(rng, clean)
        if grey:  # a grey camera sees no colours
            spoilt = spoilt.mean(axis=2, keepdims=True).repeat(3, axis=2)
        spoilt = np.clip(spoilt, 0, 1)
        mask = (np.abs(spoilt - clean).max(axis=2) > VISIBLE) & inside
        if mask.mean() >= SMALLEST:
            break
    image = image.copy()
    image[mask, :3] = np.rint(spoilt[mask] * 255)
    return image, mask


@dataclass(frozen=True)
class PseudoImage:
    """A held-out good image, as it is or with a synthesised defect; read as a `TestImage` is.

    Attributes:
        path: the file of the good image.
        defect: the kind of defect, or "good".
        data: how the image is read, and, if it is seen whole, resized before a defect is put on it.
        seed: decides what the defect looks like.
    """

    path: Path
    defect: str
    data: DataConfig
    seed: tuple[int, ...]

    def __fspath__(self) -> str:
        """The file: stands for the image in `read_ahead`."""
        return str(self.path)

    @property
    def is_defect(self) -> bool:
        """Whether there is a defect on it."""
        return self.defect != "good"

    def read(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Image, see `read_with_region`, and mask bool [H, W]; raises `ImageError`."""
        image = read_with_region(self.path, self.data)
        if not self.data.tile:  # tiles are cut of the whole image
            # Without padding, on which there are no defects: whoever inspects it pads it again.
            target = placement(upright_size(self.path), self.data).target
            image = resize_to_input(image, self.data)[target]
        if not self.is_defect:
            return image, None
        return spoil(image, self.defect, np.random.default_rng(self.seed))


def pseudo_split(paths: list[Path], data: DataConfig) -> list[PseudoImage]:
    """Each good image once as it is and once with each kind of defect, the good ones first."""
    good = [PseudoImage(path, "good", data, ()) for path in paths]
    spoilt = [
        PseudoImage(path, kind, data, (number, index))
        for number, kind in enumerate(KINDS)
        for index, path in enumerate(paths)
    ]
    return good + spoilt
