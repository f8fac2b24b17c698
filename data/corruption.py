"""Corrupting good images, so that a network learns to restore them instead of copying them.

Each kind is a small function on one image [3, H, W], float in [0, 1]. It returns the corrupted
image and where it is corrupted, bool [1, H, W]. All randomness comes from torch's generator of the
CPU, so that equal seeds give equal corruption on every device.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from data.draws import coin, log_uniform, uniform
from data.textures import Textures
from utils.config import CorruptionConfig
from utils.pixels import turned

VISIBLE = 0.02
"""A pixel that changed by less, of a range of 1, does not count as corrupted."""

CELLS = (2, 4, 8, 16)
"""Sides of RIAD's cells, in pixels."""

CELL_SETS = 3
"""Disjoint sets that RIAD's cells are dealt into; one of them is hidden at a time."""

Corrupted = tuple[Tensor, Tensor]


def perlin_noise(height: int, width: int, cells_y: int, cells_x: int) -> Tensor:
    """Gradient noise (Perlin, SIGGRAPH 1985): float [height, width], mostly within [-1, 1].

    Args:
        height: rows of the result.
        width: columns of the result.
        cells_y: lattice cells from top to bottom; more cells, finer noise.
        cells_x: lattice cells from left to right.
    """
    angle = 2 * math.pi * torch.rand(cells_y + 1, cells_x + 1)
    lattice = torch.stack([angle.cos(), angle.sin()])
    y = (torch.arange(height) + 0.5) * cells_y / height
    x = (torch.arange(width) + 0.5) * cells_x / width
    row, column = y.long(), x.long()
    y, x = (y - row)[:, None], (x - column)[None, :]

    def corner(below: int, right: int) -> Tensor:
        gradient = lattice[:, row + below][:, :, column + right]
        return gradient[0] * (y - below) + gradient[1] * (x - right)

    fade_y, fade_x = (t * t * t * (t * (6 * t - 15) + 10) for t in (y, x))
    top = torch.lerp(corner(0, 0), corner(0, 1), fade_x.expand(height, width))
    bottom = torch.lerp(corner(1, 0), corner(1, 1), fade_x.expand(height, width))
    return math.sqrt(2) * torch.lerp(top, bottom, fade_y.expand(height, width))


def random_perlin(height: int, width: int, finest: int) -> Tensor:
    """Perlin noise [height, width] whose cells along each axis are a random power of two."""
    powers = round(math.log2(finest)) + 1
    cells_y, cells_x = (2 ** int(torch.randint(powers, ())) for _ in range(2))
    return perlin_noise(height, width, min(cells_y, height), min(cells_x, width))


