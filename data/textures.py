"""Textures to blend into good images, made of the training images, of noise or of a folder."""

from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from data.draws import coin, log_uniform, uniform
from data.images import list_images, read_resized
from utils.errors import UserError
from utils.pixels import to_batch


class Textures:
    """A source of textures for one batch.

    DRAEM takes its textures from a data set of its own (DTD). None is needed here: another image of
    the batch, moved, rescaled and recoloured, or procedural noise serve as well.

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

    def draw(self, like: Tensor) -> Tensor:
        """A random texture [3, H, W] in [0, 1] of the size of `like`."""
        height, width = like.shape[1:]
        if self.files:
            file = self.files[int(torch.randint(len(self.files), ()))]
            return _recoloured(_read(file, (height, width)).to(like))
        if coin(0.3):
            return _noise_texture(like)
        return _recoloured(_rearranged(self.images[int(torch.randint(len(self.images), ()))]))


@lru_cache(maxsize=256)  # a large folder must not fill the memory
def _read(file: Path, size: tuple[int, int]) -> Tensor:
    return to_batch(read_resized(file, size)[None], torch.device("cpu"))[0]


def _rearranged(image: Tensor) -> Tensor:
    """The image moved, mirrored or turned upside down, and enlarged up to three times at random."""
    height, width = image.shape[1:]
    shift = (int(torch.randint(height, ())), int(torch.randint(width, ())))
    image = torch.roll(image, shift, (1, 2))
    for axis in (1, 2):
        if coin():
            image = image.flip(axis)
    if height == width and coin():
        image = image.transpose(1, 2)
    share = 1 / log_uniform(1, 3) if coin() else 1.0
    part = image[:, : max(2, int(height * share)), : max(2, int(width * share))]
    return F.interpolate(part[None], (height, width), mode="bilinear", align_corners=False)[0]


def _recoloured(image: Tensor) -> Tensor:
    """The image with its tones inverted, its contrast, brightness and colours changed at random."""
    if coin(0.25):
        image = 1 - image
    gain = uniform(0.4, 1.8)
    shift = (0.3 * torch.randn(())).to(image)
    tint = (0.1 * torch.randn(3, 1, 1)).to(image) if coin(0.3) else 0.0
    mean = image.mean()
    return ((image - mean) * gain + mean + shift + tint).clamp(0, 1)


def _noise_texture(like: Tensor) -> Tensor:
    """Noise of a random grain [3, H, W], in colours around those of `like`."""
    height, width = like.shape[1:]
    grain = log_uniform(1, 16)  # pixels
    rows, columns = max(2, round(height / grain)), max(2, round(width / grain))
    channels = 3 if coin(0.3) else 1
    noise = torch.randn(1, channels, rows, columns)
    noise = F.interpolate(noise, (height, width), mode="bicubic", align_corners=False)[0]
    spread, shift = uniform(0.03, 0.23), 0.25 * torch.randn(())
    return (like.mean((1, 2), keepdim=True) + (spread * noise + shift).to(like)).clamp(0, 1)
