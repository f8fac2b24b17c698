"""Draw defects on good images, to compare settings by where no defective image is at hand.

None of the kinds is drawn as those of `corruption` are, so that a network is not examined with what
it was taught. Each is a function of images [n, 3, H, W] in [0, 1]; it returns what to lay over the
images, [n, 3, H, W], and with what opacity, [n, 1, H, W].
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.drawing import (
    blend,
    blob,
    blurred,
    coins,
    displaced,
    frame,
    log_uniform,
    opacity,
    per_image,
    random_points,
    seeded,
    signed,
    stroke,
    uniform,
)
from data.images import upright_size
from data.region import read_with_region, valid_pixels
from data.resize import placement, resize_to_input
from data.tensors import to_batch, to_pixels
from utils.config import DataConfig

# Least visible change, of a range of 1: pixels that changed by less are not of the defect.
VISIBLE = 0.03

# Least share of the image that a defect covers; smaller ones are drawn again.
MIN_AREA = 0.0003

# Drawings of a kind until one is large enough, in an image without a region.
MAX_TRIES = 20

Drawn = tuple[Tensor, Tensor]


def _patch(images: Tensor, least: float, most: float) -> Tensor:
    """Draw the opacity of a compact blob at a random point, its radius in shares of the side."""
    points = random_points(images)
    depth, _, _ = blob(images, points, least, most, stretch=2.5, rag=(0.3, 0.7), finest=8)
    return opacity(depth, 0.02 * min(images.shape[-2:]), 1.0)


def _axes(images: Tensor, bend: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Draw coordinates about a random point, along and across a random direction."""
    return frame(images, random_points(images), uniform(0, math.pi, len(images)), bend)


def spot(images: Tensor) -> Drawn:
    """Draw up to three small pits or grains, darker or lighter than their surroundings."""
    count = len(images)
    shade = signed(uniform(0.06, 0.5, count), negative=0.65)
    # Three for each image, of which the first one, two or all are kept.
    alphas = torch.stack([_patch(images, 0.006, 0.035) for _ in range(3)])
    drawn = torch.arange(3)[:, None] < torch.randint(1, 4, (count,))
    alphas = alphas * drawn.to(images)[:, :, None, None, None]
    return images + per_image(shade, images), alphas.amax(dim=0)


def scratch(images: Tensor) -> Drawn:
    """Draw a long thin line, slightly bent, that fades towards its ends."""
    count, side = len(images), min(images.shape[-2:])
    along, across = _axes(images, uniform(-0.4, 0.4, count) / side)
    # It trembles: a sine along the line, with an amplitude of 0.4% of the side.
    waves = along * per_image(uniform(20, 80, count) / side, images)
    across = across + 0.004 * side * torch.sin(waves + per_image(uniform(0, 6, count), images))
    length, half_width = log_uniform(0.1, 0.8, count), log_uniform(0.003, 0.012, count)
    shade = signed(uniform(0.06, 0.4, count), negative=0.65)
    line = stroke(along, across, length * side, half_width * side)
    return images + per_image(shade, images), line


def smear(images: Tensor) -> Drawn:
    """Blur a patch along the rows or along the columns, as by a wipe."""
    side = min(images.shape[-2:])
    # One direction for all: a blur along any other one would not be separable.
    sigmas = [float(log_uniform(0.01, 0.06, 1)) * side, 0.004 * side]
    wiped = blurred(images, *(sigmas if coins(1) else sigmas[::-1]))
    shift = per_image(uniform(-0.08, 0.08, len(images)), images)
    return wiped + shift, _patch(images, 0.05, 0.2)


def dent(images: Tensor) -> Drawn:
    """Push the surface aside around a point, one flank in the light and one in the shadow."""
    count = len(images)
    radius = per_image(log_uniform(0.03, 0.12, count) * min(images.shape[-2:]), images)
    u, v = (axis / radius for axis in _axes(images))
    # u exp(-(u^2 + v^2) / 2): the slope of a Gaussian bump, of opposite signs on its two sides
    flank = u * torch.exp(-(u.square() + v.square()) / 2)
    push = per_image(uniform(-1, 1, count), images) * radius * flank
    relief = per_image(uniform(0.1, 0.3, count), images) * flank
    return displaced(images, push, push) + relief, (flank.abs() > 0.01).to(images)


