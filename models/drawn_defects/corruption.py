"""Corrupting good images, so that a network learns to restore them and to say what was wrong.

Each kind is a function of some images [n, 3, H, W], float in [0, 1], of points [n, 2] (y, x in
pixels) to put the defects at, of how much structure there is, [n, h, w], and of a source of
textures. It returns what to lay over the images, [n, 3, H, W], and with what opacity, [n, 1, H, W].
Nothing is drawn image by image: the parameters of all come from torch's
generator of the CPU at once, so that equal seeds give equal corruption on every device, and the
rest is a few tensor operations on the device.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from data.drawing import (
    coins,
    displaced,
    frame,
    log_uniform,
    random_perlin,
    resampled,
    spread,
    uniform,
)
from models.drawn_defects.foreground import ground, random_places, structure
from models.drawn_defects.textures import Textures
from utils.config import CorruptionConfig

VISIBLE = 0.01
"""Where pixels changed by less, of a range of 1, the image does not count as corrupted."""

OBJECT = 0.35
"""Mean structure below which an image shows an object on a ground, above it a texture."""

Drawn = tuple[Tensor, Tensor]


def blob(images: Tensor, at: Tensor, least: float, most: float) -> tuple[Tensor, Tensor, Tensor]:
    """A ragged ellipse: its depth in pixels, negative outside, and coordinates in radii.

    Args:
        images: [n, 3, H, W], only their size and device count.
        at: [n, 2] its middle.
        least: smallest radius, in shares of the shorter side.
        most: largest radius.

    Returns:
        depth, along, across: [n, 1, H, W] each; the coordinates are 1 at the ellipse's edge.
    """
    count, side = len(images), min(images.shape[-2:])
    radius = log_uniform(least, most, count) * side
    stretch = log_uniform(1, 10, count).sqrt()
    along, across = frame(images, at, uniform(0, math.pi, count))
    along, across = (
        along / spread(radius * stretch, images),
        across / spread(radius / stretch, images),
    )
    rag = spread(uniform(0.1, 0.9, count), images) * random_perlin(images, finest=16)
    depth = (1 + rag - torch.hypot(along, across)) * spread(radius / stretch, images)
    return depth, along, across


def opacity(depth: Tensor, softest: float, least: float) -> Tensor:
    """Opacity of what is drawn within an outline of random softness, [n, 1, H, W] in [0, 1].

    Args:
        depth: [n, 1, H, W] pixels inside the outline.
        softest: widest edge, in pixels.
        least: least opacity of the middle.
    """
    count = len(depth)
    edge = spread(log_uniform(0.7, softest + 0.7, count), depth)
    return (depth / edge).clamp(0, 1) * spread(uniform(least, 1, count), depth)


def stain(images: Tensor, at: Tensor, rich: Tensor, textures: Textures) -> Drawn:
    """A spot, blot, streak or film (after the stains of AESc: Collin and De Vleeschouwer, 2020).

    Half of them tint the image and keep its structure, as oil, water or a shadow do, some blurring
    it as glue does; others cover it with a colour, or do some of both.
    """
    count = len(images)
    depth, _, _ = blob(images, at, 0.012, 0.3)
    alpha = opacity(depth, 0.05 * min(images.shape[-2:]), 0.2)
    shade = uniform(0.08, 0.6, count) * torch.where(coins(count, 0.7), -1.0, 1.0)
    hue = 0.15 * torch.randn(count, 3) * coins(count)[:, None]
    tint = (1 + shade[:, None] + hue).to(images)[:, :, None, None]
    blurred = coins(count, 0.3).to(images.device)
    below = images * tint
    below[blurred] = _blurred(below[blurred])
    cover = torch.where(coins(count), 0.0, uniform(0, 2, count).clamp(max=1))
    return below.lerp_(_colours_near(images), spread(cover, images)), alpha


def perlin(images: Tensor, at: Tensor, rich: Tensor, textures: Textures) -> Drawn:
    """Another texture, laid over the image where Perlin noise is high (DRAEM, ICCV 2021).

    As in the paper (Zavrtanik et al.): noise of a random scale above 0.5, opacity from 0.1 to 1.
    Here it ends at a random distance from a point.
    """
    count = len(images)
    apart = torch.hypot(*frame(images, at, torch.zeros(count)))
    reach = log_uniform(0.1, 3, count) * max(images.shape[-2:])
    noise = random_perlin(images, finest=32) - (apart / spread(reach, images)).pow(2)
    highest = noise.amax(dim=(2, 3), keepdim=True)
    region = noise > (0.8 * highest).clamp(max=0.5)  # coarse noise may stay low everywhere
    return textures.draw(count), region * spread(uniform(0.1, 1, count), images)


def crack(images: Tensor, at: Tensor, rich: Tensor, textures: Textures) -> Drawn:
    """A thin winding line, darker or lighter than the image.

    The line is a contour of Perlin noise, which winds as cracks and scratches do, around a point.
    Thin structures are what blobs and patches do not teach.
    """
    count = len(images)
    height, width = images.shape[-2:]
    noise = random_perlin(images, finest=8) + 0.06 * random_perlin(images, finest=64)
    slope = torch.hypot(*torch.gradient(noise, dim=(2, 3))).clamp_min(1e-4)
    places = at[:, 0].long().clamp(max=height - 1) * width + at[:, 1].long().clamp(max=width - 1)
    level = noise.flatten(1).gather(1, places.to(noise.device)[:, None])
    distance = (noise - level[:, :, None, None]).abs() / slope  # pixels from the contour
    line = (spread(log_uniform(0.4, 4, count), images) - distance + 0.5).clamp(0, 1)
    reach = log_uniform(0.05, 0.7, count) * max(height, width)
    apart = torch.hypot(*frame(images, at, torch.zeros(count)))
    line = line * (4 * (1 - apart / spread(reach, images))).clamp(0, 1)
    # By a share of what is there, so that faint ones are drawn on dark images, too.
    end = spread(1.0 - coins(count, 0.7).float(), images)
    return torch.lerp(images, end, spread(log_uniform(0.1, 0.9, count), images)), line


def cut_paste(images: Tensor, at: Tensor, rich: Tensor, textures: Textures) -> Drawn:
    """A patch or a thin strip of the image, pasted elsewhere (CutPaste: Li et al., CVPR 2021).

    As in the paper: patches of up to 15% of the area, or strips of 2 to 16 pixels (of 256) that are
    10 to 25% long and turned, with their colours jittered. Patches are turned as well here.
    """
    count, side = len(images), min(images.shape[-2:])
    area, ratio = log_uniform(0.001, 0.15, count), log_uniform(0.3, 3.3, count)
    patch = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], dim=1) / 2
    strip = torch.stack([uniform(0.05, 0.125, count), log_uniform(1, 8, count) / 256], dim=1)
    half = torch.where(coins(count)[:, None], patch, strip) * side
    turn = uniform(-math.pi / 4, math.pi / 4, count)
    along, across = (axis.abs() for axis in frame(images, at, turn))
    inside = (along <= spread(half[:, 0], images)) & (across <= spread(half[:, 1], images))
    moved = resampled(
        images,
        at,
        random_places(rich, images.shape[-2:])[:, 0],
        turn * coins(count),
        torch.ones(count),
    )
    gain, shift = uniform(0.85, 1.15, count), uniform(-0.08, 0.08, count)
    return moved.mul_(spread(gain, images)).add_(spread(shift, images)), inside.to(images)


def gone(images: Tensor, at: Tensor, rich: Tensor, textures: Textures) -> Drawn:
    """A piece taken away, its ground grown over it; of a texture, a place that lost its grain."""
    depth, _, _ = blob(images, at, 0.015, 0.15)
    noise = spread(uniform(0, 0.02, len(images)), images) * torch.randn(images.shape[-2:]).to(
        images
    )
    return ground(images, rich).add_(noise), opacity(depth, 0.01 * min(images.shape[-2:]), 0.8)


def displace(images: Tensor, at: Tensor, rich: Tensor, textures: Textures) -> Drawn:
    """A piece bent or shifted, its edge hard or soft; of a texture, a dent with its relief.

    A texture that is merely moved looks as good as before, so it is lit from a side as well.
    """
    count, side = len(images), min(images.shape[-2:])
    depth, along, _ = blob(images, at, 0.03, 0.15)
    push = opacity(depth, 0.1 * side, 1.0)
    angle, way = uniform(0, 2 * math.pi, count), log_uniform(0.012, 0.06, count) * side
    moved = displaced(
        images, push * spread(way * angle.sin(), images), push * spread(way * angle.cos(), images)
    )
    texture = rich.mean(dim=(1, 2)) > OBJECT
    relief = spread(uniform(0.1, 0.35, count), images) * spread(texture, images)
    return moved.add_(relief * push * along.clamp(-1, 1)), (push > 0).to(images)


KINDS: dict[str, Callable[[Tensor, Tensor, Tensor, Textures], Drawn]] = {
    kind.__name__: kind for kind in (stain, perlin, crack, cut_paste, gone, displace)
}


def corrupt(
    images: Tensor, config: CorruptionConfig, valid: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Corrupt a batch, each image in ways drawn from those of the settings.

    Args:
        images: [B, 3, H, W] float in [0, 1].
        config: the kinds to draw, `clean` (left as it is) among them, and how many more may follow
            on the same image.
        valid: what may be corrupted, bool [B, 1, H, W]; None: all.

    Returns:
        The images, corrupted, and where they are: bool [B, 1, H, W].
    """
    weights = torch.tensor([float(kind in config.kinds) for kind in ("clean", *KINDS)])
    masks = torch.zeros_like(images[:, :1], dtype=torch.bool)
    if not weights[1:].any():
        return images, masks
    corrupted, textures = images.clone(), Textures(images, config.textures)
    rich = structure(images)
    # A grey camera sees no colours; every eighth pixel of a row says so.
    grey = (images[:, :1, :, ::8] == images[:, 1:, :, ::8]).flatten(1).all(dim=1)
    places = random_places(rich, images.shape[-2:], 1 + config.more)
    chosen = torch.multinomial(weights, len(images), replacement=True)
    spoilt = chosen > 0
    for number in range(1 + config.more):
        for kind, draw in enumerate(KINDS.values(), start=1):
            own = (chosen == kind).nonzero()[:, 0]
            if len(own):
                at = places[own, number]
                own = own.to(images.device)
                drawn_on = corrupted[own]
                layer, alpha = draw(drawn_on, at, rich[own], textures)
                layer[grey[own]] = layer[grey[own]].mean(dim=1, keepdim=True)
                corrupted[own], mask = _blend(drawn_on, layer, alpha)
                masks[own] |= mask
        further = torch.multinomial(weights[1:], len(images), replacement=True) + 1
        chosen = further * (spoilt & coins(len(images)))
    if valid is not None:
        corrupted, masks = torch.where(valid, corrupted, images), masks & valid
    return corrupted, masks


