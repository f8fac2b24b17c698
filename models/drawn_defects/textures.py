"""Textures to blend into good images, made of the training images, of noise or of a folder."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.drawing import coins, grain, log_uniform, resampled, spread, uniform
from data.images import read_image
from data.listing import list_images
from data.resize import resize
from data.tensors import to_batch
from utils.errors import UserError


class Textures:
    """A source of textures for one batch.

    DRAEM takes its textures from a data set of its own (DTD). None is needed here: another image of
    the batch, moved, turned, enlarged and recoloured, or procedural noise serve as well.

    Args:
        images: the batch [B, 3, H, W], float in [0, 1].
        folder: folder of texture images to draw from instead; None for none.

    Raises:
        UserError: if the folder holds no images.
    """

    def __init__(self, images: Tensor, folder: str | None = None) -> None:
        self.images = images
        self.files = list_images(Path(folder)) if folder else []
        if folder and not self.files:
            raise UserError(f"no images in {folder}, the folder that corruption.textures names")

    def draw(self, count: int) -> Tensor:
        """Random textures [count, 3, H, W], around [0, 1], of the size of the images."""
        if self.files:
            chosen = torch.randint(len(self.files), (count,)).tolist()
            size = tuple(self.images.shape[-2:])
            pixels = np.stack([_read(self.files[number], size) for number in chosen])
            return _recoloured(to_batch(pixels, self.images.device))
        others = self.images[torch.randint(len(self.images), (count,)).to(self.images.device)]
        noise = int(coins(count, 0.3).sum())  # that many of them: which ones does not matter
        drawn = [_noise_textures(others[:noise])] if noise else []
        drawn += [_recoloured(_rearranged(others[noise:]))] if noise < count else []
        return torch.cat(drawn)


@lru_cache(maxsize=256)  # a large folder must not fill the memory
def _read(file: Path, size: tuple[int, int]) -> np.ndarray:
    return resize(read_image(file), size)


def _rearranged(images: Tensor) -> Tensor:
    """The images about another point, turned, enlarged up to three times, half of them mirrored."""
    count = len(images)
    source = torch.rand(count, 2) * torch.tensor(images.shape[-2:])
    zoom = log_uniform(1, 3, count) * torch.where(coins(count), 1.0, -1.0)
    return resampled(images, source=source, turn=uniform(-3.2, 3.2, count), zoom=zoom)


def _recoloured(images: Tensor) -> Tensor:
    """The images, overwritten, their tones inverted, contrast and colours changed at random."""
    count = len(images)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    gain = uniform(0.4, 1.8, count) * torch.where(coins(count, 0.25), -1.0, 1.0)
    tint = 0.3 * torch.randn(count, 1) + 0.1 * torch.randn(count, 3) * coins(count, 0.3)[:, None]
    shift = mean * (1 - spread(gain, images)) + tint.to(images)[:, :, None, None]
    return images.mul_(spread(gain, images)).add_(shift)


def _noise_textures(like: Tensor) -> Tensor:
    """Noise of a random grain [n, 3, H, W], in colours around those of `like`."""
    count = len(like)
    noise = grain(like, log_uniform(1, 16, count))
    mean = like.mean(dim=(2, 3), keepdim=True)
    shift = 0.25 * torch.randn(count, 1) + 0.1 * torch.randn(count, 3) * coins(count, 0.3)[:, None]
    return (
        mean + spread(uniform(0.03, 0.23, count), like) * noise + shift.to(like)[:, :, None, None]
    )
