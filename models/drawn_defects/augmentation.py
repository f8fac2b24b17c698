"""Harmless variation: what differs from one photograph of a good part to the next.

Drawn on what a network takes in and on what it should give back, so that it learns to leave it
alone: exposure, gradients, soft steps and clouds of light, contrast, focus and the sensor's noise.
A shift is not among them: to a convolutional network a shifted part is the same part.
"""

import math

import torch
from torch import Tensor

from data.drawing import coins, frame, perlin_noise, spread, uniform

AT_ONCE = 4
"""Images drawn on at a time: what passes stays in the cache, and memory is used again, while the
system hands out larger pieces page by page, which takes several times as long as filling them."""


def vary(images: Tensor, strength: float) -> Tensor:
    """Every other image [B, 3, H, W] in [0, 1] as another photograph could show it.

    Args:
        images: good images.
        strength: 1 for exposures and light within about a tenth, 0 for the images as they are.
    """
    varied = images.clone(memory_format=torch.contiguous_format)
    chosen = coins(len(images)).nonzero()[:, 0].to(images.device)
    for start in range(0, len(chosen) if strength else 0, AT_ONCE):
        own = chosen[start : start + AT_ONCE]
        varied[own] = _photographed_anew(varied[own], strength)
    return varied


def _photographed_anew(images: Tensor, strength: float) -> Tensor:
    count, (height, width) = len(images), images.shape[-2:]

    def within(most: float) -> Tensor:
        """A random strength for each image, often a weak one."""
        return spread(strength * most * uniform(-1, 1, count).pow(3), images)

    centre = torch.rand(count, 2) * torch.tensor([height, width])
    along, _ = frame(images, centre, uniform(0, 2 * math.pi, count))
    along = along / min(height, width)
    edge = torch.sigmoid(along * spread(1 / uniform(0.02, 0.2, count), images))
    clouds = perlin_noise(images, *torch.randint(1, 4, (2, count)))
    light = 1 + within(0.15) + within(0.12) * along + within(0.1) * edge + within(0.08) * clouds
    contrast = 1 + within(0.15)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    # One sheet of noise serves the batch: numbers from the CPU's generator are slow.
    noise = within(0.02) * torch.randn(height, width).to(images)
    varied = images.mul_(light * contrast).add_(mean * (1 - contrast) + noise)
    soft = within(0.5).abs()  # out of focus: a mean of pixels and their neighbours
    varied[..., 1:] = torch.lerp(varied[..., 1:], varied[..., :-1], soft)
    varied[..., 1:, :] = torch.lerp(varied[..., 1:, :], varied[..., :-1, :], soft)
    return varied.clamp_(0, 1)
