"""Corrupt good images, so that a network learns to restore them and to segment what was wrong.

Each kind is a function of images [n, 3, H, W] in [0, 1], of points [n, 2] (y, x in pixels) to put
the defects at, of the images' structure [n, h, w] (see `foreground`) and of the whole batch, which
other content is taken from. It returns what to lay over the images, [n, 3, H, W], and with what
opacity, [n, 1, H, W]. All images are drawn on at once; the random parameters come from torch's
generator of the CPU, so that equal seeds give equal corruption on every device.
"""

import math
from collections.abc import Callable, Collection

import torch
from torch import Tensor
from torch.nn import functional as F

from data.drawing import (
    blend,
    blob,
    coins,
    contour_distance,
    displaced,
    frame,
    grain,
    log_uniform,
    opacity,
    per_image,
    random_perlin,
    resampled,
    signed,
    uniform,
)
from models.drawn_defects.foreground import background, random_positions, structure

# Least visible change, of a range of 1: pixels that changed by less are not called corrupted.
VISIBLE = 0.01

# Mean structure above which an image shows a texture, below it an object on a background.
TEXTURE = 0.35

# Further corruptions of a corrupted image at most, each with an even chance.
MORE = 1

Drawn = tuple[Tensor, Tensor]
Draw = Callable[[Tensor, Tensor, Tensor, Tensor], Drawn]


def stain(images: Tensor, at: Tensor, structured: Tensor, batch: Tensor) -> Drawn:
    """Draw a spot, blot, streak or film (after AESc's stains: Collin and De Vleeschouwer, 2020).

    Half of them tint the image and keep its structure, as oil, water or a shadow do, some blurring
    it as glue does; others cover it with a colour, or do some of both.
    """
    count = len(images)
    depth, _, _ = blob(images, at, 0.012, 0.3)
    alpha = opacity(depth, 0.05 * min(images.shape[-2:]), 0.2)
    shade = signed(uniform(0.08, 0.6, count), negative=0.7)
    hue = 0.15 * torch.randn(count, 3) * coins(count)[:, None]
    tint = (1 + shade[:, None] + hue).to(images)[:, :, None, None]
    soft = coins(count, 0.3).to(images.device)
    below = images * tint
    below[soft] = _quarter_resolution(below[soft])
    # Half of the stains cover nothing, a quarter some, a quarter all of what is below.
    cover = torch.where(coins(count), 0.0, uniform(0, 2, count).clamp(max=1))
    return below.lerp_(_near_colours(images), per_image(cover, images)), alpha


def perlin(images: Tensor, at: Tensor, structured: Tensor, batch: Tensor) -> Drawn:
    """Draw another texture where Perlin noise is high (DRAEM: Zavrtanik et al., ICCV 2021).

    As in the paper: noise of a random scale above 0.5, opacity from 0.1 to 1. Here it ends at a
    random distance from a point as well, so that there are small ones.
    """
    count = len(images)
    apart = torch.hypot(*frame(images, at, torch.zeros(count)))
    reach = log_uniform(0.1, 3, count) * max(images.shape[-2:])
    noise = random_perlin(images, finest=32) - (apart / per_image(reach, images)).pow(2)
    highest = noise.amax(dim=(2, 3), keepdim=True)
    region = noise > (0.8 * highest).clamp(max=0.5)  # coarse noise may stay low everywhere
    return random_textures(batch, count), region * per_image(uniform(0.1, 1, count), images)


def crack(images: Tensor, at: Tensor, structured: Tensor, batch: Tensor) -> Drawn:
    """Draw a thin winding line, darker or lighter than the image, along a contour of Perlin noise.

    Thin structures are what blobs and patches do not teach.
    """
    count = len(images)
    noise = random_perlin(images, finest=8) + 0.06 * random_perlin(images, finest=64)
    distance = contour_distance(noise, at)
    line = (per_image(log_uniform(0.4, 4, count), images) - distance + 0.5).clamp(0, 1)
    # A contour may wind all over the image: end it at a random distance.
    reach = log_uniform(0.05, 0.7, count) * max(images.shape[-2:])
    apart = torch.hypot(*frame(images, at, torch.zeros(count)))
    line = line * (4 * (1 - apart / per_image(reach, images))).clamp(0, 1)
    # Towards black or white by a share of the way, so that dark images get faint ones, too.
    end = per_image(1.0 - coins(count, 0.7).float(), images)
    return torch.lerp(images, end, per_image(log_uniform(0.1, 0.9, count), images)), line


