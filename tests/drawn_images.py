"""Images to corrupt: a texture, and an object on empty ground."""

import torch
from torch import Tensor

OBJECT = (slice(30, 60), slice(16, 40))
"""Rows and columns of the object of `object_on_ground`."""


def texture(count: int = 2, size: tuple[int, int] = (96, 64)) -> Tensor:
    """Coloured waves with a little noise, [count, 3, *size] in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(*(torch.arange(float(side)) for side in size), indexing="ij")
    waves = torch.stack([torch.sin(x / 3), torch.sin(y / 4 + x / 9), torch.sin(y / 5)])
    noise = 0.03 * torch.randn(count, 3, *size, generator=generator)
    return (0.5 + 0.2 * waves + noise).clamp(0, 1)


def object_on_ground(count: int = 2, size: tuple[int, int] = (96, 64)) -> Tensor:
    """A speckled object at `OBJECT` on a ground with a gradient of light, [count, 3, *size]."""
    generator = torch.Generator().manual_seed(0)
    light = torch.linspace(0.75, 0.9, size[1])
    images = light.expand(count, 3, *size).clone()
    rows, columns = OBJECT
    shape = (count, 1, rows.stop - rows.start, columns.stop - columns.start)
    images[..., rows, columns] = torch.rand(shape, generator=generator) * 0.5
    return images
