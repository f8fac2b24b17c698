"""Harmless variation: what differs from one photograph of a good part to the next.

Drawn on what a network takes in and on what it should give back, so that it learns to leave it
alone: exposure, gradients, soft steps and clouds of light, contrast, focus and the sensor's noise.
A shift is not among them: to a convolutional network a shifted part is the same part.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from data.draws import coins, uniform
from data.fields import frame, perlin_noise, spread


def vary(images: Tensor, strength: float) -> Tensor:
    """The images [B, 3, H, W] in [0, 1] as another photograph could show them.

    Args:
        images: good images.
        strength: 1 for exposures and light within about a tenth, 0 for the images as they are.
    """
    if strength == 0:
        return images
    count, (height, width) = len(images), images.shape[-2:]

    def sometimes(most: float) -> Tensor:
        """A random strength for each image, on `images`' device; none for every other one."""
        drawn = strength * uniform(-most, most, count) * coins(count)
        return spread(drawn, images)

    centre = torch.rand(count, 2) * torch.tensor([height, width])
    along, _ = frame(images, centre, uniform(0, 2 * math.pi, count))
    along = along / min(height, width)
    edge = torch.sigmoid(along * spread(1 / uniform(0.02, 0.2, count), images))
    clouds = perlin_noise(images, *torch.randint(1, 4, (2, count)))
    light = 1 + sometimes(0.1) + sometimes(0.08) * along + sometimes(0.06) * edge
    light = light + sometimes(0.05) * clouds
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    contrast = 1 + sometimes(0.1)
    # One sheet of noise serves the batch: numbers from the CPU's generator are slow.
    noise = sometimes(0.015) * torch.randn(1, 1, height, width).to(images)
    varied = images * (light * contrast) + (mean * (1 - contrast) + noise)
    soft = sometimes(0.7).clamp_min(0)
    blurred = F.avg_pool2d(varied, 3, 1, 1, count_include_pad=False)
    return torch.lerp(varied, blurred, soft).clamp(0, 1)