def cut_paste(images: Tensor, at: Tensor, structured: Tensor, batch: Tensor) -> Drawn:
    """Paste a patch or a thin strip of the image elsewhere (CutPaste: Li et al., CVPR 2021).

    As in the paper: patches of up to 15% of the area, or strips of 2 to 16 pixels (of 256) that are
    10 to 25% long and turned, with their colours jittered. Patches are turned as well here.
    """
    count, side = len(images), min(images.shape[-2:])
    area, ratio = log_uniform(0.001, 0.15, count), log_uniform(0.3, 3.3, count)
    # height * width = area, height / width = ratio, all in shares; halves of the sides
    patch = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], dim=1) / 2
    strip = torch.stack([uniform(0.05, 0.125, count), log_uniform(1, 8, count) / 256], dim=1)
    half = torch.where(coins(count)[:, None], patch, strip) * side
    turn = uniform(-math.pi / 4, math.pi / 4, count)
    along, across = (axis.abs() for axis in frame(images, at, turn))
    inside = (along <= per_image(half[:, 0], images)) & (across <= per_image(half[:, 1], images))
    source = random_positions(structured, images.shape[-2:])[:, 0]
    moved = resampled(images, at, source, turn * coins(count))
    gain, shift = uniform(0.85, 1.15, count), uniform(-0.08, 0.08, count)
    return moved.mul_(per_image(gain, images)).add_(per_image(shift, images)), inside.to(images)


def remove(images: Tensor, at: Tensor, structured: Tensor, batch: Tensor) -> Drawn:
    """Remove a piece of the object and show the background; of a texture, remove its grain."""
    depth, _, _ = blob(images, at, 0.015, 0.15)
    strength = per_image(uniform(0, 0.02, len(images)), images)
    noise = strength * torch.randn(images.shape[-2:]).to(images)
    layer = background(images, structured).add_(noise)
    return layer, opacity(depth, 0.01 * min(images.shape[-2:]), 0.8)


def displace(images: Tensor, at: Tensor, structured: Tensor, batch: Tensor) -> Drawn:
    """Bend or shift a piece, its edge hard or soft; of a texture, draw a dent with its relief.

    A texture that is merely moved looks as good as before, so it is lit from a side as well.
    """
    count, side = len(images), min(images.shape[-2:])
    depth, along, _ = blob(images, at, 0.03, 0.15)
    push = opacity(depth, 0.1 * side, 1.0)
    angle, distance = uniform(0, 2 * math.pi, count), log_uniform(0.012, 0.06, count) * side
    down = push * per_image(distance * angle.sin(), images)
    right = push * per_image(distance * angle.cos(), images)
    moved = displaced(images, down, right)
    texture = structured.mean(dim=(1, 2)) > TEXTURE
    relief = per_image(uniform(0.1, 0.35, count), images) * per_image(texture, images)
    return moved.add_(relief * push * along.clamp(-1, 1)), (push > 0).to(images)


KINDS: dict[str, Draw] = {
    kind.__name__: kind for kind in (stain, perlin, crack, cut_paste, remove, displace)
}


def corrupt(
    images: Tensor,
    kinds: Collection[str],
    valid: Tensor | None = None,
    pasted: Draw | None = None,
) -> tuple[Tensor, Tensor]:
    """Corrupt a batch, each image by kinds drawn at random.

    Args:
        images: [B, 3, H, W] float in [0, 1].
        kinds: names in `KINDS`, or `clean`: left as it is; each is drawn as often.
        valid: what may be corrupted, bool [B, 1, H, W]; None: all.
        pasted: draws known defects: one more kind, drawn as often as each of the others.

    Returns:
        The corrupted images, and the mask of what changed: bool [B, 1, H, W].
    """
    draws = [*KINDS.values(), *([] if pasted is None else [pasted])]
    weights = torch.ones(1 + len(draws))
    weights[: 1 + len(KINDS)] = torch.tensor([float(kind in kinds) for kind in ("clean", *KINDS)])
    masks = torch.zeros_like(images[:, :1], dtype=torch.bool)
    if not weights[1:].any():
        return images, masks
    corrupted, structured = images.clone(), structure(images)
    # Of grey images the defects are grey, too; every eighth pixel of a row suffices to tell.
    grey = (images[:, :1, :, ::8] == images[:, 1:, :, ::8]).flatten(1).all(dim=1)
    positions = random_positions(structured, images.shape[-2:], 1 + MORE)
    chosen = torch.multinomial(weights, len(images), replacement=True)
    defective = chosen > 0
    for number in range(1 + MORE):
        # All images of a kind at once, instead of one after the other.
        for kind, draw in enumerate(draws, start=1):
            own = (chosen == kind).nonzero()[:, 0]
            if len(own):
                at = positions[own, number]
                own = own.to(images.device)
                drawn_on = corrupted[own]
                layer, alpha = draw(drawn_on, at, structured[own], images)
                layer[grey[own]] = layer[grey[own]].mean(dim=1, keepdim=True)
                corrupted[own], mask = blend(drawn_on, layer, alpha, VISIBLE)
                masks[own] |= mask
        further = torch.multinomial(weights[1:], len(images), replacement=True) + 1
        chosen = further * (defective & coins(len(images)))
    if valid is not None:
        corrupted, masks = torch.where(valid, corrupted, images), masks & valid
    return corrupted, masks