def _blend(images: Tensor, layer: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Lay `layer` over the images; only what is seen is marked, and nothing else changes.

    Both are overwritten.
    """
    change = layer.clamp_(0, 1).sub_(images).mul_(alpha)
    seen = F.pad(change.abs().amax(dim=1, keepdim=True), (1, 1, 1, 1))
    # The mean of 3x3 pixels, by sums: pooling takes several times as long on a CPU.
    seen = (seen[..., :-2] + seen[..., 1:-1]).add_(seen[..., 2:])
    seen = (seen[..., :-2, :] + seen[..., 1:-1, :]).add_(seen[..., 2:, :])
    mask = (seen > 9 * VISIBLE) & (alpha > 0)
    return images.add_(change.mul_(mask)), mask


def _blurred(images: Tensor) -> Tensor:
    """The images at a quarter of their resolution and back."""
    small = F.avg_pool2d(images, 4)
    return F.interpolate(small, images.shape[-2:], mode="bilinear", align_corners=False)


def _colours_near(images: Tensor) -> Tensor:
    """A colour for each image [n, 3, 1, 1]: that of a random pixel, shifted, half of them in hue.

    A small shift leaves an ordinary colour: what then is wrong is that it is all there is.
    """
    count, pixels = len(images), images.flatten(2)
    pixel = torch.randint(pixels.shape[2], (count, 1, 1)).expand(-1, 3, -1)
    shift = uniform(-0.5, 0.5, count)[:, None]
    hue = 0.1 * torch.randn(count, 3) * coins(count)[:, None]
    colours = pixels.gather(2, pixel.to(images.device))[:, :, 0]
    return (colours + (shift + hue).to(images)).clamp(0, 1)[:, :, None, None]
