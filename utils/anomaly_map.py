"""From images and their reconstructions to anomaly maps, and from maps to image scores."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def absolute_error_map(images: Tensor, reconstructions: Tensor) -> Tensor:
    """Mean absolute difference over colours: two [B, 3, H, W] in [0, 1] -> [B, 1, H, W]."""
    return (images - reconstructions).abs().mean(dim=1, keepdim=True)


def smooth(maps: Tensor, sigma: float) -> Tensor:
    """Blur maps [B, 1, H, W] with a Gaussian of `sigma` pixels; 0 leaves them as they are.

    Reflects at the border, so that border pixels are neither darkened nor brightened.
    """
    if sigma == 0:
        return maps
    height, width = maps.shape[-2:]
    radius = min(math.ceil(3 * sigma), height - 1, width - 1)
    offsets = torch.arange(-radius, radius + 1, device=maps.device, dtype=maps.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    padded = F.pad(maps, (radius, radius, radius, radius), mode="reflect")
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))


def image_score(maps: Tensor, reduce: str) -> Tensor:
    """One score an image: [B, 1, H, W] -> [B].

    Args:
        maps: anomaly maps.
        reduce: "mean", "max", or "top1" for the mean of the highest 1% of the pixels, which a
            single noisy pixel does not decide and a small defect still does.
    """
    pixels = maps.flatten(1)
    if reduce == "mean":
        return pixels.mean(dim=1)
    if reduce == "max":
        return pixels.amax(dim=1)
    count = max(1, pixels.shape[1] // 100)
    return pixels.topk(count, dim=1).values.mean(dim=1)