def random_textures(images: Tensor, count: int) -> Tensor:
    """Make textures [count, 3, H, W], around [0, 1], of images [B, 3, H, W] of any content.

    DRAEM takes its textures from a data set of its own (DTD). None is needed here: an image of the
    batch that is moved, turned, enlarged and recoloured, or noise (three in ten) serve as well.
    """
    others = images[torch.randint(len(images), (count,)).to(images.device)]
    noise = int(coins(count, 0.3).sum())  # the order of the textures does not matter
    drawn = [_noise_textures(others[:noise])] if noise else []
    drawn += [_recoloured(_rearranged(others[noise:]))] if noise < count else []
    return torch.cat(drawn)


def _rearranged(images: Tensor) -> Tensor:
    """Move, turn, enlarge up to three times and, half of them, mirror images."""
    count = len(images)
    source = torch.rand(count, 2) * torch.tensor(images.shape[-2:])
    zoom = -signed(log_uniform(1, 3, count))
    return resampled(images, source=source, turn=uniform(-3.2, 3.2, count), zoom=zoom)


def _recoloured(images: Tensor) -> Tensor:
    """Change contrast and colours of images, which are overwritten; invert the tones of some."""
    count = len(images)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    gain = signed(uniform(0.4, 1.8, count), negative=0.25)
    # mean + gain * (image - mean) + tint
    shift = mean * (1 - per_image(gain, images)) + _random_tints(images, 0.3)
    return images.mul_(per_image(gain, images)).add_(shift)


def _noise_textures(like: Tensor) -> Tensor:
    """Draw noise of a random grain [n, 3, H, W], in colours around those of `like`."""
    count = len(like)
    noise = grain(like, log_uniform(1, 16, count))
    mean = like.mean(dim=(2, 3), keepdim=True)
    tint = _random_tints(like, 0.25)
    return mean + per_image(uniform(0.03, 0.23, count), like) * noise + tint


def _random_tints(like: Tensor, light: float) -> Tensor:
    """Draw changes of light, of the given deviation, and for a third of hue: [n, 3, 1, 1]."""
    count = len(like)
    tint = light * torch.randn(count, 1)
    tint = tint + 0.1 * torch.randn(count, 3) * coins(count, 0.3)[:, None]
    return tint.to(like)[:, :, None, None]


def _quarter_resolution(images: Tensor) -> Tensor:
    """Reduce images to a quarter of their resolution and enlarge them again."""
    small = F.avg_pool2d(images, 4)
    return F.interpolate(small, images.shape[-2:], mode="bilinear", align_corners=False)


def _near_colours(images: Tensor) -> Tensor:
    """Draw a colour for each image, [n, 3, 1, 1]: a random pixel's, shifted, half of them in hue.

    With a small shift the colour is an ordinary one, and the defect is that all have it.
    """
    count, pixels = len(images), images.flatten(2)
    pixel = torch.randint(pixels.shape[2], (count, 1, 1)).expand(-1, 3, -1)
    shift = uniform(-0.5, 0.5, count)[:, None]
    hue = 0.1 * torch.randn(count, 3) * coins(count)[:, None]
    colours = pixels.gather(2, pixel.to(images.device))[:, :, 0]
    return (colours + (shift + hue).to(images)).clamp(0, 1)[:, :, None, None]