def cell_sets(height: int, width: int, cell: int, generator: torch.Generator | None = None):
    """Deal square cells into `CELL_SETS` disjoint sets that cover the image.

    Returns:
        bool [CELL_SETS, 1, height, width], each pixel True in one of them.
    """
    rows, columns = -(-height // cell), -(-width // cell)
    deal = torch.randperm(rows * columns, generator=generator).view(rows, columns) % CELL_SETS
    deal = deal.repeat_interleave(cell, 0).repeat_interleave(cell, 1)[:height, :width]
    return torch.stack([deal == number for number in range(CELL_SETS)])[:, None]


def mask_cells(image: Tensor, textures: Textures) -> Corrupted:
    """Hide a third of the image in random cells (RIAD: Zavrtanik et al., Pattern Recognition 2021).

    The cells have one of the sides of `CELLS`; what is hidden is black, as in the paper.
    """
    cell = CELLS[int(torch.randint(len(CELLS), ()))]
    hidden = cell_sets(*image.shape[1:], cell)[0].to(image.device)
    return image * ~hidden, hidden


def stain(image: Tensor, textures: Textures) -> Corrupted:
    """An irregular ellipse of one colour (AESc: Collin and De Vleeschouwer, ICPR 2020).

    The outline strays from the ellipse by random harmonics; length, edge and opacity are random, so
    that spots, blots, streaks and faint clouds all occur. Every other one is a film that tints the
    image and keeps its structure, as oil, water or a shadow does.
    """
    height, width = image.shape[1:]
    side = min(height, width)
    centre = (uniform(0, height), uniform(0, width))
    turn, radius, stretch = uniform(0, math.pi), log_uniform(0.01, 0.25), log_uniform(1, 10)
    along, across = _frame(height, width, centre, turn)
    u = along / (radius * side * math.sqrt(stretch))
    v = across / (radius * side / math.sqrt(stretch))
    angle = torch.atan2(v, u)
    outline = torch.ones_like(u)
    for harmonic in range(2, 7):
        swing = uniform(-0.3, 0.3) / harmonic
        outline += swing * torch.cos(harmonic * angle + uniform(0, 2 * math.pi))
    depth = (outline - torch.hypot(u, v)) * radius * side  # pixels inside the edge, roughly
    alpha = (depth / log_uniform(0.7, 0.05 * side + 0.7)).clamp(0, 1) * uniform(0.2, 1)
    layer = image * _tint(image) if coin() else _colour_near(image).expand_as(image)
    return _blend(image, layer.clamp(0, 1), alpha[None])


def perlin_blend(image: Tensor, textures: Textures) -> Corrupted:
    """Another texture, laid over the image where Perlin noise is high (DRAEM, ICCV 2021).

    As in the paper (Zavrtanik et al.): noise of a random scale above 0.5, opacity from 0.1 to 1.
    """
    height, width = image.shape[1:]
    region = random_perlin(height, width, finest=32) > 0.5
    if not region.any():  # coarse noise may stay low everywhere
        region = random_perlin(height, width, finest=32) > 0.2
    alpha = region.to(image) * uniform(0.1, 1)
    return _blend(image, textures.draw(image), alpha[None])


def crack(image: Tensor, textures: Textures) -> Corrupted:
    """A thin winding line, darker or lighter than the image.

    The line is a contour of Perlin noise, which winds as cracks and scratches do, within a random
    part of the image. Thin structures are what blobs and patches do not teach.
    """
    height, width = image.shape[1:]
    rough = 0.06 * random_perlin(height, width, finest=64)
    noise = random_perlin(height, width, finest=8) + rough
    steepness = torch.hypot(*torch.gradient(noise)).clamp_min(1e-4)
    centre = int(torch.randint(noise.numel(), ()))
    distance = (noise - noise.flatten()[centre]).abs() / steepness  # pixels from the contour
    line = (log_uniform(0.5, 4) - distance + 0.5).clamp(0, 1)
    reach = log_uniform(0.06, 0.7) * max(height, width)
    apart = torch.hypot(*_frame(height, width, divmod(centre, width)))
    line = line * (4 * (1 - apart / reach)).clamp(0, 1) * uniform(0.25, 1)
    shade = uniform(-0.5, -0.08) if coin(0.7) else uniform(0.08, 0.5)
    return _blend(image, (image + shade).clamp(0, 1), line[None])


def cut_paste(image: Tensor, textures: Textures) -> Corrupted:
    """A patch or a thin strip of the image, pasted elsewhere (CutPaste: Li et al., CVPR 2021).

    As in the paper: patches of 2 to 15% of the area, or strips of 2 to 16 pixels (of 256) that are
    10 to 25% long and turned by up to 45 degrees, with their colours jittered. Patches may be
    smaller here, and are turned as well.
    """
    height, width = image.shape[1:]
    side = min(height, width)
    if coin():
        area, ratio = log_uniform(0.002, 0.15), log_uniform(0.3, 3.3)
        half_u, half_v = math.sqrt(area * ratio) * side / 2, math.sqrt(area / ratio) * side / 2
    else:
        half_u, half_v = uniform(0.05, 0.125) * side, log_uniform(2, 16) * side / 512
    turn = uniform(-math.pi / 4, math.pi / 4)
    centre = (uniform(0, height), uniform(0, width))
    along, across = _frame(height, width, centre, turn)
    inside = ((along.abs() <= max(half_u, 0.7)) & (across.abs() <= max(half_v, 0.7)))[None]
    # The source is the image itself turned about the middle of the patch and moved.
    source = torch.roll(
        turned(image[None], turn if coin() else 0.0)[0],
        (int(uniform(0.1, 0.9) * height), int(uniform(0.1, 0.9) * width)),
        (1, 2),
    )
    jittered = source * uniform(0.85, 1.15) + uniform(-0.08, 0.08)
    return _blend(image, jittered.clamp(0, 1), inside.to(image))


KINDS: dict[str, Callable[[Tensor, Textures], Corrupted]] = {
    "mask": mask_cells,
    "stain": stain,
    "perlin": perlin_blend,
    "crack": crack,
    "cut_paste": cut_paste,
}


def corrupt(images: Tensor, config: CorruptionConfig) -> Corrupted:
    """Corrupt a batch, each image in ways drawn by the weights of the settings.

    Args:
        images: [B, 3, H, W] float in [0, 1].
        config: how often each kind is drawn, `clean` (left as it is) among them, and how many more
            follow on the same image.

    Returns:
        The images, corrupted, and where they are: bool [B, 1, H, W].
    """
    weights = torch.tensor([config.clean, *(getattr(config, kind) for kind in KINDS)])
    corrupted = images.clone()
    masks = torch.zeros_like(images[:, :1], dtype=torch.bool)
    if not weights[1:].any():
        return corrupted, masks
    textures, kinds = Textures(images, config.textures), list(KINDS.values())
    for index, first in enumerate(torch.multinomial(weights, len(images), replacement=True)):
        if first == 0:
            continue
        chosen = [first - 1]
        chosen += [torch.multinomial(weights[1:], 1) for _ in range(config.more) if coin()]
        result = images[index]
        for choice in chosen:
            result, mask = kinds[choice](result, textures)
            masks[index] |= mask
        if (images[index] == images[index, :1]).all():  # a grey camera sees no colours
            result = result.mean(dim=0, keepdim=True)
        corrupted[index] = result
    return corrupted, masks


def _frame(
    height: int, width: int, centre: tuple[float, float], turn: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Pixels from `centre` (y, x), along and across a direction: two [height, width].

    The direction is that of x, turned by `turn` radians.
    """
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    y, x = y - float(centre[0]), x - float(centre[1])
    return (
        x * math.cos(turn) + y * math.sin(turn),
        y * math.cos(turn) - x * math.sin(turn),
    )


def _blend(image: Tensor, layer: Tensor, alpha: Tensor) -> Corrupted:
    """Lay `layer` [3, H, W] over the image with opacity [1, H, W]; only what is seen is marked."""
    alpha = alpha.to(image.device)
    blended = torch.lerp(image, layer, alpha.expand_as(image))
    seen = F.avg_pool2d((blended - image).abs().amax(0, keepdim=True)[None], 3, 1, 1)[0] > VISIBLE
    mask = seen & (alpha > 0)
    return torch.where(mask, blended, image), mask


def _tint(image: Tensor) -> Tensor:
    """Factors of the colours [3, 1, 1]: darker or lighter, and half of the time another hue."""
    shade = uniform(0.08, 0.6) * (-1 if coin(0.7) else 1)
    hue = 0.15 * torch.randn(3).to(image) if coin() else torch.zeros(3).to(image)
    return (1 + shade + hue)[:, None, None]


def _colour_near(image: Tensor) -> Tensor:
    """A colour [3, 1, 1]: that of a random pixel, shifted in lightness and a little in hue.

    A small shift leaves an ordinary colour: what then is wrong is that it is all there is.
    """
    height, width = image.shape[1:]
    pixel = int(torch.randint(height * width, ()))
    colour = image.flatten(1)[:, pixel]
    shift = uniform(-0.5, 0.5)
    hue = 0.1 * torch.randn(3).to(image) if coin() else 0.0
    return (colour + shift + hue).clamp(0, 1)[:, None, None]
