"""Drawn light: good images as another exposure, gradient and white balance would show them.

`data.light` says how much light may change. Detectors learn good images under drawn light, too, and
their thresholds hold for both.
"""

import torch
from torch import Tensor

from data.tensors import valid_mask

# Of an image: exposure; left, right, top and bottom of the gradient; red, green and blue.
FACTORS = 8


def draw_light(count: int, light: float, generator: torch.Generator | None = None) -> Tensor:
    """Draw light for images: factors [count, FACTORS], uniform in [1 - light, 1 + light].

    Args:
        count: number of images.
        light: `data.light`.
        generator: of the CPU; None: torch's own.
    """
    return 1 + light * (2 * torch.rand(count, FACTORS, generator=generator) - 1)


def relight(images: Tensor, factors: Tensor) -> Tensor:
    """Return images [B, 3, H, W] in [0, 1] under drawn light [B, FACTORS].

        image * exposure * gradient * balance, clipped, gradient linear over what is given: an
        image, a tile or a crop

    Grey images keep equal colours, and what lies outside of `data.region` stays as it is.
    """
    factors = factors.to(images)
    exposure, left, right, top, bottom = factors[:, :5, None, None, None].unbind(dim=1)
    across, down = (torch.linspace(0, 1, side).to(images) for side in images.shape[-2:][::-1])
    gradient = (left.lerp(right, across) + top.lerp(bottom, down[:, None])) / 2
    grey = (images == images[:, :1]).all(dim=3).all(dim=2).all(dim=1)
    balance = factors[:, 5:].masked_fill(grey[:, None], 1)[:, :, None, None]
    lit = (images * (exposure * gradient * balance)).clamp(0, 1)
    # Rounded as a camera rounds to 8 bits: so no pixel takes the value of `OUTSIDE` by chance.
    return torch.where(valid_mask(images), lit.mul(255).round_().div_(255), images)
