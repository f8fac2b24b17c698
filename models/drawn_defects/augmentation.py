"""Augment good images by what differs harmlessly from one photograph of a part to the next.

Drawn on both the input of a network and its target, so that it learns to leave such differences
alone: exposure, gradients, soft steps and clouds of light, contrast, focus and the sensor's noise.
Shifts are not among them: to a convolutional network a shifted part is the same part.
"""

import math

import torch
from torch import Tensor

from data.drawing import coins, frame, per_image, perlin_noise, uniform

# Images drawn on at a time. Tensors of so few stay in the cache and use the same memory again; the
# system hands out larger pieces page by page, which takes several times as long as filling them.
CHUNK_IMAGES = 4


def augment(images: Tensor) -> Tensor:
    """Draw every other of the images [B, 3, H, W] in [0, 1] as another photograph could show it."""
    augmented = images.clone(memory_format=torch.contiguous_format)
    chosen = coins(len(images)).nonzero()[:, 0].to(images.device)
    for start in range(0, len(chosen), CHUNK_IMAGES):
        own = chosen[start : start + CHUNK_IMAGES]
        augmented[own] = _photographed_again(augmented[own])
    return augmented


def _photographed_again(images: Tensor) -> Tensor:
    count, (height, width) = len(images), images.shape[-2:]

    def within(most: float) -> Tensor:
        """Draw an amount for each image: [n, 1, 1, 1] in [-most, most], often a small one."""
        return per_image(most * uniform(-1, 1, count).pow(3), images)

    centre = torch.rand(count, 2) * torch.tensor([height, width])
    along, _ = frame(images, centre, uniform(0, 2 * math.pi, count))
    along = along / min(height, width)
    edge = torch.sigmoid(along * per_image(1 / uniform(0.02, 0.2, count), images))
    clouds = perlin_noise(images, *torch.randint(1, 4, (2, count)))
    # Exposure, a gradient, a soft step and clouds: each changes the light by some hundredths.
    light = 1 + within(0.15) + within(0.12) * along + within(0.1) * edge + within(0.08) * clouds
    contrast = 1 + within(0.15)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    # One sheet of noise serves the batch: numbers from the CPU's generator are slow.
    noise = within(0.02) * torch.randn(height, width).to(images)
    # mean + contrast * (light * image - mean) + noise
    augmented = images.mul_(light * contrast).add_(mean * (1 - contrast) + noise)
    soft = within(0.5).abs()  # out of focus: a mean of pixels and their neighbours
    augmented[..., 1:] = torch.lerp(augmented[..., 1:], augmented[..., :-1], soft)
    augmented[..., 1:, :] = torch.lerp(augmented[..., 1:, :], augmented[..., :-1, :], soft)
    return augmented.clamp_(0, 1)
