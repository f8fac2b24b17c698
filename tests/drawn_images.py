"""Images to corrupt: a texture, and an object on empty ground; and how images are read."""

import torch
from torch import Tensor

from utils.config import DataConfig, load_config


def settings(**data: object) -> DataConfig:
    """How images are read, but for what is named."""
    return load_config(overrides={f"data.{key}": value for key, value in data.items()}).data


def texture(count: int = 2, size: tuple[int, int] = (96, 64)) -> Tensor:
    """Coloured waves with a little noise, [count, 3, *size] in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(*(torch.arange(float(side)) for side in size), indexing="ij")
    waves = torch.stack([torch.sin(x / 3), torch.sin(y / 4 + x / 9), torch.sin(y / 5)])
    noise = 0.03 * torch.randn(count, 3, *size, generator=generator)
    return (0.5 + 0.2 * waves + noise).clamp(0, 1)


def object_in(size: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of the object of `object_on_ground`, which takes a ninth of the image."""
    return tuple(slice(side // 3, 2 * side // 3) for side in size)


def object_on_ground(count: int = 2, size: tuple[int, int] = (96, 64)) -> Tensor:
    """A speckled object on a ground with a gradient of light, [count, 3, *size] in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    images = torch.linspace(0.75, 0.9, size[1]).expand(count, 3, *size).clone()
    rows, columns = object_in(size)
    shape = images[:, :1, rows, columns].shape
    images[..., rows, columns] = 0.5 * torch.rand(shape, generator=generator)
    return images
