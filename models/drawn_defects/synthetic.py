"""Draw defects on good images, to compare settings by where no defective image is at hand.

None of the kinds is drawn as those of `corruption` are, so that a network is not examined with what
it was taught. Each is a function of an image [1, 3, H, W] in [0, 1]; it returns what to lay over
it, [1, 3, H, W], and with what opacity, [1, 1, H, W].
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
    random_points,
    seeded,
    signed,
    stroke,
    uniform,
)
from data.images import upright_size
from data.region import read_with_region, valid_pixels
from data.tensors import to_batch, to_pixels
from data.tiles import placement, resize_to_input
from utils.config import DataConfig

# Least visible change, of a range of 1: pixels that changed by less are not of the defect.
VISIBLE = 0.03

# Least share of the image that a defect covers; smaller ones are drawn again.
MIN_AREA = 0.0003

# Drawings of a kind until one is large enough, in an image without a region.
MAX_TRIES = 20

Drawn = tuple[Tensor, Tensor]


def _patch(image: Tensor, least: float, most: float) -> Tensor:
    """Draw the opacity of a compact blob at a random point, its radius in shares of the side."""
    at = random_points(image)
    depth, _, _ = blob(image, at, least, most, stretch=2.5, rag=(0.3, 0.7), finest=8)
    return opacity(depth, 0.02 * min(image.shape[-2:]), 1.0)


def _axes(image: Tensor, bend: float = 0.0) -> tuple[Tensor, Tensor]:
    """Draw coordinates along and across a random direction from a random point, in sides."""
    side = min(image.shape[-2:])
    turn, bend = uniform(0, math.pi, 1), uniform(-bend, bend, 1) / side
    along, across = frame(image, random_points(image), turn, bend)
    return along / side, across / side


def spot(image: Tensor) -> Drawn:
    """Draw up to three small pits or grains, darker or lighter than their surroundings."""
    shade = signed(uniform(0.06, 0.5, 1), negative=0.65)
    patches = [_patch(image, 0.006, 0.035) for _ in range(int(torch.randint(1, 4, (1,))))]
    return image + shade, torch.stack(patches).amax(dim=0)


def scratch(image: Tensor) -> Drawn:
    """Draw a long thin line, slightly bent, that trembles and fades towards its ends."""
    along, across = _axes(image, bend=0.4)
    across = across + 0.004 * torch.sin(along * uniform(20, 80, 1) + uniform(0, 6, 1))
    shade = signed(uniform(0.06, 0.4, 1), negative=0.65)
    length, half_width = log_uniform(0.1, 0.8, 1), log_uniform(0.003, 0.012, 1)
    return image + shade, stroke(along, across, length, half_width)


def smear(image: Tensor) -> Drawn:
    """Blur a patch along the rows or along the columns, as by a wipe."""
    side = min(image.shape[-2:])
    sigmas = [float(log_uniform(0.01, 0.06, 1)) * side, 0.004 * side]
    wiped = blurred(image, *(sigmas if coins(1) else sigmas[::-1]))
    return wiped + uniform(-0.08, 0.08, 1), _patch(image, 0.05, 0.2)


def dent(image: Tensor) -> Drawn:
    """Push the surface aside around a point, one flank in the light and one in the shadow."""
    radius = log_uniform(0.03, 0.12, 1)
    u, v = (axis / radius for axis in _axes(image))
    # u exp(-(u^2 + v^2) / 2): the slope of a Gaussian bump, of opposite signs on its two sides
    flank = u * torch.exp(-(u.square() + v.square()) / 2)
    push = uniform(-1, 1, 1) * radius * min(image.shape[-2:]) * flank
    layer = displaced(image, push, push) + uniform(0.1, 0.3, 1) * flank
    return layer, (flank.abs() > 0.01).float()


def shade(image: Tensor) -> Drawn:
    """Brighten or darken a band of the surface, with a sharp or soft edge, as a shadow does."""
    along, _ = _axes(image)
    edge = along / log_uniform(0.003, 0.05, 1)
    end = (log_uniform(0.1, 0.6, 1) - along) / 0.03
    change = signed(uniform(0.08, 0.35, 1))
    return image * (1 + change), edge.clamp(0, 1) * end.clamp(0, 1)


def rough(image: Tensor) -> Drawn:
    """Draw a patch with a grain of its own."""
    noise = blurred(torch.randn(1, 1, *image.shape[-2:]), float(uniform(0.5, 2.0, 1)))
    return image + uniform(0.05, 0.15, 1) * noise / noise.std(), _patch(image, 0.03, 0.15)


def foreign(image: Tensor) -> Drawn:
    """Lay a piece of another colour on the part, with a shadow to its lower right."""
    colour = (uniform(0.1, 0.9, 1) + 0.15 * torch.randn(1, 3, 1, 1)).clamp(0, 1)
    piece = _patch(image, 0.015, 0.08)
    shadow = piece.roll([max(1, round(0.01 * min(image.shape[-2:])))] * 2, (2, 3))
    layer = torch.lerp(image * (1 - 0.25 * shadow), colour, piece * uniform(0.5, 0.95, 1))
    # Opaque wherever either is to be seen: the layer holds the image below, too.
    return layer, (torch.maximum(piece, shadow) > 0.1).float()


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