def shade(images: Tensor) -> Drawn:
    """Brighten or darken a part of the surface that ends along a line."""
    count, side = len(images), min(images.shape[-2:])
    along, _ = _axes(images)
    # From a sharp or soft edge up to where it ends, as a shadow or another batch of material does.
    edge = along / per_image(log_uniform(0.003, 0.05, count) * side, images)
    end = (per_image(log_uniform(0.1, 0.6, count) * side, images) - along) / (0.03 * side)
    change = signed(uniform(0.08, 0.35, count))
    return images * (1 + per_image(change, images)), edge.clamp(0, 1) * end.clamp(0, 1)


def rough(images: Tensor) -> Drawn:
    """Draw a patch with a grain of its own."""
    noise = torch.randn(len(images), 1, *images.shape[-2:]).to(images)
    noise = blurred(noise, float(uniform(0.5, 2.0, 1)))
    contrast = per_image(uniform(0.05, 0.15, len(images)), images)
    grain = contrast * noise / noise.std(dim=(2, 3), keepdim=True)
    return images + grain, _patch(images, 0.03, 0.15)


def foreign(images: Tensor) -> Drawn:
    """Lay a piece of another colour on the part, with a soft shadow."""
    count, side = len(images), min(images.shape[-2:])
    colour = (uniform(0.1, 0.9, count)[:, None] + 0.15 * torch.randn(count, 3)).clamp(0, 1)
    piece = _patch(images, 0.015, 0.08)
    # The same shape, a hundredth of the side to the lower right.
    shadow = piece.roll([max(1, round(0.01 * side))] * 2, (2, 3))
    cover = piece * per_image(uniform(0.5, 0.95, count), images)
    layer = torch.lerp(images * (1 - 0.25 * shadow), colour.to(images)[:, :, None, None], cover)
    return layer, torch.maximum(piece, shadow).gt(0.1).to(images)


KINDS: dict[str, Callable[[Tensor], Drawn]] = {
    kind.__name__: kind for kind in (spot, scratch, smear, dent, shade, rough, foreign)
}


def spoil(image: np.ndarray, kind: str, seed: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Put a defect on an image.

    Args:
        image: uint8 [H, W, 3], or [H, W, 4], of which the defect is put inside the region.
        kind: one of `KINDS`.
        seed: decides its appearance.

    Returns:
        The defective image, of the same shape, and the mask of the visible change, bool [H, W].
    """
    image = image.copy()
    inside, clean = valid_pixels(image), to_batch(image[None, ..., :3], torch.device("cpu"))
    grey = (image[..., :3] == image[..., :1]).all()
    tries = round(MAX_TRIES / max(inside.mean(), 0.01))  # few fall into a small region
    with seeded(*seed):
        # A smear of what is smooth is invisible: drawn again, at last as a foreign piece.
        for draw in [*[KINDS[kind]] * tries, foreign]:
            layer, alpha = draw(clean)
            if grey:  # the defects of a grey camera's images are grey
                layer = layer.mean(dim=1, keepdim=True).repeat(1, 3, 1, 1)
            changed, mask = blend(clean.clone(), layer, alpha, VISIBLE)
            found = mask[0, 0].numpy() & inside
            if found.mean() >= MIN_AREA:
                break
    image[found, :3] = to_pixels(changed)[0][found]
    return image, found


@dataclass(frozen=True)
class PseudoImage:
    """A held-out good image, as it is or with a drawn defect; read as a `TestImage` is.

    Attributes:
        path: the file of the good image.
        defect: the kind of defect, or "good".
        data: settings by which the image is read and, unless it is cut into tiles, resized before
            a defect is put on it.
        seed: decides the appearance of the defect.
    """

    path: Path
    defect: str
    data: DataConfig
    seed: tuple[int, ...]

    def __fspath__(self) -> str:
        """Return the file: the image may stand for it in `read_ahead`."""
        return str(self.path)

    @property
    def is_defect(self) -> bool:
        """True if there is a defect on it."""
        return self.defect != "good"

    def read(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Read the image, see `read_with_region`, and its mask, bool [H, W], if it has a defect.

        Raises:
            ImageError: the file cannot be read.
        """
        image = read_with_region(self.path, self.data)
        if not self.data.tile:  # tiles are cut of the whole image
            # Without padding, on which there are no defects: the inspector pads it again.
            target = placement(upright_size(self.path), self.data).target
            image = resize_to_input(image, self.data)[target]
        return spoil(image, self.defect, self.seed) if self.is_defect else (image, None)


def pseudo_split(paths: list[Path], data: DataConfig) -> list[PseudoImage]:
    """List each good image once as it is and once with each kind of defect, the good ones first."""
    good = [PseudoImage(path, "good", data, ()) for path in paths]
    defective = [
        PseudoImage(path, kind, data, (number, index))
        for number, kind in enumerate(KINDS)
        for index, path in enumerate(paths)
    ]
    return good + defective
