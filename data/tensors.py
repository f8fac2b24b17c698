"""Conversion between pixels of files (uint8, channels last) and input of detectors (tensors)."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from data.region import OUTSIDE


def to_batch(images: np.ndarray, device: torch.device) -> Tensor:
    """Convert uint8 [B, H, W, 3] to float [B, 3, H, W] in [0, 1] on the device, channels last.

    Of [B, H, W, 4], what is outside of the region becomes `OUTSIDE`.
    """
    pixels = torch.from_numpy(images).to(device)
    batch = pixels[..., :3].permute(0, 3, 1, 2).float().div_(255)
    if pixels.shape[3] == 4:
        batch = torch.where(pixels[:, None, :, :, 3] > 127, batch, OUTSIDE)
    return batch


def valid_mask(images: Tensor) -> Tensor:
    """Return the valid mask of images of `to_batch`, [B, 3, H, W]: bool [B, 1, H, W]."""
    # A pixel of 8 bits differs from OUTSIDE by 0.002 or more; rotations are off by rounding,
    # half precision by 0.0001.
    return ((images - OUTSIDE).abs() > 0.001).any(dim=1, keepdim=True)


def near(valid: Tensor, cells: tuple[int, int]) -> Tensor:
    """Return the cells of a grid that hold a valid pixel or lie at most two cells from one.

    Cells farther away add nothing to the map of valid pixels.

    Args:
        valid: bool [B, 1, H, W].
        cells: rows and columns of the grid that the images are divided into.

    Returns:
        float [B, 1, *cells], 0 or 1.
    """
    there = F.interpolate(valid.float(), cells, mode="area") > 0
    return F.max_pool2d(there.float(), 5, 1, 2)


def to_pixels(images: Tensor) -> np.ndarray:
    """Convert float [..., 3, H, W] in [0, 1] to uint8 [..., H, W, 3]; values beyond are clipped."""
    scaled = images.detach().float().clamp(0, 1).mul(255).round()
    return scaled.to(torch.uint8).movedim(-3, -1).cpu().numpy()


def turned(images: Tensor, angle: float) -> Tensor:
    """Rotate images, float [B, C, H, W], about their centre; the border is reflected.

    Args:
        images: float images.
        angle: in radians.
    """
    if angle == 0:
        return images
    height, width = images.shape[-2:]
    cos, sin = math.cos(angle), math.sin(angle)
    # affine_grid measures both sides from -1 to 1, so the ratio is undone before turning.
    turn = images.new_tensor([[cos, sin * height / width, 0], [-sin * width / height, cos, 0]])
    grid = F.affine_grid(turn.expand(len(images), 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
